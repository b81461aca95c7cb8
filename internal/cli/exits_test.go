package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/cli"
	commands "github.com/bootwell/bootwell/internal/cli/operator"
)

// inProcess runs a command of root in this process.
func inProcess(s *cli.Session, root *cobra.Command, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(""), &out, &errs
	code = s.Run(root, args)
	return out.String(), errs.String(), code
}

// TestExit_Panic: a bug of ours is told as one, with what to report.
func TestExit_Panic(t *testing.T) {
	s := &cli.Session{Tool: "bootwell", Version: "1.2.3", Getenv: func(string) string { return "" }}
	root := &cobra.Command{Use: "bootwell"}
	s.AddFlags(root)
	root.AddCommand(&cobra.Command{Use: "break", RunE: func(_ *cobra.Command, args []string) error {
		return errors.New(args[3])
	}})
	stdout, stderr, code := inProcess(s, root, "break")
	if code != cli.ExitInternal || stdout != "" {
		t.Errorf("exit code %d, want %d; stdout %q", code, cli.ExitInternal, stdout)
	}
	for _, want := range []string{"bootwell: internal error: runtime error: index out of range", "bug in bootwell", "report", "exits_test.go"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not said:\n%s", want, stderr)
		}
	}
}

// locked has the lock of bob, who publishes.
func (o operator) locked(t *testing.T) {
	t.Helper()
	dir := filepath.Join(filepath.Dir(o.project), "bucket", "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lease := fmt.Sprintf(`{"owner":"bob@ci","expires":%q,"token":"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(dir, "publish"), []byte(lease), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unconditional is a bucket of a store without conditional writes.
type unconditional struct{ bucket.Bucket }

func (unconditional) Caps() bucket.Caps { return bucket.Caps{} }

// unconditional is the operator's command for such a bucket.
func (o operator) unconditional() *cli.Session {
	env := map[string]string{"HOME": o.home}
	s := &cli.Session{Tool: "bootwell", Version: "1.2.3", Getenv: func(k string) string { return env[k] }}
	s.Open = func(ctx context.Context, url string) (bucket.Bucket, error) {
		b, err := file.Open(ctx, url, file.Options{})
		return unconditional{b}, err
	}
	return s
}

// TestExit_LockedPublisher: where only the lock keeps publishers apart, the
// second one is told who holds it.
func TestExit_LockedPublisher(t *testing.T) {
	o := newOperator(t)
	if _, stderr, code := o.run(t, "publish"); code != 0 {
		t.Fatalf("publish: %s", stderr)
	}
	o.locked(t)
	s := o.unconditional()
	_, stderr, code := inProcess(s, commands.Root(s), "resign", "-C", o.project)
	if code != cli.ExitLocked {
		t.Errorf("exit code %d, want %d", code, cli.ExitLocked)
	}
	if !strings.Contains(stderr, "bob@ci") || !strings.Contains(stderr, "hint: wait until the other publish has ended") {
		t.Errorf("who holds the lock, and what to do, is not said:\n%s", stderr)
	}
}

// TestExit_LockedAgent: two runs of a VM do not go at once.
func TestExit_LockedAgent(t *testing.T) {
	o := newOperator(t)
	m := newMachine(t, o)
	o.steps(t, "- run: \"true\"\n")
	if _, stderr, code := m.run(t, "apply"); code != 0 {
		t.Fatalf("apply: %s", stderr)
	}
	l := flock.New(filepath.Join(m.root, "var/lib/bootwell/lock"))
	if ok, err := l.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, args := range [][]string{{"apply"}, {"apply", "--timer"}, {"install"}} {
		if _, stderr, code := m.run(t, args...); code != cli.ExitLocked || !strings.Contains(stderr, "another run is under way") {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, cli.ExitLocked, stderr)
		}
	}
	// Reading needs no lock.
	if _, stderr, code := m.run(t, "status", "--check"); code != 0 {
		t.Errorf("status: exit code %d: %s", code, stderr)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := m.run(t, "apply"); code != 0 {
		t.Errorf("apply: exit code %d: %s", code, stderr)
	}
}

func TestExit_Timeout(t *testing.T) {
	o := newOperator(t)
	m := newMachine(t, o)
	pid := filepath.Join(m.root, "pid")
	o.steps(t, "- name: long\n  run: echo $$ > "+pid+"; exec sleep 1000\n")
	o.write(t, "new.txt", "new\n")
	said := func(stderr string, code int, more ...string) {
		t.Helper()
		if code != cli.ExitTimeout {
			t.Errorf("exit code %d, want %d:\n%s", code, cli.ExitTimeout, stderr)
		}
		for _, want := range append(more, "timeout of ", "hint: give more time with --timeout") {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q is not said:\n%s", want, stderr)
			}
		}
	}
	_, stderr, code := o.run(t, "publish", "--timeout", "1ns")
	said(stderr, code)
	_, stderr, code = m.run(t, "status", "--wait", "--timeout", "100ms")
	said(stderr, code)
	_, stderr, code = m.run(t, "apply", "--timeout", "2s")
	said(stderr, code)
	if p := eventually(t, pid); alive(p) {
		t.Errorf("the step's process %s lives on", p)
	}
	// Where only the lock keeps publishers apart, it waits for another one no
	// longer than it may.
	o.locked(t)
	s := o.unconditional()
	stdout, stderr, code := inProcess(s, commands.Root(s), "publish", "-C", o.project, "--timeout", "2s")
	said(stderr, code, "bob@ci")
	if stdout != "" || len(o.releases(t)) != 1 {
		t.Errorf("published %q after the end of its time; releases: %v", stdout, o.releases(t))
	}
}

// TestExit_InterruptedAgent: Ctrl-C and a shutdown end a run and all it
// started; the next run goes on.
func TestExit_InterruptedAgent(t *testing.T) {
	for args, sig := range map[string]syscall.Signal{"apply": syscall.SIGINT, "apply --timer": syscall.SIGTERM} {
		t.Run(args, func(t *testing.T) {
			o := newOperator(t)
			m := newMachine(t, o)
			pid := filepath.Join(m.root, "pid")
			o.steps(t, "- name: long\n  run: \"test -e "+pid+" || { echo $$ > "+pid+"; sleep 1000; }\"\n")
			c := m.command(strings.Fields(args)...)
			var stderr bytes.Buffer
			c.Stderr = &stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			p := eventually(t, pid)
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = c.Wait()
			if code := c.ProcessState.ExitCode(); code != cli.ExitInterrupted {
				t.Errorf("exit code %d, want %d:\n%s", code, cli.ExitInterrupted, &stderr)
			}
			if alive(p) {
				t.Errorf("the step's process %s lives on", p)
			}
			if stdout, _, _ := m.run(t, "status"); !strings.Contains(stdout, "applying") || !strings.Contains(stdout, "was stopped and goes on") {
				t.Errorf("the status does not tell:\n%s", stdout)
			}
			if _, stderr, code := m.run(t, "apply", "--timer"); code != 0 {
				t.Errorf("the next run: exit code %d:\n%s", code, stderr)
			}
		})
	}
}

// TestExit_InterruptedOperator interrupts a command that waits for a bucket.
func TestExit_InterruptedOperator(t *testing.T) {
	asked := make(chan string, 100) // for the bucket of which command
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(r.URL.Path[1:], "/")
		asked <- name
		<-r.Context().Done()
	}))
	defer server.Close()
	o := newOperator(t)
	text, err := os.ReadFile(filepath.Join(o.project, "bootwell.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"status", "releases", "publish"} {
		away := strings.Replace(string(text), o.bucketURL(), server.URL+"/"+name, 1)
		if away == string(text) {
			t.Fatalf("no bucket %s in %s", o.bucketURL(), text)
		}
		o.write(t, "bootwell.yaml", away)
		c := o.command(name)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for timeout := time.After(time.Minute); ; {
			var by string
			select {
			case by = <-asked:
			case <-timeout:
				t.Fatalf("%s asks for nothing", name)
			}
			if by == name { // not what is left of the one before, which asks for many things at once
				break
			}
		}
		if err := c.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = c.Wait()
		if code := c.ProcessState.ExitCode(); code != cli.ExitInterrupted {
			t.Errorf("%s: exit code %d, want %d:\n%s", name, code, cli.ExitInterrupted, &stderr)
		}
		if lines := strings.Count(stderr.String(), "\n"); !strings.Contains(stderr.String(), "interrupted") || lines > 3 {
			t.Errorf("%s says:\n%s", name, &stderr)
		}
	}
}
