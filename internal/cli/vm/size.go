package vm

import (
	"fmt"
	"math"
)

// size writes a number of bytes as people do: "512 B", "6.6 MB".
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= 1000 {
		v, unit = v/1000, unit+1
	}
	if tenths := math.Round(v*10) / 10; tenths < 10 {
		return fmt.Sprintf("%.1f %cB", tenths, "kMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f %cB", math.Round(v), "kMGTPE"[unit])
}
