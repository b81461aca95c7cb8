package store

import (
	"bytes"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// carryBytes bounds what travels in a bundle besides metadata, of each kind: a
// whole manifest, and the new packs together. It is about what a connection
// brings in one round trip more, and less than a request costs elsewhere.
const carryBytes = 64 << 10

// fresh are the packs that a publish has made, as long as all of them
// together are small.
type fresh struct {
	packs map[string][]byte // by key
	size  int64
}

// smallCopy returns a copy of a pack that may be carried, or nil.
func smallCopy(pack []byte) []byte {
	if len(pack) > carryBytes {
		return nil
	}
	return bytes.Clone(pack)
}

// add notes a pack; data may be nil when it is not small.
func (f *fresh) add(p release.Pack, data []byte) {
	key := packKey(p.Digest)
	if _, ok := f.packs[key]; ok {
		return
	}
	if f.size += p.Size; f.size > carryBytes {
		f.packs = nil
		return
	}
	if f.packs == nil {
		f.packs = map[string][]byte{}
	}
	f.packs[key] = data
}

// wholeBytes bounds the manifests that are tried whole: few that are larger
// come below carryBytes.
const wholeBytes = 16 * carryBytes

// carried is what travels with the metadata of a new release: its small new
// packs, and its manifest as a delta for those who have the release before, and
// for others whole, as far as these are small. Either may be nil.
func carried(whole, next *object, f fresh) trust.Carry {
	c := trust.Carry{Next: map[string][]byte{}, Full: map[string][]byte{}}
	if whole != nil && len(whole.data) <= carryBytes {
		c.Full[whole.key] = whole.data
		if next == nil {
			c.Next[whole.key] = whole.data
		}
	}
	if next != nil && len(next.data) <= carryBytes {
		c.Next[next.key] = next.data
	}
	for key, data := range f.packs {
		c.Next[key], c.Full[key] = data, data
	}
	return c
}
