package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	maxReleases  = 50 // listed ones; older ones stay only while a channel names them
	recentKnown  = 5  // manifests that are searched for content which need not be uploaded
	deltasKept   = 3  // releases from which a manifest travels as a delta
	commitTries  = 30
	lockTTL      = 2 * time.Minute
	lockPatience = 20 * time.Second // where a commit is safe without the lock
	maxAgent     = 256 << 20
	maxListed    = 1 << 20 // objects below packs/
)

// DefaultChannel is the channel of PublishOptions without one.
const DefaultChannel = "stable"

var channelName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// A publication is one call of Publish.
type publication struct {
	s     *Store
	p     *trust.Publisher
	o     PublishOptions
	meter *meter
	files []release.File // of the tree, without places
	pack  packer
	have  map[string]int64 // sizes of the objects below packs/ and agents/
	seen  int64            // version of the timestamp have was listed for
	cache map[release.Digest]*release.Manifest
	total tally // of agents and manifests
	sent  bool  // the agents are in the bucket
}

// A state is what the bucket held when a try began.
type state struct {
	view     *trust.View
	channel  *release.Channel    // nil: nothing is published on it
	before   *release.Manifest   // of channel
	recent   []*release.Manifest // before first, then the newest others
	channels map[string]*release.Channel
}

// Publish packs the tree, uploads what no recent release holds, and commits
// the new release and the channel in one step. It holds the lock while it
// commits, and builds again on the new state when another publisher won, so
// that no release is lost. Killed anywhere, it leaves the bucket's visible
// state as it was. The same tree again is no release: Published.New is false.
// A file that cannot be in a release is ErrTree. A dry run writes and signs
// nothing, so p needs no keys for it.
func (s *Store) Publish(ctx context.Context, p *trust.Publisher, o PublishOptions) (Published, error) {
	start := time.Now()
	if o.Channel == "" {
		o.Channel = DefaultChannel
	}
	if !channelName.MatchString(o.Channel) {
		return Published{}, fmt.Errorf("publish: channel %.100q is not made of lower-case letters, digits, dots and hyphens: %w", o.Channel, release.ErrFormat)
	}
	if o.Source.Time.IsZero() {
		o.Source.Time = time.Now()
		if p.Now != nil {
			o.Source.Time = p.Now()
		}
	}
	o.Source.Time = o.Source.Time.UTC().Truncate(time.Second)
	if o.Roles == nil {
		o.Roles = map[string]release.Role{}
	}
	pub := &publication{s: s, p: p, o: o, meter: newMeter(o.Progress), cache: map[release.Digest]*release.Manifest{}}
	pub.pack.bucket, pub.pack.dir, pub.pack.meter, pub.pack.made = pub.target(), o.Dir, pub.meter, index{}
	out, err := pub.run(ctx)
	if err != nil {
		return out, fmt.Errorf("publish: %w", err)
	}
	out.Uploaded += pub.pack.uploaded + pub.total.uploaded
	out.Present += pub.pack.present + pub.total.present
	out.Bytes += pub.pack.bytes + pub.total.bytes
	out.Seconds = time.Since(start).Seconds()
	return out, nil
}

// target returns the bucket to write to; nil on a dry run.
func (u *publication) target() bucket.Bucket {
	if u.o.DryRun {
		return nil
	}
	return u.s.Bucket
}

func (u *publication) run(ctx context.Context) (Published, error) {
	cache := openTreeCache(u.o.Cache, u.o.Dir)
	out, err := u.attempt(ctx, cache)
	if errors.Is(err, errChanged) && len(cache.entries) > 0 {
		u.s.log().Warn("the project's files are not what was remembered of them: reading them all")
		cache.forget()
		out, err = u.attempt(ctx, openTreeCache("", u.o.Dir))
	}
	return out, err
}

func (u *publication) attempt(ctx context.Context, cache *treeCache) (Published, error) {
	var err error
	if u.files, err = scan(ctx, u.o.Dir, u.o.Ignore, cache, u.s.log(), u.meter); err != nil {
		return Published{}, err
	}
	// What is long goes first and without the lock: content has names of its
	// own, and nobody sees it before the commit.
	out, st, err := u.prepare(ctx)
	if err != nil || !out.New {
		return out, err
	}
	if u.o.DryRun {
		return u.build(ctx, st, out, nil)
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
		if out, st, err = u.prepare(ctx); err != nil || !out.New {
			return out, err
		}
		out, err = u.build(ctx, st, out, u.commit)
		if !errors.Is(err, trust.ErrConflict) {
			return out, err
		}
		u.s.log().Info("another publisher was first, building on its release", "try", try+1)
		if err := pause(ctx, time.Duration(try+1)*100*time.Millisecond); err != nil {
			return out, err
		}
	}
	return out, fmt.Errorf("after %d tries: %w", commitTries, trust.ErrConflict)
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
func (u *publication) lock(ctx context.Context) (func(context.Context) error, error) {
	caps := u.s.Bucket.Caps()
	safe := caps.IfAbsent && caps.IfMatch
	patience := lockTTL + lockPatience
	if safe {
		patience = lockPatience
	}
	until, told := time.Now().Add(patience), false
	for {
		unlock, err := u.p.Lock(ctx, u.o.Owner, lockTTL)
		if err == nil || !errors.Is(err, trust.ErrLocked) {
			return unlock, err
		}
		if time.Now().After(until) {
			if !safe {
				return nil, err
			}
			u.meter.wait("going on without the lock: this bucket keeps publishers apart by itself")
			return func(context.Context) error { return nil }, nil
		}
		if !told {
			told = true
			holder := strings.TrimSuffix(err.Error(), ": "+trust.ErrLocked.Error())
			u.meter.wait(fmt.Sprintf("%s; waiting for it, %v at most", holder, patience))
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// prepare looks at the present state, and uploads the content it lacks. With
// Published.New false there is nothing left to do.
func (u *publication) prepare(ctx context.Context) (Published, *state, error) {
	st, err := u.state(ctx)
	if err != nil {
		return Published{}, nil, err
	}
	if err := u.list(ctx, st.view.Timestamp); err != nil {
		return Published{}, nil, err
	}
	if err := u.agents(ctx); err != nil {
		return Published{}, nil, err
	}
	out, err := u.compare(st)
	if err != nil || !out.New {
		return out, st, err
	}
	pieces, bytes := u.index(st).missing(u.files)
	phase := "upload"
	if u.o.DryRun {
		phase = "pack"
	}
	u.meter.phase(phase, bytes)
	return out, st, u.pack.pack(ctx, pieces)
}

func (u *publication) state(ctx context.Context) (*state, error) {
	v, err := u.p.View(ctx)
	if err != nil {
		return nil, err
	}
	st := &state{view: v}
	if st.channels, err = u.s.channels(ctx, v); err != nil {
		return nil, err
	}
	for _, c := range st.channels {
		if c.Project != u.o.Project {
			return nil, fmt.Errorf("the bucket holds project %.100q, not %q: %w", c.Project, u.o.Project, release.ErrWrongFleet)
		}
	}
	if st.channel = st.channels[u.o.Channel]; st.channel != nil {
		if st.before, err = u.manifest(ctx, v, st.channel.Release, nil); err != nil {
			return nil, err
		}
		st.recent = append(st.recent, st.before)
	}
	for _, t := range listed(v) {
		if len(st.recent) == recentKnown {
			break
		}
		if st.channel != nil && targetName(t.Name) == st.channel.Release {
			continue
		}
		m, err := u.manifest(ctx, v, targetName(t.Name), st.before)
		if err != nil {
			return nil, err
		}
		st.recent = append(st.recent, m)
	}
	return st, nil
}

// manifest is Store.Manifest with a memory that lives as long as the publish.
func (u *publication) manifest(ctx context.Context, v *trust.View, name string, have *release.Manifest) (*release.Manifest, error) {
	t, ok := v.Target(releaseTarget(name))
	if m := u.cache[t.Digest]; ok && m != nil {
		return m, nil
	}
	m, err := u.s.Manifest(ctx, v, name, have)
	if err == nil {
		u.cache[t.Digest] = m
	}
	return m, err
}

// list learns which packs and agents the bucket really holds, so that content
// somebody deleted is uploaded again.
func (u *publication) list(ctx context.Context, version int64) error {
	if u.have != nil && u.seen == version {
		return nil
	}
	have := map[string]int64{}
	for _, prefix := range []string{"packs/", "agents/"} {
		for o, err := range u.s.Bucket.List(ctx, prefix, "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", prefix, err)
			}
			if len(have) < maxListed {
				have[o.Key] = o.Size
			}
		}
	}
	u.have, u.seen = have, version
	for _, a := range u.o.Agents {
		if _, ok := have["agents/"+a.Digest.Hex()]; !ok {
			u.sent = false
		}
	}
	for d, p := range u.pack.made {
		if !u.holds(p.pack) {
			delete(u.pack.made, d) // garbage for a collector, before anything named it
		}
	}
	return nil
}

func (u *publication) holds(p release.Pack) bool {
	n, ok := u.have[packKey(p.Digest)]
	return ok && n == p.Size
}

// index returns where the content of the tree is stored already.
func (u *publication) index(st *state) index {
	x := index{}
	for _, m := range st.recent {
		x.addManifest(m, u.holds)
	}
	x.forget(u.files)
	for d, p := range u.pack.made {
		x[d] = p
	}
	return x
}

// compare says what the tree changes; New is false when the channel already
// has exactly this.
func (u *publication) compare(st *state) (Published, error) {
	m := &release.Manifest{Schema: release.SchemaVersion, Project: u.o.Project, Files: u.files, Roles: u.o.Roles}
	out := Published{New: true, Files: fileChanges(st.before, m)}
	if st.before == nil {
		return out, nil
	}
	out.Previous = st.before.Name()
	now, err := m.ContentDigest()
	if err != nil {
		return out, err
	}
	then, err := st.before.ContentDigest()
	if err != nil {
		return out, err
	}
	if now != then {
		return out, nil
	}
	for _, p := range st.before.Packs {
		if !u.holds(p) {
			u.s.log().Warn("the bucket has lost a pack: publishing its content again", "release", out.Previous, "pack", p.Digest.Short())
			return out, nil
		}
	}
	out.New, out.Release, out.Digest = false, st.channel.Release, st.channel.Manifest
	out.Roles, err = roleChanges(st.before, st.before)
	return out, err
}

// agents uploads the agent binaries that the bucket lacks, once.
func (u *publication) agents(ctx context.Context) error {
	if u.sent {
		return nil
	}
	for _, a := range u.o.Agents {
		key := "agents/" + a.Digest.Hex()
		_, ok := u.have[key]
		switch {
		case ok:
			u.total.present++
			continue
		case a.Path == "":
			return fmt.Errorf("agent for %s: the bucket has no %s: %w", a.Arch, key, bucket.ErrNotExist)
		}
		data, err := readAgent(a)
		if err != nil {
			return err
		}
		t, err := putNamed(ctx, u.target(), key, data)
		if err != nil {
			return err
		}
		u.total.add(t)
		u.have[key] = int64(len(data))
	}
	u.sent = true
	return nil
}

// readAgent returns the bytes of an agent, which must be the pinned ones.
func readAgent(a Agent) ([]byte, error) {
	f, err := os.Open(a.Path)
	if err != nil {
		return nil, fmt.Errorf("agent for %s: %w", a.Arch, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAgent+1))
	if err != nil {
		return nil, fmt.Errorf("agent for %s: %w", a.Arch, err)
	}
	if release.DigestFromSum(sha256.Sum256(data)) != a.Digest {
		return nil, fmt.Errorf("agent for %s: %s is not the pinned %s: %w", a.Arch, a.Path, a.Digest, trust.ErrUntrusted)
	}
	return data, nil
}

// build makes the manifest on top of st and hands it to commit (nil: a dry
// run), with the ways for it to travel uploaded before.
func (u *publication) build(ctx context.Context, st *state, out Published, commit func(context.Context, *state, *release.Manifest, []byte, trust.Carry) error) (Published, error) {
	m := &release.Manifest{Schema: release.SchemaVersion, Project: u.o.Project, Number: st.next(), Source: u.o.Source, Roles: u.o.Roles}
	var slots []release.Pack
	if st.before != nil {
		slots = st.before.Packs
	}
	m.Files, m.Packs = u.index(st).locate(u.files, slots)
	body, err := m.Bytes()
	if err != nil {
		return out, err
	}
	// What readers would refuse must not get a signature.
	if m, err = release.ParseManifest(body); err != nil {
		return out, fmt.Errorf("%w: %w", ErrTree, err)
	}
	out.Release, out.Digest = m.Name(), release.DigestOf(body)
	if out.Roles, err = roleChanges(st.before, m); err != nil {
		return out, err
	}
	u.meter.phase("sign", 0)
	ways, err := manifestWays(body, st.recent[:min(len(st.recent), deltasKept)])
	if err != nil {
		return out, err
	}
	t, err := putObjects(ctx, u.target(), ways)
	u.total.add(t)
	if err != nil || commit == nil {
		return out, err
	}
	return out, commit(ctx, st, m, body, carried(ways, st.before != nil, u.pack.fresh))
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

func (u *publication) commit(ctx context.Context, st *state, m *release.Manifest, body []byte, carry trust.Carry) error {
	c := release.Channel{
		Schema: release.SchemaVersion, Project: u.o.Project, Name: u.o.Channel, Serial: 1, Floor: m.Number,
		Release: m.Name(), Manifest: release.DigestOf(body), Time: u.o.Source.Time,
	}
	if st.channel != nil {
		c.Serial = st.channel.Serial + 1
	}
	pointer, err := c.Bytes()
	if err != nil {
		return err
	}
	ch := trust.Change{
		Blobs:  map[string][]byte{releaseTarget(m.Name()): body, channelTarget(u.o.Channel): pointer},
		Remove: st.obsolete(u.o.Channel),
		Carry:  carry,
	}
	_, err = u.p.Commit(ctx, st.view, ch)
	return err
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
