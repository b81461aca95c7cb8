package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/needs"
)

const maxPageCommands = 10 // until the VM is on its way

// A cloudPage is a page of docs/clouds with a server to try its commands on.
type cloudPage struct {
	bucket string                                // URL in the page
	start  func(t *testing.T) (string, []string) // a server: the same bucket's URL there, and an operator's environment
	tools  []string                              // of the cloud, that work against that server
}

var cloudPages = map[string]cloudPage{
	"aws.md": {"s3://acme-provision/prod?region=eu-west-1", startS3, nil},
	"own.md": {"s3://acme-provision/prod?endpoint=https://s3.acme.example&region=us-east-1", startS3, nil},
	"azure.md": {"az://acmestore/acme/prod", func(t *testing.T) (string, []string) {
		srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
		return srv.URL("acme", "prod"), []string{"AZURE_STORAGE_KEY=" + buckettest.AzureKey}
	}, nil},
	"gcp.md": {"gs://acme-provision/prod?project=acme", func(t *testing.T) (string, []string) {
		srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
		return srv.URL("acme-provision", "prod") + "&project=acme", []string{"GOOGLE_APPLICATION_CREDENTIALS=" + srv.ServiceAccount()}
	}, nil},
	"openstack.md": {"swift://acme-provision/prod?auth=https://keystone.acme.example/v3", func(t *testing.T) (string, []string) {
		srv := buckettest.StartSwift(t, buckettest.SwiftConfig{})
		needs.Tool(t, "openstack")
		return srv.URL("acme-provision", "prod"), []string{
			"OS_AUTH_URL=" + srv.AuthURL(), "OS_USERNAME=" + buckettest.SwiftUser, "OS_PASSWORD=" + buckettest.SwiftPassword, "OS_PROJECT_NAME=" + buckettest.SwiftProject,
			"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_REGION_NAME=" + buckettest.SwiftRegion, "OS_IDENTITY_API_VERSION=3",
		}
	}, []string{"openstack application credential "}},
}

func startS3(t *testing.T) (string, []string) {
	srv := buckettest.StartVersityGW(t, buckettest.ServerConfig{Versioning: true})
	return srv.URL("acme-provision", "prod"), []string{"AWS_ACCESS_KEY_ID=" + buckettest.RootKey, "AWS_SECRET_ACCESS_KEY=" + buckettest.RootSecret}
}

// TestCloudPages runs the commands of docs/clouds in their order: all of
// bootwell's, and those of the cloud's tools that work against the server.
// What makes roles and VMs in a cloud has no server here.
func TestCloudPages(t *testing.T) {
	folder := filepath.Join("..", "..", "docs", "clouds")
	pages, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil || len(pages) != len(cloudPages) {
		t.Fatalf("pages %q, %v, want %d", pages, err, len(cloudPages))
	}
	for _, path := range pages {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, ok := cloudPages[name]
			if !ok {
				t.Fatal("a page that no server is known for")
			}
			commands := pageCommands(t, path)
			i := slices.Index(commands, "bootwell status")
			if i < 0 || i > maxPageCommands+1 { // export is none
				t.Errorf("%d commands before status, want at most %d", i, maxPageCommands)
			}
			url, env := page.start(t)
			run := pageRunner(t, env)
			for _, c := range commands {
				here := strings.Replace(c, page.bucket, url, 1)
				ours := strings.HasPrefix(c, "bootwell ") || slices.ContainsFunc(page.tools, func(p string) bool { return strings.HasPrefix(c, p) })
				if !ours {
					continue
				}
				if strings.HasPrefix(c, "bootwell init") && here == c {
					t.Fatalf("%s does not name %s", c, page.bucket)
				}
				out := run(here)
				if strings.HasPrefix(c, "bootwell init") && !strings.Contains(out, "private") {
					t.Errorf("%s: %s", c, out)
				}
				if c == "bootwell status" && !strings.Contains(out, "r1") {
					t.Errorf("status: %s", out)
				}
			}
		})
	}
}

// pageCommands returns the lines of the page's blocks of shell.
func pageCommands(t *testing.T, path string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "```sh":
			inside = true
		case line == "```":
			inside = false
		case inside && line != "":
			commands = append(commands, line)
		}
	}
	return commands
}

// pageRunner returns a function that runs a line of shell in one empty folder
// and returns what it printed.
func pageRunner(t *testing.T, env []string) func(string) string {
	t.Helper()
	dir, home := t.TempDir(), t.TempDir()
	return func(line string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-c", line)
		c.Dir = dir
		c.Env = append([]string{"PATH=" + binDir + ":" + os.Getenv("PATH"), "HOME=" + home, "BOOTWELL_PASSPHRASE=correct horse battery", "AWS_EC2_METADATA_DISABLED=true", "LANG=C.UTF-8"}, env...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return string(out)
	}
}
