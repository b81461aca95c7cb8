package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

func (s *Store) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

const manifestPrefix = "manifests/"

// Names of targets and objects.
func releaseTarget(name string) string { return "releases/" + name + ".json" }
func channelTarget(name string) string { return "channels/" + name + ".json" }
func packKey(d release.Digest) string  { return "packs/" + d.Hex() }
func packedManifest(d release.Digest) string {
	return manifestPrefix + d.Hex() + ".zst"
}
func deltaManifest(from, to release.Digest) string {
	return manifestPrefix + from.Hex() + "-" + to.Hex() + ".zst"
}

// Channel returns the verified channel. trust.ErrNoRelease when nothing is
// published on it; release.ErrWrongFleet when it is of another project.
func (s *Store) Channel(ctx context.Context, v *trust.View, project, name string) (*release.Channel, error) {
	if _, ok := v.Target(channelTarget(name)); !ok {
		return nil, fmt.Errorf("channel %.100q: %w", name, trust.ErrNoRelease)
	}
	b, err := v.Fetch(ctx, channelTarget(name))
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w", name, err)
	}
	c, err := release.ParseChannel(b)
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w", name, err)
	}
	if c.Name != name {
		return nil, fmt.Errorf("channel %s: signed as %.100q: %w", name, c.Name, trust.ErrUntrusted)
	}
	if c.Project != project {
		return nil, fmt.Errorf("channel %s: of project %.100q, not %q: %w", name, c.Project, project, release.ErrWrongFleet)
	}
	return c, nil
}

// Manifest returns the verified manifest of the release called name. With
// have (a manifest this machine holds) it travels as a delta where the bucket
// has one, else whole. An unknown name is trust.ErrNoRelease.
func (s *Store) Manifest(ctx context.Context, v *trust.View, name string, have *release.Manifest) (*release.Manifest, error) {
	var from []byte
	if have != nil {
		var err error
		if from, err = have.Bytes(); err != nil {
			return nil, err
		}
	}
	m, _, err := s.ManifestText(ctx, v, name, from)
	return m, err
}

// ManifestText is Manifest for those who keep manifests as the bytes that were
// verified: have are such bytes, or nil, and those of the manifest are returned
// too.
func (s *Store) ManifestText(ctx context.Context, v *trust.View, name string, have []byte) (*release.Manifest, []byte, error) {
	t, ok := v.Target(releaseTarget(name))
	if !ok {
		return nil, nil, fmt.Errorf("release %.100q: %w", name, trust.ErrNoRelease)
	}
	if t.Size > release.MaxManifestBytes {
		return nil, nil, fmt.Errorf("release %s: manifest of %d bytes: %w", name, t.Size, release.ErrFormat)
	}
	b, err := s.manifestBytes(ctx, t, have)
	if err != nil {
		return nil, nil, fmt.Errorf("release %s: %w", name, err)
	}
	m, err := release.ParseManifest(b)
	if err != nil {
		return nil, nil, fmt.Errorf("release %s: %w", name, err)
	}
	if m.Name() != name {
		return nil, nil, fmt.Errorf("release %s: signed as %s: %w", name, m.Name(), trust.ErrUntrusted)
	}
	return m, b, nil
}

func (s *Store) manifestBytes(ctx context.Context, t trust.Target, from []byte) ([]byte, error) {
	if from != nil {
		d := release.DigestOf(from)
		if d == t.Digest {
			return from, nil
		}
		b, err := readPacked(ctx, s.Bucket, deltaManifest(d, t.Digest), from, t)
		if err == nil || ctx.Err() != nil || errors.Is(err, bucket.ErrUnavailable) {
			return b, err
		}
		s.second(err)
	}
	b, err := readPacked(ctx, s.Bucket, packedManifest(t.Digest), nil, t)
	lies := errors.Is(err, trust.ErrUntrusted) || errors.Is(err, bucket.ErrTooLarge)
	if beneath := bucket.Beneath(s.Bucket); lies && beneath != s.Bucket {
		s.second(err) // the copy that came along may lie where the object does not
		return readPacked(ctx, beneath, packedManifest(t.Digest), nil, t)
	}
	return b, err
}

// second notes that a manifest has to travel another way.
func (s *Store) second(err error) {
	level := slog.LevelWarn
	// S3 answers a reader who may not list as if what is missing were forbidden.
	if errors.Is(err, bucket.ErrNotExist) || errors.Is(err, bucket.ErrPermission) {
		level = slog.LevelDebug
	}
	s.log().Log(context.Background(), level, "manifest travels another way", "err", err)
}

// readPacked reads a compressed manifest, or with from the delta to it, and verifies
// it against what is signed.
func readPacked(ctx context.Context, b bucket.Bucket, key string, from []byte, t trust.Target) ([]byte, error) {
	z, _, err := bucket.ReadAll(ctx, b, key, bucket.GetOptions{}, maxStored(t.Size))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	var text []byte
	if from != nil {
		text, err = patched(z, from, t.Size)
	} else {
		text, err = inflate(z, t.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", key, err, trust.ErrUntrusted)
	}
	if int64(len(text)) != t.Size || release.DigestOf(text) != t.Digest {
		return nil, fmt.Errorf("read %s: %w", key, trust.ErrUntrusted)
	}
	return text, nil
}

// An object is what is to be written under a name made of its content.
type object struct {
	key  string
	data []byte
}

// A text is the bytes of a manifest and their digest.
type text struct {
	digest release.Digest
	body   []byte
}

// manifestWays returns the objects by which a manifest may travel: compressed
// first, then as a delta from each of before.
func manifestWays(body []byte, before []*release.Manifest) ([]object, error) {
	froms := make([]text, len(before))
	for i, m := range before {
		b, err := m.Bytes()
		if err != nil {
			return nil, err
		}
		froms[i] = text{release.DigestOf(b), b}
	}
	return waysFrom(text{release.DigestOf(body), body}, froms)
}

// waysFrom is manifestWays for those who have the bytes.
func waysFrom(to text, froms []text) ([]object, error) {
	ways := make([]object, 1+len(froms))
	var g errgroup.Group
	g.Go(func() (err error) {
		ways[0], err = wholeWay(to)
		return err
	})
	for i, from := range froms {
		g.Go(func() (err error) {
			ways[1+i], err = deltaWay(from, to)
			return err
		})
	}
	return ways, g.Wait()
}

func wholeWay(to text) (object, error) {
	c, err := sharedCoders()
	if err != nil {
		return object{}, err
	}
	// Digests do not compress beyond their hexadecimal digits, so the higher levels
	// take longer and gain nothing.
	return object{packedManifest(to.digest), c.cheap.EncodeAll(to.body, make([]byte, 0, len(to.body)/3+64))}, nil
}

func deltaWay(from, to text) (object, error) {
	z, err := delta(from.body, to.body)
	return object{deltaManifest(from.digest, to.digest), z}, err
}

// putObjects uploads objects side by side.
func putObjects(ctx context.Context, b bucket.Bucket, objects []object) (tally, error) {
	g, ctx := errgroup.WithContext(ctx)
	tallies := make([]tally, len(objects))
	for i, o := range objects {
		g.Go(func() (err error) {
			tallies[i], err = putNamed(ctx, b, o.key, o.data)
			return err
		})
	}
	err := g.Wait()
	var t tally
	for _, u := range tallies {
		t.add(u)
	}
	return t, err
}

// listed returns the releases of v, newest first.
func listed(v *trust.View) []trust.Target {
	var out []trust.Target
	for _, t := range v.Targets("releases/") {
		if targetNumber(t.Name) > 0 {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b trust.Target) int { return targetNumber(b.Name) - targetNumber(a.Name) })
	return out
}

// targetName returns the part of a target's name between its folder and .json.
func targetName(t string) string {
	for i := range len(t) {
		if t[i] == '/' {
			t = t[i+1:]
			break
		}
	}
	if n := len(t) - len(".json"); n > 0 && t[n:] == ".json" {
		return t[:n]
	}
	return ""
}

// targetNumber returns 43 for releases/r43.json, and 0 for what is no release.
func targetNumber(t string) int {
	n, err := release.ParseName(targetName(t))
	if err != nil {
		return 0
	}
	return n
}

// channels returns all channels of v by name; of one that cannot be read, the
// error.
func (s *Store) channels(ctx context.Context, v *trust.View) (map[string]*release.Channel, error) {
	out := map[string]*release.Channel{}
	for _, t := range v.Targets("channels/") {
		name := targetName(t.Name)
		b, err := v.Fetch(ctx, t.Name)
		if err != nil {
			return nil, fmt.Errorf("channel %s: %w", name, err)
		}
		if out[name], err = release.ParseChannel(b); err != nil {
			return nil, fmt.Errorf("channel %s: %w", name, err)
		}
	}
	return out, nil
}

// Releases returns the live releases, newest first.
func (s *Store) Releases(ctx context.Context, v *trust.View) ([]ReleaseInfo, error) {
	chans, err := s.channels(ctx, v)
	if err != nil {
		return nil, err
	}
	live := listed(v)
	out := make([]ReleaseInfo, len(live))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, t := range live {
		g.Go(func() error {
			m, err := s.Manifest(gctx, v, targetName(t.Name), nil)
			if err != nil {
				return err
			}
			out[i] = describe(m, t, chans)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

func describe(m *release.Manifest, t trust.Target, chans map[string]*release.Channel) ReleaseInfo {
	r := ReleaseInfo{Name: m.Name(), Digest: t.Digest, Size: t.Size, Source: m.Source, Files: len(m.Files)}
	for name, c := range chans {
		if c.Release == r.Name {
			r.Channels = append(r.Channels, name)
		}
	}
	for name := range m.Roles {
		r.Roles = append(r.Roles, name)
	}
	slices.Sort(r.Channels)
	slices.Sort(r.Roles)
	return r
}
