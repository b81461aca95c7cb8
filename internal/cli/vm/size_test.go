package vm

import (
	"math"
	"testing"

	"github.com/dustin/go-humanize"
)

// The agent writes sizes as the operator's command does, without its library.
func TestSize(t *testing.T) {
	for _, n := range []uint64{0, 1, 9, 10, 999, 1000, 1049, 1050, 9949, 9950, 9999, 10_000, 10_499, 10_500, 999_499, 999_500, 999_999, 1_000_000,
		6_652_933, 15_000_000, 1 << 30, 5 << 40, math.MaxInt64, math.MaxUint64} {
		if got, want := size(n), humanize.Bytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
