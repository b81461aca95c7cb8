package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	copies     = 4  // in parallel
	fewPacks   = 8  // as many are asked for one by one, more are listed
	recentDiff = 3  // releases of a mirror whose packs are looked up in their manifests
	copyTries  = 30 // against other publishers
)

// ReplicateOptions say what goes along with the releases, and who copies.
type ReplicateOptions struct {
	Agents   []release.Digest // of the compressed binaries
	Owner    string           // shown to others where the mirror has to be locked
	DryRun   bool             // count, write nothing
	Progress func(Progress)   // may be nil; called from one goroutine at a time
}

// Replicated says what a [Store.Replicate] did, or on a dry run would do.
type Replicated struct {
	Same     bool   // the mirror had everything
	Newer    bool   // the mirror was ahead, another publisher has been there: nothing was written
	Before   string // newest release the mirror had; "": none
	Uploaded int    // objects, but for metadata
	Bytes    int64  // of them
	Seconds  float64
}

// Replicate brings the bucket of to, a mirror, to the state v of s's bucket. It
// writes only what the mirror lacks, and timestamp.json last, so that readers
// of the mirror see its old state or the new one, also after a kill anywhere.
// A mirror that is ahead of v is left as it is. What goes over is verified
// first. A mirror that holds another project is trust.ErrUntrusted, and nothing
// is written to it.
//
// Beyond a mirror that had the release before, it costs what the new one
// brought: a list of the mirror's packs is read only when it is far behind.
func (s *Store) Replicate(ctx context.Context, v *trust.View, to *trust.Client, o ReplicateOptions) (Replicated, error) {
	start := time.Now()
	r := &replication{s: s, v: v, to: to, o: o, meter: newMeter(o.Progress)}
	var err error
	for try := range copyTries {
		if err = r.run(ctx); !errors.Is(err, trust.ErrConflict) && !errors.Is(err, trust.ErrLocked) {
			break
		}
		if perr := pause(ctx, time.Duration(try+1)*100*time.Millisecond); perr != nil {
			return r.out, fmt.Errorf("replicate: %w", perr)
		}
	}
	r.out.Seconds = time.Since(start).Seconds()
	if err != nil {
		return r.out, fmt.Errorf("replicate: %w", err)
	}
	return r.out, nil
}

// A replication is one call of Replicate.
type replication struct {
	s     *Store
	v     *trust.View
	to    *trust.Client
	o     ReplicateOptions
	meter *meter
	out   Replicated

	mu sync.Mutex // guards out while copies run
}

func (r *replication) run(ctx context.Context) error {
	have, err := mirrorView(ctx, r.to)
	if err != nil {
		return err
	}
	r.out.Same, r.out.Newer = false, false
	if have != nil {
		if live := listed(have); len(live) > 0 && r.out.Before == "" {
			r.out.Before = targetName(live[0].Name)
		}
		switch {
		case have.Timestamp > r.v.Timestamp:
			r.out.Newer = true
			return nil
		case have.Same(r.v):
			r.out.Same = true
		}
	}
	if err := r.agents(ctx); err != nil {
		return err
	}
	if r.out.Same {
		r.out.Same = r.out.Uploaded == 0
		return nil
	}
	if err := r.releases(ctx, have); err != nil {
		return err
	}
	if err := r.channels(ctx, have); err != nil || r.o.DryRun {
		return err
	}
	return r.v.CopyTo(ctx, r.to, have, r.o.Owner)
}

// mirrorView returns the verified state of a mirror. It is nil for a mirror
// that holds nothing yet, or nothing whole of this project.
func mirrorView(ctx context.Context, to *trust.Client) (*trust.View, error) {
	v, err := to.Present(ctx)
	if err == nil {
		return v, nil
	}
	for _, damaged := range []error{trust.ErrNotInit, trust.ErrUntrusted, trust.ErrRollback, bucket.ErrNotExist} {
		if errors.Is(err, damaged) {
			_, herr := to.Holds(ctx)
			return nil, herr
		}
	}
	return nil, err
}

// agents copies the agent binaries that the mirror lacks.
func (r *replication) agents(ctx context.Context) error {
	return r.each(ctx, len(r.o.Agents), func(ctx context.Context, i int) error {
		d := r.o.Agents[i]
		key := "agents/" + d.Hex()
		there, _, err := holds(ctx, r.to.Bucket, key)
		if err != nil || there {
			return err
		}
		there, size, err := holds(ctx, r.s.Bucket, key)
		if err != nil || !there && r.o.DryRun { // it comes with the publish
			return err
		}
		return r.copy(ctx, key, d, size, maxAgent)
	})
}

// holds reports whether a bucket has an object, and its size.
func holds(ctx context.Context, b bucket.Bucket, key string) (ok bool, size int64, err error) {
	body, obj, err := b.Get(ctx, key, bucket.GetOptions{Length: 1})
	switch {
	case errors.Is(err, bucket.ErrNotExist):
		return false, 0, nil
	case errors.Is(err, bucket.ErrTruncated): // it is empty
		return true, 0, nil
	case err != nil:
		return false, 0, fmt.Errorf("look for %s: %w", key, err)
	}
	return true, obj.Size, body.Close()
}

// copy brings over an object that is named by its digest, verified. size 0 is
// not known.
func (r *replication) copy(ctx context.Context, key string, d release.Digest, size, limit int64) error {
	if r.o.DryRun {
		r.count(tally{uploaded: 1, bytes: size})
		return nil
	}
	b, _, err := bucket.ReadAll(ctx, r.s.Bucket, key, bucket.GetOptions{}, limit)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if release.DigestOf(b) != d {
		return fmt.Errorf("read %s: its content is not what it is named by: %w", key, trust.ErrUntrusted)
	}
	// Without a condition: what has the name and another size goes.
	if _, err := r.to.Bucket.Put(ctx, key, bytes.NewReader(b), bucket.Condition{}); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	r.count(tally{uploaded: 1, bytes: int64(len(b))})
	return nil
}

func (r *replication) count(t tally) {
	r.mu.Lock()
	r.out.Uploaded += t.uploaded
	r.out.Bytes += t.bytes
	r.mu.Unlock()
	r.meter.add(t.bytes, t.uploaded)
}

// each calls f for 0 to n-1, a few at a time.
func (r *replication) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copies)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

// A copyPlan is what the mirror lacks of the releases.
type copyPlan struct {
	releases []trust.Target                 // oldest first
	packs    []release.Pack                 // of them, each once
	known    map[release.Digest]bool        // packs that the mirror has
	recent   []*release.Manifest            // newest releases that the mirror has, newest first
	bodies   map[string]*release.Manifest   // by name of target, of releases
	seen     map[release.Digest]struct{}    // packs
	before   map[string][]*release.Manifest // from which a release's manifest travels as a delta
}

// releases copies the releases of v that the mirror lacks: their packs, then
// their manifests in all forms.
func (r *replication) releases(ctx context.Context, have *trust.View) error {
	p, err := r.plan(ctx, have)
	if err != nil {
		return err
	}
	if err := r.find(ctx, p, have == nil); err != nil {
		return err
	}
	var total int64
	p.packs = slices.DeleteFunc(p.packs, func(k release.Pack) bool { return p.known[k.Digest] })
	for _, k := range p.packs {
		total += k.Size
	}
	r.meter.phase("copy", total)
	err = r.each(ctx, len(p.packs), func(ctx context.Context, i int) error {
		k := p.packs[i]
		return r.copy(ctx, packKey(k.Digest), k.Digest, k.Size, k.Size)
	})
	if err != nil {
		return err
	}
	return r.each(ctx, len(p.releases), func(ctx context.Context, i int) error { return r.manifest(ctx, p, p.releases[i]) })
}

// plan compares what is signed here and there.
func (r *replication) plan(ctx context.Context, have *trust.View) (*copyPlan, error) {
	p := &copyPlan{known: map[release.Digest]bool{}, bodies: map[string]*release.Manifest{}, seen: map[release.Digest]struct{}{}, before: map[string][]*release.Manifest{}}
	var last *release.Manifest
	for _, t := range listed(r.v) { // newest first
		missing := have == nil || have.Digest(t.Name) != t.Digest
		if !missing && len(p.recent) == recentDiff {
			continue
		}
		m, err := r.s.Manifest(ctx, r.v, targetName(t.Name), last)
		if err != nil {
			return nil, err
		}
		last = m
		if !missing {
			p.recent = append(p.recent, m)
			for _, k := range m.Packs {
				p.known[k.Digest] = true
			}
			continue
		}
		p.releases = append(p.releases, t)
		p.bodies[t.Name] = m
		for _, k := range m.Packs {
			if _, ok := p.seen[k.Digest]; !ok {
				p.seen[k.Digest] = struct{}{}
				p.packs = append(p.packs, k)
			}
		}
	}
	slices.Reverse(p.releases)
	before := slices.Clone(p.recent)
	for _, t := range p.releases {
		p.before[t.Name] = slices.Clone(before[:min(len(before), deltasKept)])
		before = append([]*release.Manifest{p.bodies[t.Name]}, before...)
	}
	return p, nil
}

// find learns which of the packs the mirror has beside those of its newest
// releases.
func (r *replication) find(ctx context.Context, p *copyPlan, all bool) error {
	var ask []release.Pack
	for _, k := range p.packs {
		if !p.known[k.Digest] {
			ask = append(ask, k)
		}
	}
	if len(ask) <= fewPacks && !all {
		return r.each(ctx, len(ask), func(ctx context.Context, i int) error {
			ok, size, err := holds(ctx, r.to.Bucket, packKey(ask[i].Digest))
			if err != nil || !ok || size != ask[i].Size {
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			p.known[ask[i].Digest] = true
			return nil
		})
	}
	sizes := map[string]int64{}
	for o, err := range r.to.Bucket.List(ctx, "packs/", "") {
		if err != nil {
			return fmt.Errorf("list packs: %w", err)
		}
		if len(sizes) < maxListed {
			sizes[o.Key] = o.Size
		}
	}
	for _, k := range ask {
		if n, ok := sizes[packKey(k.Digest)]; ok && n == k.Size {
			p.known[k.Digest] = true
		}
	}
	return nil
}

// manifest writes one release's manifest in the forms in which it travels.
func (r *replication) manifest(ctx context.Context, p *copyPlan, t trust.Target) error {
	body, err := p.bodies[t.Name].Bytes()
	if err != nil {
		return err
	}
	if release.DigestOf(body) != t.Digest {
		return fmt.Errorf("manifest of %s: it is not what is signed: %w", targetName(t.Name), trust.ErrUntrusted)
	}
	var to bucket.Bucket
	if !r.o.DryRun {
		to = r.to.Bucket
	}
	ways, err := manifestWays(body, p.before[t.Name])
	if err != nil {
		return err
	}
	n, err := putObjects(ctx, to, ways)
	r.count(n)
	return err
}

// channels copies the channels that differ.
func (r *replication) channels(ctx context.Context, have *trust.View) error {
	for _, t := range r.v.Targets("channels/") {
		if have != nil && have.Digest(t.Name) == t.Digest || r.o.DryRun {
			continue
		}
		b, err := r.v.Fetch(ctx, t.Name)
		if err != nil {
			return err
		}
		if err := trust.PutTarget(ctx, r.to.Bucket, t.Name, b); err != nil {
			return err
		}
	}
	return nil
}

// A MirrorState is how a mirror compares with the bucket it mirrors.
type MirrorState struct {
	Release string    // what the channel names there; "": nothing
	Lags    bool      // it holds an older state
	Newer   bool      // it holds a newer state
	Since   time.Time // when the first release was made that it lacks; zero: it lacks none, or that is not known
}

// CompareMirror tells how far the bucket of to is behind the state v of s's bucket.
// A bucket that holds nothing whole of the project lags.
func (s *Store) CompareMirror(ctx context.Context, v *trust.View, to *trust.Client, project, channel string) (MirrorState, error) {
	have, err := mirrorView(ctx, to)
	if err != nil {
		return MirrorState{}, fmt.Errorf("look at mirror: %w", err)
	}
	if have == nil {
		return MirrorState{Lags: true}, nil
	}
	m := MirrorState{Lags: have.Timestamp < v.Timestamp || have.Timestamp == v.Timestamp && !have.Same(v), Newer: have.Timestamp > v.Timestamp}
	ch, err := (&Store{Bucket: to.Bucket, Log: s.Log}).Channel(ctx, have, project, channel)
	if err != nil && !errors.Is(err, trust.ErrNoRelease) {
		return m, fmt.Errorf("look at mirror: %w", err)
	}
	if err == nil {
		m.Release = ch.Release
	}
	if m.Lags {
		m.Since = s.firstMissing(ctx, v, have)
	}
	return m, nil
}

// firstMissing returns when the oldest release of v was made that have lacks.
func (s *Store) firstMissing(ctx context.Context, v, have *trust.View) time.Time {
	newest := 0
	if live := listed(have); len(live) > 0 {
		newest = targetNumber(live[0].Name)
	}
	name := ""
	for _, t := range listed(v) {
		if targetNumber(t.Name) > newest {
			name = targetName(t.Name)
		}
	}
	if name == "" {
		return time.Time{}
	}
	m, err := s.Manifest(ctx, v, name, nil)
	if err != nil {
		s.log().Debug("age of a mirror's lag is not known", "err", err)
		return time.Time{}
	}
	return m.Source.Time
}
