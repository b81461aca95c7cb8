package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func (w *world) install() (Installation, *release.Report, error) {
	w.t.Helper()
	w.write(w.path("agent"), "#!/bin/true\n")
	return w.agent.Install(w.t.Context(), InstallOptions{Executable: w.path("agent")})
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

func TestInstall_Systemd(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.write(w.vm("run/systemd/system/.keep"), "")
	in, r, err := w.install()
	if err != nil {
		t.Fatal(err)
	}
	w.is(r, release.StateChanged, "r1")
	if in.Schedule != ScheduleSystemd || in.Binary != "/usr/local/bin/bootwell-agent" || len(in.Changed) != 3 {
		t.Fatalf("%+v", in)
	}
	golden(t, "bootwell.service", w.text("etc/systemd/system/bootwell.service"))
	golden(t, "bootwell.timer", w.text("etc/systemd/system/bootwell.timer"))
	if got, want := strings.Join(w.calls, "\n"), "sh -c trap '' HUP INT PIPE; systemctl daemon-reload && exec systemctl start --no-block bootwell.timer"; got != want {
		t.Errorf("asked the system for\n%s\nwant\n%s", got, want)
	}
	if i, err := os.Stat(w.agent.Paths.Binary()); err != nil || i.Mode().Perm() != 0o755 {
		t.Errorf("agent: %v %v", i, err)
	}

	in, r, err = w.install()
	if err != nil || len(in.Changed) != 0 || r.Run.Why != release.WhyFirst {
		t.Fatalf("a second install: %v %+v %+v", err, in, r.Run)
	}
}

func TestInstall_Cron(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.write(w.vm("proc/123/comm"), "crond\n")
	in, _, err := w.install()
	if err != nil || in.Schedule != ScheduleCron || len(in.Warn) != 0 {
		t.Fatalf("%v %+v", err, in)
	}
	golden(t, "bootwell.cron", w.text("etc/cron.d/bootwell"))
}

func TestInstall_NeitherSystemdNorCronRuns(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	in, r, err := w.install()
	if err != nil || len(in.Warn) != 1 || !strings.Contains(in.Warn[0], "neither systemd nor cron") {
		t.Fatalf("%v %+v", err, in)
	}
	w.is(r, release.StateChanged, "r1")
	if !exists(w.agent.Paths.Cron()) {
		t.Error("no schedule for a cron that comes later")
	}
}

func TestInstall_SystemdOfTheNextBoot(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("usr/lib/systemd/systemd"), "")
	w.publish(role(w.put("a", "one")))
	in, _, err := w.install()
	if err != nil || in.Schedule != ScheduleSystemd || len(in.Warn) != 1 || len(w.calls) != 0 {
		t.Fatalf("%v %+v %v", err, in, w.calls)
	}
	if to, err := os.Readlink(w.vm("etc/systemd/system/timers.target.wants/bootwell.timer")); err != nil || to != "../bootwell.timer" {
		t.Errorf("link to %q: %v", to, err)
	}
}

func TestInstall_FailureOfTheFirstRunIsAnError(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("fails", "test -e "+w.vm("mended"))))
	if _, _, err := w.install(); !errors.Is(err, ErrSteps) {
		t.Fatalf("%v", err)
	}
	// Somebody runs the bootstrap again: it does not wait for the backoff.
	w.write(w.vm("mended"), "")
	if _, r, err := w.install(); err != nil || r.State != release.StateOK {
		t.Fatalf("%v %+v", err, r)
	}
	w2 := newWorld(t)
	w2.faults.Set(bucket.Fault{})
	if _, _, err := w2.install(); !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if !exists(w2.agent.Paths.Cron()) {
		t.Error("no schedule, so nothing would try again")
	}
}

func TestSchedule_FollowsTheRelease(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.publish(role(w.put("a", "one")))
	if _, _, err := w.install(); err != nil {
		t.Fatal(err)
	}
	w.calls = nil
	slow := role(w.put("a", "two"))
	slow.Schedule.Poll = release.Duration(20 * time.Minute)
	w.publish(slow)
	r := w.good()
	times := ScheduleOf(20*time.Minute, "i-0abc")
	if want := times.Next(w.now); !r.NextRun.Equal(want) {
		t.Errorf("next run %v, want %v", r.NextRun, want)
	}
	if text := w.text("etc/systemd/system/bootwell.timer"); times.Every != 20*time.Minute || !strings.Contains(text, "\nOnCalendar="+times.calendar()+"\n") {
		t.Errorf("timer\n%s", text)
	}
	if len(w.calls) != 1 || !strings.HasSuffix(w.calls[0], "systemctl try-restart --no-block bootwell.timer") {
		t.Errorf("asked for %v", w.calls)
	}
	w.calls = nil
	w.pass(time.Hour)
	if w.good(); len(w.calls) != 0 {
		t.Errorf("asked again for %v", w.calls)
	}
}

func TestUninstall(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.publish(role(w.put("a", "one")))
	if _, _, err := w.install(); err != nil {
		t.Fatal(err)
	}
	if err := w.agent.Uninstall(t.Context(), UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	p := w.agent.Paths
	for name, want := range map[string]bool{
		p.Service(): false, p.Timer(): false, p.Status(): false, p.Binary(): true, p.StateFile(): true, w.vm("a"): true,
	} {
		if exists(name) != want {
			t.Errorf("%s exists: %v", name, !want)
		}
	}
	if err := w.agent.Uninstall(t.Context(), UninstallOptions{Purge: true}); err != nil {
		t.Fatal(err)
	}
	if exists(p.State()) || exists(p.Binary()) || !exists(w.vm("a")) {
		t.Error("purge left state or agent, or took what a step made")
	}
}

func TestInstall_SaysThatAReadOnlyBucketTakesNoReports(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.publish(role(w.put("a", "one")))
	w.agent.Bucket = readOnly{w.count}
	in, _, err := w.install()
	if err != nil || len(in.Warn) != 1 || !strings.Contains(in.Warn[0], "sends no reports") {
		t.Fatalf("%v %+v", err, in)
	}
}

// TestInstall_RunsBesideSystemd has a systemd that answers only once the first
// run has done its work.
func TestInstall_RunsBesideSystemd(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.agent.Command = func(ctx context.Context, name string, args ...string) ([]byte, error) {
		for !exists(w.vm("a")) {
			select {
			case <-t.Context().Done():
				return nil, t.Context().Err()
			case <-time.After(time.Millisecond):
			}
		}
		return nil, errors.New("no such unit")
	}
	_, r, err := w.install()
	if err == nil || !strings.Contains(err.Error(), "start bootwell.timer: no such unit") {
		t.Errorf("a timer that does not start is hidden: %v", err)
	}
	w.is(r, release.StateChanged, "r1")
	if to, err := os.Readlink(w.agent.timerLink()); err != nil || to != "../bootwell.timer" {
		t.Errorf("the next boot has no timer: %v %s", err, to)
	}
}

// TestInstall_KilledWhileSystemdReadsItsUnits has a systemctl that takes its
// time, and looks whether the timer is started nevertheless.
func TestInstall_KilledWhileSystemdReadsItsUnits(t *testing.T) {
	for name, kill := range map[string]func(pid int) error{
		"killed":      func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) },
		"no terminal": func(pid int) error { return syscall.Kill(-pid, syscall.SIGHUP) },
		"interrupted": func(pid int) error { return syscall.Kill(-pid, syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) { testKilledInstall(t, kill) })
	}
}

func testKilledInstall(t *testing.T, kill func(pid int) error) {
	w := newFileWorld(t)
	w.publish(role(w.put("a", "one")))
	w.write(w.vm("run/systemd/system/.keep"), "")
	w.write(w.path("agent"), "#!/bin/true\n")
	w.write(w.path("bin/systemctl"), `#!/bin/sh
cd "${0%/*}"
echo "$*" >>asked
[ "$1" != daemon-reload ] || while ! [ -e go ]; do sleep 0.01; done
`)
	if err := os.Chmod(w.path("bin/systemctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := w.process(victim{Install: w.path("agent")})
	c.Env = append(c.Env, "PATH="+w.path("bin")+":"+os.Getenv("PATH"))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	asked := func(want string) {
		for end := time.Now().Add(time.Minute); !strings.Contains(w.text("../bin/asked"), want); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("systemctl was not asked for %q, but for %q", want, w.text("../bin/asked"))
			}
		}
	}
	asked("daemon-reload\n")
	if err := kill(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("the agent was not killed")
		}
	case <-time.After(time.Minute):
		_ = c.Process.Kill()
		t.Fatal("the agent goes on")
	}
	w.write(w.path("bin/go"), "")
	asked("start --no-block bootwell.timer\n")
}
