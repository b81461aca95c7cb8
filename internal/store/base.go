package store

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	recentKnown = 5       // manifests that are searched for content which need not be uploaded
	searchBytes = 1 << 20 // of content: with less to upload, only the first of them
	deltasKept  = 3       // releases from which a manifest travels as a delta
)

// A state is what the bucket held when a try of a publish began.
type state struct {
	view     *trust.View
	channel  *release.Channel  // nil: nothing is published on it
	before   *release.Manifest // of channel
	recent   []trust.Target    // releases: before first, then the newest others
	channels map[string]*release.Channel
	places   index // of the tree's content, once it is prepared

	mu     sync.Mutex
	bodies map[release.Digest][]byte // of recent, as far as they are at hand; guarded by mu
}

// look reads the present state. It starts to take stock, too, which is known
// when look returns in all but the first try.
func (u *publication) look(ctx context.Context) (*state, error) {
	v, err := u.p.View(ctx)
	if err != nil {
		return nil, err
	}
	first := u.stock == nil
	if !first {
		<-u.stock.done
		u.out.forgetAll() // what was sent before may have been collected as garbage
	}
	u.stock = u.take(u.out.ctx)
	st := &state{view: v, bodies: map[release.Digest][]byte{}}
	if err := u.readChannels(ctx, st); err != nil {
		return nil, err
	}
	if err := u.readRecent(ctx, st); err != nil {
		return nil, err
	}
	if first {
		return st, nil
	}
	if err := u.stock.wait(); err != nil {
		return nil, err
	}
	u.pack.keep(u.stock.holds)
	return st, nil
}

// readChannels reads all channels; nobody publishes over one it cannot read.
func (u *publication) readChannels(ctx context.Context, st *state) error {
	for _, t := range st.view.Targets("channels/") {
		if b := u.kept.get(t); b != nil {
			st.view.Hold(t.Name, b)
		}
	}
	var err error
	if st.channels, err = u.s.channels(ctx, st.view); err != nil {
		return err
	}
	for _, c := range st.channels {
		if c.Project != u.o.Project {
			return fmt.Errorf("the bucket holds project %.100q, not %q: %w", c.Project, u.o.Project, release.ErrWrongFleet)
		}
	}
	st.channel = st.channels[u.o.Channel]
	return nil
}

// readRecent finds the last releases, and reads the manifest that the channel
// names.
func (u *publication) readRecent(ctx context.Context, st *state) error {
	if st.channel != nil {
		t, ok := st.view.Target(releaseTarget(st.channel.Release))
		if !ok {
			return fmt.Errorf("release %.100q: %w", st.channel.Release, trust.ErrNoRelease)
		}
		st.recent = append(st.recent, t)
	}
	for _, t := range listed(st.view) {
		if len(st.recent) < recentKnown && (st.channel == nil || targetName(t.Name) != st.channel.Release) {
			st.recent = append(st.recent, t)
		}
	}
	if st.channel == nil {
		return nil
	}
	body, err := u.body(ctx, st, st.recent[0])
	if err == nil {
		st.before, err = parseNamed(body, st.channel.Release)
	}
	return err
}

// body returns the verified bytes of a manifest.
func (u *publication) body(ctx context.Context, st *state, t trust.Target) ([]byte, error) {
	st.mu.Lock()
	b := st.bodies[t.Digest]
	st.mu.Unlock()
	if b != nil {
		return b, nil
	}
	if b = u.kept.get(t); b == nil {
		s := Store{Bucket: st.view.Over(u.s.Bucket), Log: u.s.Log}
		var err error
		if b, err = s.manifestBytes(ctx, t, nil); err != nil {
			return nil, fmt.Errorf("release %s: %w", targetName(t.Name), err)
		}
		u.kept.put(t.Digest, b)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.bodies[t.Digest] = b
	return b, nil
}

// parseNamed parses the verified manifest of the release called name.
func parseNamed(b []byte, name string) (*release.Manifest, error) {
	m, err := release.ParseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", name, err)
	}
	if m.Name() != name {
		return nil, fmt.Errorf("release %s: signed as %s: %w", name, m.Name(), trust.ErrUntrusted)
	}
	return m, nil
}

// index returns where content of the tree is stored already.
func (u *publication) index(ctx context.Context, st *state) (index, error) {
	usable := func(p release.Pack) bool { return !u.stock.taken() || u.stock.holds(p) }
	x := make(index, len(u.files))
	if st.before != nil {
		x.addManifest(st.before, usable)
	}
	if _, bytes := x.missing(u.files); bytes > searchBytes {
		if err := u.search(ctx, st, x, usable); err != nil {
			return nil, err
		}
	}
	x.forget(u.files)
	for d, p := range u.pack.made {
		x[d] = p
	}
	return x, nil
}

// search adds the places that older manifests know.
func (u *publication) search(ctx context.Context, st *state, x index, usable func(release.Pack) bool) error {
	older := st.recent
	if st.before != nil {
		older = older[1:]
	}
	ms := make([]*release.Manifest, len(older))
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range older {
		g.Go(func() error {
			b, err := u.body(gctx, st, t)
			if err == nil {
				ms[i], err = parseNamed(b, targetName(t.Name))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range ms {
		x.addManifest(m, usable)
	}
	return nil
}

// compare says what the tree changes; New is false when the channel already
// has exactly this, and the bucket all of it. What the bucket has lost of small
// objects is put back then.
func (u *publication) compare(ctx context.Context, st *state) (Published, error) {
	m := &release.Manifest{Schema: release.SchemaVersion, Project: u.o.Project, Files: u.files, Roles: u.o.Roles}
	out := Published{New: true, Files: fileChanges(st.before, m)}
	if st.before == nil {
		return out, nil
	}
	out.Previous = st.before.Name()
	if c := out.Files; len(c.Added)+len(c.Changed)+len(c.Removed) > 0 {
		return out, nil
	}
	same, err := sameButFiles(st.before, m)
	if err != nil || !same {
		return out, err
	}
	if err := u.restore(ctx, st); err != nil {
		return out, err
	}
	if err := u.stock.wait(); err != nil {
		return out, err
	}
	for _, p := range st.before.Packs {
		if !u.stock.holds(p) {
			u.s.log().Warn("the bucket has lost a pack: publishing its content again", "release", out.Previous, "pack", p.Digest.Short())
			return out, nil
		}
	}
	out.New, out.Release, out.Digest = false, st.channel.Release, st.channel.Manifest
	out.Roles, err = roleChanges(st.before, st.before)
	return out, err
}

// sameButFiles reports whether two manifests give a VM the same, files aside.
func sameButFiles(a, b *release.Manifest) (bool, error) {
	var digests [2]release.Digest
	for i, m := range []*release.Manifest{a, b} {
		head := *m
		head.Files = nil
		var err error
		if digests[i], err = head.ContentDigest(); err != nil {
			return false, err
		}
	}
	return digests[0] == digests[1], nil
}
