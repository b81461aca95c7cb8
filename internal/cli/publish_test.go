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

// TestPublish_KilledAnywhere kills the real command at moments spread over the
// time that a whole publish takes. What others see stays whole, and the next
// publish works.
func TestPublish_KilledAnywhere(t *testing.T) {
	o := newOperator(t)
	change := func(i int) {
		o.write(t, "big.txt", strings.Repeat(fmt.Sprintln("line of try", i), 50_000))
	}
	// The first one of a bucket takes another way; the longest of the next counts.
	var whole time.Duration
	for i := range 4 {
		change(-i)
		began := time.Now()
		if _, stderr, code := o.run(t, "publish"); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		if i > 0 {
			whole = max(whole, time.Since(began))
		}
	}
	const tries = 20
	killed, done := 0, 0
	for i := range tries {
		change(i)
		before := len(o.releases(t))
		c := o.command("publish")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(whole*time.Duration(i)/tries, func() { c.Process.Kill() })
		var exit *exec.ExitError
		if err := c.Wait(); errors.As(err, &exit) && !exit.Exited() {
			killed++
		}
		timer.Stop()
		switch after := len(o.releases(t)); after {
		case before:
		case before + 1:
			done++
		default:
			t.Fatalf("try %d: %d releases after %d", i, after, before)
		}
		if stdout, stderr, code := o.run(t, "status"); code != 0 || !strings.Contains(stdout, fmt.Sprintf("stable r%d ", 4+done)) {
			t.Fatalf("try %d: status: exit code %d, want release r%d:\n%s%s", i, code, 4+done, stdout, stderr)
		}
	}
	if killed < tries/4 {
		t.Errorf("only %d of %d were killed before their end: the test shows little", killed, tries)
	}
	t.Logf("%d of %d killed in %v, %d had committed", killed, tries, whole, done)

	// The lock of one that was killed does not hold up the next: this bucket
	// keeps publishers apart by itself.
	o.locked(t)
	o.write(t, "big.txt", "the end\n")
	stdout, stderr, code := o.run(t, "publish")
	if want := fmt.Sprintf("r%d\n", 5+done); code != 0 || stdout != want {
		t.Errorf("exit code %d, %q, want %q:\n%s", code, stdout, want, stderr)
	}
	if strings.Contains(stderr, "bob@ci") {
		t.Errorf("it waited for nothing:\n%s", stderr)
	}
	if got := len(o.releases(t)); got != 5+done {
		t.Errorf("%d releases, want %d", got, 5+done)
	}
}
