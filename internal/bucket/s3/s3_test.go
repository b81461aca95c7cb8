package s3_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

func open(t testing.TB, url string, sources ...s3.Source) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), url, s3.Options{Sources: sources})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func root() s3.Source { return s3.Static(buckettest.RootKey, buckettest.RootSecret, "") }

func TestBucket(t *testing.T) {
	srv := buckettest.VersityGW(t)
	var n atomic.Int64
	whole := func(t testing.TB) bucket.Bucket {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateBucket(name)
		return open(t, srv.URL(name, ""), root())
	}
	prefixed := func(t testing.TB) bucket.Bucket {
		return open(t, srv.URL("shared", fmt.Sprintf("a team/prod %d", n.Add(1))), root())
	}
	srv.CreateBucket("shared")
	t.Run("whole", func(t *testing.T) { buckettest.Test(t, whole, buckettest.Options{}) })
	t.Run("prefix", func(t *testing.T) { buckettest.Test(t, prefixed, buckettest.Options{Objects: 50}) })
}

// requests counts what goes over the wire.
type requests struct {
	n    atomic.Int64
	seen []string
	http.Transport
}

func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	r.n.Add(1)
	r.seen = append(r.seen, req.Method+" "+req.URL.RequestURI())
	return r.Transport.RoundTrip(req)
}

func TestEachCallIsOneRequest(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	seen := &requests{}
	b, err := s3.Open(t.Context(), srv.URL("fleet", "p"), s3.Options{Sources: []s3.Source{root()}, Transport: seen})
	if err != nil {
		t.Fatal(err)
	}
	one := func(what string) {
		t.Helper()
		if n := seen.n.Swap(0); n != 1 {
			t.Errorf("%s made %d requests: %q", what, n, seen.seen)
		}
		seen.seen = nil
	}
	if seen.n.Load() != 0 {
		t.Error("open made a request")
	}
	obj, err := b.Put(t.Context(), "k", strings.NewReader(strings.Repeat("x", 20<<20)), bucket.Condition{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	one("a conditional put of 20 MiB")
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{IfNoneMatch: obj.ETag}); !errors.Is(err, bucket.ErrNotModified) {
		t.Fatal(err)
	}
	one("a poll")
	if _, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{Offset: 5, Length: 7}, 7); err != nil {
		t.Fatal(err)
	}
	one("a range")
	buckettest.Keys(t, b, "", "")
	one("a list")
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	one("a delete")
}

// In a bubble the clock stands at the year 2000, and requests are signed so.
func TestWrongClock(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	synctest.Test(t, func(t *testing.T) {
		tr := &http.Transport{}
		b, err := s3.Open(context.Background(), srv.URL("fleet", ""), s3.Options{Sources: []s3.Source{root()}, Transport: tr})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = b.Get(context.Background(), "k", bucket.GetOptions{})
		tr.CloseIdleConnections()
		if !errors.Is(err, bucket.ErrPermission) {
			t.Fatalf("%v, want %v", err, bucket.ErrPermission)
		}
		for _, words := range []string{"RequestTimeTooSkewed", "clock of this machine is wrong", "behind the server's"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%v does not say %q", err, words)
			}
		}
	})
}

func TestServerGone(t *testing.T) {
	b := open(t, "s3://fleet?endpoint=http://127.0.0.1:1", root())
	for method, err := range buckettest.EveryCall(t, b, "k") {
		if !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("%s: %v, want %v", method, err, bucket.ErrUnavailable)
		}
	}
}

func TestVMPolicy(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	for _, vm := range []string{"vm1", "vm2", "vm10"} {
		srv.CreateUser(vm, vm+"secret")
	}
	srv.PutBucketPolicy("fleet", buckettest.VMPolicy("fleet", "prod", "vm1", "vm2", "vm10"))
	admin := open(t, srv.URL("fleet", "prod"), root())
	readable := []string{"tuf/metadata/timestamp.json", "packs/aa", "manifests/bb.zst", "agents/cc"}
	for _, key := range append(readable, "locks/publish", "reports/vm1/report.json", "reports/vm2/report.json", "logs/vm2/0.zst") {
		buckettest.Put(t, admin, key, []byte(key))
	}
	vm := open(t, srv.URL("fleet", "prod"), s3.Static("vm1", "vm1secret", ""))
	for _, key := range readable {
		if got, _ := buckettest.Get(t, vm, key); string(got) != key {
			t.Errorf("%s: %q", key, got)
		}
		_, err := vm.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{})
		denied(t, "put "+key, err)
		denied(t, "delete "+key, vm.Delete(t.Context(), key))
	}
	buckettest.Put(t, vm, "reports/vm1/report.json", []byte("ok"))
	buckettest.Put(t, vm, "logs/vm1/0.zst", []byte("log"))
	for _, key := range []string{
		"reports/vm2/report.json", "reports/vm10/report.json", "reports/vm1", "reports/x", "logs/vm2/0.zst", "logs/vm10/0.zst", "logs/vm1", "logs/0.zst",
		"locks/publish", "tuf/new", "other",
	} {
		_, err := vm.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{})
		denied(t, "put "+key, err)
		_, err = vm.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{IfAbsent: true})
		denied(t, "put if absent "+key, err)
	}
	for _, key := range []string{"reports/vm2/report.json", "reports/vm1/report.json", "logs/vm1/0.zst", "logs/vm2/0.zst", "locks/publish"} {
		_, _, err := vm.Get(t.Context(), key, bucket.GetOptions{})
		denied(t, "get "+key, err)
		denied(t, "delete "+key, vm.Delete(t.Context(), key))
	}
	for _, prefix := range []string{"", "reports/", "reports/vm1/", "logs/", "logs/vm1/", "tuf/"} {
		var err error
		for _, err = range vm.List(t.Context(), prefix, "") {
		}
		denied(t, "list "+prefix, err)
	}
	other := open(t, srv.URL("fleet", "dev"), s3.Static("vm1", "vm1secret", ""))
	_, err := other.Put(t.Context(), "reports/vm1/report.json", strings.NewReader("x"), bucket.Condition{})
	denied(t, "put below another prefix", err)
	if got, _ := buckettest.Get(t, admin, "reports/vm2/report.json"); string(got) != "reports/vm2/report.json" {
		t.Errorf("the report of vm2 became %q", got)
	}
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("%s: %v, want AccessDenied", what, err)
	}
}
