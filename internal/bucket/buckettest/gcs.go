package buckettest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/await"
	"github.com/bootwell/bootwell/internal/needs"
)

// GCSConfig says how to start a [GCS]. The zero value is one on a free port of
// the loopback address.
type GCSConfig struct {
	Listen   string        // host:port; "": 127.0.0.1 and a free port
	Listener net.Listener  // where it listens, instead of Listen: for example inside a network namespace
	TLS      bool          // https, with a certificate for 127.0.0.1 that [GCS.CA] trusts
	TokenTTL time.Duration // life of tokens that service accounts get; 0: an hour
}

// A GCS is Google Cloud Storage: fake-gcs-server with a layer before it that has
// what it lacks, which is tokens, rights in the bucket and below prefixes,
// answers that nothing changed, and settings of buckets. It ends with the test.
type GCS struct {
	Addr string // host:port

	t       testing.TB
	cfg     GCSConfig
	backend *url.URL
	inner   *http.Transport // to the backend
	proxy   *httputil.ReverseProxy
	server  *httptest.Server
	logFile string

	mu       sync.Mutex
	tokens   map[string]gcsToken
	accounts map[string]gcsAccount // by e-mail
	buckets  map[string]map[string]json.RawMessage
	public   map[string]bool
	requests int
}

// A GCSGrant is rights in every bucket, as a binding of a role with a condition
// on the names of objects.
type GCSGrant struct {
	Permissions []string // such as storage.objects.get; nil: all
	Below       []string // beginnings of objects' names; nil: the whole bucket. Listing is a right in the whole bucket
}

type gcsToken struct {
	grants []GCSGrant
	ends   time.Time
}

type gcsAccount struct {
	key    *rsa.PublicKey
	grants []GCSGrant
}

// StartGCS starts a server as cfg says, or skips the test where there is no
// fake-gcs-server.
func StartGCS(t testing.TB, cfg GCSConfig) *GCS {
	t.Helper()
	s := &GCS{t: t, cfg: cfg, tokens: map[string]gcsToken{}, accounts: map[string]gcsAccount{},
		buckets: map[string]map[string]json.RawMessage{}, public: map[string]bool{}}
	if s.cfg.TokenTTL == 0 {
		s.cfg.TokenTTL = time.Hour
	}
	binary := gcsBinary(t)
	s.inner = &http.Transport{MaxIdleConnsPerHost: 32}
	t.Cleanup(s.inner.CloseIdleConnections)
	var err error
	for range 3 { // a port found free can be taken before the server has it
		if err = s.start(binary, freeAddress(t)); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	l := cfg.Listener
	if l == nil {
		if cfg.Listen == "" {
			cfg.Listen = "127.0.0.1:0"
		}
		if l, err = net.Listen("tcp", cfg.Listen); err != nil {
			t.Fatal(err)
		}
	}
	s.Addr = l.Addr().String()
	quiet := log.New(io.Discard, "", 0) // clients that hang up are what tests are about
	s.proxy = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(s.backend) },
		ModifyResponse: s.modify, Transport: s.inner, ErrorLog: quiet,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.server.Config.ErrorLog = quiet
	s.server.Listener.Close()
	s.server.Listener = l
	if cfg.TLS {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	t.Cleanup(func() { s.server.CloseClientConnections(); s.server.Close() })
	return s
}

func gcsBinary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("BOOTWELL_FAKE_GCS"); p != "" {
		return p
	}
	if p, err := exec.LookPath("fake-gcs-server"); err == nil {
		return p
	}
	home, _ := os.UserHomeDir()
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(home, "go", "bin")} {
		if p := filepath.Join(dir, "fake-gcs-server"); filepath.IsAbs(p) && isExecutable(p) {
			return p
		}
	}
	needs.Skip(t, "fake-gcs-server", "it is installed by: go install github.com/fsouza/fake-gcs-server@v1.56.1")
	return ""
}

func (s *GCS) start(binary, addr string) error {
	s.logFile = filepath.Join(s.t.TempDir(), "fake-gcs-server.log")
	out, err := os.Create(s.logFile)
	if err != nil {
		return err
	}
	defer out.Close()
	s.backend = &url.URL{Scheme: "http", Host: addr}
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(binary, "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
		"-external-url", s.backend.String(), "-public-host", addr, "-log-level", "warn")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start fake-gcs-server: %w", err)
	}
	ready := func(ctx context.Context) error {
		status, _, err := s.ask(ctx, http.MethodGet, "/_internal/healthcheck", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := await.Server(context.Background(), "fake-gcs-server", ended, ready); err != nil {
		cmd.Process.Kill()
		text, _ := os.ReadFile(s.logFile)
		return fmt.Errorf("%w; it said:\n%s", err, text)
	}
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	return nil
}

// URL returns the gs: URL of a prefix in a bucket on this server.
func (s *GCS) URL(bucket, prefix string) string {
	u := url.URL{Scheme: "gs", Host: bucket, Path: "/" + prefix, RawQuery: url.Values{"endpoint": {s.Endpoint()}}.Encode()}
	if s.cfg.TLS {
		u.RawQuery += "&ca=" + url.QueryEscape(s.CA())
	}
	return u.String()
}

// Endpoint returns the server's own URL.
func (s *GCS) Endpoint() string { return s.server.URL }

// CA returns a file with the certificate of a server with TLS.
func (s *GCS) CA() string {
	s.t.Helper()
	name := filepath.Join(s.t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	if err := os.WriteFile(name, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// CreateBucket makes a bucket with Google's defaults.
func (s *GCS) CreateBucket(name string) {
	s.t.Helper()
	status, body, err := s.ask(context.Background(), http.MethodPost, "/storage/v1/b?project=test", strings.NewReader(fmt.Sprintf(`{"name":%q}`, name)))
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("create bucket %s: status %d, %v: %s", name, status, err, body)
	}
}

// SetPublic lets everybody read a bucket, or ends that.
func (s *GCS) SetPublic(bucket string, public bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.public[bucket] = public
}

// Token returns a bearer token with these rights; without any, it has all.
func (s *GCS) Token(grants ...GCSGrant) string { return s.issue(time.Hour, grants) }

// ExpiredToken returns a token that was good a minute ago.
func (s *GCS) ExpiredToken() string { return s.issue(-time.Minute, nil) }

func (s *GCS) issue(life time.Duration, grants []GCSGrant) string {
	token := "ya29.test-" + rand.Text()
	if len(grants) == 0 {
		grants = []GCSGrant{{}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = gcsToken{slices.Clone(grants), time.Now().Add(life)}
	return token
}

// RevokeAll ends every token.
func (s *GCS) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Requests returns how many requests came so far, of which kind ever.
func (s *GCS) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// ServiceAccount makes a service account with these rights, all without any,
// and returns the file of its key. Tokens for it come from this server.
func (s *GCS) ServiceAccount(grants ...GCSGrant) string {
	s.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	email := fmt.Sprintf("sa%d@test.iam.gserviceaccount.com", len(s.accounts)+1)
	s.accounts[email] = gcsAccount{&key.PublicKey, grants}
	s.mu.Unlock()
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "test", "private_key_id": "key1", "client_email": email, "client_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": s.Endpoint() + "/token",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	name := filepath.Join(s.t.TempDir(), "key.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return name
}
