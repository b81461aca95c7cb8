package agent

import (
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestCost_OfADay counts the requests of quiet days: one GET a poll, one look for
// a new root, one report on most of them, and nothing for the re-apply of each
// hour, also for the first one after a release.
func TestCost_OfADay(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one"), w.log("runs")))
	w.good()
	times := ScheduleOf(5*time.Minute, "i-0abc")
	for day := range 3 {
		before, runs := w.count.Traffic(), w.lines("runs")
		looks, reports := 0, 0
		for end := w.now.Add(24 * time.Hour); ; {
			next := times.Next(w.now)
			if next.After(end) {
				w.now = end
				break
			}
			w.now = next
			was := w.count.Traffic()
			w.good()
			d := w.count.Traffic().Sub(was)
			reports += int(d.Puts)
			if d.Gets == 2 {
				looks++
			} else if d.Gets != 1 || d.Lists+d.Deletes != 0 || d.NotModified != 1 {
				t.Fatalf("day %d: a poll made %+v", day, d)
			}
		}
		d := w.count.Traffic().Sub(before)
		if d.Gets != 288+int64(looks) || looks > 1 || reports != min(day, 1) || d.Requests() != d.Gets+int64(reports) {
			t.Errorf("day %d: %d looks, %d reports, in all %+v", day, looks, reports, d)
		}
		if n := w.lines("runs") - runs; n != 24 && (day > 0 || n != 25) {
			t.Errorf("day %d: applied again %d times", day, n)
		}
	}
}

// TestOutage_CostsNothingMore has an outage of a day: a VM asks as often as it
// may at its first poll, once at each that follows, and has nothing to tell of
// when it is over.
func TestOutage_CostsNothingMore(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.agent.Bucket = bucket.Retry(w.count, bucket.RetryPolicy{Pause: time.Millisecond, Limit: time.Millisecond})
	w.good()
	asked := func() bucket.Traffic {
		before := w.count.Traffic()
		w.pass(5 * time.Minute)
		if _, err := w.apply(); (err == nil) != (w.faults.Hits() == 0) {
			t.Fatalf("%v", err)
		}
		return w.count.Traffic().Sub(before)
	}
	w.faults.Set(bucket.Fault{})
	if d := asked(); d.Requests() != 5 {
		t.Errorf("the first poll in an outage asked %+v", d)
	}
	for range 100 {
		if d := asked(); d.Requests() != 1 {
			t.Fatalf("a later one asked %+v", d)
		}
	}
	if !w.state().Away || w.state().Pending {
		t.Errorf("%+v", w.state())
	}
	w.faults.Set()
	before := w.count.Traffic()
	w.pass(5 * time.Minute)
	w.good()
	if d := w.count.Traffic().Sub(before); d.Requests() != 1 || d.NotModified != 1 || w.state().Away {
		t.Errorf("after the outage: %+v", d)
	}

	// What happened meanwhile is told, once.
	w.write(w.vm("a"), "drift")
	w.faults.Set(bucket.Fault{})
	w.pass(time.Hour)
	r, _ := w.apply()
	w.faults.Set()
	for n, puts := range []int64{2, 0} {
		before := w.count.Traffic()
		w.pass(5 * time.Minute)
		w.good()
		if d := w.count.Traffic().Sub(before); d.Puts != puts {
			t.Errorf("poll %d after the run %s: %+v", n+1, r.Run.ID, d)
		}
	}
	if got := w.reported(); got.Run.ID != r.Run.ID {
		t.Errorf("the run %s was not reported, but %s", r.Run.ID, got.Run.ID)
	}
}

// TestReapply_IsSpreadAfterARelease has VMs that took a release at the same time.
func TestReapply_IsSpreadAfterARelease(t *testing.T) {
	var first, last time.Duration = time.Hour, 0
	for _, vm := range []string{"i-1", "i-2", "i-3", "i-4", "i-5", "i-6", "i-7", "i-8"} {
		st := &state{VM: vm}
		d := st.ahead("release")
		if d < 0 || d > 30*time.Minute || st.ahead("reapply") != 0 {
			t.Errorf("%s: %v early after a release, %v after a re-apply", vm, d, st.ahead("reapply"))
		}
		first, last = min(first, d), max(last, d)
	}
	if last-first < 15*time.Minute {
		t.Errorf("all of them from %v to %v early", first, last)
	}
}
