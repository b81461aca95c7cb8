package trust

import (
	"fmt"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A project with fifty releases.
func benchWorld(b *testing.B) *world {
	w := newWorld(b)
	blobs := map[string][]byte{"channels/stable.json": []byte("pointer")}
	for i := range 50 {
		blobs[fmt.Sprintf("releases/r%d.json", i+1)] = fmt.Appendf(nil, "manifest %d", i+1)
	}
	v, err := w.pub.View(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.pub.Commit(b.Context(), v, Change{Blobs: blobs}); err != nil {
		b.Fatal(err)
	}
	w.n = 50
	return w
}

// BenchmarkRefresh is what a VM does for one release: poll, verify and keep the
// metadata, raise the floor, and look at them again.
func BenchmarkRefresh(b *testing.B) {
	w := benchWorld(b)
	held := w.client()
	mustRefresh(b, held)
	s := held.known
	w.publish()
	count := bucket.Count(w.bucket)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		c := &Client{Bucket: count, Dir: b.TempDir(), Anchor: w.anchor, Now: w.clock}
		d := &durable{disk: osDisk{c.Dir}, anchor: c.Anchor}
		if err := d.commit(d.load(), s, "old", start, start); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if changed, err := c.Poll(b.Context()); !changed || err != nil {
			b.Fatal(changed, err)
		}
		mustRefresh(b, c)
		if err := c.RaiseFloor(51); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Last(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(count.Traffic().Requests())/float64(b.N), "requests/op")
	b.ReportMetric(float64(count.Traffic().Down)/float64(b.N), "B-down/op")
}

// BenchmarkRefreshNew is the same for a new VM.
func BenchmarkRefreshNew(b *testing.B) {
	w := benchWorld(b)
	for range b.N {
		c := w.client()
		mustRefresh(b, c)
	}
}

func BenchmarkPoll(b *testing.B) {
	w := benchWorld(b)
	c := w.client()
	mustRefresh(b, c)
	b.ResetTimer()
	for range b.N {
		c = &Client{Bucket: w.bucket, Dir: c.Dir, Anchor: w.anchor, Now: w.clock}
		if changed, err := c.Poll(b.Context()); changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}
