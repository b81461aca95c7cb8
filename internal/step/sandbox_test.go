package step

import (
	"os"
	"os/exec"
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
exec chroot /mnt/root "$@"`

// inSandbox starts the test binary again in a throw-away machine, for this
// test alone, reports what came of it and returns true; in there it returns
// false, and the test goes on.
func inSandbox(t *testing.T) (outer bool) {
	t.Helper()
	if os.Getenv(sandboxMark) != "" {
		return false
	}
	needs.Root(t)
	needs.Tool(t, "unshare")
	needs.Tool(t, "ip")
	if out, err := exec.Command("unshare", "-m", "-p", "-n", "-f", "true").CombinedOutput(); err != nil {
		needs.Skip(t, "namespaces", "the kernel refuses: "+string(out))
	}
	self, err := os.Executable()
	must(t, err)
	dir := self[:strings.LastIndexByte(self, '/')]
	cmd := exec.Command("unshare", "-m", "-p", "-n", "-f", "--kill-child", "sh", "-c", sandboxSetup, "sh", dir,
		self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), sandboxMark+"=1", "TMPDIR=/tmp")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
			t.Skipf("%s", out)
		}
		t.Errorf("in the sandbox: %v\n%s", err, out)
	}
	return true
}
