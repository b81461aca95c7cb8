package userdata

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

// TestBootstrap_VersityGW gets the agent from a real, private bucket with the
// rights of a VM and no more.
func TestBootstrap_VersityGW(t *testing.T) {
	object := compress(t, testAgent)
	server := buckettest.VersityGW(t)
	server.CreateBucket("acme")
	server.CreateUser("VM1KEY", "vm1secret/+")
	server.PutBucketPolicy("acme", buckettest.VMPolicy("acme", "prod", "VM1KEY"))
	agents := filepath.Join(server.DataDir(), "acme", "prod", "agents")
	if err := os.MkdirAll(agents, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(agents, digestHex(object)), object, 0o644); err != nil {
		t.Fatal(err)
	}
	url := server.Endpoint()
	tests := map[string]struct {
		bucket, secret string
		want           string // "": the agent is started
	}{
		"signed":       {"s3://acme/prod?endpoint=" + url, "vm1secret/+", ""},
		"wrong secret": {"s3://acme/prod?endpoint=" + url, "OTHER", "FAILED: HTTP Error 403: Forbidden - SignatureDoesNotMatch"},
		"wrong region": {"s3://acme/prod?region=eu-west-2&endpoint=" + url, "vm1secret/+", "FAILED: HTTP Error 400: Bad Request - AuthorizationHeaderMalformed"},
		"wrong folder": {"s3://acme/other?endpoint=" + url, "vm1secret/+", "FAILED: HTTP Error 403: Forbidden - AccessDenied"},
		"wrong bucket": {"s3://acme2/prod?endpoint=" + url, "vm1secret/+", "FAILED: HTTP Error 404: Not Found - NoSuchBucket"},
		"not signed":   {url + "/acme/prod", "vm1secret/+", "FAILED: HTTP Error 403: Forbidden - AccessDenied"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("/etc/bootwell/credentials", "[default]\naws_access_key_id = VM1KEY\naws_secret_access_key = "+test.secret+"\n")
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
