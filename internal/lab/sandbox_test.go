package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
)

func TestSandboxIsAMachineOfItsOwn(t *testing.T) {
	inst := newSandbox(t, Sandbox{Hostname: "web1"})
	host, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		t.Log(err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"root":              {"id -u", "0"},
		"host name":         {"hostname; cat /etc/hostname", "web1\nweb1"},
		"empty folders":     {"ls -A /run /tmp /root /home | grep -v -e : -e lock -e '^$' | wc -l", "0"},
		"no systemd":        {"test -e /run/systemd/system || echo none", "none"},
		"only loopback":     {"ls /sys/class/net | grep -v '^[a-z]*[0-9]$'", "lo"},
		"few processes":     {"test $(ls -d /proc/[0-9]* | wc -l) -le 6 && echo few", "few"},
		"writes anywhere":   {"echo x >/etc/new; echo y >/usr/local/bin/new; echo z >>/etc/passwd; cat /etc/new /usr/local/bin/new; tail -1 /etc/passwd", "x\ny\nz"},
		"replaces programs": {"rm /bin/dir && echo gone", "gone"},
		"own machine id":    {"grep -c -x " + strings.TrimSpace(string(host)) + ". /etc/machine-id || true", "0"},
		"devices":           {"echo x >/dev/null; head -c 3 /dev/zero | wc -c; test -w /dev/console && echo console", "3\nconsole"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(t, inst, c.script); got != c.want {
				t.Errorf("%s\ngot  %q\nwant %q", c.script, got, c.want)
			}
		})
	}
	for _, p := range []string{"/etc/new", "/usr/local/bin/new"} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s reached the host", p)
		}
	}
}

func TestSandboxHidesTheHostsAgent(t *testing.T) {
	needs.Root(t)
	const dir = "/etc/bootwell"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Skipf("the host has one: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	inst := newSandbox(t, Sandbox{})
	if got := run(t, inst, "test -e /etc/bootwell && echo seen; mkdir /etc/bootwell && echo made"); got != "made" {
		t.Errorf("got %q, want only that it could be made", got)
	}
}

func TestSandboxExec(t *testing.T) {
	inst := newSandbox(t, Sandbox{})
	ctx := deadline(t, time.Minute)
	big := strings.Repeat("0123456789abcdef", 64<<10)
	var tee strings.Builder
	r, err := inst.Exec(ctx, Command{Args: []string{"sh", "-c", "cat; echo $A $PWD >&2; exit 7"}, Env: []string{"A=b"}, Dir: "/etc", Stdin: []byte(big), Tee: &tee})
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Stdout) != big || string(r.Stderr) != "b /etc\n" || r.Code != 7 || tee.Len() != len(big)+7 {
		t.Errorf("got %d bytes, %q, code %d, tee %d", len(r.Stdout), r.Stderr, r.Code, tee.Len())
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"missing program": {[]string{"no-such-program"}, 127},
		"by signal":       {[]string{"sh", "-c", "kill -9 $$"}, 137},
		"input not read":  {[]string{"true"}, 0},
		"left a daemon":   {[]string{"sh", "-c", "sleep 1000 & exit 3"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := inst.Exec(ctx, Command{Args: c.args, Stdin: []byte(big)})
			if err != nil || r.Code != c.code {
				t.Errorf("code %d, error %v, want %d", r.Code, err, c.code)
			}
		})
	}
}

func TestSandboxExecEndsWithItsContext(t *testing.T) {
	inst := newSandbox(t, Sandbox{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = Run(context.Background(), inst, "sh", "-c", "until test -e /tmp/up; do sleep 0.05; done")
		cancel()
	}()
	_, err := inst.Exec(ctx, Command{Args: []string{"sh", "-c", "touch /tmp/up; sleep 1000 | cat"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if got := run(t, inst, "cat /proc/[0-9]*/comm | grep -c -x -e sleep || true"); got != "0" {
		t.Errorf("%s sleeps are left", got)
	}
}

func TestSandboxSharesFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"rw", "ro"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inst := newSandbox(t, Sandbox{Binds: []Bind{
		{Host: filepath.Join(dir, "rw"), Path: "/srv/bucket"},
		{Host: filepath.Join(dir, "ro"), Path: filepath.Join(dir, "ro"), ReadOnly: true},
		{Host: "/bin/true", Path: "/opt/tool"},
	}})
	run(t, inst, "/opt/tool && echo hi >/srv/bucket/report")
	if b, err := os.ReadFile(filepath.Join(dir, "rw/report")); err != nil || string(b) != "hi\n" {
		t.Errorf("the host reads %q, %v", b, err)
	}
	if _, err := Run(context.Background(), inst, "touch", filepath.Join(dir, "ro/x")); err == nil {
		t.Error("wrote to a folder that is shared read only")
	}
	if _, err := (Sandbox{Binds: []Bind{{Host: "/no/such", Path: "/x"}}}).Create(context.Background()); err == nil {
		t.Error("shared a folder that does not exist")
	}
}

func TestSandboxLeavesNothing(t *testing.T) {
	before := hostState(t)
	inst := newSandbox(t, Sandbox{Hostname: "leaves-nothing"})
	run(t, inst, "setsid sleep 4321 >/dev/null 2>&1 & mkdir -p /var/lib/x/y; rm -rf /etc/apt; touch /tmp/file /root/file")
	if err := inst.Destroy(); err != nil {
		t.Fatal(err)
	}
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := inst.Exec(context.Background(), Command{Args: []string{"true"}}); !errors.Is(err, ErrGone) {
		t.Errorf("Exec on a destroyed machine: %v, want ErrGone", err)
	}
}

// hostState is what a sandbox could leave: mounts, its processes and files.
func hostState(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var procs []string
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		b, _ := os.ReadFile(d)
		if s := string(b); strings.HasPrefix(s, sandboxArg) || strings.HasPrefix(s, agentArg) || strings.Contains(s, "4321") {
			procs = append(procs, s)
		}
	}
	files := ""
	for _, d := range []string{"/etc", "/var/lib", "/tmp", "/root", "/usr/local/bin"} {
		entries, _ := os.ReadDir(d)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "go-") {
				files += d + "/" + e.Name() + "\n"
			}
		}
	}
	if os.Getenv("CI") == "" { // others work on a developer's machine meanwhile
		files = ""
	}
	return fmt.Sprintf("%s\n%q\n%s", mounts, procs, files)
}

func TestSandboxConsole(t *testing.T) {
	inst := newSandbox(t, Sandbox{})
	run(t, inst, "echo one >/dev/console; printf 'two\\n' >/dev/console")
	if _, err := inst.Console().Wait(deadline(t, time.Minute), 0, "two"); err != nil {
		t.Fatal(err)
	}
	if lines := inst.Console().Lines(); len(lines) != 2 || lines[0].Text != "one" {
		t.Errorf("console: %v", lines)
	}
}

func TestSandboxAdminWork(t *testing.T) {
	inst := newSandbox(t, Sandbox{})
	if _, err := exec.LookPath("useradd"); err == nil {
		if got := run(t, inst, "useradd --system --no-create-home demo && id -un demo"); got != "demo" {
			t.Errorf("got %q", got)
		}
		// Only a machine with more ids than root's can have a home for it.
		const full = `awk '{n+=$3} END {exit n>1}' /proc/self/uid_map && echo other || { useradd -m other && su other -c 'touch ~/x && id -un'; }`
		if got := run(t, inst, full); got != "other" {
			t.Errorf("got %q", got)
		}
	}
	if _, err := exec.LookPath("dpkg"); err == nil {
		const deb = `set -e; cd /tmp; mkdir -p p/DEBIAN p/usr/share/labtest
printf 'Package: labtest\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >p/DEBIAN/control
echo hello >p/usr/share/labtest/file; dpkg-deb -b --root-owner-group p labtest.deb >/dev/null
dpkg -i labtest.deb >/dev/null; cat /usr/share/labtest/file; dpkg-query -W -f '${Status}' labtest`
		if got := run(t, inst, deb); got != "hello\ninstall ok installed" {
			t.Errorf("got %q", got)
		}
	}
}

// TestSandboxAsUser runs the other tests once more as a normal user.
func TestSandboxAsUser(t *testing.T) {
	needs.Root(t)
	setpriv := needs.Tool(t, "setpriv")
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin, home := filepath.Join(dir, "lab.test"), filepath.Join(dir, "home")
	if err := os.WriteFile(bin, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(home, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all",
		bin, "-test.run", "^Test(Sandbox|RunUserData)", "-test.v")
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=" + os.Getenv("PATH"), "CI=" + os.Getenv("CI")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestSandboxIsAMachineOfItsOwn") {
		if strings.Contains(string(out), "needs namespaces") {
			needs.Skip(t, "user-namespaces", tail(string(out), 400))
		}
		t.Errorf("the machine was not made:\n%s", out)
	}
}

// TestSandboxSaysWhenForbidden runs a test of this file where the kernel
// allows no namespaces.
func TestSandboxSaysWhenForbidden(t *testing.T) {
	unshare, setpriv := needs.Tool(t, "unshare"), needs.Tool(t, "setpriv")
	cmd := exec.Command(unshare, "--user", "--map-root-user", "sh", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"`, "sh",
		setpriv, "--bounding-set=-all", "--inh-caps=-all", os.Args[0], "-test.run", "^TestSandboxConsole$", "-test.v")
	cmd.Env = append(os.Environ(), "BOOTWELL_TEST_MUST=")
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "unshare:") {
		needs.Skip(t, "user-namespaces", tail(string(out), 300))
	}
	if !strings.Contains(string(out), "the kernel allows this process no namespaces") || !strings.Contains(string(out), "--- SKIP: TestSandboxConsole") {
		t.Errorf("%v\n%s", err, out)
	}
}
