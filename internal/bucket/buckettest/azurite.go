package buckettest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/bootwell/bootwell/internal/await"
	"github.com/bootwell/bootwell/internal/needs"
)

// The one storage account of an Azurite, and its key.
const (
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// AzuriteConfig says how to start an Azurite. The zero value is one over plain
// HTTP on a free port of the loopback address, with its data in a temporary
// folder.
type AzuriteConfig struct {
	Listen string          // host:port; "": 127.0.0.1 and a free port
	Dir    string          // data; "": a temporary folder
	OAuth  bool            // over HTTPS, where bearer tokens count too (see [AzureToken])
	Hook   func(*exec.Cmd) // changes the command before it starts, for example to enter a network namespace; may be nil
	Client *http.Client    // reaches Listen, with an *http.Transport; nil: a plain one
}

// An Azurite is Microsoft's emulator of Azure Blob Storage: it enforces
// signatures, SAS tokens and, as far as audience and time go, bearer tokens. It
// ends with the test.
type Azurite struct {
	Addr string // host:port
	CA   string // file of the certificate of an HTTPS server, else ""

	cfg       AzuriteConfig
	binary    string
	transport *http.Transport
	key       *container.SharedKeyCredential
	t         testing.TB
}

// StartAzurite starts a server as cfg says, in some four seconds, or skips the
// test where there is no azurite-blob.
func StartAzurite(t testing.TB, cfg AzuriteConfig) *Azurite {
	t.Helper()
	a := &Azurite{t: t, cfg: cfg, binary: azuriteBinary(t)}
	if a.cfg.Dir == "" {
		a.cfg.Dir = t.TempDir()
	}
	a.transport = &http.Transport{}
	if cfg.Client != nil && cfg.Client.Transport != nil {
		reach, ok := cfg.Client.Transport.(*http.Transport)
		if !ok {
			t.Fatal("the client of an Azurite needs an *http.Transport")
		}
		a.transport = reach.Clone()
	}
	var err error
	if a.key, err = container.NewSharedKeyCredential(AzureAccount, AzureKey); err != nil {
		t.Fatal(err)
	}
	// A port found free can be taken before the server has it.
	for range 3 {
		a.Addr = cfg.Listen
		if a.Addr == "" {
			a.Addr = freeAddress(t)
		}
		if err = a.start(); err == nil || cfg.Listen != "" {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func azuriteBinary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("BOOTWELL_AZURITE"); p != "" {
		return p
	}
	if p, err := exec.LookPath("azurite-blob"); err == nil {
		return p
	}
	needs.Skip(t, "azurite", "it is installed by: npm install -g azurite@3.35.0")
	return ""
}

func (a *Azurite) start() error {
	host, port, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return err
	}
	// The client library is younger than the versions that this server knows.
	args := []string{"--silent", "--disableTelemetry", "--skipApiVersionCheck", "--loose",
		"--blobHost", host, "--blobPort", port, "--location", filepath.Join(a.cfg.Dir, "data")}
	if a.cfg.OAuth {
		a.CA = filepath.Join(a.cfg.Dir, "cert.pem")
		keyFile := filepath.Join(a.cfg.Dir, "key.pem")
		pool, err := selfSigned(host, a.CA, keyFile)
		if err != nil {
			return err
		}
		a.transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		args = append(args, "--oauth", "basic", "--cert", a.CA, "--key", keyFile)
	}
	log, err := os.Create(filepath.Join(a.cfg.Dir, "azurite.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(a.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + a.cfg.Dir}
	cmd.Stdout, cmd.Stderr = log, log
	if a.cfg.Hook != nil {
		a.cfg.Hook(cmd)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start azurite: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := await.Server(context.Background(), "azurite", ended, await.Answer(&http.Client{Transport: a.transport}, a.Endpoint(), 0)); err != nil {
		cmd.Process.Kill()
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w; it said:\n%s", err, text)
	}
	a.t.Cleanup(func() {
		a.transport.CloseIdleConnections()
		cmd.Process.Kill()
		<-ended
	})
	return nil
}

// selfSigned writes a certificate of host that is its own authority.
func selfSigned(host, certFile, keyFile string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = append(template.DNSNames, host)
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	if err := os.WriteFile(certFile, text, 0o644); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// Endpoint returns the base URL of the account.
func (a *Azurite) Endpoint() string {
	scheme := "http://"
	if a.cfg.OAuth {
		scheme = "https://"
	}
	return scheme + a.Addr + "/" + AzureAccount
}

// URL returns the az: URL of a prefix in a container on this server.
func (a *Azurite) URL(name, prefix string) string {
	u := "az://" + AzureAccount + "/" + name
	if prefix != "" {
		u += "/" + prefix
	}
	u += "?endpoint=" + url.QueryEscape(a.Endpoint())
	if a.CA != "" {
		u += "&ca=" + url.QueryEscape(a.CA)
	}
	return u
}

// Transport returns what reaches the server and trusts its certificate.
func (a *Azurite) Transport() *http.Transport { return a.transport.Clone() }

// CreateContainer makes a container that only those with credentials can read,
// or that anybody can ("blob": read, "container": list too).
func (a *Azurite) CreateContainer(name, public string) {
	a.t.Helper()
	c, err := container.NewClientWithSharedKeyCredential(a.Endpoint()+"/"+name, a.key, &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: a.transport}},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	o := &container.CreateOptions{}
	if access := container.PublicAccessType(public); access != "" {
		o.Access = &access
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := c.Create(ctx, o); err != nil {
		a.t.Fatalf("create container %s: %v", name, err)
	}
}

// SAS returns a token for one container with these rights, such as "rl" (r:
// read, a: add, c: create, w: write, d: delete, l: list).
func (a *Azurite) SAS(name, rights string, ends time.Time) string {
	a.t.Helper()
	q, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, StartTime: ends.Add(-24 * time.Hour).UTC(), ExpiryTime: ends.UTC(),
		Permissions: rights, ContainerName: name,
	}.SignWithSharedKey(a.key)
	if err != nil {
		a.t.Fatalf("sign a SAS token: %v", err)
	}
	return q.Encode()
}

// AzureToken returns a bearer token as an Azurite with OAuth takes them: for
// this audience, https://storage.azure.com, and without a signature that counts.
func AzureToken(audience string, ends time.Time) string {
	part := func(v map[string]any) string {
		text, err := json.Marshal(v)
		if err != nil {
			return "" // a map of strings and numbers always marshals
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	const tenant = "ab1f708d-50f6-404c-a006-d71b2ac7a606"
	begins := ends.Add(-48 * time.Hour).Unix()
	return strings.Join([]string{
		part(map[string]any{"alg": "RS256", "typ": "JWT"}),
		part(map[string]any{
			"aud": audience, "iss": "https://sts.windows.net/" + tenant + "/", "tid": tenant, "oid": "00000000-0000-0000-0000-000000000001",
			"iat": begins, "nbf": begins, "exp": ends.Unix(), "ver": "1.0",
		}),
		base64.RawURLEncoding.EncodeToString([]byte("no signature")),
	}, ".")
}
