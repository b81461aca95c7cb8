package file_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/needs"
)

const onExt4 = "BOOTWELL_TEST_EXT4" // a folder on ext4, in the process that runs there

// folder returns an empty folder, on ext4 when that is asked for.
func folder(t testing.TB) string {
	t.Helper()
	top := os.Getenv(onExt4)
	if top == "" {
		return t.TempDir()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(top, &fs); err != nil || fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Fatalf("%s is not on ext4: type %x, %v", top, fs.Type, err)
	}
	dir, err := os.MkdirTemp(top, "bucket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestExt4 runs the suite on a real ext4 of its own, whatever file system this
// machine's temporary files are on. The mount ends with the process.
func TestExt4(t *testing.T) {
	needs.Root(t)
	mkfs, unshare := needs.Tool(t, "mke2fs"), needs.Tool(t, "unshare")
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if out, err := exec.Command(mkfs, "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", image, "600m").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	const noMount = 77
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-c",
		`mount -o loop "$1" "$2" || exit 77; exec "$3" -test.v -test.run '^TestBucket$|^TestProcesses'`, "sh", image, at, os.Args[0])
	cmd.Env = append(os.Environ(), onExt4+"="+at)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noMount {
		needs.Skip(t, "loop", strings.TrimSpace(string(out)))
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestBucket/one_of_16_wins_if_absent") {
		t.Fatalf("%v\n%s", err, out)
	}
}
