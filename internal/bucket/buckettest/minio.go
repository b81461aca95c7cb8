package buckettest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/bootwell/bootwell/internal/await"
	"github.com/bootwell/bootwell/internal/needs"
)

// A MinIO is a real S3 server that gives temporary keys with session tokens. It
// ends with the test.
type MinIO struct {
	Addr string // host:port

	cfg    ServerConfig
	binary string
	secret string // of the root user, whose key is RootKey
	t      testing.TB
	stop   func()
}

// StartMinIO starts a server as cfg says, or skips the test where there is no
// minio. Versioning is always there.
func StartMinIO(t testing.TB, cfg ServerConfig) *MinIO {
	t.Helper()
	m := &MinIO{t: t, cfg: cfg, binary: os.Getenv("BOOTWELL_MINIO"), secret: RootSecret}
	if m.binary == "" {
		var err error
		if m.binary, err = exec.LookPath("minio"); err != nil {
			needs.Skip(t, "minio", "it is installed by contrib/ci/test")
		}
	}
	if m.cfg.Dir == "" {
		m.cfg.Dir = t.TempDir()
	}
	if m.cfg.Client == nil {
		m.cfg.Client = &http.Client{Transport: &http.Transport{}}
	}
	m.Addr = cfg.Listen
	if m.Addr == "" {
		m.Addr = freeAddress(t)
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *MinIO) start() error {
	log := filepath.Join(m.cfg.Dir, "minio.log")
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(m.binary, "server", "--quiet", "--address", m.Addr, filepath.Join(m.cfg.Dir, "data"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.cfg.Dir, "MINIO_ROOT_USER=" + RootKey, "MINIO_ROOT_PASSWORD=" + m.secret,
		"MINIO_UPDATE=off", "MINIO_BROWSER=off", "MINIO_CALLHOME_ENABLE=off"}
	cmd.Stdout, cmd.Stderr = out, out
	if m.cfg.Hook != nil {
		m.cfg.Hook(cmd)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start minio: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	m.stop = func() {
		m.cfg.Client.CloseIdleConnections()
		cmd.Process.Kill()
		<-ended
	}
	// What temporary keys need is the last to be there.
	ready := func(context.Context) error {
		_, err := m.assumeRole("")
		return err
	}
	if err := await.Server(context.Background(), "minio", ended, ready); err != nil {
		m.stop()
		text, _ := os.ReadFile(log)
		return fmt.Errorf("%w; it said:\n%s", err, text)
	}
	return nil
}

// Restart starts the server again with another secret of the root user. The
// temporary keys given before mean nothing to it.
func (m *MinIO) Restart(secret string) {
	m.t.Helper()
	m.stop()
	m.secret = secret
	if err := m.start(); err != nil {
		m.t.Fatal(err)
	}
}

// Endpoint returns the server's own URL.
func (m *MinIO) Endpoint() string { return "http://" + m.Addr }

// URL returns the s3: URL of a prefix in a bucket on this server.
func (m *MinIO) URL(bucket, prefix string) string {
	u := "s3://" + bucket
	if prefix != "" {
		u += "/" + prefix
	}
	return u + "?endpoint=" + url.QueryEscape(m.Endpoint()) + "&region=us-east-1"
}

// CreateBucket makes a private bucket.
func (m *MinIO) CreateBucket(name string) {
	m.t.Helper()
	admin, err := minio.New(m.Addr, &minio.Options{
		Creds: credentials.NewStaticV4(RootKey, m.secret, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath, Transport: m.cfg.Client.Transport,
	})
	if err == nil {
		err = admin.MakeBucket(m.t.Context(), name, minio.MakeBucketOptions{})
	}
	if err != nil {
		m.t.Fatalf("create bucket %s: %v", name, err)
	}
}

// AssumeRole returns keys for 15 minutes, the least that MinIO gives, which may
// do what the policy says; "": everything. Any goroutine may call it.
func (m *MinIO) AssumeRole(policy string) (accessKey, secretKey, token string) {
	v, err := m.assumeRole(policy)
	if err != nil {
		m.t.Errorf("assume role: %v", err)
	}
	return v.AccessKeyID, v.SecretAccessKey, v.SessionToken
}

func (m *MinIO) assumeRole(policy string) (credentials.Value, error) {
	creds, err := credentials.NewSTSAssumeRole(m.Endpoint(), credentials.STSAssumeRoleOptions{
		AccessKey: RootKey, SecretKey: m.secret, Policy: policy, Location: "us-east-1", DurationSeconds: 900, RoleSessionName: "vm",
	})
	if err != nil {
		return credentials.Value{}, err
	}
	return creds.GetWithContext(&credentials.CredContext{Client: m.cfg.Client})
}
