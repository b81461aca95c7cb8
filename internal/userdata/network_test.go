package userdata

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// secureSite is a web server with a certificate of its own, for 127.0.0.1 and
// example.com.
func secureSite(t testing.TB, object []byte) (url, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(object) }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
}

// tunnel is a proxy for HTTPS. It connects to where it is told, whatever it is
// asked for.
func tunnel(t testing.TB, to string) *site {
	return newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		inner, err := net.Dial("tcp", strings.TrimPrefix(to, "https://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer inner.Close()
		w.WriteHeader(http.StatusOK)
		outer, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer outer.Close()
		go func() { _, _ = io.Copy(inner, outer) }()
		_, _ = io.Copy(outer, inner)
	})
}

// TestBootstrap_TLS trusts the system's authorities, those of the environment
// and those of ca=, and no others, also through a proxy.
func TestBootstrap_TLS(t *testing.T) {
	object := compress(t, testAgent)
	url, ca := secureSite(t, object)
	otherURL, other := secureSite(t, object)
	named := strings.Replace(url, "127.0.0.1", "example.com", 1) // the name in the certificate
	tests := map[string]struct {
		bucket string
		env    []string
		want   []string // nil: the agent is started
	}{
		"ca":            {bucket: url + "/b?ca=/etc/ssl/acme.pem"},
		"environment":   {bucket: url, env: []string{"SSL_CERT_FILE=/etc/ssl/acme.pem"}},
		"both":          {bucket: otherURL + "?ca=/etc/ssl/other.pem", env: []string{"SSL_CERT_FILE=/etc/ssl/acme.pem"}},
		"beside":        {bucket: url + "?ca=/etc/ssl/other.pem", env: []string{"SSL_CERT_FILE=/etc/ssl/acme.pem"}},
		"proxy":         {bucket: named + "/b?ca=/etc/ssl/acme.pem", env: []string{"HTTPS_PROXY=" + tunnel(t, url).URL}},
		"proxy, not it": {bucket: url + "?ca=/etc/ssl/acme.pem", env: []string{"https_proxy=http://127.0.0.1:9", "NO_PROXY=127.0.0.1"}},
		"unknown":       {bucket: url, want: []string{"FAILED: <urlopen error [SSL: CERTIFICATE_VERIFY_FAILED]"}},
		"another":       {bucket: url + "?ca=/etc/ssl/other.pem", want: []string{"CERTIFICATE_VERIFY_FAILED"}},
		"no proxy":      {bucket: named + "?ca=/etc/ssl/acme.pem", env: []string{"https_proxy=http://127.0.0.1:9"}, want: []string{"FAILED: <urlopen error", "check network"}},
		"not PEM":       {bucket: url + "?ca=/etc/passwd", want: []string{"FAILED: "}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("/etc/ssl/acme.pem", ca)
			m.write("/etc/ssl/other.pem", other)
			m.env = test.env
			c := configFor(test.bucket, object)
			out, code := m.run(generate(t, c))
			if test.want == nil {
				checkStarted(t, m, c, agentPath, out, code)
			} else {
				checkRefused(t, m, out, code, test.want...)
			}
		})
	}
}

// TestBootstrap_ProxyClouds has a proxy between a VM and its bucket. No request
// for the metadata service may come to it. Azure's bucket is on http only where
// it is on the VM itself.
func TestBootstrap_ProxyClouds(t *testing.T) {
	object := compress(t, testAgent)
	azure, google, openstack := metadata.NewAzure(metadata.Machine{}), metadata.NewGCE(metadata.Machine{}), metadata.NewOpenStack(metadata.Machine{})
	azure.SetIdentities(bearer(map[string]string{"": "token"}), metadata.Identity{System: true})
	google.SetIdentities(bearer(map[string]string{"vm": "token"}), metadata.Identity{Email: "vm"})
	openstack.SetVendorData(nil, []byte(`{"bootwell":{"swift_temp_url_key":"key"}}`))
	for name, test := range map[string]struct {
		bucket, env string
		service     *metadata.Service
	}{
		"az":    {"az://acme/fleet?endpoint=http://127.0.0.1:81", "AZURE_POD_IDENTITY_AUTHORITY_HOST=", azure},
		"gs":    {"gs://acme/fleet?endpoint=http://store.example.net:81", "GCE_METADATA_HOST=", google},
		"swift": {"swift://acme/fleet?storage=http://store.example.net:81/v1/AUTH_a", "OPENSTACK_METADATA_URL=", openstack},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Host, ":81") || r.Header.Get("Authorization") != "Bearer token" && !r.URL.Query().Has("temp_url_sig") {
					t.Errorf("proxy was asked for %s", r.URL)
				}
				_, _ = w.Write(object)
			})
			imds := metadataOf(t, test.service).URL
			if name == "gs" {
				imds = strings.TrimPrefix(imds, "http://")
			}
			m := newMachine(t)
			m.env = []string{test.env + imds, "http_proxy=" + proxy.URL}
			c := configFor(test.bucket, object)
			out, code := m.run(generate(t, c))
			checkStarted(t, m, c, agentPath, out, code)
			if proxy.count() != 1 || len(test.service.Requests()) == 0 {
				t.Errorf("%d requests to the proxy, %d to the metadata service", proxy.count(), len(test.service.Requests()))
			}
		})
	}
}

// TestGenerate_Agent has the agent read what it is given.
func TestGenerate_Agent(t *testing.T) {
	for scheme, bucket := range stockBuckets {
		c := example(FormatScript)
		c.Bucket, c.Mirrors = bucket, []string{"https://cdn.example.net/a", stockBuckets["az"] + "2?ca=/etc/ssl/acme.pem&client_id=" + userIdentity}
		text := string(generate(t, c))
		m := agentYAML.FindStringSubmatch(text)
		if m == nil {
			t.Fatal("no settings in the text")
		}
		got, err := agent.ParseConfig("agent.yaml", []byte(m[1]))
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		if got.Bucket != c.Bucket || strings.Join(got.Mirrors, " ") != strings.Join(c.Mirrors, " ") || got.Project != c.Project || got.Role != c.Role || got.Root != c.Root {
			t.Errorf("%s: the agent reads %+v", scheme, got)
		}
	}
}
