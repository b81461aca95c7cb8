package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	collectTries = 30 // against publishers and other collectors
	deletes      = 16 // in parallel, in each bucket
	deleteTime   = 20 * time.Second
)

// CollectOptions say what stays in a bucket besides the present state.
type CollectOptions struct {
	Keep    int           // releases that stay listed; those that channels name stay as well. 0: as many as a publish leaves
	Grace   time.Duration // what was written, or replaced, less long ago stays
	Agents  time.Duration // agents that are not pinned go when they are this old; 0: they stay
	Pinned  []release.Digest
	Reports time.Duration   // what VMs wrote goes when they have not reported for so long; 0: it stays
	Mirrors []*trust.Client // buckets that hold the same
	DryRun  bool            // count, delete nothing, sign nothing: p needs no keys for it
	Now     time.Time       // from which all that is counted back; zero: the present
	// Progress may be nil; it is called from one goroutine at a time. Phases: look, wait, delete.
	Progress func(Progress)
}

// Collected says what a [Store.Collect] did, or on a dry run would do.
type Collected struct {
	Dropped []string          // releases taken off the list; what only they need goes after the grace
	Buckets []CollectedBucket // the bucket, then the mirrors in their order
	Seconds float64
}

// A CollectedBucket is what went from one bucket and what stays, by kind.
type CollectedBucket struct {
	Gone, Kept map[string]Amount
	Err        error // of a mirror: why not everything went that should
}

// An Amount is a number of objects and their bytes.
type Amount struct {
	Objects int
	Bytes   int64
}

func (a *Amount) add(o bucket.Object) {
	a.Objects++
	a.Bytes += o.Size
}

// Sum returns the sum of all kinds.
func Sum(kinds map[string]Amount) Amount {
	var a Amount
	for _, k := range kinds {
		a.Objects += k.Objects
		a.Bytes += k.Bytes
	}
	return a
}

// Collect deletes what no live state needs and is older than the grace:
//
//   - metadata, targets and bundles of states that were replaced before the grace,
//   - manifests and packs that no release of a live state names,
//   - agents and reports, if the options ask for it.
//
// Before that it takes the releases beyond the newest o.Keep off the list. Roots,
// and objects whose names are none that bootwell gives, always stay.
//
// Publishers may work at the same time, with any grace: the collector marks the
// state ([trust.Publisher.BeginCollect]) for the short time in which it deletes,
// and publishers wait for the end of that. The grace is for VMs that are still
// reading what was replaced. Killed anywhere it leaves a whole bucket, and
// publishers wait two minutes at most. Where nothing is to be deleted, nothing is
// written. A mirror that differs from the bucket, or is away, is left as it is,
// and its Err says so.
func (s *Store) Collect(ctx context.Context, p *trust.Publisher, o CollectOptions) (Collected, error) {
	start := time.Now()
	if o.Keep <= 0 {
		o.Keep = maxReleases
	}
	c := &collection{s: s, p: p, o: o, meter: newMeter(o.Progress)}
	c.sites = append(c.sites, &site{bucket: s.Bucket})
	for _, m := range o.Mirrors {
		c.sites = append(c.sites, &site{bucket: m.Bucket, mirror: m})
	}
	err := c.run(ctx)
	out := Collected{Dropped: c.dropped, Seconds: time.Since(start).Seconds()}
	for _, b := range c.sites {
		out.Buckets = append(out.Buckets, b.result(o.DryRun))
	}
	if err != nil {
		return out, fmt.Errorf("collect garbage: %w", err)
	}
	return out, nil
}

// A collection is one call of Collect.
type collection struct {
	s       *Store
	p       *trust.Publisher
	o       CollectOptions
	meter   *meter
	live    *live
	sites   []*site // the bucket first
	dropped []string

	until time.Time // by the wall clock, when to begin no more deletes
	stop  func()    // begins no more of them
}

// A site is one bucket that garbage is collected in.
type site struct {
	bucket bucket.Bucket
	mirror *trust.Client // nil: it is the bucket itself
	err    error         // why this mirror is left alone
	joined bool          // this mirror held what the bucket held when it was looked at first

	mu                sync.Mutex // guards those below
	found, kept, gone map[string]Amount
}

func (b *site) result(dryRun bool) CollectedBucket {
	r := CollectedBucket{Gone: b.gone, Kept: b.kept, Err: b.err}
	if dryRun {
		r.Gone = b.found
	}
	return r
}

func (c *collection) run(ctx context.Context) error {
	last := errMore
	for try := range collectTries {
		again, err := c.pass(ctx)
		switch {
		case errors.Is(err, trust.ErrConflict), errors.Is(err, trust.ErrLocked):
			if perr := pause(ctx, time.Duration(try+1)*100*time.Millisecond); perr != nil {
				return perr
			}
			last = err
			continue
		case err != nil || !again:
			return err
		}
		last = errMore
	}
	return fmt.Errorf("after %d tries: %w", collectTries, last)
}

var errMore = errors.New("more is left to delete: run it again")

// pass looks, and deletes as long as one mark lasts. It reports whether more is
// left to do.
func (c *collection) pass(ctx context.Context) (again bool, err error) {
	c.meter.phase("look", 0)
	v, err := c.p.View(ctx)
	if err != nil {
		return false, err
	}
	if err := c.each(ctx, func(ctx context.Context, b *site) error { return c.join(ctx, b, v) }); err != nil {
		return false, err
	}
	if dropped, err := c.drop(ctx, v); err != nil || dropped {
		return true, err
	}
	if c.live, err = c.s.live(ctx, v, c.o, c.dropped); err != nil {
		return false, err
	}
	if err := c.each(ctx, func(ctx context.Context, b *site) error { return c.look(ctx, b) }); err != nil || c.o.DryRun {
		return false, err
	}
	var total Amount
	for _, b := range c.sites {
		a := Sum(b.found)
		total.Objects, total.Bytes = total.Objects+a.Objects, total.Bytes+a.Bytes
	}
	if total.Objects == 0 {
		return false, nil
	}
	if err := c.giveWay(ctx); err != nil {
		return false, err
	}
	c.meter.phase("delete", total.Bytes)
	return c.window(ctx, v)
}

// drop takes old releases off the list. What they needed is needed by no live
// state then, but was a moment ago.
func (c *collection) drop(ctx context.Context, v *trust.View) (bool, error) {
	chans, err := c.s.channels(ctx, v)
	if err != nil {
		return false, err
	}
	st := &state{view: v, channels: chans}
	remove := st.beyond(c.o.Keep, "")
	if len(remove) == 0 {
		return false, nil
	}
	if c.o.DryRun {
		c.dropped = names(remove)
		return false, nil
	}
	if err := c.giveWay(ctx); err != nil {
		return false, err
	}
	if _, err := c.p.Commit(ctx, v, trust.Change{Remove: remove}); err != nil {
		return false, err
	}
	c.dropped = append(c.dropped, names(remove)...)
	return true, nil
}

func names(targets []string) []string {
	var out []string
	for _, t := range targets {
		out = append(out, targetName(t))
	}
	return out
}

// join sees to it that a mirror holds v. One that held something else to begin
// with is left alone: what is live in the bucket says nothing of it.
func (c *collection) join(ctx context.Context, b *site, v *trust.View) error {
	if b.mirror == nil {
		return nil
	}
	if b.joined {
		_, err := c.s.Replicate(ctx, v, b.mirror, ReplicateOptions{})
		return err
	}
	have, err := mirrorView(ctx, b.mirror)
	switch {
	case err != nil:
		return err
	case have == nil || !have.Same(v):
		return fmt.Errorf("it does not hold what the bucket holds: %w", errLags)
	}
	b.joined = true
	return nil
}

var errLags = errors.New("bring it up to date with bootwell publish")

// each works on all buckets at once. What goes wrong with a mirror is kept for
// the end, and ends nothing else.
func (c *collection) each(ctx context.Context, f func(context.Context, *site) error) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, b := range c.sites {
		if b.err != nil {
			continue
		}
		g.Go(func() error {
			err := f(gctx, b)
			if b.mirror == nil || err == nil {
				return err
			}
			if gctx.Err() == nil {
				b.err = err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// window marks the state v, deletes while the mark lasts and takes it off again.
func (c *collection) window(ctx context.Context, v *trust.View) (again bool, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	c.until = time.Now().Round(0).Add(trust.CollectTime)
	marked, err := c.p.BeginCollect(ctx, v)
	if err != nil {
		return false, err
	}
	short, cancel := context.WithDeadline(ctx, c.until)
	defer cancel()
	c.stop = cancel
	c.live.keep(marked)
	err = c.each(short, func(ctx context.Context, b *site) error {
		if err := c.join(ctx, b, marked); err != nil {
			return err
		}
		return c.sweep(ctx, b)
	})
	if short.Err() != nil && ctx.Err() == nil {
		again, err = true, nil
	}
	if eerr := c.end(ctx, marked); err == nil {
		err = eerr
	}
	return again, err
}

// giveWay lets the publisher go first who holds the lock, for as long as
// publishers wait for each other. Where the bucket is atomic they take it after
// they were outrun, and a collector that commits again and again could outrun
// one until it gives up.
func (c *collection) giveWay(ctx context.Context) error {
	if !c.s.atomic() {
		return nil
	}
	err := awaitLock(ctx, c.meter, true, func() error { return c.p.Locked(ctx) })
	if errors.Is(err, trust.ErrLocked) {
		return nil
	}
	return err
}

// lock keeps publishers away where a commit takes the lock: one who waited under
// it for the end of the collection would keep the collection from ending.
func (c *collection) lock(ctx context.Context) (unlock func(), err error) {
	if c.s.atomic() {
		return func() {}, nil
	}
	free, err := c.p.Lock(ctx, "bootwell gc", lockTTL+lockPatience/2)
	if err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := free(ctx); err != nil {
			c.s.log().Warn("the publishers' lock stays until it expires", "err", err)
		}
	}, nil
}

// end lets publishers go on, also when the collection was broken off.
func (c *collection) end(ctx context.Context, marked *trust.View) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	v, err := c.p.EndCollect(ctx, marked)
	if errors.Is(err, trust.ErrConflict) {
		c.s.log().Debug("the mark of the garbage collection ran out", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	return c.each(ctx, func(ctx context.Context, b *site) error { return c.join(ctx, b, v) })
}

// look counts what is to go and what stays.
func (c *collection) look(ctx context.Context, b *site) error {
	found, kept := map[string]Amount{}, map[string]Amount{}
	err := c.live.walk(ctx, b.bucket, func(kind string, o bucket.Object, dead bool) error {
		m := kept
		if dead {
			m = found
		}
		a := m[kind]
		a.add(o)
		m[kind] = a
		return nil
	})
	b.found, b.kept = found, kept
	return err
}

// sweep deletes.
func (c *collection) sweep(ctx context.Context, b *site) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletes)
	err := c.live.walk(gctx, b.bucket, func(kind string, o bucket.Object, dead bool) error {
		if !dead {
			return nil
		}
		g.Go(func() error {
			if time.Now().After(c.until) { // timers stand still while a machine sleeps
				c.stop()
			}
			if err := gctx.Err(); err != nil {
				return err
			}
			// Given up, it could still take effect when publishers go on.
			whole, cancel := context.WithTimeout(context.WithoutCancel(gctx), deleteTime)
			defer cancel()
			if err := b.bucket.Delete(whole, o.Key); err != nil {
				return fmt.Errorf("delete %s: %w", o.Key, err)
			}
			b.count(kind, o)
			c.meter.add(o.Size, 1)
			return nil
		})
		return gctx.Err()
	})
	if gerr := g.Wait(); gerr != nil {
		return gerr
	}
	return err
}

func (b *site) count(kind string, o bucket.Object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.gone = map[string]Amount{}
	}
	a := b.gone[kind]
	a.add(o)
	b.gone[kind] = a
}
