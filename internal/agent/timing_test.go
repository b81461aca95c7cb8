package agent

import (
	"os"
	"strings"
	"testing"
	"time"
)

// checkTiming fails unless the timing of a run has the parts of a run, in
// order, and adds up.
func checkTiming(t *testing.T, p Paths, id string) {
	t.Helper()
	got, err := ReadTiming(p, id)
	if err != nil {
		t.Fatal(err)
	}
	sum, last := got.Other, -1.0
	var names []string
	for _, s := range got.Spans {
		if s.Start < last || s.Seconds < 0 {
			t.Errorf("%+v begins before the one before it, at %v", s, last)
		}
		last = s.Start
		if s.Depth == 0 && !s.Beside {
			sum += s.Seconds
			names = append(names, s.Name)
		}
	}
	if sum < got.Seconds*0.99-1e-4 || sum > got.Seconds*1.01+1e-4 {
		t.Errorf("the parts are %v s of %v", sum, got.Seconds)
	}
	if want := "open poll manifest stage settle begin steps checks commit report status"; strings.Join(names, " ") != want {
		t.Errorf("parts %v, want %s", names, want)
	}
}

func TestTimeline_FirstBoot(t *testing.T) {
	now := time.Now()
	b := &Beginning{now: now, boot: 20, parent: 10, start: 10.5, marks: parseMarks("[11.0, 'getting', 11.5, 'signed', 12.5, 'got', 13.0, 'starting']", 20)}
	l := newTimeline(b)
	l.add("open", now, now.Add(time.Second))
	got := l.timing("id")
	want := []Span{
		{Name: "user-data", Start: 0, Seconds: 3},
		{Name: "find Python", Depth: 1, Start: 0, Seconds: 0.5},
		{Name: "start Python", Depth: 1, Start: 0.5, Seconds: 0.5},
		{Name: "identity", Depth: 1, Start: 1, Seconds: 0.5},
		{Name: "download", Depth: 1, Start: 1.5, Seconds: 1},
		{Name: "unpack", Depth: 1, Start: 2.5, Seconds: 0.5},
		{Name: "start", Start: 3, Seconds: 7},
		{Name: "open", Start: 10, Seconds: 1},
	}
	if !got.First || got.Began != 10 || got.Seconds != 11 || got.Other != 0 || len(got.Spans) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got.Spans[i] != want[i] {
			t.Errorf("%+v, want %+v", got.Spans[i], want[i])
		}
	}
}

func TestTimeline_LaterRun(t *testing.T) {
	now := time.Now()
	l := newTimeline(&Beginning{now: now, boot: 20, parent: 10, start: 19.5})
	got := l.timing("id")
	if got.First || got.Began != 19.5 || len(got.Spans) != 1 || got.Spans[0] != (Span{Name: "start", Seconds: 0.5}) {
		t.Errorf("%+v", got)
	}
}

// TestTimeline_Inexact has a span that ends a hair after the next one begins,
// as sums of fractions do.
func TestTimeline_Inexact(t *testing.T) {
	now := time.Now()
	l := newTimeline(&Beginning{now: now, boot: 20, start: 20})
	l.add("download", now, now.Add(time.Second+100*time.Nanosecond))
	l.add("unpack", now.Add(time.Second), now.Add(2*time.Second))
	if got := l.timing("id"); got.Spans[1].Depth != 0 {
		t.Errorf("%+v", got)
	}
}

// TestTimeline_Beside has a span that is no part of those it overlaps.
func TestTimeline_Beside(t *testing.T) {
	now := time.Now()
	l := newTimeline(&Beginning{now: now, boot: 20, start: 20})
	l.add("systemd", now, now.Add(3*time.Second)).beside = true
	l.add("poll", now.Add(time.Second), now.Add(2*time.Second))
	got := l.timing("id")
	if got.Spans[0].Depth != 0 || got.Spans[1].Depth != 0 || got.Seconds != 3 || got.Other != 2 {
		t.Errorf("%+v", got)
	}
}

func TestParseMarks(t *testing.T) {
	for _, bad := range []string{
		"", "[", "]", "[]", "1.0, 'getting'", "[1.0]", "[1.0, 'a', 0.5, 'b']", "[99.0, 'a']", "[nan, 'a']", "[-1.0, 'a']", "[1, 'a']",
		"[" + strings.Repeat("1.0, 'a', ", 1000) + "1.0, 'a']",
	} {
		if m := parseMarks(bad, 50); m != nil {
			t.Errorf("%.40q gives %v", bad, m)
		}
	}
	m := parseMarks(`[1.5, 'getting', 2.25, "don't, no\n", 2.5, OSError(28, 'No space'), 2.75, 'starting']`, 50)
	if len(m) != 4 || m[0] != (mark{1.5, "getting"}) || m[1] != (mark{at: 2.25}) || m[3] != (mark{2.75, "starting"}) {
		t.Errorf("%+v", m)
	}
}

func FuzzParseMarks(f *testing.F) {
	f.Add("[1.5, 'getting', 2.25, 'got']", 50.0)
	f.Add("[1e999, 'x']", 1.0)
	f.Fuzz(func(t *testing.T, text string, now float64) {
		last := 0.0
		for _, m := range parseMarks(text, now) {
			if m.at < last || m.at > now || len(m.word) > 20 {
				t.Fatalf("%+v after %v at %v", m, last, now)
			}
			last = m.at
		}
	})
}

func TestReadBeginning(t *testing.T) {
	b := ReadBeginning("[0.01, 'getting']")
	if b.start <= 0 || b.start > b.boot || b.parent > b.start {
		t.Errorf("%+v", b)
	}
	if b.marks != nil {
		t.Error("marks from before the process count")
	}
	if startOf("nobody", 7) != 7 {
		t.Error("a process that is not there has a start")
	}
}

// TestRuns_Torn has results that a power cut left empty.
func TestRuns_Torn(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	p, id := w.agent.Paths, w.good().Run.ID
	w.pass(time.Minute)
	w.write(p.RunResult("20200101-000000-0000"), "")
	runs, err := Runs(p)
	if err != nil || len(runs) != 1 || runs[0].ID != id {
		t.Errorf("%v %+v", err, runs)
	}
	if err := os.Remove(p.RunResult(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTiming(p, id); err == nil {
		t.Error("a run without a result has a timing")
	}
}

func TestValidRunID(t *testing.T) {
	if id := newRunID(time.Now()); !validRunID(id) {
		t.Errorf("%s is none", id)
	}
	for _, bad := range []string{"", "20270301-120000-00g0", "20270301-120000-00F0", "2027030a-120000-0000", "20270301_120000-0000", "20270301-120000-00000", "../0301-120000-0000"} {
		if validRunID(bad) {
			t.Errorf("%q is one", bad)
		}
	}
}
