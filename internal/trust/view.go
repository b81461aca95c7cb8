package trust

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A Target is what the signed metadata say of one named blob.
type Target struct {
	Name   string // such as releases/r43.json
	Size   int64
	Digest release.Digest
}

// A View is one verified, consistent state of the metadata.
type View struct {
	Timestamp int64     // version of timestamp.json
	Expires   time.Time // the earliest expiry in the chain
	Warn      []string  // such as "the project's signatures expire in 9 days: run bootwell resign"

	targets map[string]Target
	client  *Client
	set     *set
	etag    string // of the timestamp.json in set

	mu      sync.Mutex
	carried map[string][]byte // objects that are at hand, by key; guarded by mu
}

// maxTargetBytes bounds one target.
const maxTargetBytes = release.MaxManifestBytes

var targetName = pattern(`^(releases|channels)/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.json$`)

// Target returns what is signed for name.
func (v *View) Target(name string) (Target, bool) { t, ok := v.targets[name]; return t, ok }

// Targets returns the signed targets in the order of their names, limited to
// those that start with prefix.
func (v *View) Targets(prefix string) []Target {
	var ts []Target
	for name, t := range v.targets {
		if strings.HasPrefix(name, prefix) {
			ts = append(ts, t)
		}
	}
	slices.SortFunc(ts, func(a, b Target) int { return strings.Compare(a.Name, b.Name) })
	return ts
}

// Fetch downloads the target called name and verifies its length and digest.
// Errors: bucket.ErrNotExist for an unknown name or a lost object,
// ErrUntrusted.
func (v *View) Fetch(ctx context.Context, name string) ([]byte, error) {
	t, ok := v.targets[name]
	if !ok {
		return nil, fmt.Errorf("fetch %.200s: it is not among the signed targets: %w", name, bucket.ErrNotExist)
	}
	if b, ok := v.held(t.Key()); ok && release.DigestOf(b) == t.Digest {
		return b, nil
	}
	b, _, err := get(ctx, v.client.Bucket, t.Key(), bucket.GetOptions{}, t.Size)
	if errors.Is(err, bucket.ErrTooLarge) {
		return nil, fmt.Errorf("fetch %s: more than the signed %d bytes: %w", name, t.Size, ErrUntrusted)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	if got := release.DigestOf(b); got != t.Digest {
		return nil, fmt.Errorf("fetch %s: digest is %v, signed is %v: %w", name, got, t.Digest, ErrUntrusted)
	}
	if strings.HasPrefix(name, roleChannels+"/") {
		v.carry(map[string][]byte{t.Key(): b}) // small, and asked for more than once
	}
	return b, nil
}

// Hold gives v the content of the target called name, so that Fetch needs no
// request for it. What is not the signed content has no effect.
func (v *View) Hold(name string, b []byte) {
	if t, ok := v.targets[name]; ok && release.DigestOf(b) == t.Digest {
		v.carry(map[string][]byte{t.Key(): b})
	}
}

// Over returns b, the bucket of v, with what came along with the metadata in
// front: those objects cost no request.
func (v *View) Over(b bucket.Bucket) bucket.Bucket {
	v.mu.Lock()
	defer v.mu.Unlock()
	return bucket.Overlay(b, v.carried)
}

func (v *View) held(key string) ([]byte, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, ok := v.carried[key]
	return b, ok
}

func (v *View) carry(objects map[string][]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.carried == nil {
		v.carried = map[string][]byte{}
	}
	maps.Copy(v.carried, objects)
}

func targetOf(name string, content []byte) Target {
	return Target{Name: name, Size: int64(len(content)), Digest: release.DigestOf(content)}
}

// Key returns the object that holds the target: its digest stands before the
// base name (TUF consistent snapshots, specification 6.2).
func (t Target) Key() string {
	dir, base := path.Split(t.Name)
	return targetsPrefix + dir + t.Digest.Hex() + "." + base
}

func (c *Client) view(s *set, etag string) *View {
	v := &View{Timestamp: s.timestamp.Signed.Version, client: c, set: s, etag: etag, targets: s.targetList(c.log())}
	soonest := s.lives()[0]
	for _, l := range s.lives()[1:] {
		if l.expires.Before(soonest.expires) {
			soonest = l
		}
	}
	v.Expires = soonest.expires
	if w := soonest.warning(c.Time()); w != "" {
		v.Warn = append(v.Warn, w)
	}
	return v
}

// A life is how long one role's metadata is valid.
type life struct {
	expires time.Time
	whole   time.Duration // from signing to expiry
}

// half reports whether at least half of the life is over.
func (l life) half(now time.Time) bool { return l.expires.Sub(now) <= l.whole/2 }

func (l life) warning(now time.Time) string {
	const day = 24 * time.Hour
	left := l.expires.Sub(now)
	switch {
	case left < 0:
		return fmt.Sprintf("the project's signatures expired on %s: run bootwell resign", l.expires.Format(time.DateOnly))
	case !l.half(now):
		return ""
	case left < 2*day:
		return fmt.Sprintf("the project's signatures expire in %d hours: run bootwell resign", int(left/time.Hour))
	}
	return fmt.Sprintf("the project's signatures expire in %d days: run bootwell resign", int(left/day))
}
