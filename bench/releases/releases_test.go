package main

import (
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// What is asked of a bucket is the same after 110 releases as after 40, and a
// collection brings the bucket back to what 50 releases need.
func TestCostDoesNotGrow(t *testing.T) {
	b := bucket.Count(bucket.NewMem())
	p, err := newProject(t.Context(), b, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cost := func(f func() error) int64 {
		t.Helper()
		before := b.Traffic()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return b.Traffic().Sub(before).Requests()
	}
	publish := func() error { return p.publish(t.Context()) }
	update := func() error { return p.update(t.Context()) }
	type costs struct{ poll, publish, update int64 }
	most := func(from, to int) (c costs) {
		for p.Releases < to {
			if p.Releases < from {
				cost(publish)
				continue
			}
			cost(update)
			c.poll = max(c.poll, cost(func() error { _, err := p.poll(t.Context()); return err }))
			c.publish = max(c.publish, cost(publish))
			c.update = max(c.update, cost(update))
		}
		return c
	}
	early, late := most(20, 40), most(90, 110)
	if late.poll != 1 || late != early {
		t.Errorf("at most %+v requests until release 40, %+v until release 110", early, late)
	}
	grown, err := p.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cost(func() error { return p.Collect(t.Context()) })
	left, err := p.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A release: a pack, a manifest with three deltas, its target.
	if grown.objects < 110*10 || left.objects > 50*8 {
		t.Errorf("%d objects, after a collection %d", grown.objects, left.objects)
	}
	cost(publish)
	cost(update)
}
