package azblob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func open(t testing.TB, url string, tr http.RoundTripper, sources ...azblob.Source) *azblob.Bucket {
	t.Helper()
	b, err := azblob.Open(t.Context(), url, azblob.Options{Sources: sources, Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key() azblob.Source { return azblob.SharedKey(buckettest.AzureKey) }

const audience = "https://storage.azure.com"

func bearer(audience string, left time.Duration) azblob.Source {
	return azblob.TokenSource("test", func(context.Context) (string, time.Time, error) {
		return buckettest.AzureToken(audience, time.Now().Add(left)), time.Now().Add(time.Hour), nil
	})
}

// everything is all that a SAS token of a container can allow.
const everything = "racwdl"

func TestSharedKey(t *testing.T) {
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
	var n atomic.Int64
	fresh := func(t testing.TB) string {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateContainer(name, "")
		return name
	}
	t.Run("suite", func(t *testing.T) {
		buckettest.Test(t, func(t testing.TB) bucket.Bucket { return open(t, srv.URL(fresh(t), ""), nil, key()) }, buckettest.Options{})
	})
	t.Run("prefix and SAS", func(t *testing.T) {
		t.Setenv("BOOTWELL_TEST_LARGE", "") // once is enough
		buckettest.Test(t, func(t testing.TB) bucket.Bucket {
			name := fresh(t)
			return open(t, srv.URL(name, "a team/prod"), nil, azblob.SAS("?"+srv.SAS(name, everything, time.Now().Add(time.Hour))))
		}, buckettest.Options{Objects: 50})
	})
	t.Run("line", func(t *testing.T) {
		buckettest.TestLine(t, func(t testing.TB, via buckettest.Via) (bucket.Bucket, bucket.Bucket) {
			url := srv.URL(fresh(t), "p")
			return open(t, url, via(srv.Transport()), key()), open(t, url, nil, key())
		})
	})
	t.Run("refused", func(t *testing.T) { testRefused(t, srv) })
	t.Run("clock", func(t *testing.T) { testClock(t, srv) })
	t.Run("setup", func(t *testing.T) { testSetup(t, srv) })
	t.Run("one request", func(t *testing.T) { testOneRequest(t, srv) })
}

func TestBearer(t *testing.T) {
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{OAuth: true})
	var n atomic.Int64
	t.Run("suite", func(t *testing.T) {
		t.Setenv("BOOTWELL_TEST_LARGE", "")
		buckettest.Test(t, func(t testing.TB) bucket.Bucket {
			name := fmt.Sprintf("fleet-%d", n.Add(1))
			srv.CreateContainer(name, "")
			return open(t, srv.URL(name, "p"), nil, bearer(audience, time.Hour))
		}, buckettest.Options{Objects: 50})
	})
	srv.CreateContainer("fleet", "")
	buckettest.Put(t, open(t, srv.URL("fleet", ""), nil, key()), "k", nil)
	with := func(name string, source azblob.Source) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return open(t, srv.URL(name, ""), via(srv.Transport()), source)
		}
	}
	stranger := buckettest.AzureToken("https://vault.azure.net", time.Now().Add(time.Hour))
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "token for another service", Open: with("fleet", bearer("https://vault.azure.net", time.Hour)), Want: bucket.ErrCredentials, Words: "Invalid token audience", Secrets: strings.Split(stranger, ".")[:2]},
		{Name: "expired token", Open: with("fleet", bearer(audience, -time.Minute)), Want: bucket.ErrExpired, Words: "the token has expired"},
		{Name: "no token", Open: with("fleet", azblob.TokenSource("test", func(context.Context) (string, time.Time, error) {
			return "nonsense", time.Time{}, nil
		})), Want: bucket.ErrCredentials, Words: "AuthenticationFailed", Secrets: []string{"nonsense"}},
		{Name: "wrong key", Open: with("fleet", azblob.SharedKey("d3JvbmcgYWNjb3VudCBrZXk=")), Want: bucket.ErrCredentials, Words: "is the key the one of this storage account?"},
		{Name: "missing container", Open: with("nothere", bearer(audience, time.Hour)), Want: bucket.ErrNoBucket, Words: "ContainerNotFound"},
	})
	t.Run("managed identity", func(t *testing.T) { testIdentityMidRun(t, srv) })
}

func testRefused(t *testing.T, srv *buckettest.Azurite) {
	for _, name := range []string{"refused", "other"} {
		srv.CreateContainer(name, "")
		buckettest.Put(t, open(t, srv.URL(name, ""), nil, key()), "k", nil)
	}
	with := func(name string, source azblob.Source) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket {
			buckettest.Put(t, open(t, srv.URL("refused", ""), nil, key()), "k", nil)
			return open(t, srv.URL(name, ""), via(srv.Transport()), source)
		}
	}
	hour := time.Now().Add(time.Hour)
	read, list, expired := srv.SAS("refused", "r", hour), srv.SAS("refused", "rl", hour), srv.SAS("refused", everything, time.Now().Add(-time.Minute))
	secrets := []string{sig(t, read), sig(t, list), sig(t, expired), buckettest.AzureKey}
	forged := strings.Replace(list, "sp=rl", "sp="+everything, 1)
	write := []string{"put", "put if absent", "delete"}
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "wrong key", Open: with("refused", azblob.SharedKey("d3JvbmcgYWNjb3VudCBrZXk=")), Want: bucket.ErrCredentials, Words: "is the key the one of this storage account?", Secrets: secrets},
		{Name: "expired SAS", Open: with("refused", azblob.SAS(expired)), Want: bucket.ErrExpired, Words: "the SAS token ended at 20", Secrets: secrets},
		{Name: "SAS of another container", Open: with("other", azblob.SAS(list)), Want: bucket.ErrCredentials, Words: "made for this container?", Secrets: secrets},
		{Name: "forged SAS", Open: with("refused", azblob.SAS(forged)), Want: bucket.ErrCredentials, Words: "is the SAS token whole", Secrets: secrets},
		{Name: "SAS to read", Open: with("refused", azblob.SAS(list)), Calls: write, Words: "AuthorizationPermissionMismatch", Secrets: secrets},
		{Name: "SAS to read what is known", Open: with("refused", azblob.SAS(read)), Calls: append(write, "list"), Words: "lacks this right", Secrets: secrets},
		{Name: "missing container", Open: with("nothere", key()), Want: bucket.ErrNoBucket, Words: "ContainerNotFound", Secrets: secrets},
	})
}

func sig(t *testing.T, token string) string {
	t.Helper()
	q, err := url.ParseQuery(token)
	if err != nil || q.Get("sig") == "" {
		t.Fatalf("token %q has no signature", token)
	}
	return q.Get("sig")
}

// testClock puts before the server what Azure does and Azurite does not: it
// refuses a signature of another time.
// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key#specifying-the-date-header
func testClock(t *testing.T, srv *buckettest.Azurite) {
	srv.CreateContainer("clock", "")
	buckettest.Put(t, open(t, srv.URL("clock", ""), nil, key()), "k", nil)
	target, err := url.Parse("http://" + srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		date, err := http.ParseTime(r.Header.Get("x-ms-date"))
		if err != nil || time.Since(date).Abs() > 15*time.Minute {
			w.Header().Set("x-ms-error-code", "AuthenticationFailed")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.\nRequestId:1\nTime:2</Message>"+
				"<AuthenticationErrorDetail>Request date header too old: '%s'</AuthenticationErrorDetail></Error>", r.Header.Get("x-ms-date"))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	at := "az://" + buckettest.AzureAccount + "/clock?endpoint=" + url.QueryEscape(front.URL+"/"+buckettest.AzureAccount)
	buckettest.TestClock(t, buckettest.Clock{Words: "the clock of this machine is wrong (1h0m", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
		return open(t, at, via(nil), key())
	}})
}

func testSetup(t *testing.T, srv *buckettest.Azurite) {
	b := open(t, srv.URL("made", "p"), nil, key())
	var _ bucket.Admin = b
	if _, err := b.Setup(t.Context()); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("setup of nothing: %v", err)
	}
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context()); !errors.Is(err, bucket.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	s, err := b.Setup(t.Context())
	if err != nil || s.Public != bucket.No || s.Versions != bucket.Unknown || !strings.Contains(strings.Join(s.Notes, ""), "--enable-versioning true") {
		t.Errorf("a new container: %+v, %v", s, err)
	}
	buckettest.Put(t, b, "k", nil)
	if s, err = b.Setup(t.Context()); err != nil || s.Versions != bucket.No {
		t.Errorf("a container with a blob: %+v, %v", s, err)
	}
	for _, level := range []string{"blob", "container"} {
		srv.CreateContainer("public-"+level, level)
		s, err := open(t, srv.URL("public-"+level, ""), nil, key()).Setup(t.Context())
		if err != nil || s.Public != bucket.Yes {
			t.Errorf("public access to %s: %+v, %v", level, s, err)
		}
	}
	limited := open(t, srv.URL("made", ""), nil, azblob.SAS(srv.SAS("made", "r", time.Now().Add(time.Hour))))
	s, err = limited.Setup(t.Context())
	if err != nil || s.Public != bucket.Unknown || s.Versions != bucket.Unknown || len(s.Notes) != 2 {
		t.Errorf("with few rights: %+v, %v", s, err)
	}
	if at, ca := b.Endpoint(); at != srv.Endpoint() || ca != "" {
		t.Errorf("endpoint %q, %q", at, ca)
	}
}

// requests counts what goes over the wire.
type requests struct {
	n    atomic.Int64
	seen []string
	http.Transport
}

func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	r.n.Add(1)
	r.seen = append(r.seen, req.Method+" "+req.URL.Path)
	return r.Transport.RoundTrip(req)
}

func testOneRequest(t *testing.T, srv *buckettest.Azurite) {
	srv.CreateContainer("counted", "")
	seen := &requests{}
	b := open(t, srv.URL("counted", "p"), seen, key())
	one := func(what string) {
		t.Helper()
		if n := seen.n.Swap(0); n != 1 {
			t.Errorf("%s made %d requests: %q", what, n, seen.seen)
		}
		seen.seen = nil
	}
	obj, err := b.Put(t.Context(), "k", strings.NewReader(strings.Repeat("x", 20<<20)), bucket.Condition{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	one("open and a conditional put of 20 MiB")
	if _, err := b.Put(t.Context(), "k", strings.NewReader("y"), bucket.Condition{IfAbsent: true}); !errors.Is(err, bucket.ErrExists) {
		t.Fatal(err)
	}
	one("a put in vain")
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

// testIdentityMidRun has a managed identity whose tokens end while a VM works:
// as they say, and before that.
func testIdentityMidRun(t *testing.T, srv *buckettest.Azurite) {
	const told, real = 2 * time.Second, time.Minute
	var asked atomic.Int64
	first := time.Second // the life of the first token, which says that it lives long
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" || r.URL.Query().Get("resource") != audience+"/" {
			http.Error(w, `{"error":"invalid_request"}`, http.StatusBadRequest)
			return
		}
		in, life := told, real
		if asked.Add(1) == 1 {
			in, life = time.Hour, first
		}
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":"%.0f","token_type":"Bearer"}`, buckettest.AzureToken(audience, time.Now().Add(life)), in.Seconds())
	}))
	defer imds.Close()
	srv.CreateContainer("midrun", "")
	b := open(t, srv.URL("midrun", ""), nil, azblob.ManagedIdentity(imds.URL))
	azblob.ReplaceAtOnce(b)
	for i := 0; asked.Load() < 4; i++ {
		_, err := b.Put(t.Context(), fmt.Sprintf("reports/%03d", i), strings.NewReader("x"), bucket.Condition{})
		if err != nil {
			t.Fatal(err) // also of the token that ended early: it is replaced
		}
		if i == 1000 {
			t.Fatalf("%d calls asked for %d tokens of %s", i, asked.Load(), told)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestRedirect follows none: it would carry the token to somebody else.
func TestRedirect(t *testing.T) {
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	srv := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	b := open(t, "az://acct/fleet?endpoint="+srv.URL, nil, azblob.SAS("sv=2020&sig=c2VjcmV0"))
	for op, err := range buckettest.EveryCall(t, b, "k") {
		if err == nil || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: %v", op, err)
		}
	}
	if stolen.Load() {
		t.Error("the redirect was followed")
	}
}

// TestSecretsStayOnTLS sends neither a token nor a SAS over a plain line.
func TestSecretsStayOnTLS(t *testing.T) {
	asked := false
	token := azblob.TokenSource("az login", func(context.Context) (string, time.Time, error) {
		asked = true
		return "token", time.Time{}, nil
	})
	b := open(t, "az://acct/fleet?endpoint=http://storage.example", nil, token, azblob.SAS("sv=2020&sig=c2VjcmV0"))
	_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{})
	if !errors.Is(err, bucket.ErrPermission) || strings.Count(err.Error(), "only over https") != 2 || asked {
		t.Errorf("%v", err)
	}
}

func TestListOutOfOrder(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>`)
		for _, name := range []string{"d", "d/y", "d.x"} {
			kind := ""
			if name == "d" {
				kind = "<ResourceType>directory</ResourceType>"
			}
			fmt.Fprintf(w, `<Blob><Name>%s</Name><Properties><Content-Length>1</Content-Length><Etag>0x1</Etag>%s</Properties></Blob>`, name, kind)
		}
		io.WriteString(w, `</Blobs><NextMarker /></EnumerationResults>`)
	}))
	defer srv.Close()
	var keys []string
	var last error
	for obj, err := range open(t, "az://acct/fleet?endpoint="+srv.URL, nil, key()).List(t.Context(), "", "") {
		if err == nil {
			keys = append(keys, obj.Key)
		}
		last = err
	}
	if !errors.Is(last, bucket.ErrUnsupported) || strings.Join(keys, " ") != "d/y" {
		t.Errorf("%q, %v", keys, last)
	}
}

// TestStaticKeysAreTold warns a VM whose identity has no rights here.
func TestStaticKeysAreTold(t *testing.T) {
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, `{"error":"invalid_request","error_description":"Identity not found"}`, http.StatusBadRequest)
	}))
	defer imds.Close()
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds.URL)
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("azure_storage_key = "+buckettest.AzureKey), 0o600); err != nil {
		t.Fatal(err)
	}
	log, text := logger()
	b, err := azblob.Open(t.Context(), "az://acct/fleet?endpoint=https://127.0.0.1:1", azblob.Options{Sources: azblob.VMSources(file), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
	if n := strings.Count(text.String(), "static keys are in use"); n != 1 || strings.Contains(text.String(), buckettest.AzureKey) {
		t.Errorf("%d warnings: %s", n, text)
	}
}

func logger() (*slog.Logger, *bytes.Buffer) {
	var text bytes.Buffer
	return slog.New(slog.NewTextHandler(&text, nil)), &text
}
