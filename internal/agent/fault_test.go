package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

func TestStagedTree_DamageIsMendedBeforeARun(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("uses the tree", "test \"$(cat hello.txt)\" = hello")))
	w.good()
	hello := filepath.Join(w.agent.Paths.Current(), "hello.txt")
	for name, damage := range map[string]func() error{
		"content": func() error { return os.WriteFile(hello, []byte("evil"), 0o644) },
		"removed": func() error { return os.Remove(hello) },
		"extra":   func() error { return os.WriteFile(filepath.Join(filepath.Dir(hello), "x"), nil, 0o644) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Hour)
		if r := w.good(); r.State != release.StateOK {
			t.Fatalf("%s: %+v", name, r)
		}
		w.whole()
	}
}

func TestStagedTree_DamagedWhileTheBucketIsAway(t *testing.T) {
	w := newWorld(t)
	w.publish(role(run("uses the tree", "cat hello.txt >"+w.vm("a"))))
	w.good()
	if err := os.WriteFile(filepath.Join(w.agent.Paths.Current(), "hello.txt"), []byte("evil\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.faults.Set(bucket.Fault{})
	w.pass(time.Hour)
	r, err := w.apply()
	if !errors.Is(err, bucket.ErrUnavailable) || w.text("a") != "hello\n" {
		t.Fatalf("%v, file %q, %+v", err, w.text("a"), r)
	}
	w.faults.Set()
	w.pass(5 * time.Minute)
	w.good()
	w.whole()
}

func TestTampered_IsRefusedAndReported(t *testing.T) {
	for _, key := range []string{"packs/", "tuf/metadata/", "tuf/targets/channels/"} {
		t.Run(strings.ReplaceAll(strings.Trim(key, "/"), "/", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.publish(role(w.put("a", "one")))
			w.good()
			w.write(w.path("project", "more.txt"), "more\n")
			w.publish(role(w.put("a", "two")))
			w.unbundle()
			w.faults.Set(bucket.Fault{Kind: bucket.FaultFlip, Method: "Get", Key: key, Bytes: 8})
			w.pass(5 * time.Minute)
			r, err := w.apply()
			if !errors.Is(err, trust.ErrUntrusted) {
				t.Fatalf("%v", err)
			}
			if r.Release != "r1" || w.text("a") != "one" || r.Reason == "" {
				t.Fatalf("%+v", r)
			}
			if got := w.reported(); got.Reason == "" {
				t.Fatalf("not reported: %+v", got)
			}
			w.faults.Set()
			w.pass(5 * time.Minute)
			w.is(w.good(), release.StateChanged, "r2")
		})
	}
}

func TestFloor_OlderReleaseIsRefusedUnlessTheChannelAllowsIt(t *testing.T) {
	s := &session{Agent: &Agent{}, state: &state{}}
	s.trust = &trust.Client{Dir: t.TempDir()}
	if err := s.trust.RaiseFloor(43); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		number, floor int
		refused       bool
	}{{43, 0, false}, {44, 43, false}, {42, 43, true}, {42, 42, false}, {42, 0, true}, {41, 42, true}} {
		s.state.Floor = c.floor
		err := s.checkFloor(&release.Manifest{Number: c.number})
		if errors.Is(err, trust.ErrRollback) != c.refused {
			t.Errorf("r%d with the channel's floor %d: %v", c.number, c.floor, err)
		}
	}
}

func TestRollback_OfTheBucketIsRefused(t *testing.T) {
	w := newFileWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	if out, err := exec.Command("cp", "-a", w.path("bucket"), w.path("old")).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	w.publish(role(w.put("a", "two")))
	w.pass(5 * time.Minute)
	w.good()
	w.faults.Bucket = openFolder(t, w.path("old"))
	w.pass(5 * time.Minute)
	r, err := w.apply()
	if !errors.Is(err, trust.ErrRollback) || r.Release != "r2" || w.text("a") != "two" {
		t.Fatalf("%v %+v", err, r)
	}
}

func TestClock_YearsOff(t *testing.T) {
	const years = 5 * 365 * 24 * time.Hour
	for name, off := range map[string]time.Duration{"behind": -years, "ahead": years} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish(role(w.put("a", "one")))
			w.good()
			right := w.now
			w.inner.(*bucket.Mem).Now = func() time.Time { return right }
			w.pass(off)
			w.write(w.vm("a"), "drift")
			for range 2 {
				right = right.Add(time.Hour)
				w.pass(time.Hour)
				r, err := w.apply()
				if off > 0 && !errors.Is(err, trust.ErrExpired) || off < 0 && err != nil {
					t.Fatalf("%v", err)
				}
				if r.Release != "r1" || w.text("a") != "one" {
					t.Fatalf("the VM was not kept in shape: %q %+v", w.text("a"), r)
				}
				w.write(w.vm("a"), "drift")
			}
			if got := w.reported(); !strings.Contains(strings.Join(got.Warn, "\n"), name+" ") && !strings.Contains(strings.Join(w.state().Notes, "\n"), name) {
				t.Errorf("no warning: %q, %q", got.Warn, w.state().Notes)
			}
			// The clock is set right again.
			w.now = right.Add(time.Minute)
			w.write(w.vm("a"), "drift")
			w.good()
			w.pass(time.Hour)
			if w.good(); w.text("a") != "one" {
				t.Error("no re-apply after the clock was set right")
			}
		})
	}
}

func TestReport_FailureIsSentAgain(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.faults.Set(bucket.Fault{Method: "Put"})
	r := w.good()
	w.is(r, release.StateChanged, "r1")
	if !strings.Contains(strings.Join(r.Warn, "\n"), "has not reached the bucket") {
		t.Fatalf("warnings %q", r.Warn)
	}
	w.pass(5 * time.Minute)
	w.good()
	w.faults.Set()
	w.pass(5 * time.Minute)
	w.good()
	if got := w.reported(); got.State != release.StateChanged || got.Run.Log == "" || got.Run.Why != release.WhyFirst {
		t.Fatalf("%+v", got)
	}
	before := w.count.Traffic()
	w.pass(5 * time.Minute)
	w.good()
	if d := w.count.Traffic().Sub(before); d.Requests() != 1 {
		t.Fatalf("sent once more: %+v", d)
	}

	// A report that would say the same again tells of another run all the same.
	w.write(w.vm("a"), "drift")
	w.faults.Set(bucket.Fault{Method: "Put"})
	w.pass(time.Hour)
	last := w.good().Run.ID
	w.faults.Set()
	w.pass(5 * time.Minute)
	w.good()
	if got := w.reported(); got.Run.ID != last {
		t.Fatalf("the run %s was never reported", last)
	}
}

func TestReport_RefusedIsTriedLessAndLessAndWithNews(t *testing.T) {
	w := newWorld(t)
	r := role(w.put("a", "one"))
	r.Schedule.Reapply = release.Duration(10 * 24 * time.Hour)
	w.publish(r)
	w.faults.Set(bucket.Fault{Method: "Put", Err: bucket.ErrPermission})
	w.is(w.good(), release.StateChanged, "r1")
	poll := func() (requests int64, warnings string) {
		t.Helper()
		w.pass(5 * time.Minute)
		before := w.count.Traffic()
		r := w.good()
		return w.count.Traffic().Sub(before).Requests(), strings.Join(r.Warn, "\n")
	}
	tries := 0
	for range 36 {
		n, warn := poll()
		if n > 2 { // a poll, and once an hour a look for a new root, are less
			tries++
		} else if !strings.Contains(warn, "does not let this VM write its report") {
			t.Fatalf("a poll warns only of %q", warn)
		}
	}
	// At 5, 10, 15, 25, 45, 80 and 140 minutes.
	if tries != 7 {
		t.Fatalf("tried %d times in three hours", tries)
	}
	why, err := Why(w.agent.Paths, w.now)
	if err != nil || !strings.Contains(strings.Join(why, "\n"), "at least once an hour") {
		t.Errorf("%v %q", err, why)
	}

	// News: the VM is held, and says so at once. Refused, it is quiet again.
	w.write(w.agent.Paths.Hold(), "hands off")
	before := w.count.Traffic()
	w.good()
	if n := w.count.Traffic().Sub(before).Requests(); n == 0 {
		t.Error("the news were not sent")
	}
	if n, _ := poll(); n != 0 {
		t.Errorf("a poll of a held VM made %d requests", n)
	}
	if err := os.Remove(w.agent.Paths.Hold()); err != nil {
		t.Fatal(err)
	}
	w.faults.Set()
	poll()
	if got := w.reported(); got.State != release.StateChanged || got.Run.Log == "" {
		t.Errorf("%+v", got)
	}
	if n, warn := poll(); n != 1 || warn != "" {
		t.Errorf("after that a poll makes %d requests and warns of %q", n, warn)
	}
}

func TestReport_RefusedLogHoldsNothingBack(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.faults.Set(bucket.Fault{Method: "Put", Key: "logs/", Err: bucket.ErrPermission})
	w.good()
	got := w.reported()
	if got.State != release.StateChanged || got.Run.Log != "" || !strings.Contains(strings.Join(got.Warn, "\n"), "write its log") {
		t.Errorf("%+v", got)
	}
}

func TestReport_ReadOnlyBucketTakesNone(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.agent.Bucket = readOnly{w.count}
	r := w.good()
	w.is(r, release.StateChanged, "r1")
	before := w.count.Traffic()
	w.pass(5 * time.Minute)
	if r := w.good(); len(r.Warn) != 0 || w.count.Traffic().Sub(before).Requests() != 1 {
		t.Fatalf("%q, %+v", r.Warn, w.count.Traffic().Sub(before))
	}
}

type readOnly struct{ bucket.Bucket }

func (readOnly) Caps() bucket.Caps { return bucket.Caps{ReadOnly: true, NoList: true} }

func TestHeartbeat_AtMostOnceADay(t *testing.T) {
	w := newWorld(t)
	r := role(w.put("a", "one"))
	r.Schedule.Reapply = release.Duration(10 * 24 * time.Hour)
	w.publish(r)
	w.good()
	first := w.reported()
	sent := 0
	for range 5 * 24 {
		w.pass(time.Hour)
		w.good()
		if got := w.reported(); got.Sequence != first.Sequence {
			if d := got.Time.Sub(first.Time); d < 24*time.Hour || d > first.Heartbeat.Std() {
				t.Errorf("a heartbeat after %v, promised within %v", d, first.Heartbeat.Std())
			}
			first, sent = got, sent+1
		}
	}
	if sent != 4 {
		t.Errorf("%d heartbeats in five days", sent)
	}
}

// ownDisk is a world whose VM keeps its state on a file system of its own, 1 MiB
// at lib, and has applied a first release.
func ownDisk(t *testing.T) (w *world, lib string) {
	t.Helper()
	needs.Root(t)
	w = newWorld(t)
	lib = w.vm("var/lib/bootwell")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", lib, "tmpfs", 0, "size=1m"); err != nil {
		needs.Skip(t, "mount", err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(lib, 0) })
	w.publish(role(w.put("a", "one")))
	w.good()
	return w, lib
}

func TestFullDisk_ClearReasonAndReport(t *testing.T) {
	w, lib := ownDisk(t)
	before := w.state()
	fill(t, filepath.Join(lib, "fill"))
	w.write(w.vm("a"), "drift")
	w.pass(time.Hour)
	r, err := w.apply()
	if !errors.Is(err, ErrDisk) || r == nil || r.State != release.StateFailed || !strings.Contains(r.Reason, "no space left") {
		t.Fatalf("%v %+v", err, r)
	}
	if got := w.reported(); got.State != release.StateFailed || !strings.Contains(got.Reason, "no space left") {
		t.Fatalf("reported %+v", got)
	}
	if st := w.state(); st.Applied != before.Applied {
		t.Fatalf("the state was torn: %+v", st)
	}
	if err := os.Remove(filepath.Join(lib, "fill")); err != nil {
		t.Fatal(err)
	}
	w.pass(5 * time.Minute)
	w.is(w.good(), release.StateChanged, "r1")
	w.whole()
}

// fill takes what is left of a file system.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func TestReadOnlyDisk_ClearReasonAndReport(t *testing.T) {
	w, lib := ownDisk(t)
	if err := syscall.Mount("tmpfs", lib, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	r, err := w.apply()
	if !errors.Is(err, ErrDisk) || r == nil || r.State != release.StateFailed || !strings.Contains(r.Reason, "read-only") {
		t.Fatalf("%v %+v", err, r)
	}
	if got := w.reported(); got.State != release.StateFailed {
		t.Fatalf("reported %+v", got)
	}
}
