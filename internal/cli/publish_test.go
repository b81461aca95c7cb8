package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An operator is one person's machine: a home, a project folder, and the
// shared bucket that the project names.
type operator struct {
	home, project string
}

// newOperator makes the project; its bucket is a folder.
func newOperator(t *testing.T) operator {
	t.Helper()
	dir := t.TempDir()
	o := operator{home: filepath.Join(dir, "home"), project: filepath.Join(dir, "project")}
	for _, d := range []string{o.home, o.project} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := o.command("init", "--example", "web", "--no-passphrase", "--bucket", "file://"+dir+"/bucket").CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	return o
}

// colleague has the same keys and a clone of the project.
func (o operator) colleague(t *testing.T) operator {
	t.Helper()
	c := operator{home: t.TempDir(), project: t.TempDir()}
	for from, to := range map[string]string{o.project: c.project, filepath.Join(o.home, ".config"): filepath.Join(c.home, ".config")} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := filepath.Glob(filepath.Join(c.home, ".config/bootwell/keys/*/*.key"))
	if err != nil || len(keys) == 0 {
		t.Fatal("no keys were copied", err)
	}
	for _, k := range keys {
		if err := os.Chmod(k, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (o operator) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(binDir, "bootwell"), args...)
	c.Dir = o.project
	c.Env = []string{"HOME=" + o.home, "PATH=" + os.Getenv("PATH"), "AWS_EC2_METADATA_DISABLED=true", "LANG=C.UTF-8"}
	return c
}

func (o operator) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.project, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// releases returns the notes of the releases by name.
func (o operator) releases(t *testing.T) map[string]string {
	t.Helper()
	var stderr bytes.Buffer
	c := o.command("releases", "--json", "--limit", "0")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("releases: %v\n%s", err, &stderr)
	}
	var rows []struct{ Release, Note string }
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	notes := map[string]string{}
	for _, r := range rows {
		notes[r.Release] = r.Note
	}
	return notes
}

// TestPublish_EightOperatorsAtOnce: each gets a release of its own, none is lost.
func TestPublish_EightOperatorsAtOnce(t *testing.T) {
	first := newOperator(t)
	const n = 8
	var wg sync.WaitGroup
	got := make([]string, n)
	for i := range n {
		o := first.colleague(t)
		o.write(t, "who.txt", fmt.Sprint("operator ", i))
		wg.Go(func() {
			c := o.command("publish", "-m", fmt.Sprint("by ", i))
			var stderr bytes.Buffer
			c.Stderr = &stderr
			out, err := c.Output()
			if err != nil {
				t.Errorf("operator %d: %v\n%s", i, err, &stderr)
			}
			got[i] = strings.TrimSpace(string(out))
		})
	}
	wg.Wait()
	notes := first.releases(t)
	if len(notes) != n {
		t.Errorf("%d releases, want %d: %v", len(notes), n, notes)
	}
	for i, name := range got {
		if notes[name] != fmt.Sprint("by ", i) {
			t.Errorf("operator %d was told %s, which is %q", i, name, notes[name])
		}
	}
}

// TestPublish_KilledAnywhere kills the real command after more and more time.
// What VMs see stays whole, and the next publish works.
func TestPublish_KilledAnywhere(t *testing.T) {
	o := newOperator(t)
	if out, err := o.command("publish").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	killed := 0
	for i := range 25 {
		o.write(t, "big.txt", strings.Repeat(fmt.Sprintln("line of try", i), 5000))
		before := len(o.releases(t))
		c := o.command("publish")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(i*4)*time.Millisecond, func() { c.Process.Kill() })
		var exit *exec.ExitError
		if err := c.Wait(); errors.As(err, &exit) && !exit.Exited() {
			killed++
		}
		timer.Stop()
		if after := len(o.releases(t)); after != before && after != before+1 {
			t.Fatalf("try %d: %d releases after %d", i, after, before)
		}
	}
	if killed == 0 {
		t.Error("no publish was killed in time: the test shows nothing")
	}
	o.write(t, "big.txt", "the end\n")
	out, err := o.command("publish").CombinedOutput()
	if err != nil {
		t.Fatalf("publish after %d kills: %v\n%s", killed, err, out)
	}
}
