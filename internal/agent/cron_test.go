package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// others is what other people have in root's crontab: no newline at its end.
const others = "# m h dom mon dow\nMAILTO=ops\n0 2 * * *\trun-parts /etc/periodic/daily"

func (w *world) link(to, name string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		w.t.Fatal(err)
	}
}

func TestInstall_BusyboxCron(t *testing.T) {
	for name, c := range map[string]struct {
		exist map[string]string // files and, with ->, links
		file  string            // that is to hold the schedule
		warn  string
	}{
		"Alpine": {
			exist: map[string]string{"proc/9/comm": "crond\n", "proc/9/exe": "->/bin/busybox", "etc/crontabs/root": others},
			file:  "etc/crontabs/root",
		},
		"called as busybox crond": {
			exist: map[string]string{
				"proc/9/comm": "busybox\n", "proc/9/exe": "->/usr/bin/busybox", "proc/9/cmdline": "busybox\x00crond\x00-f\x00",
				"var/spool/cron/crontabs/root": others,
			},
			file: "var/spool/cron/crontabs/root",
		},
		"installed and not started": {
			exist: map[string]string{"usr/sbin/crond": "->/bin/busybox", "etc/crontabs/root": others},
			file:  "etc/crontabs/root", warn: "rc-service crond start",
		},
		"another cron runs too": {
			exist: map[string]string{
				"proc/9/comm": "crond\n", "proc/9/exe": "->/bin/busybox", "proc/10/comm": "crond\n", "proc/10/exe": "->/usr/sbin/crond",
			},
			file: "etc/cron.d/bootwell",
		},
		"busybox that is no cron": {
			exist: map[string]string{"proc/9/comm": "busybox\n", "proc/9/exe": "->/bin/busybox", "proc/9/cmdline": "busybox\x00sh\x00"},
			file:  "etc/cron.d/bootwell", warn: "reads /etc/cron.d",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish(role(w.put("a", "one")))
			for name, text := range c.exist {
				if to, ok := strings.CutPrefix(text, "->"); ok {
					w.link(to, w.vm(name))
				} else {
					w.write(w.vm(name), text)
				}
			}
			in, _, err := w.install()
			if err != nil || in.Schedule != ScheduleCron || (c.warn == "") != (len(in.Warn) == 0) || !strings.Contains(strings.Join(in.Warn, ""), c.warn) {
				t.Fatalf("%v %+v", err, in)
			}
			for _, f := range []string{"etc/crontabs/root", "var/spool/cron/crontabs/root", "etc/cron.d/bootwell"} {
				if has := strings.Contains(w.text(f), "bootwell-agent apply"); has != (f == c.file) {
					t.Errorf("%s has the schedule: %v\n%s", f, has, w.text(f))
				}
			}
		})
	}
}

func TestBusyboxCron_OnlyOurLinesChange(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("proc/9/comm"), "crond\n")
	w.link("/bin/busybox", w.vm("proc/9/exe"))
	w.write(w.vm("etc/crontabs/root"), others)
	w.write(w.vm("etc/cron.d/bootwell"), "of an agent that did not know better")
	if err := os.Chmod(w.vm("etc/crontabs/root"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.publish(role(w.put("a", "one")))
	if _, _, err := w.install(); err != nil {
		t.Fatal(err)
	}
	golden(t, "root.crontab", w.text("etc/crontabs/root"))
	if i, err := os.Stat(w.vm("etc/crontabs/root")); err != nil || i.Mode().Perm() != 0o600 || exists(w.agent.Paths.Cron()) {
		t.Errorf("mode %v %v, /etc/cron.d/bootwell is there: %v", i.Mode(), err, exists(w.agent.Paths.Cron()))
	}
	if in, _, err := w.install(); err != nil || len(in.Changed) != 0 {
		t.Errorf("a second install: %v %+v", err, in)
	}

	slow := role(w.put("a", "two"))
	slow.Schedule.Poll = release.Duration(20 * time.Minute)
	w.publish(slow)
	w.good()
	text := w.text("etc/crontabs/root")
	if !strings.Contains(text, "-59/20 * * * * sleep ") || strings.Contains(text, "/5 * * * * sleep") || !strings.HasSuffix(text, "\n"+others) {
		t.Errorf("after a release with another schedule:\n%s", text)
	}
	if err := w.agent.Uninstall(t.Context(), UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.text("etc/crontabs/root"); got != others {
		t.Errorf("after uninstall:\n%s", got)
	}
}

func TestInstall_SystemdTakesOverFromBusyboxCron(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("var/spool/cron/crontabs/root"), crontabBlock("/usr/local/bin/bootwell-agent", ScheduleOf(time.Minute, "i")))
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.publish(role(w.put("a", "one")))
	if _, _, err := w.install(); err != nil {
		t.Fatal(err)
	}
	if name := w.agent.Paths.Crontab(); exists(name) {
		t.Errorf("two schedules: %s", w.text("var/spool/cron/crontabs/root"))
	}
}

// startCrond starts busybox's crond with the VM's folder as its root, and
// shows the VM that process.
func (w *world) startCrond() {
	w.t.Helper()
	c := exec.Command("/usr/sbin/crond", "-f", "-c", "/etc/crontabs")
	c.Env = []string{"PATH=/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: w.vm(""), Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := c.Start(); err != nil {
		needs.Skip(w.t, "busybox", "cannot be run in a folder: "+err.Error())
	}
	w.t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
	})
	proc := "/proc/" + strconv.Itoa(c.Process.Pid)
	for _, f := range []string{"comm", "cmdline"} {
		b, err := os.ReadFile(filepath.Join(proc, f))
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(w.vm(filepath.Join(proc, f)), string(b))
	}
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.link(exe, w.vm(filepath.Join(proc, "exe")))
}

// TestBusyboxCron_StartsTheAgent waits for a full minute: cron knows no less.
func TestBusyboxCron_StartsTheAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	needs.Root(t)
	busybox, err := os.ReadFile(needs.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	t.Parallel()
	w := newWorld(t)
	w.write(w.vm("bin/busybox"), string(busybox))
	if err := os.Chmod(w.vm("bin/busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin/sh", "bin/sleep", "bin/touch", "usr/sbin/crond"} {
		w.link("/bin/busybox", w.vm(name))
	}
	w.write(w.vm("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")
	w.write(w.vm("dev/null"), "")
	w.write(w.vm("etc/crontabs/root"), others)
	w.write(w.path("agent"), "#!/bin/sh\ntouch /started-$1\n")
	often := role(w.put("a", "one"))
	often.Schedule.Poll = release.Duration(time.Minute)
	w.publish(often)
	w.startCrond()
	in, _, err := w.agent.Install(t.Context(), InstallOptions{Executable: w.path("agent")})
	if err != nil || len(in.Warn) != 0 || !strings.Contains(w.text("etc/crontabs/root"), "\n* * * * * sleep ") {
		t.Fatalf("%v %+v\n%s", err, in, w.text("etc/crontabs/root"))
	}
	for end := time.Now().Add(3 * time.Minute); !exists(w.vm("started-apply")); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("busybox's crond has not started the agent\n%s", w.text("etc/crontabs/root"))
		}
	}
}

func FuzzCrontab(f *testing.F) {
	block := crontabBlock("/usr/local/bin/bootwell-agent", ScheduleOf(5*time.Minute, "i"))
	for _, text := range []string{"", others, block, block + others, others + "\n" + block, crontabBegin + "\n" + others, block + block, crontabEnd + "\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rest, have := cutCrontab(text)
		if len(rest)+len(have) != len(text) {
			t.Fatalf("%q became %q and %q", text, rest, have)
		}
		if !strings.Contains(text, crontabBegin) && rest != text {
			t.Fatalf("%q was cut to %q", text, rest)
		}
		if again, got := cutCrontab(block + rest); got != block && !strings.Contains(rest, crontabBegin) || again != rest && !strings.Contains(rest, crontabBegin) {
			t.Fatalf("of %q came back %q and %q", rest, again, got)
		}
	})
}
