package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/project"
)

// A machine is a VM below a folder.
type machine struct{ root string }

// newMachine makes a VM of the role web of o's project.
func newMachine(t *testing.T, o operator) machine {
	t.Helper()
	m := machine{t.TempDir()}
	lock, err := project.ReadLock(o.project)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/bootwell/agent.yaml":           "project: web-example\nbucket: " + o.bucketURL() + "\nrole: web\nchannel: stable\nroot: " + lock.Root.String() + "\n",
		"run/cloud-init/instance-data.json": `{"v1":{"instance_id":"i-1"}}`,
	} {
		p := filepath.Join(m.root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (o operator) bucketURL() string {
	return "file://" + filepath.Join(filepath.Dir(o.project), "bucket")
}

// steps publishes a project whose role web has these steps, as YAML.
func (o operator) steps(t *testing.T, steps string) {
	t.Helper()
	text := "version: 1\nproject: web-example\nbucket: " + o.bucketURL() + "\nroles:\n  web:\n    checks: [{ command: \"true\" }]\n    steps:\n"
	for line := range strings.Lines(steps) {
		text += "      " + line
	}
	o.write(t, "bootwell.yaml", text)
	if stdout, stderr, code := o.run(t, "publish"); code != 0 {
		t.Fatalf("publish: exit code %d: %s%s", code, stdout, stderr)
	}
}

func (m machine) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(binDir, "bootwell-agent"), args...)
	c.Env = []string{"BOOTWELL_ROOT=" + m.root, "HOME=" + m.root, "PATH=" + os.Getenv("PATH"), "AWS_EC2_METADATA_DISABLED=true", "LANG=C.UTF-8"}
	return c
}

// run returns what the agent prints on both streams, and its exit code.
func (m machine) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return finished(t, m.command(args...))
}

func finished(t *testing.T, c *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// eventually waits until there is a file with content, and returns it.
func eventually(t *testing.T, name string) string {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b))
		}
	}
	t.Fatalf("%s does not come", name)
	return ""
}

// alive reports whether a process does more than wait for its parent to look.
func alive(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
