package cli_test

import (
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/project"
)

// TestBucketOptions holds the options that the project file lets through equal
// to those that the buckets know.
func TestBucketOptions(t *testing.T) {
	names := []string{
		"anonymous", "auth", "ca", "client_id", "dualstack", "endpoint", "interface", "location", "path_style", "project", "region", "storage", "nonsense",
	}
	for base, parse := range map[string]func(string) error{
		"s3://bucket/prefix":            func(u string) error { _, err := s3.Parse(u); return err },
		"az://account/container/prefix": func(u string) error { _, err := azblob.Parse(u); return err },
		"gs://bucket/prefix":            func(u string) error { _, err := gcs.Parse(u); return err },
		"swift://container/prefix":      func(u string) error { _, err := swift.Parse(u); return err },
		"https://host.example.org/path": func(u string) error { _, _, err := web.Parse(u); return err },
		"http://host.example.org/path":  func(u string) error { _, _, err := web.Parse(u); return err },
	} {
		for _, name := range names {
			url := base + "?" + name + "=x"
			_, diags := project.Parse(project.FileName, []byte("version: 1\nproject: acme\nbucket: "+url+"\nroles: { web: { steps: [], checks: [{ port: 80 }] } }\n"), nil)
			err := parse(url)
			known := err == nil || !strings.Contains(err.Error(), "is not known")
			if accepted := diags.Errors() == 0; accepted != known {
				t.Errorf("%s: the project file takes it: %v (%v), the bucket: %v", url, accepted, diags, err)
			}
		}
	}
}
