package step

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

const sandboxMark = "BOOTWELL_STEP_SANDBOX"

// sandboxSetup lays a throw-away copy of this machine's file system over
// itself, in namespaces of its own without a network, and becomes its command.
// The writable layer is a tmpfs that ends with the namespace.
const sandboxSetup = `set -e
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work overlay /mnt/root
mount --bind /dev /mnt/root/dev
mount -t proc proc /mnt/root/proc
mount -t tmpfs tmpfs /mnt/root/run
mount -t tmpfs tmpfs /mnt/root/tmp
d=$1; shift
mkdir -p "/mnt/root$d"; mount --bind "$d" "/mnt/root$d"
`

// sandboxRun runs the test alone in the sandbox.
const sandboxRun = `exec chroot /mnt/root "$@"`

// sandboxSystemd starts systemd as process 1 of the sandbox, with nothing but
// the test as its unit; systemd ends with the test.
const sandboxSystemd = `mount -t sysfs -o ro sysfs /mnt/root/sys
mount -t cgroup2 cgroup2 /mnt/root/sys/fs/cgroup
mount --bind "$OUT" /mnt/root/srv
cat >/mnt/root/etc/systemd/system/bwtest.service <<X
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
WorkingDirectory=/
Environment=BOOTWELL_STEP_SANDBOX=1
ExecStart=$*
StandardOutput=file:/srv/out
StandardError=file:/srv/out
X
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot /mnt/root /lib/systemd/systemd --system --unit=bwtest.service --show-status=0`

// inSandbox starts the test binary again in a throw-away machine, for this
// test alone, reports what came of it and returns true; in there it returns
// false, and the test goes on.
func inSandbox(t *testing.T) (outer bool) {
	t.Helper()
	return sandboxed(t, sandboxRun, nil)
}

// inSystemd is inSandbox where systemd runs.
func inSystemd(t *testing.T) (outer bool) {
	t.Helper()
	if os.Getenv(sandboxMark) != "" {
		return false
	}
	needs.Root(t)
	needs.Tool(t, "/lib/systemd/systemd")
	out := t.TempDir()
	own, err := ownCgroup()
	if err != nil {
		needs.Skip(t, "cgroup2", err.Error())
	}
	// A namespace whose root is a group of its own keeps systemd's groups there.
	group := filepath.Join(own, "test-"+runID())
	if err := os.Mkdir(group, 0o755); err != nil {
		needs.Skip(t, "cgroup2", err.Error())
	}
	t.Cleanup(func() { removeGroups(t, group) })
	return sandboxed(t, sandboxSystemd, []string{"OUT=" + out, "GROUP=" + group})
}

func removeGroups(t *testing.T, top string) {
	var dirs []string
	_ = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		waitFor(t, func() bool { return os.Remove(d) == nil })
	}
}

func sandboxed(t *testing.T, run string, env []string) (outer bool) {
	t.Helper()
	if os.Getenv(sandboxMark) != "" {
		return false
	}
	needs.Root(t)
	needs.Tool(t, "unshare")
	needs.Tool(t, "ip")
	if out, err := exec.Command("unshare", "-m", "-p", "-n", "-C", "-f", "true").CombinedOutput(); err != nil {
		needs.Skip(t, "namespaces", "the kernel refuses: "+string(out))
	}
	t.Parallel() // with other sandboxes: each waits for tools most of its time
	self, err := os.Executable()
	must(t, err)
	enter := `test -z "$GROUP" || echo $$ >"$GROUP/cgroup.procs"; exec unshare -m -p -n -C -f --kill-child sh -c "$@"`
	cmd := exec.Command("sh", "-c", enter, "sh", sandboxSetup+run, "sh", filepath.Dir(self),
		self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(append(os.Environ(), sandboxMark+"=1", "TMPDIR=/tmp"), env...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	for _, e := range env {
		if dir, ok := strings.CutPrefix(e, "OUT="); ok {
			more, _ := os.ReadFile(dir + "/out")
			out = append(out, more...)
		}
	}
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in the sandbox: %v\n%s", err, out)
	}
	return true
}
