package agent

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

func TestRun_FirstThenUnchanged(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one"), w.put("b", "two")))
	r := w.good()
	w.is(r, release.StateChanged, "r1")
	if w.text("a") != "one" || r.Run.Why != release.WhyFirst || results(r.Run) != "changed changed" {
		t.Fatalf("first run: file %q, run %+v", w.text("a"), r.Run)
	}
	w.whole()
	if got := w.reported(); got.State != release.StateChanged || got.Run.Log == "" {
		t.Fatalf("report: %+v", got)
	}

	r, err := w.agent.Run(t.Context(), Options{Now: true})
	if err != nil {
		t.Fatal(err)
	}
	w.is(r, release.StateOK, "r1")
	if r.Run.Why != release.WhyForced || results(r.Run) != "unchanged unchanged" {
		t.Fatalf("second run: %+v", r.Run)
	}
	w.whole()
}

func TestPoll_OneRequestAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.log("runs")))
	w.good()
	sequence := w.reported().Sequence
	for range 3 {
		w.pass(5 * time.Minute)
		before := w.count.Traffic()
		r := w.good()
		if d := w.count.Traffic().Sub(before); d.Requests() != 1 || d.Gets != 1 {
			t.Fatalf("a poll made %+v, want one GET", d)
		}
		if want := ScheduleOf(5*time.Minute, "i-0abc").Next(w.now); !r.NextRun.Equal(want) {
			t.Errorf("next run %v, want %v", r.NextRun, want)
		}
	}
	if w.lines("runs") != 1 || w.reported().Sequence != sequence {
		t.Fatalf("%d runs, sequence %d after %d", w.lines("runs"), w.reported().Sequence, sequence)
	}
}

func TestReapply_WhenDueAndSilentWhenNothingChanged(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	w.pass(time.Hour)
	if r := w.good(); r.Run.Why != release.WhyReapply || r.State != release.StateOK {
		t.Fatalf("run %+v", r.Run)
	}
	before := w.reported()
	w.pass(time.Hour)
	if r := w.good(); r.Run.ID == before.Run.ID || r.Run.Why != release.WhyReapply {
		t.Fatalf("no second re-apply: %+v", r.Run)
	}
	if got := w.reported(); got.Sequence != before.Sequence {
		t.Fatalf("a re-apply that changed nothing was reported: %d after %d", got.Sequence, before.Sequence)
	}
	w.write(w.vm("a"), "drift")
	w.pass(time.Hour)
	w.is(w.good(), release.StateChanged, "r1")
	if got := w.reported(); got.State != release.StateChanged || w.text("a") != "one" {
		t.Fatalf("drift was mended as %s, file %q", got.State, w.text("a"))
	}
}

func TestRelease_TheNextOneIsTaken(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	w.publish(role(w.put("a", "two")))
	w.pass(5 * time.Minute)
	r := w.good()
	w.is(r, release.StateChanged, "r2")
	if r.Run.Why != release.WhyRelease || w.text("a") != "two" || len(r.History) != 1 {
		t.Fatalf("run %+v, file %q, history %v", r.Run, w.text("a"), r.History)
	}
	w.whole()
}

// Two trees take turns: the one that is no longer needed becomes the next one
// in place, and what is in use is never touched.
func TestTrees_TakeTurns(t *testing.T) {
	w := newWorld(t)
	old := map[string]os.FileInfo{}
	for _, r := range []string{"r1", "r2", "r3", "r4", "r5"} {
		w.publish(role(w.put("a", "text of "+r)))
		w.pass(5 * time.Minute)
		w.is(w.good(), release.StateChanged, r)
		w.whole()
		tree := w.agent.Paths.Tree(w.state().Applied.Manifest)
		fi, err := os.Stat(tree)
		if err != nil {
			t.Fatal(err)
		}
		old[r] = fi
		kept, err := os.ReadDir(w.agent.Paths.Releases())
		// A tree, its manifest and its index; of the spare tree no manifest.
		want := 5
		if r == "r1" {
			want = 3
		}
		if err != nil || len(kept) != want {
			t.Fatalf("after %s these are kept: %v %v", r, kept, err)
		}
	}
	for now, before := range map[string]string{"r3": "r1", "r4": "r2", "r5": "r3"} {
		if !os.SameFile(old[now], old[before]) {
			t.Errorf("the tree of %s was not made of that of %s", now, before)
		}
	}
	if os.SameFile(old["r2"], old["r1"]) {
		t.Error("the tree of r1 was changed while it was in use")
	}
}

func TestFailingCheck_QuarantineFallbackRecovery(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "good")))
	w.good()
	bad := role(w.put("a", "bad"))
	bad.Checks = []release.Check{check("it works", "test ! -e /nowhere && exit 7")}
	w.publish(bad)

	for attempt := 1; attempt <= 2; attempt++ {
		w.pass(10 * time.Minute * time.Duration(attempt))
		r, err := w.apply()
		if !errors.Is(err, ErrChecks) {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		w.is(r, release.StateFailed, "r2")
		if r.Run.Attempt != attempt || r.LastGood != "r1" || len(r.Quarantined) != 0 {
			t.Fatalf("attempt %d: %+v", attempt, r)
		}
		before := w.count.Traffic()
		if r, err := w.apply(); err != nil || r.Run.Attempt != attempt {
			t.Fatalf("a run came before its time: %v %+v", err, r.Run)
		}
		if d := w.count.Traffic().Sub(before); d.Requests() != 1 {
			t.Fatalf("a poll during backoff made %+v", d)
		}
	}
	w.pass(30 * time.Minute)
	r, err := w.apply()
	if !errors.Is(err, ErrChecks) {
		t.Fatalf("third attempt: %v", err)
	}
	w.is(r, release.StateFailed, "r1")
	if !r.Run.Fallback || r.Wanted != "r2" || len(r.Quarantined) != 1 || r.Quarantined[0] != "r2" || w.text("a") != "good" {
		t.Fatalf("after the last attempt: %+v, file %q", r, w.text("a"))
	}
	for _, words := range []string{"r2 failed its checks 3 times", "it works", "r1 was applied again", "does not undo"} {
		if !strings.Contains(r.Reason, words) {
			t.Errorf("reason %q does not say %q", r.Reason, words)
		}
	}
	if r.History[0].Release != "r2" || r.History[0].Log == "" {
		t.Errorf("the failed run is not in the history with its log: %+v", r.History)
	}
	w.whole()

	w.pass(time.Hour)
	if r = w.good(); r.Release != "r1" || r.State != release.StateFailed || !r.Run.Fallback {
		t.Fatalf("re-apply of the last good release: %+v", r)
	}

	w.publish(role(w.put("a", "better")))
	w.pass(5 * time.Minute)
	r = w.good()
	w.is(r, release.StateChanged, "r3")
	if len(r.Quarantined) != 0 || r.Reason != "" {
		t.Fatalf("after the next release: %+v", r)
	}
	w.whole()
}

func TestQuarantine_ForceEndsIt(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "good")))
	w.good()
	bad := role(run("fails until mended", "test -e "+w.vm("mended")))
	bad.Attempts = 1
	w.publish(bad)
	r, err := w.apply()
	if !errors.Is(err, ErrSteps) || len(r.Quarantined) != 1 {
		t.Fatalf("%v %+v", err, r)
	}
	w.write(w.vm("mended"), "")
	if r, err = w.agent.Run(t.Context(), Options{Now: true}); err != nil || r.Release != "r1" || r.State != release.StateFailed {
		t.Fatalf("a run asked for without force: %v %+v", err, r)
	}
	r, err = w.agent.Run(t.Context(), Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	w.is(r, release.StateOK, "r2")
	if len(r.Quarantined) != 0 {
		t.Fatalf("still refused: %v", r.Quarantined)
	}
	w.whole()
}

func TestFailing_WithoutLastGoodStaysFailedAndRetries(t *testing.T) {
	w := newWorld(t)
	bad := role(run("fails until mended", "test -e "+w.vm("mended")), w.put("later", "x"))
	bad.Attempts = 2
	w.publish(bad)
	for i := 1; i <= 4; i++ {
		r, err := w.apply()
		if !errors.Is(err, ErrSteps) || r.State != release.StateFailed || r.Run.Attempt != i || len(r.Quarantined) != 0 {
			t.Fatalf("attempt %d: %v %+v", i, err, r)
		}
		if results(r.Run) != "failed skipped" || !strings.Contains(r.Run.Steps[1].Reason, "fails until mended") {
			t.Fatalf("steps %+v", r.Run.Steps)
		}
		w.pass(2 * time.Hour)
	}
	w.write(w.vm("mended"), "")
	w.is(w.good(), release.StateChanged, "r1")
	w.whole()
}

func TestOnErrorContinue_RunsTheRestAndFails(t *testing.T) {
	w := newWorld(t)
	s := run("may fail", "exit 3")
	s.OnError = release.OnErrorContinue
	w.publish(role(s, w.put("a", "one")))
	r, err := w.apply()
	if !errors.Is(err, ErrSteps) || results(r.Run) != "failed changed" || r.State != release.StateFailed {
		t.Fatalf("%v %+v", err, r)
	}
}

func TestStoreAway_GoesOnAndComesBack(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	w.publish(role(w.put("a", "two")))
	w.faults.Set(bucket.Fault{})
	w.write(w.vm("a"), "drift")
	w.pass(time.Hour)
	r, err := w.apply()
	if !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("the error does not tell that the bucket is away: %v", err)
	}
	w.is(r, release.StateChanged, "r1")
	if w.text("a") != "one" || !strings.Contains(r.Reason, "r1 stays in force") {
		t.Fatalf("file %q, reason %q", w.text("a"), r.Reason)
	}
	w.faults.Set()
	w.pass(5 * time.Minute)
	r = w.good()
	w.is(r, release.StateChanged, "r2")
	if got := w.reported(); got.Release != "r2" || len(got.History) != 2 || got.Reason != "" {
		t.Fatalf("report: %+v", got)
	}
}

func TestStoreAway_BetweenMetadataAndRelease(t *testing.T) {
	for _, key := range []string{"tuf/targets/channels/", "manifests/", "packs/"} {
		t.Run(strings.ReplaceAll(strings.Trim(key, "/"), "/", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.publish(role(w.put("a", "one")))
			w.good()
			w.write(w.path("project", "more.txt"), "more\n")
			w.publish(role(w.put("a", "two")))
			w.unbundle()
			w.faults.Set(bucket.Fault{Key: key})
			w.pass(5 * time.Minute)
			r, err := w.apply()
			if !errors.Is(err, bucket.ErrUnavailable) || r.Release != "r1" {
				t.Fatalf("%v, %+v", err, r)
			}
			w.faults.Set()
			w.pass(5 * time.Minute)
			w.is(w.good(), release.StateChanged, "r2")
			w.whole()
		})
	}
}

func TestStoreAway_AtFirstBoot(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.faults.Set(bucket.Fault{})
	r, err := w.apply()
	if !errors.Is(err, bucket.ErrUnavailable) || r.State != release.StateFailed || r.Reason == "" {
		t.Fatalf("%v %+v", err, r)
	}
	w.faults.Set()
	w.is(w.good(), release.StateChanged, "r1")
}

func TestNothingPublishedYet(t *testing.T) {
	w := newWorld(t)
	r, err := w.apply()
	if !errors.Is(err, trust.ErrNoRelease) || r.State != release.StateFailed {
		t.Fatalf("%v %+v", err, r)
	}
	w.publish(role(w.put("a", "one")))
	w.is(w.good(), release.StateChanged, "r1")
}
