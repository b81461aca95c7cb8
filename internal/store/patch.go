package store

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// A patch makes one manifest of another. It is a zstd frame (RFC 8878) of
// steps, each of them three varints and a text: how many bytes the text has
// that comes next, how many bytes of the old manifest follow it, and from
// where, relative to the end of the bytes that were taken last.

// patchBlock is the length of the pieces of the old manifest that are looked
// up. A piece of twice that length which both have in common is always found.
const patchBlock = 16

// delta encodes to so that patched restores it from from.
func delta(from, to []byte) ([]byte, error) {
	c, err := sharedCoders()
	if err != nil {
		return nil, err
	}
	return c.normal.EncodeAll(diff(from, to), nil), nil
}

// diff returns the steps from one text to another.
func diff(from, to []byte) []byte {
	shift := 64 - max(bits.Len(uint(len(from)/patchBlock)), 8)
	table := make([]int32, 1<<(64-shift)) // position after each block, by hash
	for at := 0; at+patchBlock <= len(from); at += patchBlock {
		table[blockHash(from[at:])>>shift] = int32(at + patchBlock)
	}
	var out []byte
	done, last := 0, 0 // what is written of to, and the end of what was taken of from
	for at := 0; at+patchBlock <= len(to); {
		// What follows the last piece taken is the likeliest.
		src, n := last+at-done, 0
		if src < len(from) {
			n = common(from[src:], to[at:])
		}
		if n < patchBlock {
			if end := int(table[blockHash(to[at:])>>shift]); end > 0 {
				src = end - patchBlock
				n = common(from[src:], to[at:])
			}
		}
		if n < patchBlock {
			at++
			continue
		}
		for src > 0 && at > done && from[src-1] == to[at-1] {
			src, at, n = src-1, at-1, n+1
		}
		out = appendStep(out, to[done:at], n, src-last)
		at += n
		done, last = at, src+n
	}
	return appendStep(out, to[done:], 0, 0)
}

func appendStep(out, text []byte, n, from int) []byte {
	out = binary.AppendUvarint(out, uint64(len(text)))
	out = append(out, text...)
	out = binary.AppendUvarint(out, uint64(n))
	return binary.AppendVarint(out, int64(from))
}

func blockHash(b []byte) uint64 {
	const k = 0x9e3779b97f4a7c15
	return (binary.LittleEndian.Uint64(b)*k ^ binary.LittleEndian.Uint64(b[8:])) * k
}

// common returns how many bytes a and b begin with alike.
func common(a, b []byte) int {
	end, n := min(len(a), len(b)), 0
	for n+8 <= end {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < end && a[n] == b[n] {
		n++
	}
	return n
}

var errPatch = errors.New("delta is not well-formed")

// patched returns what delta made the patch for, of size bytes at most.
func patched(packed, from []byte, size int64) ([]byte, error) {
	steps, err := inflate(packed, size+size/4+1024)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, size)
	for last := 0; len(steps) > 0; {
		n, used := binary.Uvarint(steps)
		if used <= 0 || n > uint64(len(steps)-used) || n > uint64(size)-uint64(len(out)) {
			return nil, errPatch
		}
		out = append(out, steps[used:used+int(n)]...)
		steps = steps[used+int(n):]
		n, used = binary.Uvarint(steps)
		if used <= 0 {
			return nil, errPatch
		}
		rel, more := binary.Varint(steps[used:])
		if more <= 0 {
			return nil, errPatch
		}
		steps = steps[used+more:]
		at := int64(last) + rel
		if rel > int64(len(from)) || rel < -int64(len(from)) || at < 0 || at > int64(len(from)) ||
			n > uint64(int64(len(from))-at) || n > uint64(size)-uint64(len(out)) {
			return nil, errPatch
		}
		out = append(out, from[at:at+int64(n)]...)
		last = int(at) + int(n)
	}
	return out, nil
}
