package doctor

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate as PEM
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newECKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return a
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs a certificate for a host.
func (a *authority) issue(t *testing.T, host string, from, to time.Time) tls.Certificate {
	t.Helper()
	key := newECKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: to}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) good(t *testing.T, host string) tls.Certificate {
	return a.issue(t, host, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
}

func quiet(s *httptest.Server) *httptest.Server {
	s.Config.ErrorLog = newSilentLog()
	return s
}

// secure serves h with a certificate.
func secure(t *testing.T, c tls.Certificate, h http.Handler) *httptest.Server {
	t.Helper()
	s := quiet(httptest.NewUnstartedServer(h))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func plain(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := quiet(httptest.NewUnstartedServer(h))
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// forbids answers as S3 does to who signs nothing.
var forbids = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })

// dated answers with another time.
func dated(shift time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(shift).UTC().Format(http.TimeFormat))
	})
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t, "Acme Internal CA"), newAuthority(t, "Another CA")
	now := time.Now()
	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		ca    string
		cause string
		also  string // cause of the clock
	}{
		{"good", ca.good(t, "127.0.0.1"), ca.file, "", ""},
		{"private authority", ca.good(t, "127.0.0.1"), "", "tls_unknown_ca", ""},
		{"wrong authority named", ca.good(t, "127.0.0.1"), other.file, "tls_unknown_ca", ""},
		{"expired", ca.issue(t, "127.0.0.1", now.AddDate(-1, 0, 0), now.AddDate(0, 0, -3)), ca.file, "tls_expired", ""},
		{"not yet valid", ca.issue(t, "127.0.0.1", now.AddDate(0, 0, 3), now.AddDate(1, 0, 0)), ca.file, "tls_not_yet_valid", ""},
		{"wrong host", ca.good(t, "storage.acme.example"), ca.file, "tls_wrong_host", ""},
		{"wildcard", ca.good(t, "*.storage.acme.example"), ca.file, "tls_wrong_host", ""},
		{"expires soon", ca.issue(t, "127.0.0.1", now.AddDate(0, -3, 0), now.AddDate(0, 0, 5)), ca.file, "tls_expires_soon", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := secure(t, c.cert, forbids)
			fs := (&Probe{}).endpoint(t.Context(), at(bucket.NewMem(), s.URL, c.ca))
			if f := find(t, fs, "endpoint"); f.Cause != c.cause {
				t.Errorf("cause %q, want %q", f.Cause, c.cause)
			}
			golden(t, fs)
		})
	}
}

// TestWrongClockLooksExpired: the certificate is good, only this machine thinks
// it is another year. The server's own time tells.
func TestWrongClockLooksExpired(t *testing.T) {
	ca := newAuthority(t, "Acme Internal CA")
	now := time.Now()
	s := secure(t, ca.issue(t, "127.0.0.1", now.AddDate(0, 0, -9), now.AddDate(0, 0, -2)), dated(-72*time.Hour))
	fs := (&Probe{}).endpoint(t.Context(), at(bucket.NewMem(), s.URL, ca.file))
	is(t, fs, "endpoint", Problem, "tls_expired")
	is(t, fs, "clock", Problem, "clock")
}

func TestWay(t *testing.T) {
	closed := plain(t, forbids)
	closed.Close()
	silent := blackHole(t)
	hangup := plain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	}))
	for _, c := range []struct {
		name, url, cause string
	}{
		{"nothing listens", closed.URL, "refused"},
		{"no TLS there", strings.Replace(hangup.URL, "http:", "https:", 1), "tls_none"},
		{"plain HTTP where TLS is meant", "https://" + plain(t, forbids).Listener.Addr().String(), "tls_none"},
		{"no answer", "http://" + silent, "timeout"},
		{"no answer to TLS", "https://" + silent, "timeout"},
		{"hangs up", hangup.URL, "broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Probe{}
			if c.cause == "timeout" {
				p.Deadline = 500 * time.Millisecond
			}
			fs := p.endpoint(t.Context(), at(bucket.NewMem(), c.url, ""))
			is(t, fs, "endpoint", Problem, c.cause)
			golden(t, fs)
		})
	}
}

// blackHole accepts connections and never says a word.
func blackHole(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestNames has a name server of its own: one name is not there, of another it
// says nothing.
func TestNames(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		for b := make([]byte, 512); ; {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			if strings.Contains(string(b[:n]), "silent") || n < 12 {
				continue
			}
			// The query as the answer, with the code "no such name" (RFC 1035, 4.1.1).
			b[2], b[3] = 0x81, 0x83
			if _, err := udp.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", udp.LocalAddr().String())
	}}
	for name, u := range map[string]string{"no such name": "https://s3.eu-wset-1.acme.example", "silent name server": "https://silent.acme.example"} {
		t.Run(name, func(t *testing.T) {
			p := &Probe{}
			if strings.Contains(u, "silent") {
				p.Deadline = 500 * time.Millisecond
			}
			fs := p.endpoint(t.Context(), at(bucket.NewMem(), u, ""))
			is(t, fs, "endpoint", Problem, "dns")
			golden(t, fs)
		})
	}
}

// A proxy tunnels, refuses, or opens TLS with an authority of its own.
func proxy(t *testing.T, status int, opens *authority) *httptest.Server {
	return plain(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status != http.StatusOK {
			if status == http.StatusProxyAuthRequired {
				w.Header().Set("Proxy-Authenticate", `Basic realm="acme"`)
			}
			w.WriteHeader(status)
			return
		}
		if r.Method != http.MethodConnect {
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			w.Header().Set("Date", resp.Header.Get("Date"))
			w.WriteHeader(resp.StatusCode)
			return
		}
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		if opens != nil {
			host, _, _ := net.SplitHostPort(r.Host)
			c := tls.Server(client, &tls.Config{Certificates: []tls.Certificate{opens.good(t, host)}})
			defer c.Close()
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
			return
		}
		server, err := net.Dial("tcp", r.Host)
		if err != nil {
			return
		}
		defer server.Close()
		go io.Copy(server, client)
		io.Copy(client, server)
	}))
}

func TestProxy(t *testing.T) {
	ca, corp := newAuthority(t, "Acme Internal CA"), newAuthority(t, "Corp Proxy CA")
	server := secure(t, ca.good(t, "127.0.0.1"), forbids)
	open := plain(t, forbids)
	gone := plain(t, forbids)
	gone.Close()
	for _, c := range []struct {
		name, url, ca, proxy string
		cause                string
	}{
		{"tunnels", server.URL, ca.file, proxy(t, 200, nil).URL, ""},
		{"passes plain HTTP on", open.URL, "", proxy(t, 200, nil).URL, ""},
		{"wants a password", server.URL, ca.file, proxy(t, 407, nil).URL, "proxy_auth"},
		{"wants a password, plain HTTP", open.URL, "", proxy(t, 407, nil).URL, "proxy_auth"},
		{"refuses", server.URL, ca.file, proxy(t, 403, nil).URL, "proxy_refuses"},
		{"cannot reach the server", server.URL, ca.file, proxy(t, 502, nil).URL, "proxy_refuses"},
		{"is not there", server.URL, ca.file, gone.URL, "proxy_unreachable"},
		{"says nothing", server.URL, ca.file, "http://" + blackHole(t), "timeout"},
		{"opens TLS", server.URL, ca.file, proxy(t, 200, corp).URL, "proxy_tls"},
		{"opens TLS and is trusted", server.URL, corp.file, proxy(t, 200, corp).URL, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Probe{Proxy: func(*http.Request) (*url.URL, error) {
				u, err := url.Parse(c.proxy)
				u.User = url.UserPassword("ana", "topsecret")
				return u, err
			}}
			if c.cause == "timeout" {
				p.Deadline = 500 * time.Millisecond
			}
			fs := p.endpoint(t.Context(), at(bucket.NewMem(), c.url, c.ca))
			if f := find(t, fs, "endpoint"); f.Cause != c.cause {
				t.Errorf("cause %q, want %q", f.Cause, c.cause)
			}
			if text := fs.Text(0); strings.Contains(text, "topsecret") || strings.Contains(text, "ana:") {
				t.Errorf("the password is shown:\n%s", text)
			}
			golden(t, fs)
		})
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		name   string
		ahead  time.Duration // this clock
		status Status
	}{
		{"right", 0, OK},
		{"half a minute", 30 * time.Second, OK},
		{"two minutes ahead", 2 * time.Minute, Warning},
		{"two minutes behind", -2 * time.Minute, Warning},
		{"twenty minutes ahead", 20 * time.Minute, Problem},
		{"twenty minutes behind", -20 * time.Minute, Problem},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := plain(t, dated(-c.ahead))
			f := find(t, (&Probe{}).endpoint(t.Context(), at(bucket.NewMem(), s.URL, "")), "clock")
			if f.Status != c.status || (f.Cause == "clock") != (c.status != OK) {
				t.Errorf("%+v, want %s", f, c.status)
			}
			side := "ahead"
			if c.ahead < 0 {
				side = "behind"
			}
			if c.ahead.Abs() > 2*time.Second && !strings.Contains(f.Message, side) {
				t.Errorf("%q does not say %q", f.Message, side)
			}
		})
	}
	t.Run("no time", func(t *testing.T) {
		s := plain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil }))
		is(t, (&Probe{}).endpoint(t.Context(), at(bucket.NewMem(), s.URL, "")), "clock", Unknown, "no_date")
	})
	t.Run("a cache's time", func(t *testing.T) {
		s := plain(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Age", "1200")
			dated(-20*time.Minute).ServeHTTP(w, r)
		}))
		is(t, (&Probe{}).endpoint(t.Context(), at(bucket.NewMem(), s.URL, "")), "clock", Unknown, "no_date")
	})
}
