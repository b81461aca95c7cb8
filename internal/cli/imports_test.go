package cli_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bootwell/bootwell/"

// arrows is the table of docs/architecture.md: what each package may import of
// ours. A package that is missing here fails the test, so that a new one is
// thought about.
var arrows = map[string][]string{
	"internal/release":           {},
	"internal/needs":             {},
	"internal/await":             {},
	"internal/bucket":            {},
	"internal/bucket/azblob":     {"internal/bucket", "internal/bucket/wire"},
	"internal/bucket/file":       {"internal/bucket"},
	"internal/bucket/gcs":        {"internal/bucket", "internal/bucket/wire"},
	"internal/bucket/swift":      {"internal/bucket", "internal/bucket/wire"},
	"internal/bucket/wire":       {"internal/bucket"},
	"internal/bucket/s3":         {"internal/bucket", "internal/bucket/wire"},
	"internal/bucket/web":        {"internal/bucket", "internal/bucket/wire"},
	"internal/bucket/sdkauth":    {"internal/bucket", "internal/bucket/azblob", "internal/bucket/gcs", "internal/bucket/s3", "internal/bucket/swift", "internal/bucket/wire"},
	"internal/bucket/buckettest": {"internal/await", "internal/bucket", "internal/needs"},
	"internal/trust":             {"internal/bucket", "internal/release"},
	"internal/step":              {"internal/release"},
	"internal/project":           {"internal/release"},
	"internal/userdata":          {"internal/bucket/wire", "internal/release"},
	"internal/policy":            {},
	"internal/store":             {"internal/bucket", "internal/release", "internal/trust"},
	"internal/fleet":             {"internal/release", "internal/store"},
	"internal/doctor":            {"internal/bucket", "internal/bucket/wire", "internal/release", "internal/trust"},
	"internal/agent":             {"internal/bucket", "internal/release", "internal/step", "internal/store", "internal/trust"},
	"internal/lab":               {"internal/lab/guest"},
	"internal/lab/guest":         {},
	"internal/lab/guest/boot":    {"internal/lab/guest"},
	"internal/lab/metadata":      {},
	"internal/cli":               {"internal/bucket", "internal/doctor", "internal/fleet", "internal/release", "internal/store", "internal/trust"},
	"internal/cli/operator": {"examples", "internal/bucket", "internal/cli", "internal/doctor", "internal/fleet", "internal/policy", "internal/project", "internal/release",
		"internal/store", "internal/trust", "internal/userdata"},
	"internal/cli/vm":          {"internal/agent", "internal/bucket", "internal/cli", "internal/doctor", "internal/fleet", "internal/release"},
	"bench/workload":           {},
	"bench/peers":              {"bench/result", "bench/workload", "bench/world"},
	"bench/peers/floor":        {},
	"bench/peers/meter":        {},
	"bench/report":             {"bench/result"},
	"bench/world":              {"internal/await"},
	"bench/result":             {},
	"bench/boot":               {"bench/result", "bench/world", "internal/agent", "internal/lab", "internal/lab/metadata"},
	"bench/operator":           {"internal/bucket", "internal/release", "internal/store", "internal/trust"},
	"bench/fleet":              {"bench/operator", "bench/result", "bench/world", "internal/agent", "internal/bucket", "internal/bucket/s3", "internal/release", "internal/store", "internal/trust"},
	"bench/releases":           {"bench/operator", "bench/result", "bench/world", "internal/bucket", "internal/bucket/s3", "internal/release", "internal/store", "internal/trust"},
	"bench/status":             {"bench/result", "bench/world", "internal/release"},
	"examples":                 {},
	"examples/demo":            {"internal/lab"},
	"contrib/packaging/xzfile": {},
	"cmd/bootwell":             {"internal/bucket", "internal/bucket/azblob", "internal/bucket/file", "internal/bucket/gcs", "internal/bucket/s3", "internal/bucket/sdkauth", "internal/bucket/swift", "internal/bucket/web", "internal/cli", "internal/cli/operator"},
	"cmd/bootwell-agent":       {"internal/bucket", "internal/bucket/azblob", "internal/bucket/file", "internal/bucket/gcs", "internal/bucket/s3", "internal/bucket/swift", "internal/bucket/web", "internal/cli", "internal/cli/vm"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Name       string
	GoFiles    []string
}

func list(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps,Name,GoFiles", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all[p.ImportPath] = p
		}
	}
}

func TestArrows(t *testing.T) {
	seen := 0
	for path, p := range list(t) {
		name, ours := strings.CutPrefix(path, module)
		if !ours {
			continue
		}
		seen++
		allowed, known := arrows[name]
		if !known {
			t.Errorf("package %s is not in the table of arrows: add it here and to docs/architecture.md", name)
			continue
		}
		for _, imp := range p.Imports {
			if to, ours := strings.CutPrefix(imp, module); ours && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s, against the arrows", name, to)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list shows only %d of our packages", seen)
	}
}

// TestAgentLinks keeps out of the agent what only operators need.
func TestAgentLinks(t *testing.T) {
	deps := list(t)[module+"cmd/bootwell-agent"].Deps
	if len(deps) == 0 {
		t.Fatal("go list shows no dependencies of the agent")
	}
	for _, d := range deps {
		for _, not := range []string{"internal/cli/operator", "internal/project", "internal/lab", "internal/userdata", "internal/bucket/sdkauth", "examples", "testing"} {
			if d == module+not || d == not {
				t.Errorf("bootwell-agent links %s", d)
			}
		}
		for _, sdk := range []string{"github.com/aws/aws-sdk-go-v2/config", "github.com/aws/aws-sdk-go-v2/credentials", "github.com/aws/aws-sdk-go-v2/service/", "github.com/minio/", "github.com/Azure/azure-sdk-for-go/sdk/azidentity", "github.com/gophercloud/", "golang.org/x/oauth2", "cloud.google.com/"} {
			if strings.HasPrefix(d, sdk) {
				t.Errorf("bootwell-agent links %s", d)
			}
		}
	}
}
