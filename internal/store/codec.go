package store

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// errFrame reports a zstd frame (RFC 8878) that does not unpack to what the
// signed manifest says of it.
var errFrame = errors.New("content is not what was signed")

// maxStored bounds the stored form of a blob of size bytes. Incompressible
// content grows by three bytes per 128 KiB block and a header.
func maxStored(size int64) int64 { return size + size>>12 + 1024 }

// coders are the zstd coders of a process: making one costs more than most
// frames do. All are safe for concurrent use.
type coders struct {
	normal, cheap *zstd.Encoder
	decoder       *zstd.Decoder
}

var sharedCoders = sync.OnceValues(func() (*coders, error) {
	n := zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0))
	normal, err := zstd.NewWriter(nil, n, zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	cheap, err := zstd.NewWriter(nil, n, zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, decoderOptions(release.MaxChunkBytes)...)
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	return &coders{normal, cheap, dec}, nil
})

const minWindow = 64 << 10

// decoderOptions bound a decoder: the output never exceeds the capacity of
// the buffer it is given, nor a window the larger of size and minWindow: a
// short frame may announce a window larger than itself.
func decoderOptions(size int64) []zstd.DOption {
	return []zstd.DOption{
		zstd.WithDecoderMaxMemory(uint64(max(size, minWindow))), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
	}
}

// sampleBytes of a blob decide whether it is worth compressing well.
const sampleBytes = 64 << 10

// compress returns blob as one zstd frame. Equal blobs give equal frames.
func (c *coders) compress(blob []byte) []byte {
	enc, room := c.normal, len(blob)/2+64
	if len(blob) > sampleBytes {
		s := c.cheap.EncodeAll(blob[len(blob)/2:][:min(sampleBytes, len(blob)/2)], nil)
		if len(s)*100 > min(sampleBytes, len(blob)/2)*97 {
			enc, room = c.cheap, int(maxStored(int64(len(blob))))
		}
	}
	return enc.EncodeAll(blob, make([]byte, 0, room))
}

// unpack decodes frame into the memory of dst, whose capacity is at least
// b.Size, and returns the blob if it is the signed one.
func (c *coders) unpack(frame, dst []byte, b release.Blob) ([]byte, error) {
	out, err := c.decoder.DecodeAll(frame, dst[:0:b.Size])
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %w", errFrame, trust.ErrUntrusted, err)
	}
	if int64(len(out)) != b.Size || release.DigestOf(out) != b.Digest {
		return nil, fmt.Errorf("%w: %w", errFrame, trust.ErrUntrusted)
	}
	return out, nil
}

// inflate decodes one zstd stream of at most max bytes.
func inflate(packed []byte, max int64) ([]byte, error) {
	opts := append(decoderOptions(max), zstd.WithDecoderConcurrency(1))
	d, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	defer d.Close()
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	size := max
	if h.HasFCS && h.FrameContentSize <= uint64(max) {
		size = int64(h.FrameContentSize)
	}
	out, err := d.DecodeAll(packed, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return out, nil
}

// zeros reports whether b holds only zero bytes.
func zeros(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroPage))
		if !bytes.Equal(b[:n], zeroPage[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

var zeroPage [4096]byte
