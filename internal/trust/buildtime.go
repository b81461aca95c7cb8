package trust

import (
	"runtime/debug"
	"time"
)

// buildTime returns a time before which this program cannot have run: that of
// the commit it was built from or, where the build does not know it, the start
// of the year in which this code was written.
func buildTime() time.Time {
	t := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return t
	}
	for _, s := range info.Settings {
		if s.Key != "vcs.time" {
			continue
		}
		if v, err := time.Parse(time.RFC3339, s.Value); err == nil && v.After(t) {
			t = v
		}
	}
	return t
}
