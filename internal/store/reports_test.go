package store

import (
	"runtime"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestReports_OfAsManyVMsAsThereMayBe: exactly maxVMs is not too many, and what a
// caller gets of them is small.
func TestReports_OfAsManyVMsAsThereMayBe(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 reports take seconds")
	}
	b, cache := newFleet(t, 0), t.TempDir()
	b.Counter = bucket.Count(bucket.NewMem()) // one listing: a bucket in memory walks over everything for each part
	b.mem = b.Bucket.(*bucket.Mem)
	for i := range maxVMs {
		b.say(t, fleetVM(i), 1)
	}
	for _, gets := range []int64{maxVMs, 0} {
		before := heap()
		at := b.Traffic()
		var entries []ReportEntry
		for e, err := range (ReportSource{Store: &Store{Bucket: b}, CacheDir: cache}).Reports(t.Context()) {
			if err != nil || e.Err != nil {
				t.Fatal(err, e.Err)
			}
			entries = append(entries, e)
		}
		if tr := b.Traffic().Sub(at); len(entries) != maxVMs || tr.Gets != gets {
			t.Errorf("%d reports with %d GETs, want %d", len(entries), tr.Gets, gets)
		}
		if held := heap() - before; held > maxVMs<<10 {
			t.Errorf("%d reports hold %d MiB", len(entries), held>>20)
		}
		runtime.KeepAlive(entries)
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
