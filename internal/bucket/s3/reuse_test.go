package s3_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A sender counts requests on their way.
type sender struct {
	http.RoundTripper
	sent atomic.Int64
}

func (s *sender) RoundTrip(r *http.Request) (*http.Response, error) {
	s.sent.Add(1)
	return s.RoundTripper.RoundTrip(r)
}

// One call after the other costs one request each on one connection, whatever
// the answers are: no call asks first where a bucket or what an object is.
func TestCalls_AreOneRequestOnOneConnection(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	line, err := wire.Transport("")
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64
	dial := line.DialContext
	line.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, addr)
	}
	out := &sender{RoundTripper: line}
	b, err := s3.Open(t.Context(), srv.URL("fleet", "p"), s3.Options{Sources: []s3.Source{root()}, Transport: out})
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789", 100_000)
	obj, err := b.Put(t.Context(), "k", strings.NewReader(big), bucket.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string, o bucket.GetOptions) error {
		_, _, err := bucket.ReadAll(t.Context(), b, key, o, 1<<20)
		return err
	}
	put := func(key string, c bucket.Condition) error {
		_, err := b.Put(t.Context(), key, strings.NewReader("x"), c)
		return err
	}
	calls := int64(1)
	for what, call := range map[string]struct {
		do   func() error
		want error
	}{
		"get":             {func() error { return get("k", bucket.GetOptions{}) }, nil},
		"range":           {func() error { return get("k", bucket.GetOptions{Offset: 7, Length: 9}) }, nil},
		"not modified":    {func() error { return get("k", bucket.GetOptions{IfNoneMatch: obj.ETag}) }, bucket.ErrNotModified},
		"not there":       {func() error { return get("none", bucket.GetOptions{}) }, bucket.ErrNotExist},
		"put":             {func() error { return put("l", bucket.Condition{}) }, nil},
		"put if absent":   {func() error { return put("k", bucket.Condition{IfAbsent: true}) }, bucket.ErrExists},
		"put if the same": {func() error { return put("k", bucket.Condition{IfMatch: "0123456789abcdef0123456789abcdef"}) }, bucket.ErrPrecondition},
		"delete":          {func() error { return b.Delete(t.Context(), "m") }, nil},
	} {
		for range 2 {
			if err := call.do(); !errors.Is(err, call.want) {
				t.Errorf("%s: %v, want %v", what, err, call.want)
			}
			if calls++; out.sent.Load() != calls || dials.Load() != 1 {
				t.Fatalf("%s: %d requests on %d connections after %d calls", what, out.sent.Load(), dials.Load(), calls)
			}
		}
	}
}
