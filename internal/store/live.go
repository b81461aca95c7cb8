package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// Kinds of what is collected.
const (
	kindMetadata  = "metadata"
	kindTargets   = "targets"
	kindBundles   = "bundles"
	kindManifests = "manifests"
	kindPacks     = "packs"
	kindAgents    = "agents"
	kindReports   = "reports"
	kindLogs      = "logs"
)

// CollectKinds returns the kinds of Collected, in the order of a list.
func CollectKinds() []string {
	return []string{kindPacks, kindManifests, kindTargets, kindMetadata, kindBundles, kindAgents, kindReports, kindLogs}
}

// The names that bootwell gives to what it may delete. Roots are not among them.
var collectable = []struct {
	kind, prefix string
	name         func() *regexp.Regexp // of the rest; its last group is the digest that counts
}{
	{kindMetadata, "tuf/metadata/", pattern(`^[1-9][0-9]*\.(targets|releases|channels|snapshot)\.json$`)},
	{kindTargets, "tuf/targets/", pattern(`^(releases|channels)/[0-9a-f]{64}\.[^/]+\.json$`)},
	{kindBundles, "tuf/bundles/", pattern(`^([0-9a-f]{64}-)([0-9a-f]{64})\.zst$`)},
	{kindManifests, "manifests/", pattern(`^([0-9a-f]{64}-)?([0-9a-f]{64})\.zst$`)},
	{kindPacks, "packs/", pattern(`^[0-9a-f]{64}$`)},
	{kindAgents, "agents/", pattern(`^[0-9a-f]{64}$`)},
}

// pattern is a regular expression that is compiled when it is first needed: no
// VM needs those above.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// live is what a bucket has to keep. Its size is that of the live releases,
// whatever else the bucket holds.
type live struct {
	old     time.Time // what was written after it stays
	objects map[string]bool
	state   map[string]bool // hex digests of timestamps, by which bundles are named
	release map[string]bool // hex digests of manifests

	agents, reports time.Time // the same as old, for them; zero: all stay
}

// live reads what readers of v need, and those of the states that v took the
// place of within the grace; without a grace, what they would need if dropped were
// off the list. A release of v whose manifest cannot be had is an error; one of
// an earlier state is gone already.
func (s *Store) live(ctx context.Context, v *trust.View, o CollectOptions, dropped []string) (*live, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	l := &live{old: o.Now.Add(-o.Grace), state: map[string]bool{}, release: map[string]bool{}}
	if o.Agents > 0 {
		l.agents = earlier(l.old, o.Now.Add(-o.Agents))
	}
	if o.Reports > 0 {
		l.reports = earlier(l.old, o.Now.Add(-o.Reports))
	}
	kept, err := v.Kept(ctx, l.old)
	if err != nil {
		return nil, err
	}
	if o.Grace == 0 {
		kept.Drop(func(t trust.Target) bool {
			return strings.HasPrefix(t.Name, "releases/") && slices.Contains(dropped, targetName(t.Name))
		})
	}
	l.objects = kept.Objects
	l.state[kept.State.Hex()] = true
	for _, d := range o.Pinned {
		l.objects["agents/"+d.Hex()] = true
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4) // manifests in memory
	for _, t := range kept.Targets {
		if targetNumber(t.Name) == 0 || !strings.HasPrefix(t.Name, "releases/") {
			continue
		}
		g.Go(func() error {
			m, err := s.liveManifest(gctx, v, t)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			l.release[t.Digest.Hex()] = true
			if m != nil {
				for _, p := range m.Packs {
					l.objects[packKey(p.Digest)] = true
				}
			}
			return nil
		})
	}
	return l, g.Wait()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// liveManifest returns the manifest of t; nil for one of an earlier state that
// is gone.
func (s *Store) liveManifest(ctx context.Context, v *trust.View, t trust.Target) (*release.Manifest, error) {
	if v.Digest(t.Name) == t.Digest {
		m, err := s.Manifest(ctx, v, targetName(t.Name), nil)
		if err != nil {
			return nil, fmt.Errorf("what it needs is not known, so nothing is deleted: %w", err)
		}
		return m, nil
	}
	b, err := readPacked(ctx, s.Bucket, packedManifest(t.Digest), nil, t)
	if err == nil {
		var m *release.Manifest
		if m, err = release.ParseManifest(b); err == nil {
			return m, nil
		}
	}
	if ctx.Err() != nil || errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrPermission) {
		return nil, fmt.Errorf("%s of an earlier state: %w", targetName(t.Name), err)
	}
	s.log().Debug("a release of an earlier state is gone", "release", targetName(t.Name), "err", err)
	return nil, nil
}

// keep adds what readers of v need, which has the releases of the state that l
// was made for.
func (l *live) keep(v *trust.View) {
	own := v.Own()
	for key := range own.Objects {
		l.objects[key] = true
	}
	l.state[own.State.Hex()] = true
}

// walk tells of each object that may be collected whether it is dead. Memory
// does not grow with their number, but for the names of the VMs that reported.
func (l *live) walk(ctx context.Context, b bucket.Bucket, tell func(kind string, o bucket.Object, dead bool) error) error {
	for _, c := range collectable {
		for o, err := range b.List(ctx, c.prefix, "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", c.prefix, err)
			}
			name := o.Key[len(c.prefix):]
			if !c.name().MatchString(name) {
				continue
			}
			if err := tell(c.kind, o, l.dead(c.kind, o, name)); err != nil {
				return err
			}
		}
	}
	if l.reports.IsZero() {
		return nil
	}
	return l.walkReports(ctx, b, tell)
}

func (l *live) dead(kind string, o bucket.Object, name string) bool {
	if l.objects[o.Key] {
		return false
	}
	switch kind {
	case kindAgents:
		return !l.agents.IsZero() && o.Modified.Before(l.agents)
	case kindBundles, kindManifests:
		from, to, delta := strings.Cut(strings.TrimSuffix(name, ".zst"), "-")
		if !delta {
			to = from
		}
		if kind == kindBundles && l.state[to] || kind == kindManifests && l.release[from] && l.release[to] {
			return false
		}
	}
	return o.Modified.Before(l.old)
}

// walkReports goes over what VMs wrote: it is dead when the VM's report, or what
// it has instead, is too old. A VM that reports has fewer than a dozen objects.
func (l *live) walkReports(ctx context.Context, b bucket.Bucket, tell func(kind string, o bucket.Object, dead bool) error) error {
	fresh := map[string]bool{}
	for o, err := range b.List(ctx, reportPrefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", reportPrefix, err)
		}
		if vm, file, ok := strings.Cut(o.Key[len(reportPrefix):], "/"); ok && file == reportFile && !o.Modified.Before(l.reports) {
			fresh[vm] = true
		}
	}
	for _, c := range []struct{ kind, prefix string }{{kindReports, reportPrefix}, {kindLogs, "logs/"}} {
		for o, err := range b.List(ctx, c.prefix, "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", c.prefix, err)
			}
			vm, _, _ := strings.Cut(o.Key[len(c.prefix):], "/")
			if err := tell(c.kind, o, !fresh[vm] && o.Modified.Before(l.reports)); err != nil {
				return err
			}
		}
	}
	return nil
}
