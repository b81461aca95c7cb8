package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func TestStatus_FollowsTheVM(t *testing.T) {
	w := newWorld(t)
	p := w.agent.Paths
	if _, err := Status(p); !errors.Is(err, ErrNoStatus) {
		t.Fatalf("before the first run: %v", err)
	}
	w.publish(role(w.put("a", "one")))
	w.good()
	r, err := Status(p)
	if err != nil || r.State != release.StateChanged || r.VM != "i-0abc" {
		t.Fatalf("%v %+v", err, r)
	}
	w.reboot() // takes /run away
	if r, err := Status(p); err != nil || r.State != release.StateChanged {
		t.Fatalf("after a reboot: %v %+v", err, r)
	}
	w.write(p.Hold(), "")
	if r, err := Status(p); err != nil || r.State != release.StateHeld {
		t.Fatalf("held: %v %+v", err, r)
	}
}

func TestStatus_OutputOfStepsIsForRootOnly(t *testing.T) {
	w := newWorld(t)
	p := w.agent.Paths
	w.publish(role(run("leaks", "echo password=hunter2; exit 1")))
	if _, err := w.apply(); !errors.Is(err, ErrSteps) {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode os.FileMode
		has  bool
	}{p.Status(): {0o644, false}, p.StatusCopy(): {0o600, true}} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		i, err := os.Stat(name)
		if err != nil || i.Mode().Perm() != want.mode || bytes.Contains(b, []byte("hunter2")) != want.has {
			t.Errorf("%s: %v %v\n%s", name, err, i.Mode(), b)
		}
	}
	if got := w.reported(); got.Run.Steps[0].Tail == "" {
		t.Errorf("the report in the bucket lost it: %+v", got.Run.Steps)
	}
	if r, err := Status(p); err != nil || !strings.Contains(r.Run.Steps[0].Tail, "hunter2") {
		t.Errorf("root does not see it: %v", err)
	}
	w.pass(time.Minute)
	w.good() // a poll that does nothing
	if r, err := Status(p); err != nil || !strings.Contains(r.Run.Steps[0].Tail, "hunter2") {
		t.Errorf("root does not see it after a poll: %v", err)
	}
	if err := os.Remove(p.StatusCopy()); err != nil {
		t.Fatal(err)
	}
	if r, err := Status(p); err != nil || r.Run.Steps[0].Result != release.ResultFailed || r.Run.Steps[0].Tail != "" {
		t.Errorf("what others see: %v %+v", err, r)
	}
}

func TestStatus_OfACopiedDisk(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t)
		p := w.agent.Paths
		w.publish(role(w.put("a", "one")))
		w.good()
		w.reboot()
		if lost {
			if err := os.Remove(p.StateFile()); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := Status(p); err != nil || r.VM != "i-0abc" {
			t.Fatalf("after a reboot, state lost: %v: %v %+v", lost, err, r)
		}
		w.write(w.vm("run/cloud-init/instance-data.json"), `{"v1":{"instance_id":"i-0copy"}}`)
		if r, err := Status(p); !errors.Is(err, ErrNoStatus) || !strings.Contains(err.Error(), "copy of i-0abc") {
			t.Fatalf("state lost: %v: %v %+v", lost, err, r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if r, err := Wait(ctx, p, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || r != nil {
			t.Fatalf("wait: %v %+v", err, r)
		}
		w.good()
		if r, err := Status(p); err != nil || r.VM != "i-0copy" {
			t.Fatalf("after its first run: %v %+v", err, r)
		}
	}
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	bad := role(run("fails until mended", "test -e "+w.vm("mended")))
	w.publish(bad)
	wait := func() (*release.Report, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return Wait(ctx, w.agent.Paths, time.Millisecond)
	}
	if r, err := wait(); !errors.Is(err, context.DeadlineExceeded) || r != nil {
		t.Fatalf("nothing yet: %v %+v", err, r)
	}
	_, _ = w.apply()
	if r, err := wait(); !errors.Is(err, ErrUnhealthy) || r.State != release.StateFailed {
		t.Fatalf("failed: %v %+v", err, r)
	}
	w.write(w.vm("mended"), "")
	w.pass(time.Hour)
	w.good()
	if r, err := wait(); err != nil || r.State != release.StateOK {
		t.Fatalf("ok: %v %+v", err, r)
	}
	w.publish(role(run("reboots", "exit 194")))
	w.pass(5 * time.Minute)
	w.good()
	if r, err := wait(); !errors.Is(err, context.DeadlineExceeded) || r.State != release.StateApplying {
		t.Fatalf("waiting for a reboot: %v %+v", err, r)
	}
}

func TestWhy(t *testing.T) {
	w := newWorld(t)
	why := func(want ...string) {
		t.Helper()
		got, err := Why(w.agent.Paths, w.now)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(got, "\n")
		for _, s := range want {
			if !strings.Contains(text, s) {
				t.Errorf("%q is not in\n%s", s, text)
			}
		}
	}
	why("Nothing was applied", "The next poll applies")
	w.publish(role(w.put("a", "one")))
	w.good()
	why("r1 was applied last and changed something", "Channel stable names r1", "runs nothing unless")
	bad := role(run("fails", "exit 3"))
	bad.Attempts = 2
	w.publish(bad)
	_, _ = w.apply()
	why("r2 was applied last and failed: step fails failed", "is tried again about")
	w.pass(time.Hour)
	why("The next poll applies r2: the last run failed")
	_, _ = w.apply()
	why("r1 was applied last", "r2 is refused here", "apply --force")
	w.faults.Set(bucket.Fault{})
	w.write(w.vm("a"), "drift")
	w.pass(time.Hour)
	_, _ = w.apply()
	why("has not reached the bucket")
	w.write(w.agent.Paths.Hold(), "hands off")
	why("held: hands off", "Remove")
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	p := w.agent.Paths
	if _, err := Logs(p, "", ""); !errors.Is(err, ErrNoRun) {
		t.Fatalf("%v", err)
	}
	r1 := role(run("says", "echo hello from says"), run("tells", "echo hello from tells"))
	r1.Checks = []release.Check{check("fine", "true")}
	w.publish(r1)
	w.good()
	all, err := Logs(p, "", "")
	if err != nil || !bytes.Contains(all, []byte("hello from says")) || !bytes.Contains(all, []byte("check fine: passed")) {
		t.Fatalf("%v\n%s", err, all)
	}
	one, err := Logs(p, "", "tells")
	if err != nil || !bytes.Contains(one, []byte("hello from tells")) || bytes.Contains(one, []byte("hello from says")) || bytes.Contains(one, []byte("check fine")) {
		t.Fatalf("%v\n%s", err, one)
	}
	for _, name := range []string{"nobody", "../state", "20270301-120000-0000"} {
		if _, err := Logs(p, name, ""); !errors.Is(err, ErrNoRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Logs(p, "", "nobody"); !errors.Is(err, ErrNoRun) {
		t.Errorf("%v", err)
	}
	runs, err := Runs(p)
	if err != nil || len(runs) != 1 || len(runs[0].Steps) != 2 {
		t.Fatalf("%v %+v", err, runs)
	}
	checkTiming(t, p, runs[0].ID)
}

func TestRuns_QuietOnesDoNotPushOutTheOthers(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	first := w.good().Run.ID
	for range 4 {
		w.pass(time.Hour)
		w.good()
	}
	runs, err := Runs(w.agent.Paths)
	if err != nil || len(runs) != 2 || runs[1].ID != first {
		t.Fatalf("%v %d runs kept", err, len(runs))
	}
	for range keepRuns {
		w.write(w.vm("a"), "drift")
		w.pass(time.Hour)
		w.good()
	}
	if runs, err := Runs(w.agent.Paths); err != nil || len(runs) != keepRuns || runs[keepRuns-1].ID == first {
		t.Fatalf("%v %d runs kept", err, len(runs))
	}
}

func TestRunLog_Bounded(t *testing.T) {
	name := t.TempDir() + "/log"
	l := openLog(name)
	fmt.Fprintln(l, "the start")
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for range 400 {
		if n, err := l.Write(chunk); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	fmt.Fprintln(l, "the end")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 4<<20+100 || !bytes.HasPrefix(b, []byte("the start\n")) || !bytes.HasSuffix(b, []byte("the end\n")) || !bytes.Contains(b, []byte("bytes are left out here")) {
		t.Fatalf("%d bytes, starts %q, ends %q", len(b), b[:20], b[len(b)-20:])
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	r := role(w.put("a", "one"), run("b", "true"))
	r.Checks = []release.Check{check("fine", "true")}
	w.publish(r)
	w.good()
	text := w.text("var/lib/prometheus/node-exporter/bootwell.prom")
	for _, line := range []string{
		`bootwell_agent_info{version="1.0.0",role="web",release="r1"} 1`,
		`bootwell_last_run_steps{result="changed"} 1`, `bootwell_last_run_steps{result="failed"} 0`,
		`bootwell_checks{result="passed"} 1`, `bootwell_state{state="changed"} 1`,
		fmt.Sprintf("bootwell_last_success_timestamp_seconds %d", w.now.Unix()),
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}

func TestDryRun_ChangesNothing(t *testing.T) {
	w := newWorld(t)
	content := "one\n"
	s := run("a file", "")
	s.Kind, s.Run = release.KindFiles, ""
	s.Files = []release.FileItem{{To: "/srv/a", Content: &content, State: release.StatePresent, Mode: "0644", Owner: me(), Group: mine()}}
	w.publish(role(s))
	w.write(w.vm("srv/.keep"), "")
	r, err := w.agent.Run(t.Context(), Options{DryRun: true, Diff: true})
	if err != nil {
		t.Fatal(err)
	}
	if exists(w.vm("srv/a")) || exists(w.agent.Paths.Current()) || exists(w.agent.Paths.StateFile()) && w.state().Applied != (ref{}) {
		t.Fatal("a dry run left something")
	}
	if results(r.Run) != "changed" || !strings.Contains(r.Run.Steps[0].Diff, "+one") {
		t.Fatalf("%+v", r.Run)
	}
	w.good()
	w.write(w.vm("srv/a"), "two\n")
	before := w.state().Sequence
	r, err = w.agent.Run(t.Context(), Options{DryRun: true, Diff: true})
	if err != nil || r.State != release.StateDrifted || w.text("srv/a") != "two\n" || w.state().Sequence != before {
		t.Fatalf("%v %+v", err, r)
	}

	// What a dry run has seen, the next poll acts upon.
	content = "three\n"
	w.publish(role(s))
	if _, err := w.agent.Run(t.Context(), Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	w.pass(5 * time.Minute)
	w.is(w.good(), release.StateChanged, "r2")
}

func TestMemory_LastsAndForgets(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	if err := os.MkdirAll(p.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	d := release.DigestOf([]byte("inputs"))
	m := loadMemory(p)
	for key, v := range map[string]release.Digest{"web/a": d, "web/b": d, "web/c": {}} {
		if err := m.Remember(key, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Remember("web/b", release.Digest{}); err != nil {
		t.Fatal(err)
	}
	m = loadMemory(p)
	if got, ok := m.Last("web/a"); !ok || got != d {
		t.Errorf("a: %v %v", got, ok)
	}
	for _, key := range []string{"web/b", "web/c"} {
		if _, ok := m.Last(key); ok {
			t.Errorf("%s is still remembered", key)
		}
	}
}
