package gcs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// service is a metadata service.
type service struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	status   []int  // of the next answers, before the right ones
	body     string // of the token
	stranger bool   // it is not Google's
}

func newService(t *testing.T, body string) *service {
	s := &service{body: body}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	if !s.stranger {
		w.Header().Set("Metadata-Flavor", "Google")
	}
	switch {
	case len(s.status) > 0:
		status := s.status[0]
		s.status = s.status[1:]
		http.Redirect(w, r, "/elsewhere", status)
	case r.Header.Get("Metadata-Flavor") != "Google":
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path != metadataPath || s.body == "":
		w.WriteHeader(http.StatusNotFound)
	default:
		io.WriteString(w, s.body)
	}
}

func tokenJSON(value string, seconds int) string {
	return fmt.Sprintf(`{"access_token":%q,"expires_in":%d,"token_type":"Bearer"}`, value, seconds)
}

// tokenOf is the token that a chain of these sources gives.
func tokenOf(t *testing.T, sources ...Source) (string, error) {
	t.Helper()
	g, err := newChain(sources, &http.Client{CheckRedirect: noRedirect}, nil).Get(t.Context())
	if err != nil {
		return "", err
	}
	return g.Value, nil
}

func TestInstance(t *testing.T) {
	good := tokenJSON("ya29.a", 3600)
	for _, c := range []struct {
		name     string
		body     string
		status   []int
		stranger bool
		want     error
		words    string
	}{
		{"an account", good, nil, false, nil, ""},
		{"no account", "", nil, false, bucket.ErrPermission, "no service account"},
		{"busy once", good, []int{503}, false, nil, ""},
		{"throttled once", good, []int{429}, false, nil, ""},
		{"busy", good, []int{503, 503}, false, bucket.ErrUnavailable, "503"},
		{"redirect", good, []int{302}, false, bucket.ErrPermission, "302"},
		{"another service", good, nil, true, bucket.ErrPermission, "not Google's"},
		{"not JSON", "<html>", nil, false, bucket.ErrUnavailable, "read the token"},
		{"no token", `{"expires_in":3600,"token_type":"Bearer"}`, nil, false, bucket.ErrUnavailable, "no bearer token"},
		{"no end", `{"access_token":"a","token_type":"Bearer"}`, nil, false, bucket.ErrUnavailable, "no bearer token"},
		{"another type", `{"access_token":"a","token_type":"MAC","expires_in":3600}`, nil, false, bucket.ErrUnavailable, "no bearer token"},
		{"a token of two lines", tokenJSON("a\r\nX: b", 3600), nil, false, bucket.ErrUnavailable, "no valid token"},
		{"endless", strings.Repeat(" ", maxToken) + good, nil, false, bucket.ErrUnavailable, "read the token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, c.body)
			s.status, s.stranger = c.status, c.stranger
			v, err := tokenOf(t, Instance(s.URL))
			if !errors.Is(err, c.want) || c.want == nil && (err != nil || v != "ya29.a") || err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%q, %v, want %v with %q", v, err, c.want, c.words)
			}
			for _, r := range s.requests {
				if r != "GET "+metadataPath {
					t.Errorf("request %q", r)
				}
			}
		})
	}
}

func TestInstance_Environment(t *testing.T) {
	s := newService(t, tokenJSON("ya29.b", 3600))
	// A proxy would be asked here for anything but a direct request.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(s.URL, "http://"))
	if v, err := tokenOf(t, Instance("")); v != "ya29.b" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	t.Setenv("GCE_METADATA_HOST", "")
	t.Setenv("NO_GCE_CHECK", "true")
	if _, err := tokenOf(t, Instance("")); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "NO_GCE_CHECK") {
		t.Errorf("disabled: %v", err)
	}
	s.Close()
	if _, err := tokenOf(t, Instance(s.URL)); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestPatience(t *testing.T) {
	dir := t.TempDir()
	none, file := filepath.Join(dir, "none"), filepath.Join(dir, "credentials")
	write(t, file, "google_application_credentials = /k.json\n")
	sys := func(product string) string {
		root := filepath.Join(t.TempDir(), "class/dmi/id")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "product_name"), product+"\n")
		return strings.TrimSuffix(root, "/class/dmi/id")
	}
	for _, c := range []struct {
		sys, file string
		want      time.Duration
	}{
		{sys("Standard PC"), none, metadataDial},
		{sys("Standard PC"), file, metadataBrief},
		{dir, file, metadataBrief},
		{sys("Google Compute Engine"), file, metadataDial},
	} {
		if got := patience(c.sys, c.file); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestSigner(t *testing.T) {
	for url, want := range map[string]string{"gs://bkt": "given token", "gs://bkt?anonymous=true": "nobody"} {
		b, err := Open(t.Context(), url, Options{Sources: []Source{keyOfFile("/none"), Static("topsecret")}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.Signer(t.Context()); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
}

func TestOrder(t *testing.T) {
	s := newService(t, tokenJSON("instance", 3600))
	ends := newTokenEndpoint(t)
	keyFile := ends.key(t, nil)
	dir := t.TempDir()
	credentials := filepath.Join(dir, "credentials")
	write(t, credentials, "[default]\ngoogle_application_credentials = "+keyFile+"\n")
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(s.URL, "http://"))
	none := filepath.Join(dir, "none")
	loose := ends.key(t, nil)
	if err := os.Chmod(loose, 0o640); err != nil {
		t.Fatal(err)
	}
	looseNamed := filepath.Join(dir, "loose")
	write(t, looseNamed, "google_application_credentials = "+loose+"\n")
	for _, c := range []struct {
		name    string
		env     map[string]string
		sources []Source
		value   string
		asked   bool
	}{
		{"VM, instance", nil, VMSources(credentials), "instance", true},
		{"VM, file", nil, VMSources(credentials)[1:], "exchanged", false},
		{"VM, no file, environment", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": keyFile}, VMSources(none)[1:], "exchanged", false},
		{"VM, a key that others may read", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": loose}, VMSources(looseNamed)[1:], "", false},
		{"operator, a key that others may read", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": loose}, OperatorSources(), "exchanged", false},
		{"VM, nothing", nil, VMSources(none)[1:], "", false},
		{"operator, environment", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": keyFile}, OperatorSources(), "exchanged", false},
		{"operator, token", map[string]string{"CLOUDSDK_AUTH_ACCESS_TOKEN": "given", "GOOGLE_APPLICATION_CREDENTIALS": keyFile}, OperatorSources(), "given", false},
		{"operator, nothing", nil, OperatorSources(), "", false},
		{"operator, missing file", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": none}, OperatorSources(), "", false},
		{"operator, a folder", map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": dir}, OperatorSources(), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_ACCESS_TOKEN"} {
				t.Setenv(name, c.env[name])
			}
			s.requests = nil
			v, err := tokenOf(t, c.sources...)
			if v != c.value || (err == nil) != (c.value != "") || err != nil && !errors.Is(err, bucket.ErrPermission) {
				t.Errorf("%q, %v, want %q", v, err, c.value)
			}
			if asked := len(s.requests) > 0; asked != c.asked {
				t.Errorf("asked the metadata service: %v, want %v", asked, c.asked)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tokenEndpoint gives the token "exchanged", or what it is told to.
type tokenEndpoint struct {
	*httptest.Server
	status int
	body   string
	forms  []string
}

func newTokenEndpoint(t *testing.T) *tokenEndpoint {
	e := &tokenEndpoint{status: 200, body: tokenJSON("exchanged", 3600)}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.forms = append(e.forms, r.PostFormValue("assertion"))
		w.WriteHeader(e.status)
		io.WriteString(w, e.body)
	}))
	t.Cleanup(e.Close)
	return e
}

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// key writes the file of a service account, with these fields changed.
func (e *tokenEndpoint) key(t *testing.T, change map[string]string) string {
	t.Helper()
	fields := map[string]string{
		"type": "service_account", "client_email": "a@b", "private_key_id": "1", "token_uri": e.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(testKey())})),
	}
	for name, value := range change {
		fields[name] = value
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.json")
	write(t, file, string(text))
	return file
}

func TestServiceAccount_Failures(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change map[string]string
		status int
		body   string
		want   error
		words  string
	}{
		{"another type", map[string]string{"type": "authorized_user"}, 0, "", bucket.ErrPermission, `"authorized_user"`},
		{"no account", map[string]string{"client_email": ""}, 0, "", bucket.ErrPermission, "client_email"},
		{"no key", map[string]string{"private_key": "topsecret"}, 0, "", bucket.ErrPermission, "private_key"},
		{"not a key", map[string]string{"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, 0, "", bucket.ErrPermission, "no RSA key"},
		{"another key", map[string]string{"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: ecDER}))}, 0, "", bucket.ErrPermission, "no RSA key"},
		{"token_uri in the clear", map[string]string{"token_uri": "http://tokens.example/"}, 0, "", bucket.ErrPermission, "not https"},
		{"token_uri of nothing", map[string]string{"token_uri": "tokens"}, 0, "", bucket.ErrPermission, "not valid"},
		{"refused", nil, 400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`, bucket.ErrPermission, "invalid_grant: Invalid JWT Signature."},
		{"redirect", nil, 302, "", bucket.ErrPermission, "302"},
		{"busy", nil, 503, "<html>", bucket.ErrUnavailable, "503"},
		{"garbage", nil, 200, "garbage", bucket.ErrUnavailable, "read the token"},
		{"endless", nil, 200, strings.Repeat(" ", maxToken) + "{}", bucket.ErrUnavailable, "read the token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newTokenEndpoint(t)
			if c.status != 0 {
				e.status, e.body = c.status, c.body
			}
			_, err := tokenOf(t, ServiceAccount(e.key(t, c.change)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v with %q", err, c.want, c.words)
			}
			for _, assertion := range append(e.forms, "topsecret") {
				if err != nil && strings.Contains(err.Error(), assertion) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
		})
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Add([]byte(`{"type":"service_account","client_email":"a@b","private_key":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}`))
	f.Add([]byte(`{"type":"external_account"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseAccount(data); err == nil && (a.key == nil || a.email == "" || a.tokenURI == "") {
			t.Errorf("%q gives %+v", data, a)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add([]byte(tokenJSON("a", 3600)))
	f.Add([]byte(`{"access_token":"a","expires_in":1e99}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		now := time.Unix(1e9, 0)
		if v, err := parseToken(body, now); err == nil && (v.Value == "" || !v.Expires.After(now) || v.Expires.After(now.Add(24*time.Hour+1))) {
			t.Errorf("%q gives %+v", body, v)
		}
	})
}
