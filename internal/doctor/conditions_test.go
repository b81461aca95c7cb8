package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

// stripped is a way to a server on which something takes the conditions off.
type stripped struct{ http.RoundTripper }

func (s stripped) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("If-Match")
	r.Header.Del("If-None-Match")
	return s.RoundTripper.RoundTrip(r)
}

// TestConditionsLost: a proxy drops the headers. Where they are signed, each
// conditional write is refused; where not, each succeeds.
func TestConditionsLost(t *testing.T) {
	srv, proj := fleetServer(t)
	t.Run("signed", func(t *testing.T) {
		b := s3At(t, srv.Endpoint(), buckettest.RootKey, buckettest.RootSecret, stripped{http.DefaultTransport})
		fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: b, Anchor: proj.anchor})
		is(t, fs, "conditions", Problem, "no_conditions")
		golden(t, fs)
	})
	for _, c := range []struct {
		name string
		b    bucket.Bucket
	}{
		{"ignored", ignores{bucket.NewMem()}},
		{"held only without a race", lies{newSlow()}},
		{"refused", refuses{bucket.NewMem()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			proj := newProject(t, c.b)
			fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: c.b, Anchor: proj.anchor})
			is(t, fs, "conditions", Problem, "no_conditions")
			golden(t, fs)
		})
	}
	t.Run("none promised", func(t *testing.T) {
		b := bucket.NewMemWith(bucket.Caps{})
		proj := newProject(t, b)
		fs := (&Probe{}).Look(t.Context(), Target{URL: "swift://fleet/prod", Bucket: b, Anchor: proj.anchor})
		is(t, fs, "conditions", OK, "")
		is(t, fs, "write tuf/", Unknown, "not_asked")
	})
}

// ignores is a store that takes conditions and does not look at them.
type ignores struct{ bucket.Bucket }

func (i ignores) Put(ctx context.Context, key string, body io.ReadSeeker, _ bucket.Condition) (bucket.Object, error) {
	return i.Bucket.Put(ctx, key, body, bucket.Condition{})
}

// lies promises what it does not hold.
type lies struct{ bucket.Bucket }

func (lies) Caps() bucket.Caps { return bucket.Caps{IfAbsent: true, IfMatch: true} }

// slow looks at a condition, waits until all racers have looked, and writes.
type slow struct {
	bucket.Bucket
	looked sync.WaitGroup
	left   atomic.Int32
}

func newSlow() *slow {
	s := &slow{Bucket: bucket.NewMemWith(bucket.Caps{})}
	s.start()
	return s
}

func (s *slow) start() {
	s.looked.Add(racers)
	s.left.Store(racers)
}

func (s *slow) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return bucket.Object{}, err
	}
	if !bytes.HasPrefix(text, []byte("writer")) {
		return s.Bucket.Put(ctx, key, bytes.NewReader(text), c)
	}
	_, obj, err := bucket.ReadAll(ctx, s.Bucket, key, bucket.GetOptions{}, 1<<10)
	s.looked.Done()
	s.looked.Wait()
	if s.left.Add(-1) == 0 {
		s.start()
	}
	switch {
	case c.IfAbsent && err == nil:
		return bucket.Object{}, bucket.ErrExists
	case c.IfMatch != "" && obj.ETag != c.IfMatch:
		return bucket.Object{}, bucket.ErrPrecondition
	}
	return s.Bucket.Put(ctx, key, bytes.NewReader(text), bucket.Condition{})
}

// refuses knows no conditions and says so.
type refuses struct{ bucket.Bucket }

func (r refuses) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if strings.HasPrefix(key, "locks/doctor-") && c != (bucket.Condition{}) {
		return bucket.Object{}, fmt.Errorf("put %s: %w: status 501: NotImplemented", key, bucket.ErrUnsupported)
	}
	return r.Bucket.Put(ctx, key, body, c)
}
