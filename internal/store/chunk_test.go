package store

import (
	"testing"

	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // cuts large files when publishing

	"github.com/bootwell/bootwell/internal/bucket"
)

// Wherever a byte of a binary changes, what is packed anew is one chunk, or two.
func TestOneByteOfALargeFile(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	b := noise(1, 8<<20)
	for _, at := range []int{-1, 0, 100_000, 4 << 20, len(b) - 1} {
		if at >= 0 {
			b[at] ^= 1
		}
		write(t, f.dir, "binary", b, 0o755)
		p := f.publish()
		if at >= 0 && p.Roles[0].Delta > 200_000 {
			t.Errorf("byte %d: a VM fetches %d bytes", at, p.Roles[0].Delta)
		}
	}
}
