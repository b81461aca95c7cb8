package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func TestReboot_ResumesWithTheSameStepAfter194(t *testing.T) {
	w := newWorld(t)
	again := run("kernel", fmt.Sprintf(`if [ ! -e %[1]s ]; then touch %[1]s; echo changed=true >>"$BOOTWELL_OUTPUT"; exit 194; fi`, w.vm("booted")))
	w.publish(role(w.log("before"), again, w.log("after")))

	r := w.good()
	if r.State != release.StateApplying || !strings.Contains(r.Reason, "waits for a reboot") {
		t.Fatalf("%s: %s", r.State, r.Reason)
	}
	if got := w.reported(); got.State != release.StateApplying {
		t.Fatalf("reported %s", got.State)
	}
	if len(w.calls) != 1 || w.calls[0] != "systemctl reboot" || w.lines("after") != 0 {
		t.Fatalf("asked for %v, %d lines", w.calls, w.lines("after"))
	}

	// The reboot has not come yet: nothing runs, it is asked for again.
	w.pass(5 * time.Minute)
	if r := w.good(); r.State != release.StateApplying || len(w.calls) != 2 || w.lines("before") != 1 {
		t.Fatalf("%+v, asked for %v", r, w.calls)
	}

	w.reboot()
	w.pass(time.Minute)
	r = w.good()
	w.is(r, release.StateChanged, "r1")
	if w.lines("before") != 1 || w.lines("after") != 1 {
		t.Fatalf("before ran %d times, after %d", w.lines("before"), w.lines("after"))
	}
	if r.Run.Why != release.WhyReboot || len(r.Run.Steps) != 3 || r.Run.Steps[1].Result != release.ResultChanged {
		t.Fatalf("run %+v", r.Run)
	}
	w.whole()
}

func TestReboot_NextStepFollows(t *testing.T) {
	w := newWorld(t)
	first := w.put("a", "one")
	first.Reboot = release.RebootIfChanged
	w.publish(role(first, w.log("after")))
	if r := w.good(); r.State != release.StateApplying {
		t.Fatalf("%+v", r)
	}
	w.reboot()
	r := w.good()
	w.is(r, release.StateChanged, "r1")
	if len(r.Run.Steps) != 2 || w.lines("after") != 1 {
		t.Fatalf("%+v", r.Run.Steps)
	}
}

func TestReboot_AskedForWithoutEnd(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("never done", "exit 194")))
	for range maxReboots {
		if r := w.good(); r.State != release.StateApplying {
			t.Fatalf("%+v", r)
		}
		w.reboot()
	}
	r, err := w.apply()
	if !errors.Is(err, ErrSteps) || r.State != release.StateFailed || !strings.Contains(r.Reason, "reboot") {
		t.Fatalf("%v %+v", err, r)
	}
	if len(w.calls) != maxReboots {
		t.Fatalf("%d reboots", len(w.calls))
	}
}

func TestReboot_NeverComes(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("never done", "exit 194")))
	for range maxRebootAsk {
		w.good()
		w.pass(5 * time.Minute)
	}
	r, err := w.apply()
	if !errors.Is(err, ErrReboot) || r.State != release.StateFailed {
		t.Fatalf("%v %+v", err, r)
	}
}

func TestReboot_CommandFails(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("kernel", "exit 194")))
	w.agent.Command = func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("no bus") }
	if _, err := w.apply(); !errors.Is(err, ErrReboot) {
		t.Fatalf("%v", err)
	}
}

// A busybox has neither systemctl nor shutdown.
func TestReboot_WithWhatTheSystemHas(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("kernel", "exit 194")))
	w.agent.Command = func(_ context.Context, name string, args ...string) ([]byte, error) {
		w.calls = append(w.calls, strings.Join(append([]string{name}, args...), " "))
		if name != "reboot" {
			return nil, exec.ErrNotFound
		}
		return nil, nil
	}
	r := w.good()
	if got := strings.Join(w.calls, ", "); got != "systemctl reboot, shutdown -r now, reboot" || r.State != release.StateApplying {
		t.Fatalf("%s, asked for %s", r.State, got)
	}
}

func TestStopped_GoesOnAtTheNextRun(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.log("before"), run("long", "touch "+w.vm("started")+"; test -e "+w.vm("quick")+" || sleep 60")))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !exists(w.vm("started")) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	var log bytes.Buffer
	w.agent.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := w.agent.Run(ctx, Options{})
	if log.Len() > 0 {
		t.Errorf("what the error says stands in the log too: %s", &log)
	}
	if !errors.Is(err, ErrStopped) || r.State != release.StateApplying {
		t.Fatalf("%v %+v", err, r)
	}
	w.write(w.vm("quick"), "")
	r = w.good()
	w.is(r, release.StateOK, "r1")
	if r.Run.Why != release.WhyPower || r.Run.Attempt != 1 {
		t.Fatalf("%+v", r.Run)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func TestTwoAgents_OneWorks(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("long", "touch "+w.vm("started")+"; while test ! -e "+w.vm("go")+"; do sleep 0.02; done")))
	first := make(chan error)
	go func() {
		_, err := w.agent.Run(t.Context(), Options{})
		first <- err
	}()
	for !exists(w.vm("started")) {
		time.Sleep(5 * time.Millisecond)
	}
	other := w.newAgent()
	other.Events = nil
	r, err := other.Run(t.Context(), Options{Force: true})
	if !errors.Is(err, ErrBusy) || r != nil {
		t.Errorf("the second agent: %v %+v", err, r)
	}
	if s, err := Status(w.agent.Paths); err != nil || s.State != release.StateApplying {
		t.Errorf("status meanwhile: %v %+v", err, s)
	}
	w.write(w.vm("go"), "")
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestLock_StepsDoNotInheritIt: what a step leaves running does not keep the
// next run out.
func TestLock_StepsDoNotInheritIt(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("leaves a child", fmt.Sprintf("setsid sh -c 'echo $$ >%s; exec sleep 300' >/dev/null 2>&1 </dev/null &\nwhile test ! -s %[1]s; do sleep 0.02; done", w.vm("pid")))))
	w.good()
	var pid int
	fmt.Sscan(w.text("pid"), &pid)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Skip("the step's child did not outlive it")
	}
	for _, f := range fds {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name())); strings.Contains(to, "/lib/bootwell/") {
			t.Errorf("the child holds %s", to)
		}
	}
	w.pass(time.Hour)
	if _, err := w.agent.Run(t.Context(), Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
}

func TestHold_StopsRunsAndIsReported(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	w.publish(role(w.put("a", "two")))
	w.write(w.agent.Paths.Hold(), "disk is being replaced\nask ops\n")
	w.pass(time.Hour)
	r, err := w.agent.Run(t.Context(), Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	w.is(r, release.StateHeld, "r1")
	if got := w.reported(); got.State != release.StateHeld || got.Reason != "held: disk is being replaced ask ops" {
		t.Fatalf("reported %s %q", got.State, got.Reason)
	}
	before := w.count.Traffic()
	w.good()
	if d := w.count.Traffic().Sub(before); d.Requests() != 0 {
		t.Fatalf("a held VM made %+v", d)
	}
	if err := os.Remove(w.agent.Paths.Hold()); err != nil {
		t.Fatal(err)
	}
	w.is(w.good(), release.StateChanged, "r2")
}

func TestClone_IsAnotherVM(t *testing.T) {
	w := newWorld(t)
	once := run("once", "echo x >>"+w.vm("once"))
	once.Rerun = release.RerunNever
	w.publish(role(once))
	w.good()
	old := w.state()

	w.write(w.vm("run/cloud-init/instance-data.json"), `{"v1":{"instance_id":"i-0copy"}}`)
	w.pass(time.Minute)
	r := w.good()
	if r.VM != "i-0copy" || r.Run.Why != release.WhyFirst || r.Run.Attempt != 1 || len(r.History) != 0 {
		t.Fatalf("the copy reports as %+v", r)
	}
	if w.lines("once") != 2 {
		t.Errorf("the step for each new VM ran %d times", w.lines("once"))
	}
	if !strings.Contains(strings.Join(r.Warn, "\n"), "copy of i-0abc") {
		t.Errorf("warnings %q", r.Warn)
	}
	if got := w.reported(); got.Run.ID != old.last().ID {
		t.Errorf("the copy wrote over the report of the first VM")
	}
	w.whole()
	w.pass(time.Hour)
	if r := w.good(); r.VM != "i-0copy" || r.Run.Why != release.WhyReapply {
		t.Fatalf("later: %+v", r)
	}
}

func TestName_StaysWhenFactsComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	if err := os.Remove(w.vm("run/cloud-init/instance-data.json")); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	if r := w.good(); r.VM != "i-0abc" {
		t.Fatalf("now called %s", r.VM)
	}
}

func TestName_StaysWhenCloudInitIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.write(w.vm("sys/class/dmi/id/product_uuid"), "ec2f0000-1111\n")
	w.good()
	if err := os.RemoveAll(w.vm("run/cloud-init")); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	if r := w.good(); r.VM != "i-0abc" || r.Run.Why != release.WhyReapply {
		t.Fatalf("now called %s, %+v", r.VM, r.Run)
	}
}

func TestTorn_StateWhileTheBucketIsAway(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	w.write(w.agent.Paths.StateFile(), "{")
	w.write(w.vm("a"), "drift")
	w.faults.Set(bucket.Fault{})
	r, err := w.apply()
	if !errors.Is(err, bucket.ErrUnavailable) || r.Release != "r1" || w.text("a") != "one" {
		t.Fatalf("%v %q %+v", err, w.text("a"), r)
	}
	w.faults.Set()
	w.good()
	w.whole()
}

func TestTorn_FilesHealThemselves(t *testing.T) {
	for _, name := range []string{"state.json", "journal.json", "steps.json", "status.json"} {
		for what, tear := range map[string]func(b []byte) []byte{
			"empty": func([]byte) []byte { return nil },
			"half":  func(b []byte) []byte { return b[:len(b)/2] },
			"zeros": func(b []byte) []byte { return make([]byte, len(b)) },
		} {
			t.Run(name+"_"+what, func(t *testing.T) {
				w := newWorld(t)
				w.publish(role(w.put("a", "one")))
				w.good()
				sequence := w.reported().Sequence
				path := filepath.Join(w.agent.Paths.State(), name)
				b, err := os.ReadFile(path)
				if err != nil {
					b = []byte(`{"schema":1,"point":"applying","run":"20270301-120000-abcd"}`)
				}
				if err := os.WriteFile(path, tear(b), 0o600); err != nil {
					t.Fatal(err)
				}
				w.write(w.vm("a"), "drift")
				w.pass(time.Hour)
				w.is(w.good(), release.StateChanged, "r1")
				w.whole()
				if got := w.reported(); got.Sequence <= sequence {
					t.Errorf("sequence %d after %d", got.Sequence, sequence)
				}
			})
		}
	}
}
