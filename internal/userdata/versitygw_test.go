package userdata

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
)

// newVersityGW starts a real S3 server that serves the folders below dir as
// buckets and returns its address. Its root user is KEYID with SECRET.
func newVersityGW(t testing.TB, dir string) string {
	t.Helper()
	tool := needs.Tool(t, "versitygw")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, tool, "-q", "--health", "/healthz", "-p", addr, "-a", "KEYID", "-s", "SECRET", "--region", "eu-west-1", "posix", dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = c.Wait() })
	for range 200 {
		r, err := http.Get("http://" + addr + "/healthz")
		if err == nil {
			r.Body.Close()
			return "http://" + addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("versitygw does not answer")
	return ""
}

func TestBootstrap_VersityGW(t *testing.T) {
	object := compress(t, testAgent)
	dir := t.TempDir()
	agents := filepath.Join(dir, "acme", "prod +a", "agents")
	if err := os.MkdirAll(agents, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(agents, digestHex(object)), object, 0o644); err != nil {
		t.Fatal(err)
	}
	url := newVersityGW(t, dir)
	tests := map[string]struct {
		bucket, secret string
		want           string // "": the agent is started
	}{
		"signed":       {"s3://acme/prod%20+a?region=eu-west-1&endpoint=" + url, "SECRET", ""},
		"wrong secret": {"s3://acme/prod%20+a?region=eu-west-1&endpoint=" + url, "OTHER", "FAILED: HTTP Error 403: Forbidden - SignatureDoesNotMatch"},
		"wrong region": {"s3://acme/prod%20+a?region=eu-west-2&endpoint=" + url, "SECRET", "FAILED: HTTP Error 400: Bad Request - AuthorizationHeaderMalformed"},
		"wrong folder": {"s3://acme/other?region=eu-west-1&endpoint=" + url, "SECRET", "FAILED: HTTP Error 404: Not Found - NoSuchKey"},
		"wrong bucket": {"s3://acme2/prod?region=eu-west-1&endpoint=" + url, "SECRET", "FAILED: HTTP Error 404: Not Found - NoSuchBucket"},
		"not signed":   {url + "/acme/prod%20+a", "SECRET", "FAILED: HTTP Error 403: Forbidden - AccessDenied"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("/etc/bootwell/credentials", "[default]\naws_access_key_id = KEYID\naws_secret_access_key = "+test.secret+"\n")
			c := configFor(test.bucket, object)
			out, code := m.run(generate(t, c))
			if test.want == "" {
				checkStarted(t, m, c, agentPath, out, code)
				return
			}
			checkRefused(t, m, out, code, test.want)
			if strings.Contains(out, test.secret) {
				t.Error("the secret was printed")
			}
		})
	}
}
