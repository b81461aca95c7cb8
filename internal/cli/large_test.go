package cli_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

const maxMemory = 128 << 20 // of a command, whatever it is given

// large skips t unless large tests are wanted and there is room for them.
func large(t *testing.T, room int64) {
	t.Helper()
	if os.Getenv("BOOTWELL_TEST_LARGE") != "1" {
		t.Skip("BOOTWELL_TEST_LARGE=1 is not set")
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(t.TempDir(), &fs); err != nil {
		t.Fatal(err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < room {
		needs.Skip(t, "disk", fmt.Sprintf("%d GiB are free, %d GiB are needed", free>>30, room>>30))
	}
}

// frugal fails t if c, which has ended, or what it waited for had too much
// memory at any time.
func frugal(t *testing.T, c *exec.Cmd) {
	t.Helper()
	peak := c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10 // getrusage(2) counts in KiB
	if peak > maxMemory {
		t.Errorf("%v had %d MiB of memory, more than %d", c.Args[1:], peak>>20, maxMemory>>20)
	}
	t.Logf("%v: %d MiB", c.Args[1:], peak>>20)
}

// TestLarge_File: a file of 2 GiB goes through a bucket to a VM.
func TestLarge_File(t *testing.T) {
	large(t, 8<<30)
	o := newOperator(t)
	m := newMachine(t, o)
	const size = 2<<30 + 12345
	name := filepath.Join(o.project, "big.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 1 << 30, 1<<31 - 2, size - 7} {
		if _, err := f.WriteAt(fmt.Appendf(nil, "%7d", at%9_999_999), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	o.steps(t, fmt.Sprintf("- run: test \"$(stat -c %%s big.img)\" = %d\n", size))
	c := m.command("apply")
	if _, stderr, code := finished(t, c); code != 0 {
		t.Fatalf("apply: exit code %d: %s", code, stderr)
	}
	frugal(t, c)
	staged := filepath.Join(m.root, "var/lib/bootwell/current/big.img")
	if want, got := digest(t, name), digest(t, staged); got != want {
		t.Errorf("the staged file has digest %x, want %x", got, want)
	}
	// A byte more in the middle, and all is well again at small cost.
	if f, err = os.OpenFile(name, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 1<<30+99); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c = o.command("publish")
	if stdout, stderr, code := finished(t, c); code != 0 || stdout != "r2\n" {
		t.Fatalf("publish: exit code %d: %s", code, stderr)
	}
	frugal(t, c)
	c = m.command("apply", "--timer")
	if _, stderr, code := finished(t, c); code != 0 || !strings.Contains(stderr, "kB fetched") && !strings.Contains(stderr, " B fetched") {
		t.Errorf("apply: exit code %d, want little to fetch: %s", code, stderr)
	}
	frugal(t, c)
	if want, got := digest(t, name), digest(t, staged); got != want {
		t.Errorf("after the change: the staged file has digest %x, want %x", got, want)
	}
}

func digest(t *testing.T, name string) (sum [sha256.Size]byte) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// TestLarge_Output: a step that writes 1 GiB fills neither memory nor disk, and
// what it wrote first and last can be read.
func TestLarge_Output(t *testing.T) {
	large(t, 2<<30)
	for what, generate := range map[string]string{
		"lines":    "yes 'one of very many lines' | head -c 1073741824",
		"one line": "head -c 1073741824 /dev/zero | tr '\\0' x",
	} {
		t.Run(what, func(t *testing.T) {
			o := newOperator(t)
			m := newMachine(t, o)
			o.steps(t, "- name: loud\n  run: |\n    echo the very first\n    "+generate+"\n    echo the very last\n    exit 9\n")
			c := m.command("apply")
			_, stderr, code := finished(t, c)
			if code != 1 || !strings.Contains(stderr, "loud: FAILED") || !strings.Contains(stderr, "the very last") {
				t.Errorf("exit code %d: %.2000s", code, stderr)
			}
			if len(stderr) > 20_000 {
				t.Errorf("the story is %d bytes long", len(stderr))
			}
			frugal(t, c)
			logs, err := filepath.Glob(filepath.Join(m.root, "var/lib/bootwell/runs/*.log"))
			if err != nil || len(logs) != 1 {
				t.Fatal(logs, err)
			}
			b, err := os.ReadFile(logs[0])
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 5<<20 || !bytes.Contains(b, []byte("the very first")) || !bytes.Contains(b, []byte("the very last")) {
				t.Errorf("the log on the VM has %d bytes, from %.100q to %.100q", len(b), b, b[max(0, len(b)-100):])
			}
			c = o.command("logs", "i-1")
			text, stderr, code := finished(t, c)
			if code != 0 || len(text) > 2<<20 || !strings.Contains(text, "the very first") || !strings.Contains(text, "the very last") {
				t.Errorf("the log in the bucket has %d bytes; exit code %d: %.500s", len(text), code, stderr)
			}
			if _, stderr, code = o.run(t, "status", "i-1"); code != 0 {
				t.Errorf("status: %s", stderr)
			}
		})
	}
}
