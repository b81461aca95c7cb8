package swift

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// TestAnswers has the answers that the servers of the other tests never give.
func TestAnswers(t *testing.T) {
	absent, match := bucket.Condition{IfAbsent: true}, bucket.Condition{IfMatch: "e"}
	for _, c := range []struct {
		status int
		cond   bucket.Condition
		want   error // bucket.ErrNotExist: none of the vocabulary; nil: success
		words  string
	}{
		{201, absent, nil, ""},
		{202, bucket.Condition{}, nil, ""},
		{202, absent, bucket.ErrExists, ""},
		{202, match, bucket.ErrPrecondition, ""},
		{401, absent, bucket.ErrPermission, "status 401"},
		{403, absent, bucket.ErrPermission, "status 403"},
		{404, absent, bucket.ErrNoBucket, ""},
		{408, absent, bucket.ErrUnavailable, "status 408"},
		{412, absent, bucket.ErrExists, ""},
		{413, absent, bucket.ErrNotExist, "quota"},
		{422, absent, bucket.ErrUnavailable, "altered on the way"},
		{429, absent, bucket.ErrUnavailable, "status 429"},
		{498, absent, bucket.ErrUnavailable, "status 498"},
		{500, absent, bucket.ErrUnavailable, "transaction tx1"},
		{501, absent, bucket.ErrUnsupported, "status 501"},
		{503, match, bucket.ErrUnavailable, "status 503"},
		{507, absent, bucket.ErrUnavailable, "status 507"},
	} {
		t.Run(fmt.Sprint(c.status, c.cond), func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Trans-Id", "tx1")
				w.Header().Set("ETag", "e")
				if r.Method == http.MethodPut {
					io.Copy(io.Discard, r.Body)
					w.WriteHeader(c.status)
				}
			}))
			defer srv.Close()
			b := withToken(t, srv.URL)
			_, err := b.Put(t.Context(), "k", strings.NewReader("x"), c.cond)
			switch {
			case c.want == nil && err != nil, c.want != nil && err == nil:
				t.Fatalf("%v, want %v", err, c.want)
			case errors.Is(c.want, bucket.ErrNotExist):
				if errors.Is(err, bucket.ErrPermission) || errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrNotExist) {
					t.Errorf("%v is in the vocabulary", err)
				}
			case !errors.Is(err, c.want):
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v does not say %q", err, c.words)
			}
		})
	}
}

func withToken(t *testing.T, server string) *Bucket {
	t.Helper()
	source := Values("test", map[string]string{"os_auth_token": "t", "os_storage_url": server + "/v1/AUTH_a"})
	b, err := Open(t.Context(), "swift://c", Options{Sources: []Source{source}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An object that is being overwritten can be missing for a moment.
func TestMissingIsAskedTwice(t *testing.T) {
	for times, want := range []error{nil, nil, bucket.ErrNotExist} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked <= times {
				http.Error(w, "not here", http.StatusNotFound)
			}
		}))
		_, _, err := withToken(t, srv.URL).Get(t.Context(), "k", bucket.GetOptions{})
		srv.Close()
		if !errors.Is(err, want) || want == nil && err != nil || asked != min(times+1, 2) {
			t.Errorf("missing %d times: %v after %d requests, want %v", times, err, asked, want)
		}
	}
}

func TestIgnoredRange(t *testing.T) {
	for _, header := range []string{"", "bytes 0-4/10", "bytes 3-9/*"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if header != "" {
				w.Header().Set("Content-Range", header)
				w.WriteHeader(http.StatusPartialContent)
			}
			w.Write([]byte("01234"))
		}))
		if _, _, err := withToken(t, srv.URL).Get(t.Context(), "k", bucket.GetOptions{Offset: 3, Length: 5}); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("%q: %v", header, err)
		}
		srv.Close()
	}
}

// A listing may not go round, nor be of any size.
func TestListingIsBounded(t *testing.T) {
	page := "[" + strings.Repeat(`{"name":"a","bytes":1},`, 999) + `{"name":"a","bytes":1}]`
	for name, body := range map[string]string{"round": page, "endless": `[{"name":"` + strings.Repeat("x", maxPage) + `"}]`, "no JSON": "<html>"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
		var last error
		n := 0
		for _, err := range withToken(t, srv.URL).List(t.Context(), "", "") {
			last = err
			n++
		}
		if last == nil || n > 2 {
			t.Errorf("%s: %d objects, %v", name, n, last)
		}
		srv.Close()
	}
}

// keystone is one that gives tokens of a life, and Swift behind it.
type keystone struct {
	*httptest.Server
	mu      sync.Mutex
	life    time.Duration
	tokens  int
	bodies  []string
	good    string // the only token that Swift takes; "": each
	answers []int  // of Keystone, before the right ones
	swift   int
}

func newKeystone(t *testing.T) *keystone {
	k := &keystone{life: time.Hour}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *keystone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.URL.Path != "/v3/auth/tokens" {
		k.swift++
		if k.good != "" && r.Header.Get("X-Auth-Token") != k.good {
			w.WriteHeader(http.StatusUnauthorized)
		}
		return
	}
	body, _ := io.ReadAll(r.Body)
	k.bodies = append(k.bodies, string(body))
	if len(k.answers) > 0 {
		w.WriteHeader(k.answers[0])
		k.answers = k.answers[1:]
		return
	}
	k.tokens++
	w.Header().Set("X-Subject-Token", fmt.Sprint("token", k.tokens))
	w.WriteHeader(http.StatusCreated)
	w.Write(catalog(time.Unix(0, 0), k.life, `[{"type":"object-store","endpoints":[{"interface":"public","region_id":"R","url":"`+k.URL+`/v1/AUTH_a"}]}]`))
}

func catalog(issued time.Time, life time.Duration, services string) []byte {
	return fmt.Appendf(nil, `{"token":{"issued_at":%q,"expires_at":%q,"catalog":%s}}`,
		issued.UTC().Format(time.RFC3339Nano), issued.Add(life).UTC().Format(time.RFC3339Nano), services)
}

func (k *keystone) open(t *testing.T, settings map[string]string) *Bucket {
	t.Helper()
	if settings == nil {
		settings = map[string]string{"os_application_credential_id": "id", "os_application_credential_secret": "s"}
	}
	b, err := Open(t.Context(), "swift://c?auth="+k.URL, Options{Sources: []Source{Values("test", settings)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func get(t *testing.T, b *Bucket) error {
	t.Helper()
	r, _, err := b.Get(t.Context(), "k", bucket.GetOptions{})
	if err == nil {
		r.Close()
	}
	return err
}

// The token's life is what Keystone says, whatever the clocks.
func TestTokenLife(t *testing.T) {
	k := newKeystone(t) // which lives in 1970
	b := k.open(t, nil)
	if err := get(t, b); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(b.auth.Last().Value.ends); left < 59*time.Minute || left > time.Hour {
		t.Errorf("it ends in %s", left)
	}
}

// Swift says the same of a token that has ended and of what is denied.
func TestDeniedAsksForOneTokenAtMost(t *testing.T) {
	k := newKeystone(t)
	k.good = "none"
	b := k.open(t, nil)
	b.auth.Young = time.Hour
	for range 5 {
		if err := get(t, b); !errors.Is(err, bucket.ErrPermission) {
			t.Fatal(err)
		}
	}
	if k.tokens != 1 || k.swift != 5 {
		t.Errorf("a young token: %d tokens, %d requests", k.tokens, k.swift)
	}
	b.auth.Young = 0
	k.swift = 0
	k.good = "token2"
	for range 3 {
		if err := get(t, b); err != nil {
			t.Fatal(err)
		}
	}
	if k.tokens != 2 || k.swift != 4 {
		t.Errorf("an older token: %d tokens, %d requests", k.tokens, k.swift)
	}
}

func TestOneTokenForManyCallers(t *testing.T) {
	k := newKeystone(t)
	b := k.open(t, nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := get(t, b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if k.tokens != 1 {
		t.Errorf("%d tokens", k.tokens)
	}
}

func TestLoginErrors(t *testing.T) {
	said := `{"error":{"code":1,"message":"the words\nof two lines"}}`
	for _, c := range []struct {
		status int
		body   string
		want   error
		words  string
	}{
		{401, said, bucket.ErrCredentials, "application credential was refused"},
		{404, said, bucket.ErrCredentials, "deleted"},
		{404, "<html>", bucket.ErrNoBucket, "no Keystone v3"},
		{302, "", bucket.ErrNoBucket, "no Keystone v3"},
		{400, said, bucket.ErrCredentials, "the words of two lines"},
		{429, said, bucket.ErrUnavailable, "429"},
		{503, "", bucket.ErrUnavailable, "503"},
		{201, "{}", bucket.ErrUnavailable, "no token"},
		{201, "", bucket.ErrUnavailable, "cannot be read"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v3/auth/tokens" {
				t.Errorf("a request of %s", r.URL)
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		}))
		b := (&keystone{Server: srv}).open(t, nil)
		if err := get(t, b); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "\n") || errors.Is(err, bucket.ErrNoCredentials) {
			t.Errorf("%d %s: %v, want %v with %q", c.status, c.body, err, c.want, c.words)
		}
		srv.Close()
	}
}

func TestLoginBody(t *testing.T) {
	for _, c := range []struct{ settings, want string }{
		{"os_application_credential_id=i os_application_credential_secret=s os_username=u os_password=p",
			`{"auth":{"identity":{"application_credential":{"id":"i","secret":"s"},"methods":["application_credential"]}}}`},
		{"os_application_credential_name=n os_application_credential_secret=s os_username=u os_user_domain_name=d",
			`{"auth":{"identity":{"application_credential":{"name":"n","secret":"s","user":{"domain":{"name":"d"},"name":"u"}},"methods":["application_credential"]}}}`},
		{"os_username=u os_password=p os_project_id=x os_user_domain_id=d",
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"id":"d"},"name":"u","password":"p"}}},"scope":{"project":{"id":"x"}}}}`},
		{"os_user_id=u os_password=p os_project_name=x os_default_domain=d",
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"u","password":"p"}}},"scope":{"project":{"domain":{"id":"d"},"name":"x"}}}}`},
		{"os_username=u os_password=p", ""},
	} {
		got, err := loginBody(settings(c.settings))
		if string(got) != c.want || c.want == "" && !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("%s:\n%s, %v\nwant\n%s", c.settings, got, err, c.want)
		}
	}
}

// settings reads name=value pairs.
func settings(s string) values {
	v := values{}
	for _, f := range strings.Fields(s) {
		name, value, _ := strings.Cut(f, "=")
		v[name] = value
	}
	return v
}

func TestCatalog(t *testing.T) {
	const two = `[{"type":"compute","endpoints":[{"interface":"public","region":"A","url":"https://nova/v2"}]},
		{"type":"object-store","endpoints":[
			{"interface":"public","region":"A","url":"https://a/v1/AUTH_x"},{"interface":"internal","region":"A","url":"https://in.a/v1/AUTH_x"},
			{"interface":"public","region":"B","region_id":"B","url":"https://b/v1/AUTH_x/"}]}]`
	for _, c := range []struct {
		want    choice
		catalog string
		storage string
		words   string
	}{
		{choice{"", "A", "public"}, two, "https://a/v1/AUTH_x", ""},
		{choice{"", "B", "public"}, two, "https://b/v1/AUTH_x", ""},
		{choice{"", "A", "internal"}, two, "https://in.a/v1/AUTH_x", ""},
		{choice{"", "", "internal"}, two, "https://in.a/v1/AUTH_x", ""},
		{choice{"https://mine/v1/a", "Z", "admin"}, two, "https://mine/v1/a", ""},
		{choice{"", "", "public"}, two, "", "region=NAME"},
		{choice{"", "C", "public"}, two, "", "there is in A, B"},
		{choice{"", "A", "admin"}, two, "", "interface admin"},
		{choice{"", "", "public"}, "[]", "", "no object storage"},
		{choice{"", "", "public"}, `[{"type":"object-store","endpoints":[{"interface":"public","url":"ftp://x"}]}]`, "", "the catalog's"},
	} {
		g := &grant{token: "t"}
		err := g.catalog(catalog(time.Now(), time.Hour, c.catalog), time.Now(), c.want)
		if g.storage != c.storage || (err == nil) != (c.words == "") || err != nil && (!errors.Is(err, bucket.ErrNoBucket) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%+v: %s, %v", c.want, g.storage, err)
		}
	}
}

func TestFailing(t *testing.T) {
	k := newKeystone(t)
	next := Values("next", map[string]string{"os_auth_token": "t", "os_storage_url": k.URL + "/v1/AUTH_a"})
	b, err := Open(t.Context(), "swift://c", Options{Sources: []Source{Failing("cloud x", errors.New("it is not in the file")), next}})
	if err != nil {
		t.Fatal(err)
	}
	if err := get(t, b); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "cloud x: not allowed: it is not in the file") || k.swift != 0 {
		t.Errorf("%v, %d requests", err, k.swift)
	}
}

func TestPasswordOnAVMIsWarnedOfOnce(t *testing.T) {
	for name, want := range map[string]int{"os_password": 1, "os_application_credential_secret": 0} {
		k := newKeystone(t)
		var log bytes.Buffer
		v := map[string]string{"os_username": "u", "os_project_id": "p", "os_application_credential_name": "n", name: "hush-hush"}
		source := Values("test", v)
		source.vm = true
		b, err := Open(t.Context(), "swift://c?auth="+k.URL, Options{Sources: []Source{source}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		b.auth.Young, k.good = 0, "token2"
		for range 3 {
			if err := get(t, b); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Count(log.String(), "level=WARN"); got != want || strings.Contains(log.String(), "hush-hush") {
			t.Errorf("%s: %s", name, &log)
		}
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add(catalog(time.Now(), time.Hour, `[{"type":"object-store","endpoints":[{"interface":"public","region":"R","url":"https://h/v1/a"}]}]`))
	f.Add([]byte(`{"token":{"expires_at":"2030-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := &grant{token: "t"}
		asked := time.Now()
		if g.catalog(data, asked, choice{face: "public"}) != nil {
			return
		}
		if _, err := accountURL(g.storage); err != nil {
			t.Errorf("storage %q: %v", g.storage, err)
		}
		if !g.ends.IsZero() && g.ends.Before(asked) {
			t.Errorf("ends at %v, before it was asked for", g.ends)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(`[{"name":"a","bytes":1,"hash":"x","last_modified":"2030-01-01T00:00:00.123456"},{"subdir":"d/"}]`), "")
	f.Add([]byte(`[{"name":"a"},{"name":"a"}]`), "0")
	f.Fuzz(func(t *testing.T, data []byte, marker string) {
		page, err := parsePage(data, marker)
		for _, o := range page {
			if err != nil || o.Key <= marker || o.Size < 0 {
				t.Errorf("%+v after %q, %v", o, marker, err)
			}
			marker = o.Key
		}
	})
}

func FuzzVendorData(f *testing.F) {
	f.Add([]byte(`{"bootwell":{"os_application_credential_id":"i","os_application_credential_secret":"s"}}`))
	f.Add([]byte(`{"target":{"bootwell":{"swift_temp_url_sig":"s","swift_temp_url_expires":1900000000}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseVendorData(data)
		if err == nil && v.kind() == kindNone || err != nil && !errors.Is(err, wire.ErrNothing) {
			t.Errorf("%v, %v", v, err)
		}
		if err == nil && !json.Valid(data) {
			t.Error("no JSON")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	buckettest.TestRetryAfter(t, func(h http.HandlerFunc) bucket.Bucket {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return withToken(t, srv.URL)
	})
}
