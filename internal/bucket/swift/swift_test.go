package swift_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/swift"
)

// cloud is a server with one application credential that may do all.
type cloud struct {
	*buckettest.Swift
	op swift.Source
}

func (c *cloud) open(t testing.TB, url string, sources ...swift.Source) *swift.Bucket {
	t.Helper()
	return c.via(t, url, nil, sources...)
}

func (c *cloud) via(t testing.TB, url string, tr http.RoundTripper, sources ...swift.Source) *swift.Bucket {
	t.Helper()
	if len(sources) == 0 {
		sources = []swift.Source{c.op}
	}
	b, err := swift.Open(t.Context(), url, swift.Options{Sources: sources, Transport: tr, Newest: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func appCredential(id, secret string) swift.Source {
	return swift.Values("test", map[string]string{"os_application_credential_id": id, "os_application_credential_secret": secret})
}

const tempKey = "the account's key"

func tempURL() swift.Source {
	return swift.Values("test", map[string]string{"swift_temp_url_key": tempKey})
}

// TestSwift has all that needs the servers, which start once.
func TestSwift(t *testing.T) {
	c := &cloud{Swift: buckettest.StartSwift(t, buckettest.SwiftConfig{})}
	c.op = appCredential(c.AppCredential("op"))
	c.SetTempURLKey(tempKey)
	c.CreateContainer("fleet")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cloud)
	}{
		{"suite", testSuite},
		{"temporary URLs", testTempURLs},
		{"line", testLine},
		{"refused", testRefused},
		{"clock", testClock},
		{"long listing", testLongListing},
		{"requests", testRequests},
		{"access rules", testAccessRules},
		{"new token", testNewToken},
		{"password", testPassword},
		{"altered on the way", testAltered},
		{"set-up", testSetup},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

// testSuite is in a container as [swift.Bucket.Create] makes it: with versions.
func testSuite(t *testing.T, c *cloud) {
	if err := c.open(t, c.URL("shared", "")).Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	buckettest.Test(t, func(t testing.TB) bucket.Bucket {
		b := c.open(t, c.URL("shared", fmt.Sprintf("a%%20team/prod %d", n.Add(1))))
		if caps := b.Caps(); caps.IfAbsent || caps.IfMatch || caps.NoList || caps.ReadOnly {
			t.Fatalf("caps %+v", caps)
		}
		return b
	}, buckettest.Options{Objects: 50})
}

func testTempURLs(t *testing.T, c *cloud) {
	var n atomic.Int64
	t.Run("reading", func(t *testing.T) {
		buckettest.TestReading(t, func(t testing.TB) (bucket.Bucket, bucket.Bucket) {
			prefix := fmt.Sprintf("temp %d", n.Add(1))
			b := c.open(t, c.TempURL("fleet", prefix), tempURL())
			if !b.Caps().NoList {
				t.Fatal("a listing is promised")
			}
			return b, c.open(t, c.URL("fleet", prefix))
		}, buckettest.Options{})
	})
	t.Run("writing", func(t *testing.T) {
		b := c.open(t, c.TempURL("fleet", "written"), tempURL())
		buckettest.Put(t, b, "k", []byte("x"))
		if _, err := b.Put(t.Context(), "k", strings.NewReader("y"), bucket.Condition{IfAbsent: true}); !errors.Is(err, bucket.ErrExists) {
			t.Errorf("put over an object: %v", err)
		}
		if err := b.Delete(t.Context(), "k"); err != nil {
			t.Error(err)
		}
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("get after delete: %v", err)
		}
	})
	t.Run("signature reads below its prefix only", func(t *testing.T) {
		buckettest.Put(t, c.open(t, c.URL("fleet", "")), "packs/p", []byte("x"))
		buckettest.Put(t, c.open(t, c.URL("fleet", "")), "reports/vm2/report.json", []byte("x"))
		settings, err := swift.SignPrefix(c.StorageURL(), "fleet", "packs/", tempKey, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		b := c.open(t, c.TempURL("fleet", ""), swift.Values("test", settings))
		buckettest.Get(t, b, "packs/p")
		if _, _, err := b.Get(t.Context(), "reports/vm2/report.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("outside: %v", err)
		}
		settings["swift_temp_url_prefix"] = ""
		b = c.open(t, c.TempURL("fleet", ""), swift.Values("test", settings))
		if _, _, err := b.Get(t.Context(), "reports/vm2/report.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("with another prefix: %v", err)
		}
		if _, err := b.Put(t.Context(), "packs/p", strings.NewReader("y"), bucket.Condition{}); !errors.Is(err, bucket.ErrUnsupported) || !b.Caps().ReadOnly {
			t.Errorf("put: %v", err)
		}
	})
}

func testLine(t *testing.T, c *cloud) {
	var n atomic.Int64
	buckettest.TestLine(t, func(t testing.TB, via buckettest.Via) (bucket.Bucket, bucket.Bucket) {
		url := c.URL("fleet", fmt.Sprintf("line%d", n.Add(1)))
		return c.via(t, url, via(nil)), c.open(t, url)
	})
}

func testRefused(t *testing.T, c *cloud) {
	id, secret := c.AppCredential("refused")
	gone, goneSecret := c.AppCredential("gone")
	c.DeleteAppCredential(gone)
	with := func(url string, source swift.Source) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket { return c.via(t, url, via(nil), source) }
	}
	c.CreateUser("stranger", "strangerpass")
	wrong := "wrong/secret+of mine"
	stranger := swift.Values("test", map[string]string{"os_username": "stranger", "os_password": "strangerpass", "os_project_name": buckettest.SwiftProject})
	tok := swift.Values("test", map[string]string{"os_auth_token": "wrong-token", "os_storage_url": c.StorageURL()})
	expired, err := swift.SignPrefix(c.StorageURL(), "fleet", "", tempKey, time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, c.open(t, c.URL("fleet", "")), "k", nil)
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "wrong secret", Open: with(c.URL("fleet", ""), appCredential(id, wrong)), Want: bucket.ErrCredentials, Words: "the application credential was refused", Secrets: []string{wrong, secret}},
		{Name: "unknown credential", Open: with(c.URL("fleet", ""), appCredential(strings.Repeat("0", 32), wrong)), Want: bucket.ErrCredentials, Words: "the application credential was refused", Secrets: []string{wrong}},
		{Name: "deleted credential", Open: with(c.URL("fleet", ""), appCredential(gone, goneSecret)), Want: bucket.ErrCredentials, Words: "the application credential was refused", Secrets: []string{goneSecret}},
		{Name: "user without a role", Open: with(c.URL("fleet", ""), stranger), Words: "neither role, access rule nor container ACL", Secrets: []string{"strangerpass"}},
		{Name: "wrong token", Open: with(c.URL("fleet", ""), tok), Want: bucket.ErrCredentials, Words: "status 401", Secrets: []string{"wrong-token"}},
		{Name: "missing container", Open: with(c.URL("nothere", ""), appCredential(id, secret)), Calls: []string{"put", "put if absent", "list"}, Want: bucket.ErrNoBucket, Secrets: []string{secret}},
	})
	whole := c.TempURL("fleet", "")
	forged := maps.Clone(expired)
	forged["swift_temp_url_expires"] = fmt.Sprint(time.Now().Add(time.Hour).Unix())
	for name, r := range map[string]struct {
		settings map[string]string
		want     error
		words    string
	}{
		"ended":     {expired, bucket.ErrExpired, "the temporary URL expired at 20"},
		"forged":    {forged, bucket.ErrCredentials, "is its signature whole"},
		"wrong key": {map[string]string{"swift_temp_url_key": "another"}, bucket.ErrCredentials, "is the key one of this account"},
	} {
		_, _, err := c.open(t, whole, swift.Values("test", r.settings)).Get(t.Context(), "k", bucket.GetOptions{})
		if !errors.Is(err, r.want) || !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), r.words) {
			t.Errorf("a temporary URL, %s: %v, want %#v with %q", name, err, r.want, r.words)
		}
	}
}

// testClock is for temporary URLs: tokens do not care, and a URL that ends too
// late is good.
func testClock(t *testing.T, c *cloud) {
	buckettest.Put(t, c.open(t, c.URL("fleet", "")), "k", nil)
	buckettest.TestClock(t, buckettest.Clock{
		Words: "the clock of this machine is wrong (", Ahead: true,
		Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return c.via(t, c.TempURL("fleet", ""), via(nil), tempURL())
		},
	})
}

func testLongListing(t *testing.T, c *cloud) {
	c.CreateContainer("long")
	want := []string{"p/~", "p/é", "p/日本", "p/🚀", "p/A", "p/_", "p/a b"}
	for i := range 2600 {
		want = append(want, fmt.Sprintf("p/reports/vm-%03d/log-%04d", i/100, i))
	}
	c.AddEntries("long", append([]string{"a", "p", "p//x", "p/folder/", "q"}, want...))
	for i := range want {
		want[i] = strings.TrimPrefix(want[i], "p/")
	}
	slices.Sort(want)
	b := c.open(t, c.URL("long", "p"))
	if got := buckettest.Keys(t, b, "", ""); !slices.Equal(got, want) {
		t.Errorf("got %d keys in another order or number than the %d there are", len(got), len(want))
	}
	if got := buckettest.Keys(t, b, "reports/", want[1200]); !strings.HasPrefix(want[1201], "reports/") || got[0] != want[1201] {
		t.Errorf("after %s: %q", want[1200], got[0])
	}
	for obj, err := range b.List(t.Context(), "reports/", "") {
		if err != nil || obj.ETag != "d41d8cd98f00b204e9800998ecf8427e" || obj.Size == 0 || time.Since(obj.Modified).Abs() > time.Hour {
			t.Fatalf("%+v, %v", obj, err)
		}
	}
}

// seen is a transport that remembers its requests.
type seen struct {
	http.Transport
	mu   sync.Mutex
	list []string
}

func (s *seen) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.list = append(s.list, req.Method+" "+req.URL.Path)
	s.mu.Unlock()
	return s.Transport.RoundTrip(req)
}

func (s *seen) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.list = nil }()
	return s.list
}

func testRequests(t *testing.T, c *cloud) {
	wire := &seen{}
	b := c.via(t, c.URL("fleet", "p"), wire)
	if got := wire.take(); len(got) != 0 {
		t.Errorf("open: %q", got)
	}
	obj := buckettest.Put(t, b, "k", []byte("0123456789"))
	if got := wire.take(); len(got) != 2 || got[0] != "POST /v3/auth/tokens" {
		t.Errorf("the first request: %q", got)
	}
	for name, call := range map[string]func() error{
		"poll": func() error {
			_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{IfNoneMatch: obj.ETag})
			return err
		},
		"range": func() error {
			_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{Offset: 2, Length: 3})
			return err
		},
		"put if absent": func() error {
			_, err := b.Put(t.Context(), "k", strings.NewReader("x"), bucket.Condition{IfAbsent: true})
			return err
		},
		"put": func() error {
			_, err := b.Put(t.Context(), "l", strings.NewReader("x"), bucket.Condition{})
			return err
		},
		"list":   func() error { buckettest.Keys(t, b, "", ""); return nil },
		"delete": func() error { return b.Delete(t.Context(), "l") },
	} {
		err := call()
		if got := wire.take(); len(got) != 1 {
			t.Errorf("%s (%v): %q", name, err, got)
		}
	}
}

func testAccessRules(t *testing.T, c *cloud) {
	c.CreateContainer("rules")
	all := c.open(t, c.URL("rules", "prod"))
	for _, key := range []string{"tuf/metadata/timestamp.json", "packs/p", "manifests/m.zst", "agents/a", "reports/vm2/report.json", "locks/publish", "else"} {
		buckettest.Put(t, all, key, []byte(key))
	}
	vm := c.open(t, c.URL("rules", "prod"), appCredential(c.AppCredential("vm1", c.VMRules("rules", "prod", "vm1")...)))
	for _, key := range []string{"tuf/metadata/timestamp.json", "packs/p", "manifests/m.zst", "agents/a"} {
		if got, _ := buckettest.Get(t, vm, key); string(got) != key {
			t.Errorf("get %s: %q", key, got)
		}
	}
	buckettest.Put(t, vm, "reports/vm1/report.json", []byte("{}"))
	buckettest.Put(t, vm, "logs/vm1/0.zst", []byte("log"))
	if _, _, err := vm.Get(t.Context(), "tuf/metadata/9.root.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("a missing object: %v", err)
	}
	for _, key := range []string{"reports/vm2/report.json", "reports/vm1/report.json", "locks/publish", "else"} {
		if _, _, err := vm.Get(t.Context(), key, bucket.GetOptions{}); !bucket.Refused(err) {
			t.Errorf("get %s: %v", key, err)
		}
	}
	for _, key := range []string{"reports/vm2/report.json", "logs/vm10/0.zst", "tuf/metadata/timestamp.json", "packs/p", "new"} {
		if _, err := vm.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{}); !bucket.Refused(err) {
			t.Errorf("put %s: %v", key, err)
		}
	}
	for _, key := range []string{"packs/p", "reports/vm1/report.json"} {
		if err := vm.Delete(t.Context(), key); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	for _, err := range vm.List(t.Context(), "", "") {
		if !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("list: %v", err)
		}
	}
	if err := vm.Create(t.Context()); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("create: %v", err)
	}
	if got := len(buckettest.Keys(t, all, "", "")); got != 9 {
		t.Errorf("%d objects, want 9", got)
	}
}

// testNewToken ends tokens in the middle of a run.
func testNewToken(t *testing.T, c *cloud) {
	wire := &seen{}
	id, secret := c.AppCredential("short")
	b := c.via(t, c.URL("fleet", "tokens"), wire, appCredential(id, secret))
	swift.ReplaceAtOnce(b)
	buckettest.Put(t, b, "k", []byte("x"))
	old := swift.Token(b)
	c.RevokeToken(old)
	time.Sleep(buckettest.SwiftTokenCache + time.Second)
	wire.take()
	buckettest.Put(t, b, "k", []byte("changed"))
	if got := wire.take(); len(got) != 3 || got[1] != "POST /v3/auth/tokens" || swift.Token(b) == old {
		t.Errorf("a token that was revoked: %q", got)
	}
	if got, _ := buckettest.Get(t, b, "k"); string(got) != "changed" {
		t.Errorf("it holds %q", got)
	}
	c.DeleteAppCredential(id)
	time.Sleep(buckettest.SwiftTokenCache + time.Second)
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("a credential that was deleted: %v", err)
	}
}

func testPassword(t *testing.T, c *cloud) {
	for name, settings := range map[string]map[string]string{
		"names": {"os_username": buckettest.SwiftUser, "os_password": buckettest.SwiftPassword, "os_project_name": buckettest.SwiftProject,
			"os_user_domain_name": "Default", "os_project_domain_name": "Default", "os_region_name": buckettest.SwiftRegion, "os_interface": "internal"},
		"older names": {"os_username": buckettest.SwiftUser, "os_password": buckettest.SwiftPassword, "os_tenant_name": buckettest.SwiftProject, "os_endpoint_type": "publicURL"},
	} {
		settings["os_auth_url"] = strings.TrimSuffix(c.AuthURL(), "/v3") + "/"
		buckettest.Put(t, c.open(t, "swift://fleet/pw", swift.Values(name, settings)), "k", []byte("x"))
	}
	b := c.open(t, "swift://fleet?region=elsewhere&auth="+c.AuthURL())
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNoBucket) || !strings.Contains(err.Error(), "there is in R1") {
		t.Errorf("another region: %v", err)
	}
	b = c.open(t, "swift://fleet?interface=admin&auth="+c.AuthURL())
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNoBucket) || !strings.Contains(err.Error(), "interface admin") {
		t.Errorf("another interface: %v", err)
	}
	b = c.open(t, "swift://fleet?auth="+c.StorageURL())
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); err == nil || errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("no Keystone there: %v", err)
	}
}

// altering changes the bytes of uploads.
type altering struct{ http.RoundTripper }

func (a altering) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPut {
		req.Body = http.NoBody
		req.Body = readCloser{strings.NewReader("0123456780")}
	}
	return a.RoundTripper.RoundTrip(req)
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func testAltered(t *testing.T, c *cloud) {
	b := c.via(t, c.URL("fleet", "altered"), altering{http.DefaultTransport})
	_, err := b.Put(t.Context(), "k", strings.NewReader("0123456789"), bucket.Condition{})
	if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "altered") {
		t.Errorf("put: %v", err)
	}
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

func testSetup(t *testing.T, c *cloud) {
	b := c.open(t, c.URL("made", ""))
	if _, err := b.Setup(t.Context()); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("set-up of a missing container: %v", err)
	}
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context()); !errors.Is(err, bucket.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	s, err := b.Setup(t.Context())
	if err != nil || s.Public != bucket.No || s.Versions != bucket.Yes || s.Region != buckettest.SwiftRegion {
		t.Errorf("%+v, %v", s, err)
	}
	if url, _ := b.Endpoint(); url != c.StorageURL() {
		t.Errorf("endpoint %s", url)
	}
	c.SetContainerHeader("fleet", "X-Container-Read", ".r:*,.rlistings")
	s, err = c.open(t, c.URL("fleet", "")).Setup(t.Context())
	if err != nil || s.Public != bucket.Yes || s.Versions != bucket.No {
		t.Errorf("%+v, %v", s, err)
	}
	c.SetContainerHeader("fleet", "X-Container-Read", "")
	s, err = c.open(t, c.TempURL("fleet", ""), tempURL()).Setup(t.Context())
	if err != nil || s.Public != bucket.Unknown || len(s.Notes) != 1 {
		t.Errorf("with temporary URLs: %+v, %v", s, err)
	}
	vm := c.open(t, c.URL("made", ""), appCredential(c.AppCredential("vm", c.VMRules("made", "", "vm")...)))
	if s, err = vm.Setup(t.Context()); err != nil || s.Public != bucket.Unknown || len(s.Notes) != 1 {
		t.Errorf("with a VM's rights: %+v, %v", s, err)
	}
}
