package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	maxReleases  = 50 // listed ones; older ones stay only while a channel names them
	commitTries  = 30
	lockTTL      = 2 * time.Minute
	lockPatience = 20 * time.Second // where a commit is safe without the lock
)

// DefaultChannel is the channel of PublishOptions without one.
const DefaultChannel = "stable"

var channelName = pattern(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// A publication is one call of Publish.
type publication struct {
	s     *Store
	p     *trust.Publisher
	o     PublishOptions
	meter *meter
	kept  kept
	files []release.File // of the tree, without places
	out   *outbox
	pack  packer
	stock *stock

	describe func()         // fills in the options' source, once
	saving   sync.WaitGroup // of what this machine remembers
}

// Publish packs the tree, uploads what no recent release holds, and commits
// the new release and the channel in one step. When another publisher won it
// builds again on the new state, under the lock, so that no release is lost;
// where the bucket cannot keep publishers apart by itself it takes the lock
// first. Killed anywhere, it leaves the bucket's visible state as it was. The
// same tree again is no release: Published.New is false. A file that cannot be
// in a release is ErrTree. A dry run writes and signs nothing, so p needs no
// keys for it.
func (s *Store) Publish(ctx context.Context, p *trust.Publisher, o PublishOptions) (Published, error) {
	start := time.Now()
	if o.Channel == "" {
		o.Channel = DefaultChannel
	}
	if !channelName().MatchString(o.Channel) {
		return Published{}, fmt.Errorf("publish: channel %.100q is not made of lower-case letters, digits, dots and hyphens: %w", o.Channel, release.ErrFormat)
	}
	if o.Roles == nil {
		o.Roles = map[string]release.Role{}
	}
	ctx, cancel := context.WithCancel(ctx)
	u := &publication{s: s, p: p, o: o, meter: newMeter(o.Progress), kept: kept{o.Cache}}
	u.describe = sync.OnceFunc(u.source)
	u.out = newOutbox(ctx, u.target())
	u.pack = packer{out: u.out, dir: o.Dir, meter: u.meter, made: index{}}
	cache := openTreeCache(o.Cache, o.Dir)
	out, err := u.run(ctx, cache)
	if errors.Is(err, errChanged) && len(cache.entries) > 0 {
		s.log().Warn("the project's files are not what was remembered of them: reading them all")
		u.saving.Wait()
		cache.forget()
		out, err = u.run(ctx, openTreeCache("", o.Dir))
	}
	defer u.saving.Wait()
	if err != nil {
		cancel()
	}
	if u.stock != nil {
		<-u.stock.done
	}
	if lost := u.out.wait(); err == nil {
		err = lost
	}
	cancel()
	if err != nil {
		return out, fmt.Errorf("publish: %w", err)
	}
	out.Uploaded, out.Present, out.Bytes = u.out.sent.uploaded, u.out.sent.present, u.out.sent.bytes
	out.Seconds = time.Since(start).Seconds()
	return out, nil
}

// source completes what the options say of where the tree comes from.
func (u *publication) source() {
	src := &u.o.Source
	if u.o.Describe != nil {
		*src = u.o.Describe()
	}
	if src.Time.IsZero() {
		src.Time = time.Now()
		if u.p.Now != nil {
			src.Time = u.p.Now()
		}
	}
	src.Time = src.Time.UTC().Truncate(time.Second)
}

// target returns the bucket to write to; nil on a dry run.
func (u *publication) target() bucket.Bucket {
	if u.o.DryRun {
		return nil
	}
	return u.s.Bucket
}

func (u *publication) run(ctx context.Context, cache *treeCache) (Published, error) {
	st, err := u.first(ctx, cache)
	if err != nil {
		return Published{}, err
	}
	out, err := u.prepare(ctx, st)
	if err != nil || !out.New || u.o.DryRun {
		return out, err
	}
	if u.s.atomic() {
		if out, err = u.build(ctx, st, out); !outrun(err) {
			return out, err
		}
		u.tellAgain(1)
	} else if err := u.out.wait(); err != nil { // the lock would run out under a long upload
		return out, err
	}
	unlock, err := u.lock(ctx)
	if err != nil {
		return out, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := unlock(ctx); err != nil {
			u.s.log().Warn("the publishers' lock stays until it expires", "err", err)
		}
	}()
	for try := range commitTries {
		if st, err = u.look(ctx); err != nil {
			return out, err
		}
		if out, err = u.prepare(ctx, st); err != nil || !out.New {
			return out, err
		}
		if out, err = u.build(ctx, st, out); !outrun(err) {
			return out, err
		}
		u.tellAgain(try + 1)
		if err := pause(ctx, time.Duration(try+1)*100*time.Millisecond); err != nil {
			return out, err
		}
	}
	return out, fmt.Errorf("after %d tries: %w", commitTries, err)
}

// first reads the tree, asks where it comes from and looks at the bucket, side
// by side.
func (u *publication) first(ctx context.Context, cache *treeCache) (*state, error) {
	var st *state
	var seen error
	looked := make(chan struct{})
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(looked)
		st, seen = u.look(lctx)
	}()
	var described sync.WaitGroup
	described.Go(u.describe)
	defer described.Wait()
	var err error
	if u.files, err = scan(ctx, u.o.Dir, u.o.Ignore, cache, u.s.log(), u.meter); err != nil {
		cancel()
	} else {
		u.saving.Go(func() { cache.save(u.s.log()) })
	}
	<-looked
	if err != nil {
		return nil, err
	}
	return st, seen
}

// outrun reports whether a commit failed for something that the next try sees.
func outrun(err error) bool { return errors.Is(err, trust.ErrConflict) || errors.Is(err, errLostPack) }

func (u *publication) tellAgain(try int) {
	u.s.log().Info("the bucket has changed meanwhile, building on what it holds now", "try", try)
}

// atomic reports whether the bucket itself keeps publishers apart.
func (s *Store) atomic() bool {
	caps := s.Bucket.Caps()
	return caps.IfAbsent && caps.IfMatch
}

// pause waits between half and all of d.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lock takes the publishers' lock. Where the commit itself is safe it is not
// waited for longer than spares work; elsewhere until it must have expired.
func (u *publication) lock(ctx context.Context) (unlock func(context.Context) error, err error) {
	err = awaitLock(ctx, u.meter, u.s.atomic(), func() error {
		unlock, err = u.p.Lock(ctx, u.o.Owner, lockTTL)
		return err
	})
	if errors.Is(err, trust.ErrLocked) && u.s.atomic() {
		u.meter.wait("going on without the lock: this bucket keeps publishers apart by itself")
		return func(context.Context) error { return nil }, nil
	}
	return unlock, err
}

// awaitLock calls try until its error is another than ErrLocked, as long as is
// worth it where the bucket is atomic, and elsewhere until a lock that is held
// now must have expired.
func awaitLock(ctx context.Context, m *meter, atomic bool, try func() error) error {
	patience := lockTTL + lockPatience
	if atomic {
		patience = lockPatience
	}
	until, told := time.Now().Add(patience), false
	for {
		err := try()
		if !errors.Is(err, trust.ErrLocked) || time.Now().After(until) {
			return err
		}
		if !told {
			told = true
			holder := strings.TrimSuffix(err.Error(), ": "+trust.ErrLocked.Error())
			m.wait(fmt.Sprintf("%s; waiting for it, %v at most", holder, patience))
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// prepare compares the tree with the present state and packs the content it
// lacks. With Published.New false there is nothing left to do, and of a dry run
// not either.
func (u *publication) prepare(ctx context.Context, st *state) (Published, error) {
	out, err := u.compare(ctx, st)
	if err != nil {
		return out, err
	}
	if !out.New {
		return out, u.stock.wait()
	}
	if st.places, err = u.index(ctx, st); err != nil {
		return out, err
	}
	pieces, bytes := st.places.missing(u.files)
	phase := "upload"
	if u.o.DryRun {
		phase = "pack"
	}
	u.meter.phase(phase, bytes)
	if err := u.pack.pack(ctx, pieces); err != nil {
		return out, err
	}
	for _, p := range pieces {
		st.places[p.blob.Digest] = u.pack.made[p.blob.Digest]
	}
	if !u.o.DryRun {
		return out, nil
	}
	if err := u.stock.wait(); err != nil {
		return out, err
	}
	return u.build(ctx, st, out)
}

// build makes the manifest on top of st and commits it, unless on a dry run.
func (u *publication) build(ctx context.Context, st *state, out Published) (Published, error) {
	m := &release.Manifest{Schema: release.SchemaVersion, Project: u.o.Project, Number: st.next(), Source: u.o.Source, Roles: u.o.Roles}
	var slots []release.Pack
	if st.before != nil {
		slots = st.before.Packs
	}
	m.Files, m.Packs = st.places.locate(u.files, slots)
	// What readers would refuse must not get a signature.
	body, err := m.Sealed()
	if errors.Is(err, release.ErrFormat) {
		err = fmt.Errorf("%w: %w", ErrTree, err)
	}
	if err != nil {
		return out, err
	}
	to := text{release.DigestOf(body), body}
	out.Release, out.Digest = m.Name(), to.digest
	u.meter.phase("sign", 0)
	var carry trust.Carry
	var g errgroup.Group
	g.Go(func() (err error) {
		out.Roles, err = roleChanges(st.before, m)
		return err
	})
	g.Go(func() (err error) {
		carry, err = u.sendManifest(st, to)
		return err
	})
	if err := g.Wait(); err != nil || u.o.DryRun {
		return out, err
	}
	return out, u.commit(ctx, st, m, to, carry)
}

// sendManifest sends the manifest in the forms in which it travels, and returns
// what goes along with the metadata. Forms that cannot do so are made while the
// commit goes on.
func (u *publication) sendManifest(st *state, to text) (trust.Carry, error) {
	var whole, next *object
	var g errgroup.Group
	if len(to.body) <= wholeBytes {
		g.Go(func() error {
			o, err := wholeWay(to)
			whole = &o
			return err
		})
	}
	froms := st.recent[:min(len(st.recent), deltasKept)]
	if st.before != nil {
		g.Go(func() error {
			body, err := u.body(u.out.ctx, st, froms[0])
			if err != nil {
				return err
			}
			o, err := deltaWay(text{froms[0].Digest, body}, to)
			next = &o
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return trust.Carry{}, err
	}
	for _, o := range []*object{next, whole} {
		if o != nil {
			if err := u.out.send(o.key, o.data, nil); err != nil {
				return trust.Carry{}, err
			}
		}
	}
	// The outbox takes each key once.
	err := u.out.sendMade(packedManifest(to.digest), func() ([]byte, error) {
		o, err := wholeWay(to)
		return o.data, err
	}, nil)
	for _, t := range froms {
		err = errors.Join(err, u.out.sendMade(deltaManifest(t.Digest, to.digest), func() ([]byte, error) {
			body, err := u.body(u.out.ctx, st, t)
			if err != nil {
				u.s.log().Warn("an older manifest cannot be read: who has it will fetch the new one whole", "err", err)
				return nil, nil
			}
			o, err := deltaWay(text{t.Digest, body}, to)
			return o.data, err
		}, nil))
	}
	return carried(whole, next, u.pack.fresh), err
}

// next returns a number higher than any that was used.
func (st *state) next() int {
	n := 0
	for _, t := range listed(st.view) {
		n = max(n, targetNumber(t.Name))
	}
	for _, c := range st.channels {
		if r, err := release.ParseName(c.Release); err == nil {
			n = max(n, r)
		}
	}
	return n + 1
}

func (u *publication) commit(ctx context.Context, st *state, m *release.Manifest, to text, carry trust.Carry) error {
	c := release.Channel{
		Schema: release.SchemaVersion, Project: u.o.Project, Name: u.o.Channel, Serial: 1, Floor: m.Number,
		Release: m.Name(), Manifest: to.digest, Time: u.o.Source.Time,
	}
	if st.channel != nil {
		c.Serial = st.channel.Serial + 1
	}
	pointer, err := c.Bytes()
	if err != nil {
		return err
	}
	ch := trust.Change{
		Blobs:     map[string][]byte{channelTarget(u.o.Channel): pointer},
		Elsewhere: []trust.Target{{Name: releaseTarget(m.Name()), Size: int64(len(to.body)), Digest: to.digest}},
		Remove:    st.obsolete(u.o.Channel),
		Carry:     carry,
		Beside:    func(context.Context) error { return u.complete(m) },
	}
	u.saving.Go(func() {
		u.kept.put(to.digest, to.body)
		u.kept.put(release.DigestOf(pointer), pointer)
	})
	v, err := u.p.Commit(ctx, st.view, ch)
	if err != nil {
		// A next try must not count on what is still under way.
		if lost := u.out.wait(); lost != nil {
			return lost
		}
		return err
	}
	u.saving.Wait()
	u.kept.prune(v)
	return nil
}

// complete reports whether the bucket holds all that m refers to.
func (u *publication) complete(m *release.Manifest) error {
	if err := u.stock.wait(); err != nil {
		return err
	}
	for _, p := range m.Packs {
		if !u.pack.packs[p] && !u.stock.holds(p) {
			return fmt.Errorf("pack %s: %w", p.Digest.Short(), errLostPack)
		}
	}
	return u.out.wait()
}

// obsolete lists the releases beyond the newest ones that no channel other
// than the one being moved names.
func (st *state) obsolete(moved string) []string { return st.beyond(maxReleases-1, moved) }

// beyond lists the releases beyond the newest keep ones that no channel other
// than moved names.
func (st *state) beyond(keep int, moved string) []string {
	var named []string
	for name, c := range st.channels {
		if name != moved {
			named = append(named, c.Release)
		}
	}
	all := listed(st.view)
	var out []string
	for _, t := range all[min(len(all), keep):] {
		if !slices.Contains(named, targetName(t.Name)) {
			out = append(out, t.Name)
		}
	}
	return out
}
