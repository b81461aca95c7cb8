package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/needs"
)

// TestDemo runs the demo for real: what it is to show, in this order, and that
// nothing is left on this machine, be it root's or somebody else's.
func TestDemo(t *testing.T) {
	dir := build(t)
	t.Run("as I am", func(t *testing.T) { tell(t, dir) })
	t.Run("as nobody", func(t *testing.T) {
		needs.Root(t)
		tell(t, dir, needs.Tool(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--")
	})
}

var story = []string{
	"── 1. A project with a folder as its bucket",
	"✔ bootwell.yaml",
	"── 2. Publish: a signed release",
	"Published r1",
	"── 3. A machine boots with the user-data",
	"account: changed: created user web-example",
	"checks: 3 of 3 passed",
	"Applied r1",
	"workers 2",
	"── 4. The fleet, as the operator sees it",
	"web-example · stable r1 · 1 VM",
	"── 5. Change the project and publish again",
	"Published r2",
	"── 6. The same machine takes it at its next poll",
	"r2 for role web (has r1)",
	"/etc/web-example/site.conf +1 -1",
	"pages: unchanged",
	"Applied r2",
	"workers 8",
	"── 7. One poll later",
	"r2: nothing to do",
	"web-example · stable r2 · 1 VM",
	"The machine is gone and nothing is left on this host.",
}

// tell runs the demo, with the command before it that is given.
func tell(t *testing.T, dir string, before ...string) {
	const trace = "/etc/web-example" // what the machine gets
	if _, err := os.Lstat(trace); err == nil {
		t.Fatalf("%s is here before the demo", trace)
	}
	tmp := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	args := append(before, filepath.Join(dir, "demo"))
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = dir
	c.Env = append(os.Environ(), "TMPDIR="+tmp, "LANG=C.UTF-8", "LC_ALL=", "NO_COLOR=1", "HOME=/nonexistent")
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	c.WaitDelay = 10 * time.Second // a process that is left would hold the output open
	err := c.Run()
	if strings.Contains(errs.String(), lab.ErrForbidden.Error()) {
		if !strings.Contains(errs.String(), "demo: run it as root, or where unprivileged user namespaces are allowed") {
			t.Errorf("the demo does not say what to do:\n%s", &errs)
		}
		nothingLeft(t, tmp, trace)
		needs.Skip(t, "namespaces", errs.String())
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &errs)
	}
	rest := out.String()
	for _, line := range story {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("%q is not told, or too early; it tells\n%s", line, &out)
		}
		rest = after
	}
	nothingLeft(t, tmp, trace)
}

func nothingLeft(t *testing.T, tmp, trace string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s is left", e.Name())
	}
	if _, err := os.Lstat(trace); err == nil {
		t.Errorf("%s is left on this machine", trace)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, tmp) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil || len(exes) == 0 {
		t.Fatal(exes, err)
	}
	for _, name := range exes {
		// Fails for what ended meanwhile, and for what is not ours.
		if exe, err := os.Readlink(name); err == nil && strings.HasPrefix(exe, filepath.Dir(tmp)+"/") {
			t.Errorf("a process is left: %s of %s", filepath.Dir(name), exe)
		}
	}
}

// build makes what the demo runs, in a folder that everybody can read.
func build(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const module = "github.com/bootwell/bootwell/"
	agent := filepath.Join(dir, "bin", "bootwell-agent-linux-"+runtime.GOARCH)
	for to, from := range map[string]string{filepath.Join(dir, "demo"): "examples/demo", filepath.Join(dir, "bin", "bootwell"): "cmd/bootwell", agent: "cmd/bootwell-agent"} {
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", to, module+from)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", from, err, out)
		}
	}
	pack := exec.Command("go", "run", module+"contrib/packaging/xzfile", agent)
	if xz, err := exec.LookPath("xz"); err == nil {
		pack = exec.Command(xz, "-0", "--keep", agent) // much faster
	}
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}
