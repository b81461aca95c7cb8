package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/bootwell/bootwell/internal/await"
	"github.com/bootwell/bootwell/internal/needs"
)

// Keys of a Server's root user.
const (
	RootKey    = "root"
	RootSecret = "rootsecret"
)

// ServerConfig says how to start a Server. The zero value is one on a free port
// of the loopback address, with its data in a temporary folder.
type ServerConfig struct {
	Listen     string          // host:port; "": 127.0.0.1 and a free port
	Dir        string          // data and users; "": a temporary folder
	Versioning bool            // allow buckets with versions
	Hook       func(*exec.Cmd) // changes each command before it starts, for example to enter a network namespace; may be nil
	Client     *http.Client    // reaches Listen; nil: a plain one

	iam string // socket of an IAM service; "": users in a file of the server's
}

// A Server is a real S3 server, versitygw: it enforces signatures and bucket
// policies. It ends with the test.
type Server struct {
	Addr string // host:port

	cfg    ServerConfig
	binary string
	log    string
	t      testing.TB
	admin  *minio.Client
}

// VersityGW starts a server, or skips the test where there is no versitygw.
func VersityGW(t testing.TB) *Server {
	t.Helper()
	return StartVersityGW(t, ServerConfig{})
}

// StartVersityGW starts a server as cfg says.
func StartVersityGW(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	s := &Server{t: t, cfg: cfg, binary: versityBinary(t)}
	if s.cfg.Dir == "" {
		s.cfg.Dir = t.TempDir()
	}
	if s.cfg.Client == nil {
		s.cfg.Client = &http.Client{Transport: &http.Transport{}}
	}
	for _, dir := range []string{"data", "iam", "versions"} {
		if err := os.MkdirAll(filepath.Join(s.cfg.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A port found free can be taken before the server has it.
	var err error
	for range 3 {
		s.Addr = cfg.Listen
		if s.Addr == "" {
			s.Addr = freeAddress(t)
		}
		if err = s.start(); err == nil || cfg.Listen != "" {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s.admin, err = minio.New(s.Addr, &minio.Options{
		Creds:  credentials.NewStaticV4(RootKey, RootSecret, ""),
		Region: "us-east-1", BucketLookup: minio.BucketLookupPath, Transport: s.cfg.Client.Transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func versityBinary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("BOOTWELL_VERSITYGW"); p != "" {
		return p
	}
	if p, err := exec.LookPath("versitygw"); err == nil {
		return p
	}
	home, _ := os.UserHomeDir()
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(home, "go", "bin")} {
		if p := filepath.Join(dir, "versitygw"); filepath.IsAbs(p) && isExecutable(p) {
			return p
		}
	}
	needs.Skip(t, "versitygw", "it is installed by: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	return ""
}

func isExecutable(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func freeAddress(t testing.TB) string { t.Helper(); return freeAddressOn(t, "127.0.0.1") }

func freeAddressOn(t testing.TB, host string) string {
	t.Helper()
	addr, err := await.Address(host)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (s *Server) start() error {
	s.log = filepath.Join(s.cfg.Dir, "versitygw.log")
	out, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{"--quiet", "--keep-alive", "--health", "/healthz", "--port", s.Addr, "--access", RootKey, "--secret", RootSecret, "--iam-cache-disable"}
	if s.cfg.iam != "" {
		args = append(args, "--iam-standalone-endpoint", s.cfg.iam, "posix")
	} else {
		args = append(args, "--iam-dir", filepath.Join(s.cfg.Dir, "iam"), "posix")
	}
	if s.cfg.Versioning {
		args = append(args, "--versioning-dir", filepath.Join(s.cfg.Dir, "versions"))
	}
	cmd := s.command(append(args, filepath.Join(s.cfg.Dir, "data"))...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start versitygw: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := await.Server(context.Background(), "versitygw", ended, await.Answer(s.cfg.Client, s.Endpoint()+"/healthz", http.StatusOK)); err != nil {
		cmd.Process.Kill()
		text, _ := os.ReadFile(s.log)
		return fmt.Errorf("%w; it said:\n%s", err, text)
	}
	s.t.Cleanup(func() {
		s.cfg.Client.CloseIdleConnections()
		cmd.Process.Kill()
		<-ended
	})
	return nil
}

// command has no variables of the caller's: a test's AWS_… are its own matter.
func (s *Server) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true"}
	if s.cfg.Hook != nil {
		s.cfg.Hook(cmd)
	}
	return cmd
}

// URL returns the s3: URL of a prefix in a bucket on this server.
func (s *Server) URL(bucket, prefix string) string {
	u := "s3://" + bucket
	if prefix != "" {
		u += "/" + prefix
	}
	return u + "?endpoint=" + url.QueryEscape("http://"+s.Addr) + "&region=us-east-1"
}

// Endpoint returns the server's own URL.
func (s *Server) Endpoint() string { return "http://" + s.Addr }

// DataDir returns the folder with one folder for each bucket.
func (s *Server) DataDir() string { return filepath.Join(s.cfg.Dir, "data") }

// CreateBucket makes a private bucket.
func (s *Server) CreateBucket(name string) {
	s.t.Helper()
	if err := s.admin.MakeBucket(s.context(), name, minio.MakeBucketOptions{}); err != nil {
		s.t.Fatalf("create bucket %s: %v", name, err)
	}
}

// CreateUser makes a user without any right; its access key is its name.
func (s *Server) CreateUser(name, secret string) {
	s.t.Helper()
	cmd := s.command("admin", "--access", RootKey, "--secret", RootSecret, "--endpoint-url", "http://"+s.Addr,
		"create-user", "--access", name, "--secret", secret, "--role", "user")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("create user %s: %v: %s", name, err, strings.TrimSpace(out.String()))
	}
}

// PutBucketPolicy sets the policy document of a bucket.
func (s *Server) PutBucketPolicy(bucket, policy string) {
	s.t.Helper()
	if err := s.admin.SetBucketPolicy(s.context(), bucket, policy); err != nil {
		s.t.Fatalf("set policy of %s: %v", bucket, err)
	}
}

// context outlives the test body, for use in its cleanup.
func (s *Server) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}
