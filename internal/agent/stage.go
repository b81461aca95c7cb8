package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// A target is a release that is whole on the disk and can be run.
type target struct {
	ref
	manifest *release.Manifest
	text     []byte // of the manifest, if that is not on the disk yet
	role     release.Role
	dir      string
	size     int64 // bytes fetched to get it
}

// look brings Wanted up to date: one conditional GET, and more only when
// something changed. What stands in the way becomes the session's problem.
func (s *session) look(ctx context.Context) {
	s.part, s.since = "poll", time.Now()
	defer func() { s.phase(s.part, s.since) }()
	err := store.ReadAny(ctx, s.Bucket, func() error { return s.readChannel(ctx) })
	s.noteAway(err)
	if err != nil {
		s.trouble(err)
	}
}

// A polled is what came of a poll.
type polled struct {
	changed bool
	err     error
}

// pollEarly begins with the poll, unless this call may make none: that of a VM
// that is held, or that goes on with a run.
func (s *session) pollEarly(ctx context.Context) {
	if _, err := os.Lstat(s.Paths.Journal()); err == nil || s.held() != "" {
		return
	}
	s.polled = make(chan polled, 1)
	go func() {
		changed, err := s.trust.Poll(ctx)
		s.polled <- polled{changed, err}
	}()
	runtime.Gosched() // the request first: to wake another thread for it takes time
}

// poll returns what came of the poll that is under way, or of another one.
func (s *session) poll(ctx context.Context) (changed bool, err error) {
	if s.polled == nil {
		return s.trust.Poll(ctx)
	}
	p := <-s.polled
	s.polled = nil
	return p.changed, p.err
}

// readChannel reads the channel when the metadata verified here are others than
// those it was read in: also after a call that was cut off between the two.
func (s *session) readChannel(ctx context.Context) error {
	changed, err := s.poll(ctx)
	if err != nil {
		return err
	}
	before := s.state.Metadata
	if !changed && before != 0 && before == s.trust.Verified() {
		s.warn = append(s.warn, s.state.Expiry...)
		return nil
	}
	if changed {
		s.view, err = s.trust.RefreshWhile(ctx, s.ahead(ctx))
	} else {
		s.view, err = s.trust.Last()
	}
	if err != nil {
		return diskError(err)
	}
	s.store.Bucket = s.view.Over(s.clock)
	s.at("Refreshed")
	return s.readWanted(ctx, before)
}

// readWanted takes over what the verified metadata say. They are the same as
// before when only their freshness was in doubt.
func (s *session) readWanted(ctx context.Context, before int64) error {
	st := s.state
	st.Expiry = s.view.Warn
	s.warn = append(s.warn, st.Expiry...)
	if s.view.Timestamp == before {
		return s.saveSoon()
	}
	ch, err := s.store.Channel(ctx, s.view, s.Config.Project, s.Config.Channel)
	if err != nil {
		return err
	}
	st.want(ref{ch.Release, ch.Manifest}, ch.Floor, s.view.Timestamp)
	if err := s.saveSoon(); err != nil {
		return err
	}
	s.at("Polled")
	return nil
}

// trouble notes that the bucket's word could not be had or used. The VM goes
// on with what it has.
func (s *session) trouble(err error) {
	if s.problem == nil {
		s.problem = err
	}
	s.fail(err)
	s.logger().Warn("going on with what is here", "err", err)
}

// acquire makes the release r whole on the disk: from what is there, else
// from the bucket.
func (s *session) acquire(ctx context.Context, r ref) (*target, error) {
	t, err := s.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.accept(t); err != nil {
		return nil, err
	}
	s.at("Staged")
	return t, nil
}

// prepare is acquire up to where it takes effect: nothing that it leaves on the
// disk counts for anything until a verified view names it.
func (s *session) prepare(ctx context.Context, r ref) (*target, error) {
	if e := s.early; e != nil && e.ref == r && e.view == s.view {
		s.early = nil
		return e.target, e.err
	}
	var m *release.Manifest
	var text []byte
	err := store.ReadAny(ctx, s.Bucket, func() (err error) {
		m, text, err = s.manifest(ctx, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.at("Fetched")
	role, err := suits(m, s.Config.Role, s.facts.Platform)
	if err != nil {
		return nil, err
	}
	if err := s.checkFloor(m); err != nil {
		return nil, err
	}
	s.at("Verified")
	t := &target{ref: r, manifest: m, text: text, role: role, dir: s.Paths.Tree(r.Manifest)}
	return t, s.stage(ctx, t)
}

// manifest returns the manifest of r from the disk or the bucket, and in the
// latter case its bytes.
func (s *session) manifest(ctx context.Context, r ref) (*release.Manifest, []byte, error) {
	if m := s.kept(r.Manifest); m != nil {
		return m, nil, nil
	}
	defer s.phase("manifest", time.Now())
	if s.view == nil {
		v, err := s.trust.Last()
		if err != nil {
			return nil, nil, err
		}
		s.view = v
	}
	m, b, err := s.store.ManifestText(ctx, s.view, r.Release, s.keptText(s.state.Applied.Manifest))
	if err != nil {
		return nil, nil, err
	}
	if release.DigestOf(b) != r.Manifest {
		return nil, nil, fmt.Errorf("manifest of %s is not the one that channel %s names: %w", r.Release, s.Config.Channel, trust.ErrUntrusted)
	}
	return m, b, nil
}

// keep puts the manifest of t on the disk, if it is not there.
func (s *session) keep(t *target) error {
	if t.text == nil {
		return nil
	}
	return putFile(s.Paths.Manifest(t.Manifest), t.text, 0o644)
}

// kept returns the manifest with digest d as it lies on the disk, or nil.
func (s *session) kept(d release.Digest) *release.Manifest {
	b := s.keptText(d)
	if b == nil {
		return nil
	}
	m, err := release.ParseManifest(b)
	if err != nil {
		return nil
	}
	return m
}

// keptText returns the bytes of the manifest with digest d, or nil.
func (s *session) keptText(d release.Digest) []byte {
	if d.IsZero() {
		return nil
	}
	b, err := readBounded(s.Paths.Manifest(d), release.MaxManifestBytes)
	if err != nil || release.DigestOf(b) != d {
		return nil
	}
	return b
}

// suits returns the role of a release for this VM.
func suits(m *release.Manifest, name, platform string) (release.Role, error) {
	role, ok := m.Roles[name]
	if !ok {
		have := make([]string, 0, len(m.Roles))
		for n := range m.Roles {
			have = append(have, n)
		}
		slices.Sort(have)
		return role, fmt.Errorf("%s has no role %s (it has %s): %w", m.Name(), name, cut(strings.Join(have, ", "), 200), ErrUnsuitable)
	}
	if len(role.Platforms) > 0 && !slices.ContainsFunc(role.Platforms, func(p string) bool { return onPlatform(p, platform) }) {
		return role, fmt.Errorf("role %s of %s is for %s, and this VM is %s: %w",
			name, m.Name(), strings.Join(role.Platforms, ", "), platform, ErrUnsuitable)
	}
	return role, nil
}

// onPlatform reports whether glob means platform; rocky-9 means rocky-9.3 too.
func onPlatform(glob, platform string) bool {
	major, _, _ := strings.Cut(platform, ".")
	for _, p := range []string{platform, major} {
		if ok, err := path.Match(glob, p); ok && err == nil {
			return true
		}
	}
	return false
}

// checkFloor refuses a release older than what this VM has accepted, unless
// the signed channel allows to go back that far. What the VM was good with is
// never refused.
func (s *session) checkFloor(m *release.Manifest) error {
	if s.state.Good.Release == m.Name() {
		return nil
	}
	floor, err := s.trust.Floor()
	if err != nil {
		return err
	}
	if m.Number < floor && (s.state.Floor == 0 || m.Number < s.state.Floor) {
		return fmt.Errorf("%s is older than %s, which this VM has accepted: %w", m.Name(), release.Name(floor), trust.ErrRollback)
	}
	return nil
}

// away reports whether err only means that the bucket could not be asked.
func away(err error) bool {
	for _, e := range []error{bucket.ErrUnavailable, bucket.ErrPermission, bucket.ErrNoBucket, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
