package sdkauth

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/needs"
)

// bare gives the test a home, an environment and a PATH with nothing of this
// machine's in it, and returns the home.
func bare(t *testing.T) string {
	t.Helper()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"AWS_", "AZURE_", "GOOGLE_", "GCE_", "CLOUDSDK_", "OS_", "XDG_", "MSI_", "IDENTITY_"} {
			if strings.HasPrefix(name, prefix) {
				unset(t, name)
			}
		}
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("PATH", filepath.Join(home, "bin")+":/usr/bin:/bin")
	t.Setenv("NO_PROXY", "*")
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // the SDK's patience is not ours to test
	return home
}

func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "") // so that it comes back
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// store is a bucket's server, which notes who asks and has nothing.
type store struct {
	*httptest.Server
	mu   sync.Mutex
	auth string
	sess string
}

func newStore(t *testing.T) *store {
	s := &store{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.auth, s.sess = r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token")
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(s.Close)
	return s
}

// s3Key asks a bucket with the source and returns the access key and session
// token that signed.
func s3Key(t *testing.T, source s3.Source) (key, session string, err error) {
	t.Helper()
	s := newStore(t)
	b, err := s3.Open(t.Context(), "s3://bkt?endpoint="+s.URL, s3.Options{Sources: []s3.Source{source}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
	_, rest, _ := strings.Cut(s.auth, "Credential=")
	key, _, _ = strings.Cut(rest, "/")
	return key, s.sess, err
}

// gcsToken asks a bucket with the sources and returns the token that went along.
func gcsToken(t *testing.T, sources ...gcs.Source) (string, error) {
	t.Helper()
	s := newStore(t)
	b, err := gcs.Open(t.Context(), "gs://bkt?endpoint="+s.URL, gcs.Options{Sources: sources})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
	return strings.TrimPrefix(s.auth, "Bearer "), err
}

func TestGuard(t *testing.T) {
	for ip, allowed := range map[string]bool{
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "169.254.169.253": false, "fe80::1": false, "fd00:ec2::254": false,
		"fd20:ce::254": false, "168.63.129.16": false,
		"169.254.170.2": true, "169.254.170.23": true, "fd00:ec2::23": true, "127.0.0.1": true, "::1": true, "10.0.0.1": true, "192.0.2.1": true,
	} {
		if err := guardAddr(netip.MustParseAddr(ip)); (err == nil) != allowed {
			t.Errorf("%s: %v", ip, err)
		}
	}
	client, err := guarded()
	if err != nil {
		t.Fatal(err)
	}
	// The names and addresses are refused before a proxy could be asked.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	for _, url := range []string{"http://169.254.169.254/", "http://metadata.google.internal/", "http://[fd00:ec2::254]/", "http://METADATA.google.internal./"} {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), errMetadata.Error()) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

const insideName = "BOOTWELL_TEST_INSIDE_NAMESPACE"

// TestNoMetadata runs in a network of its own, with somebody at the address of
// metadata services who counts visitors.
func TestNoMetadata(t *testing.T) {
	if os.Getenv(insideName) != "" {
		inside(t)
		return
	}
	needs.Root(t)
	unshare, _ := needs.Tool(t, "unshare"), needs.Tool(t, "ip")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), unshare, "--net", "--", self, "-test.run", "^TestNoMetadata$", "-test.v")
	cmd.Env = append(os.Environ(), insideName+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestNoMetadata") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// visitors counts connections to an address.
type visitors struct {
	mu    sync.Mutex
	n     int
	paths []string
}

func receive(t *testing.T, addr, answer string) *visitors {
	t.Helper()
	v := &visitors{}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		v.paths = append(v.paths, r.URL.Path)
		v.mu.Unlock()
		w.Header().Set("Metadata-Flavor", "Google")
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	}))
	srv.Listener.Close()
	srv.Listener = counted{l, v}
	srv.Start()
	t.Cleanup(srv.Close)
	return v
}

type counted struct {
	net.Listener
	v *visitors
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.v.mu.Lock()
		c.v.n++
		c.v.mu.Unlock()
	}
	return conn, err
}

func (v *visitors) seen() (int, []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n, v.paths
}

func inside(t *testing.T) {
	for _, args := range []string{"link set lo up", "addr add 169.254.169.254/32 dev lo", "addr add 169.254.170.2/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %s", args, out)
		}
	}
	const tokens = `{"access_token":"stranger","expires_in":3600,"token_type":"Bearer","Code":"Success","AccessKeyId":"STRANGER","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`
	v := receive(t, "169.254.169.254:80", tokens)
	container := receive(t, "169.254.170.2:80", tokens)
	home := bare(t)
	unset(t, "AWS_EC2_METADATA_DISABLED")
	unset(t, "NO_GCE_CHECK")
	t.Setenv("AWS_CONFIG_FILE", write(t, home+"/.aws/config", `[profile instance]
role_arn = arn:aws:iam::1:role/r
credential_source = Ec2InstanceMetadata
`))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", home+"/none")
	fed := write(t, home+"/aws.json", `{"type":"external_account","audience":"//iam.googleapis.com/x","subject_token_type":"urn:ietf:params:aws:token-type:aws4_request",
		"token_url":"https://sts.googleapis.com/v1/token","credential_source":{"environment_id":"aws1","region_url":"http://169.254.169.254/latest/meta-data/placement/availability-zone",
		"url":"http://169.254.169.254/latest/meta-data/iam/security-credentials","regional_cred_verification_url":"https://sts.{region}.amazonaws.com"}}`)
	url := write(t, home+"/url.json", `{"type":"external_account","audience":"//iam.googleapis.com/x","subject_token_type":"urn:ietf:params:oauth:token-type:jwt",
		"token_url":"https://sts.googleapis.com/v1/token","credential_source":{"url":"http://169.254.169.254/metadata/identity/oauth2/token","headers":{"Metadata":"True"}}}`)
	for _, env := range []string{
		"", "AWS_PROFILE=instance", "AWS_DEFAULTS_MODE=auto", "GOOGLE_APPLICATION_CREDENTIALS=" + fed, "GOOGLE_APPLICATION_CREDENTIALS=" + url,
		"AZURE_TOKEN_CREDENTIALS=prod", "IDENTITY_ENDPOINT=http://169.254.169.254/metadata", "GCE_METADATA_HOST=169.254.169.254",
		"AZURE_TENANT_ID=t AZURE_CLIENT_ID=c AZURE_CLIENT_SECRET=s",
	} {
		t.Run(env, func(t *testing.T) {
			for _, v := range strings.Fields(env) {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			if key, _, err := s3Key(t, AWS()); err == nil || key != "" {
				t.Errorf("AWS: %q, %v", key, err)
			}
			if token, err := gcsToken(t, googleLogin()...); err == nil || token != "" {
				t.Errorf("Google: %q, %v", token, err)
			}
			want := bucket.ErrPermission
			if strings.Contains(env, "SECRET") {
				want = bucket.ErrUnavailable // there is no way to the service that would know
			}
			if token, err := azToken(t, azureLogin()); !errors.Is(err, want) || token != "" {
				t.Errorf("Azure: %q, %v, want %v", token, err, want)
			}
		})
	}
	if n, paths := v.seen(); n != 0 {
		t.Errorf("%d visitors at the address of metadata services: %q", n, paths)
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/creds")
	if key, session, err := s3Key(t, AWS()); key != "STRANGER" || session != "t" {
		t.Errorf("the container's own role: %q, %v", key, err)
	}
	if n, _ := container.seen(); n != 1 {
		t.Errorf("%d visitors at the container's address", n)
	}
	// The count is one that counts.
	if resp, err := http.Get("http://169.254.169.254/"); err == nil {
		resp.Body.Close()
	}
	if n, _ := v.seen(); n != 1 {
		t.Errorf("a visitor was counted as %d", n)
	}
}

// azToken asks a container with the source and returns the token that went
// along. A token goes over TLS only.
func azToken(t *testing.T, source azblob.Source) (string, error) {
	t.Helper()
	s := &store{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.auth = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(srv.Close)
	url := fmt.Sprintf("az://acct/bkt?endpoint=%s", srv.URL+"/acct")
	b, err := azblob.Open(t.Context(), url, azblob.Options{Sources: []azblob.Source{source}, Transport: srv.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
	return strings.TrimPrefix(s.auth, "Bearer "), err
}
