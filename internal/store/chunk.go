package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"

	"github.com/bootwell/bootwell/internal/release"
)

// Content-defined chunking (FastCDC, Xia et al. 2016) of files over
// smallFile. One changed byte in a file up to hugeFile costs a VM no more than
// 192 KiB; the list of a disk image's chunks is short. Changing any of these
// moves all large content once more.
//
// Who publishes imports the package chunkers/fastcdc, which registers the
// algorithm: an agent only reads, and need not initialise at each start what is
// behind it.
const (
	smallFile   = 1 << 20
	hugeFile    = 64 << 20
	cdcName     = "fastcdc-v1.0.0"
	maxCDCBlock = 4 << 20
)

func chunkSizes(size int64) *chunkers.ChunkerOpts {
	if size > hugeFile {
		return &chunkers.ChunkerOpts{MinSize: 256 << 10, NormalSize: 1 << 20, MaxSize: maxCDCBlock}
	}
	return &chunkers.ChunkerOpts{MinSize: 32 << 10, NormalSize: 64 << 10, MaxSize: 192 << 10}
}

// errChanged reports a file that did not hold still.
var errChanged = errors.New("changed while it was read: publish again when nothing writes to it")

// A hasher reads files one after the other, with one buffer.
type hasher struct{ buf []byte }

// file fills in size, digest and blobs (without places) of f from r. look
// sees the content of small files.
func (h *hasher) file(r *os.File, size int64, f *release.File, look func([]byte) error) error {
	if h.buf == nil {
		h.buf = make([]byte, 2*maxCDCBlock)
	}
	f.Size = size
	if size > smallFile {
		return h.large(r, f)
	}
	n, err := io.ReadFull(r, h.buf[:size+1])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("read: %w", err)
	}
	if int64(n) != size {
		return errChanged
	}
	f.Digest = release.DigestOf(h.buf[:n])
	if n > 0 {
		f.Blobs = []release.Blob{{Digest: f.Digest, Size: size}}
	}
	return look(h.buf[:n])
}

func (h *hasher) large(r io.Reader, f *release.File) error {
	whole := sha256.New()
	c, err := chunkers.NewChunkerBuffer(cdcName, io.TeeReader(r, whole), chunkSizes(f.Size), h.buf)
	if err != nil {
		return fmt.Errorf("make chunker: %w", err)
	}
	var sum int64
	for {
		b, err := c.Next()
		if err != nil && err != io.EOF {
			return fmt.Errorf("read: %w", err)
		}
		if len(b) > 0 {
			f.Blobs = append(f.Blobs, release.Blob{Digest: release.DigestOf(b), Size: int64(len(b))})
			sum += int64(len(b))
		}
		if err == io.EOF || sum > f.Size {
			break
		}
	}
	if sum != f.Size {
		return errChanged
	}
	f.Digest = release.DigestFromSum([sha256.Size]byte(whole.Sum(nil)))
	return nil
}
