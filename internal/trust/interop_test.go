package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/needs"
)

const tufJS = "tuf-js@6.0.2"

// installTufJS returns a folder whose node_modules has tuf-js; it is kept for
// the next run.
func installTufJS(t *testing.T) string {
	t.Helper()
	npm := needs.Tool(t, "npm")
	cache, err := os.UserCacheDir()
	if err != nil {
		needs.Skip(t, "tuf-js", err.Error())
	}
	dir := filepath.Join(cache, "bootwell-test", strings.ReplaceAll(tufJS, "@", "-"))
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "tuf-js", "package.json")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), npm, "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", tufJS)
	if out, err := cmd.CombinedOutput(); err != nil {
		needs.Skip(t, "tuf-js", fmt.Sprintf("npm cannot install it: %v: %.300s", err, out))
	}
	return dir
}

// An independent client reads what we publish: after the first publishes, a
// renewal of root, a new online key, and with left-overs of a dead publisher.
func TestInterop_TufJSReadsWhatWePublish(t *testing.T) {
	node := needs.Tool(t, "node")
	modules := installTufJS(t)
	dir := t.TempDir()
	b, err := file.OpenDir(dir, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bucket: b, keys: Keys{testKey("ops"), testKey("online")}, now: time.Now()}
	if w.anchor, err = Init(t.Context(), b, w.keys, w.now.Add(-200*24*time.Hour), 150*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	w.pub = w.publisher()
	w.pub.Client.Now = func() time.Time { return w.now }
	if _, err := w.pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish()
	w.write(metadataPrefix+"4.snapshot.json", []byte("left over"))
	w.publish()
	root := w.read(metadataPrefix + "1.root.json")
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "root.json"), root, 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]*string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), node, filepath.Join("testdata", "verify.mjs"), modules, srv.URL, work)
		cmd.Stdin = strings.NewReader("releases/r1.json\nreleases/r2.json\nchannels/stable.json\nreleases/r9.json\n")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("tuf-js: %v: %s", err, stderr.Bytes())
		}
		var found map[string]*string
		if err := json.Unmarshal(out, &found); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return found
	}
	check := func(want map[string]string) {
		t.Helper()
		for name, got := range read() {
			text, ok := want[name]
			if ok != (got != nil) || ok && *got != text {
				t.Errorf("%s: tuf-js reads %v, want %q", name, got, text)
			}
		}
	}
	check(map[string]string{"releases/r1.json": "manifest 1", "releases/r2.json": "manifest 2", "channels/stable.json": "pointer to r2"})

	fresh := testKey("online2")
	w.nextRoot(func(r *metadata.RootType) {
		k, _ := tufKeyOf(t, fresh)
		for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
			r.AddKey(k, role)
		}
	}, w.keys.Ops)
	w.pub.Keys.Online = fresh
	v := mustRefresh(t, w.pub.Client)
	if _, err := w.pub.Commit(t.Context(), v, Change{Remove: []string{"releases/r1.json"}}); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"releases/r2.json": "manifest 2", "channels/stable.json": "pointer to r2"})
}

// The VM's binary holds all of this package; the key services' libraries
// would double it.
func TestPackage_LinksNoKeyService(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, heavy := range []string{"sigstore/pkg/signature/kms", "aws-sdk-go", "azure-sdk-for-go", "cloud.google.com", "hashicorp/", "google.golang.org/grpc"} {
			if strings.Contains(dep, heavy) {
				t.Errorf("links %s", dep)
			}
		}
	}
}
