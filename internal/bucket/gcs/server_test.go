package gcs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
)

func TestLine(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	key := srv.ServiceAccount()
	var n atomic.Int64
	buckettest.TestLine(t, func(t testing.TB, via buckettest.Via) (bucket.Bucket, bucket.Bucket) {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateBucket(name)
		return openVia(t, srv.URL(name, "p"), via, gcs.ServiceAccount(key)), open(t, srv.URL(name, "p"), gcs.Static(srv.Token()))
	})
}

func TestRefused(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	root := srv.Token()
	buckettest.Put(t, open(t, srv.URL("fleet", ""), gcs.Static(root)), "k", nil)
	with := func(name, token string) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return openVia(t, srv.URL(name, ""), via, gcs.Static(token))
		}
	}
	expired, reader := srv.ExpiredToken(), srv.Token(buckettest.GCSGrant{Permissions: []string{"storage.objects.get", "storage.objects.list"}})
	other := srv.Token(buckettest.GCSGrant{Below: []string{"other/"}})
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "wrong token", Open: with("fleet", "a/wrong+token"), Want: bucket.ErrCredentials, Words: "Invalid Credentials", Secrets: []string{"a/wrong+token"}},
		{Name: "expired token", Open: with("fleet", expired), Want: bucket.ErrCredentials, Words: "has ended", Secrets: []string{expired}},
		{Name: "only read", Open: with("fleet", reader), Calls: []string{"put", "put if absent", "delete"}, Words: "storage.objects.", Secrets: []string{reader}},
		{Name: "another prefix", Open: with("fleet", other), Words: "does not have storage.objects."},
		{Name: "missing bucket", Open: with("nothere", root), Want: bucket.ErrNoBucket, Words: "bucket does not exist", Secrets: []string{root}},
		{Name: "no token", Words: "Anonymous caller", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return openVia(t, srv.URL("fleet", "")+"&anonymous=true", via, gcs.Static(root))
		}},
	})
}

// TestClock has a service account's assertion refused for its time.
func TestClock(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	key := srv.ServiceAccount()
	buckettest.Put(t, open(t, srv.URL("fleet", ""), gcs.ServiceAccount(key)), "k", nil)
	buckettest.TestClock(t, buckettest.Clock{Want: bucket.ErrPermission, Words: "clock of this machine", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
		return openVia(t, srv.URL("fleet", ""), via, gcs.ServiceAccount(key))
	}})
}

// seen counts what goes over the wire.
type seen struct {
	http.Transport
	mu   sync.Mutex
	reqs []string
}

func (s *seen) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.reqs = append(s.reqs, req.Method+" "+req.URL.RequestURI())
	s.mu.Unlock()
	return s.Transport.RoundTrip(req)
}

func (s *seen) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	reqs := s.reqs
	s.reqs = nil
	return reqs
}

func TestEachCallIsOneRequest(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{TLS: true})
	srv.CreateBucket("fleet")
	w := &seen{}
	b, err := gcs.Open(t.Context(), srv.URL("fleet", "p"), gcs.Options{Sources: []gcs.Source{gcs.ServiceAccount(srv.ServiceAccount())}, Transport: w})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); err == nil || !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "ca=FILE") {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	_, ca := b.Endpoint()
	trusting := open(t, srv.URL("fleet", "p"), gcs.Static(srv.Token()))
	if _, got := trusting.Endpoint(); ca == "" || got == "" {
		t.Error("the bucket does not tell its certificates")
	}
	buckettest.Put(t, trusting, "k", []byte("over TLS"))

	plain := buckettest.StartGCS(t, buckettest.GCSConfig{})
	plain.CreateBucket("fleet")
	b, err = gcs.Open(t.Context(), plain.URL("fleet", "p"), gcs.Options{Sources: []gcs.Source{gcs.ServiceAccount(plain.ServiceAccount())}, Transport: w})
	if err != nil {
		t.Fatal(err)
	}
	w.take()
	one := func(what string, want int) {
		t.Helper()
		if reqs := w.take(); len(reqs) != want {
			t.Errorf("%s made %d requests, want %d: %q", what, len(reqs), want, reqs)
		}
	}
	obj, err := b.Put(t.Context(), "k", strings.NewReader(strings.Repeat("x", 20<<20)), bucket.Condition{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	one("a token and a conditional put of 20 MiB", 2)
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{IfNoneMatch: obj.ETag}); !errors.Is(err, bucket.ErrNotModified) {
		t.Fatal(err)
	}
	one("a poll", 1)
	if _, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{Offset: 5, Length: 7}, 7); err != nil {
		t.Fatal(err)
	}
	one("a range", 1)
	buckettest.Keys(t, b, "", "")
	one("a list", 1)
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	one("a delete", 1)
}

// TestTokenEndsEarly has the server forget tokens that still looked good.
func TestTokenEndsEarly(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	b := open(t, srv.URL("fleet", ""), gcs.ServiceAccount(srv.ServiceAccount()))
	gcs.ReplaceAtOnce(b)
	buckettest.Put(t, b, "k", []byte("1"))
	for range 3 {
		srv.RevokeAll()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := b.Put(t.Context(), fmt.Sprint("k", i), bytes.NewReader([]byte("2")), bucket.Condition{}); err != nil {
					t.Errorf("put with a token that ended: %v", err)
				}
			})
		}
		wg.Wait()
		srv.RevokeAll()
		if got := buckettest.Keys(t, b, "", ""); len(got) != 9 {
			t.Errorf("list with a token that ended: %q", got)
		}
	}
}

func vmGrants(prefix, vm string) []buckettest.GCSGrant {
	at := func(names ...string) (below []string) {
		for _, n := range names {
			below = append(below, prefix+n)
		}
		return below
	}
	return []buckettest.GCSGrant{
		{Permissions: []string{"storage.objects.get"}, Below: at("tuf/", "packs/", "manifests/", "agents/")},
		{Permissions: []string{"storage.objects.create", "storage.objects.delete"}, Below: at("reports/"+vm+"/", "logs/"+vm+"/")},
	}
}

func TestLeastRights(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	admin := open(t, srv.URL("fleet", "prod"), gcs.Static(srv.Token()))
	for _, key := range []string{"tuf/metadata/timestamp.json", "packs/aa", "locks/publish", "reports/vm2/report.json"} {
		buckettest.Put(t, admin, key, []byte(key))
	}
	vm := open(t, srv.URL("fleet", "prod"), gcs.ServiceAccount(srv.ServiceAccount(vmGrants("prod/", "vm1")...)))
	if got, _ := buckettest.Get(t, vm, "packs/aa"); string(got) != "packs/aa" {
		t.Errorf("got %q", got)
	}
	for range 2 { // the second overwrites
		buckettest.Put(t, vm, "reports/vm1/report.json", []byte("ok"))
	}
	for _, key := range []string{"reports/vm2/report.json", "reports/vm10/report.json", "reports/vm1", "tuf/new", "packs/aa", "locks/publish"} {
		_, err := vm.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{})
		denied(t, "put "+key, err)
	}
	for _, key := range []string{"reports/vm2/report.json", "reports/vm1/report.json", "locks/publish"} {
		_, _, err := vm.Get(t.Context(), key, bucket.GetOptions{})
		denied(t, "get "+key, err)
	}
	_, _, err := vm.Get(t.Context(), "tuf/metadata/2.root.json", bucket.GetOptions{})
	denied(t, "get a missing object", err)
	if err != nil && !strings.Contains(err.Error(), "missing object when the bucket may not be listed") {
		t.Errorf("%v does not say what it may mean", err)
	}
	for _, err = range vm.List(t.Context(), "reports/vm1/", "") {
	}
	denied(t, "list", err)
	onlyCreate := open(t, srv.URL("fleet", "prod"), gcs.Static(srv.Token(buckettest.GCSGrant{Permissions: []string{"storage.objects.create"}})))
	buckettest.Put(t, onlyCreate, "reports/vm3/report.json", nil)
	_, err = onlyCreate.Put(t.Context(), "reports/vm3/report.json", strings.NewReader("x"), bucket.Condition{})
	denied(t, "overwrite without the right to delete", err)
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "does not have storage.objects.") {
		t.Errorf("%s: %v, want it denied", what, err)
	}
}

func TestAdmin(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	t.Setenv("GOOGLE_CLOUD_PROJECT", "")
	t.Setenv("CLOUDSDK_CORE_PROJECT", "")
	root := gcs.Static(srv.Token())
	b := open(t, srv.URL("made", "p")+"&location=europe-west1", root)
	if _, err := b.Setup(t.Context()); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("set-up of no bucket: %v", err)
	}
	if err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), "GOOGLE_CLOUD_PROJECT") {
		t.Errorf("create without a project: %v", err)
	}
	t.Setenv("GOOGLE_CLOUD_PROJECT", "acme")
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context()); !errors.Is(err, bucket.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	buckettest.Put(t, b, "k", nil)
	srv.CreateBucket("plain")
	srv.CreateBucket("open")
	srv.SetPublic("open", true)
	for name, want := range map[string]bucket.Setup{
		"made":  {Public: bucket.No, Versions: bucket.Yes, Region: "europe-west1"},
		"plain": {Public: bucket.Unknown, Versions: bucket.No, Notes: []string{"uniform bucket-level access"}},
		"open":  {Public: bucket.Yes, Versions: bucket.No},
	} {
		got, err := open(t, srv.URL(name, ""), root).Setup(t.Context())
		if err != nil || got.Public != want.Public || got.Versions != want.Versions || want.Region != "" && got.Region != want.Region {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
		if notes := strings.Join(got.Notes, " "); len(got.Notes) != len(want.Notes) || !strings.Contains(notes, strings.Join(want.Notes, "")) {
			t.Errorf("%s: notes %q", name, got.Notes)
		}
	}
	reader := gcs.Static(srv.Token(buckettest.GCSGrant{Permissions: []string{"storage.objects.get"}}))
	got, err := open(t, srv.URL("made", ""), reader).Setup(t.Context())
	if err != nil || got.Public != bucket.Unknown || got.Versions != bucket.Unknown || len(got.Notes) != 1 {
		t.Errorf("asked without the right to: %+v, %v", got, err)
	}
	if err := open(t, srv.URL("another", ""), reader).Create(t.Context()); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("create without the right to: %v", err)
	}
	buckettest.Put(t, open(t, srv.URL("open", ""), root), "k", []byte("all may read"))
	if got, _ := buckettest.Get(t, open(t, srv.URL("open", "")+"&anonymous=true"), "k"); string(got) != "all may read" {
		t.Errorf("without a token: %q", got)
	}
}

func TestPermanentKeyIsWarnedOf(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	t.Setenv("NO_GCE_CHECK", "true")
	t.Setenv("GCE_METADATA_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\ngoogle_application_credentials = "+srv.ServiceAccount()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	b, err := gcs.Open(context.Background(), srv.URL("fleet", ""), gcs.Options{Sources: gcs.VMSources(file), Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	gcs.ReplaceAtOnce(b)
	buckettest.Put(t, b, "k", nil)
	srv.RevokeAll()
	buckettest.Put(t, b, "k", nil)
	if n := strings.Count(said.String(), "permanent key"); n != 1 {
		t.Errorf("%d warnings, want 1: %s", n, said.String())
	}
	said.Reset()
	operator, err := gcs.Open(context.Background(), srv.URL("fleet", ""), gcs.Options{Sources: gcs.OperatorSources(), Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", srv.ServiceAccount())
	buckettest.Put(t, operator, "k", nil)
	t.Setenv("CLOUDSDK_AUTH_ACCESS_TOKEN", srv.Token())
	buckettest.Put(t, open(t, srv.URL("fleet", ""), gcs.OperatorSources()...), "k", nil)
	if said.Len() != 0 {
		t.Errorf("an operator's key is warned of: %s", said.String())
	}
}
