package fleet

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// An entry is a report and what a list of all reports gives of it.
type entry struct {
	store.ReportEntry
	report *release.Report
}

func entryOf(vm string, modified time.Time, r *release.Report) entry {
	return entry{store.ReportEntry{VM: vm, Modified: modified, Summary: r.Summary()}, r}
}

// reported is a report that arrived ago before now.
func reported(vm, role, state string, ago time.Duration) entry {
	r := &release.Report{Schema: 1, VM: vm, Role: role, State: state, Release: "r2", Heartbeat: release.Duration(24 * time.Hour)}
	return entryOf(vm, now.Add(-ago), r)
}

// with returns e after change.
func with(e entry, change func(*release.Report)) entry {
	change(e.report)
	return entryOf(e.VM, e.Modified, e.report)
}

// failedStep is a report of a VM on which a step failed.
func failedStep(vm, role, step, reason, tail string) entry {
	return with(reported(vm, role, release.StateFailed, 0), func(r *release.Report) {
		r.Reason = "a step failed"
		r.Run = &release.Run{Seconds: 1.5, Steps: []release.StepResult{
			{Name: "before", Result: release.ResultChanged},
			{Name: step, Result: release.ResultFailed, Reason: reason, Tail: tail},
			{Name: "later", Result: release.ResultFailed, Reason: "never shown"},
		}}
	})
}

func newVM(e entry, now time.Time) VM { return NewVM(e.ReportEntry, now) }

func collect(f Filter, entries ...entry) *Status {
	c := Collector{Now: now, Filter: f, Keep: true}
	for _, e := range entries {
		c.Add(e.ReportEntry)
	}
	return c.Status()
}

func TestNewVM_State(t *testing.T) {
	const h = time.Hour
	for _, tt := range []struct {
		state string
		ago   time.Duration
		beat  time.Duration // 0: the report announces none
		want  string
	}{
		{"ok", 0, h, "ok"},
		{"changed", h, h, "changed"},
		{"drifted", h, h, "drifted"},
		{"held", h, h, "held"},
		{"failed", h, h, "failed"},
		{"ok", -h, h, "ok"}, // the bucket's clock is ahead
		// A heartbeat and its grace.
		{"ok", 2 * h, h, "ok"},
		{"ok", 2*h + 1, h, "stale"},
		{"failed", 2*h + 1, h, "stale"},
		{"held", 2*h + 1, h, "stale"},
		{"ok", 25 * h, 0, "ok"},
		{"ok", 25*h + 1, 0, "stale"},
		{"ok", 25*h + 1, -h, "stale"},
		{"ok", 25*h + 1, 31 * 24 * h, "stale"}, // no VM silences itself for years
		{"ok", 25*h + 1, 30 * 24 * h, "ok"},
		// A run that goes on for too long.
		{"applying", ApplyingLimit, 24 * h, "applying"},
		{"applying", ApplyingLimit + 1, 24 * h, "stale"},
		// A VM may write anything.
		{"fine", 0, h, "failed"},
		{"", 0, h, "failed"},
		{"OK", 0, h, "failed"},
		{"ok\x00", 0, h, "failed"},
		{"stale", 0, h, "failed"}, // a VM that reports is not silent
		{"fine", 2*h + 1, h, "stale"},
	} {
		e := with(reported("i-1", "web", tt.state, tt.ago), func(r *release.Report) { r.Heartbeat = release.Duration(tt.beat) })
		if got := newVM(e, now).State; got != tt.want {
			t.Errorf("%q, %v ago, heartbeat %v: %q, want %q", tt.state, tt.ago, tt.beat, got, tt.want)
		}
	}
}

func TestNewVM_UnknownState(t *testing.T) {
	e := with(failedStep("i-1", "web", "nginx", "exit status 1", ""), func(r *release.Report) { r.State = "fi\x1b[1mne" })
	v := newVM(e, now)
	if v.State != release.StateFailed || v.Step != "" || v.Reason != `unknown state "fi[1mne"` || v.Fingerprint == "" {
		t.Errorf("%+v", v)
	}
	s := collect(Filter{}, e, reported("i-2", "web", "ok", 0))
	if s.Healthy() || len(s.Failures) != 1 || !reflect.DeepEqual(s.Roles[0].States, map[string]int{"failed": 1, "ok": 1}) {
		t.Errorf("%+v", s)
	}
}

func TestNewVM_WhatFailed(t *testing.T) {
	check := with(reported("i-1", "web", release.StateFailed, 0), func(r *release.Report) {
		r.Run = &release.Run{
			Steps:  []release.StepResult{{Name: "nginx", Result: release.ResultChanged}},
			Checks: []release.CheckResult{{Name: "a", Result: release.CheckPassed}, {Name: "home page", Result: release.CheckFailed, Reason: "status 502, want 200"}},
		}
	})
	none := with(reported("i-1", "web", release.StateFailed, 0), func(r *release.Report) { r.Reason = "the disk is full" })
	quiet := with(reported("i-1", "web", release.StateFailed, 0), func(r *release.Report) { r.Reason, r.Run = "signatures expired", &release.Run{} })
	for _, tt := range []struct {
		name       string
		e          entry
		step, want string
	}{
		{"step", failedStep("i-1", "web", "nginx", "exit status 1", ""), "nginx", "exit status 1"},
		{"step with output", failedStep("i-1", "web", "nginx", "exit status 1", "one\ntwo\nno such host\n\n"), "nginx", "exit status 1: no such host"},
		{"hostile step", failedStep("i-1", "web", "a\x1b]0;x\ab", "c\nd", "e\r\x1b[2Jf"), "a]0;xb", "c d: e [2Jf"},
		{"check", check, "check home page", "status 502, want 200"},
		{"no run", none, "", "the disk is full"},
		{"run without a failure", quiet, "", "signatures expired"},
	} {
		if v := newVM(tt.e, now); v.Step != tt.step || v.Reason != tt.want || v.Fingerprint == "" {
			t.Errorf("%s: %q %q %q", tt.name, v.Step, v.Reason, v.Fingerprint)
		}
	}
	if v := newVM(reported("i-1", "web", "ok", 0), now); v.Step != "" || v.Fingerprint != "" {
		t.Errorf("a VM that works: %+v", v)
	}
}

func TestNewVM_Bounds(t *testing.T) {
	long := strings.Repeat("é", 5000)
	v := newVM(with(reported("i-1", long, "ok", 0), func(r *release.Report) {
		r.Reason, r.Release, r.Wanted, r.LastGood = long, long, long, long
		r.Facts.Platform, r.Facts.Zone = long, long
		for range 100 {
			r.Warn = append(r.Warn, long)
		}
	}), now)
	for _, s := range append(v.Warnings, v.Role, v.Reason, v.Release, v.Wanted, v.LastGood, v.Platform, v.Zone) {
		if len(s) > 400 || !strings.HasSuffix(s, "…") {
			t.Errorf("%d bytes: %.20q", len(s), s)
		}
	}
	if len(v.Warnings) != 10 {
		t.Errorf("%d warnings", len(v.Warnings))
	}
}

func TestFingerprint(t *testing.T) {
	const digest = "3f2a91bc7de04455"
	base := fingerprint("web", "nginx", "get 10.0.0.1:80 at 0x7ffe01 of "+digest+": exit status 1")
	for _, same := range []string{
		"get 10.12.0.254:8080 at 0xdeadbeef of 00000000000000000000: exit status 127",
		"GET 1.2.3.4:5 at 0x1 of ABCDEFabcdef99: Exit Status 2",
	} {
		if fingerprint("web", "nginx", same) != base {
			t.Errorf("%q is told apart", same)
		}
	}
	for _, other := range [][3]string{
		{"db", "nginx", "get 10.0.0.1:80 at 0x7ffe01 of " + digest + ": exit status 1"},
		{"web", "motd", "get 10.0.0.1:80 at 0x7ffe01 of " + digest + ": exit status 1"},
		{"web", "nginx", "put 10.0.0.1:80 at 0x7ffe01 of " + digest + ": exit status 1"},
		{"web", "nginx", ""},
	} {
		if fingerprint(other[0], other[1], other[2]) == base {
			t.Errorf("%q is taken for the same", other)
		}
	}
	if fingerprint("a", "b", "c") == fingerprint("ab", "", "c") {
		t.Error("role and step run together")
	}
}

func TestStatus_Groups(t *testing.T) {
	wants := func(e entry, rel string) entry {
		return with(e, func(r *release.Report) { r.Wanted = rel })
	}
	s := collect(Filter{},
		failedStep("i-9", "web", "nginx", "exit status 1", "no host 10.0.0.9"),
		failedStep("i-1", "web", "nginx", "exit status 1", "no host 10.0.0.1"),
		wants(failedStep("i-3", "web", "nginx", "exit status 1", "no host 10.0.0.3"), "r3"), // fell back to r2
		failedStep("i-5", "db", "nginx", "exit status 1", "no host 10.0.0.1"),
		failedStep("i-6", "db", "mount", "timed out", ""),
		failedStep("i-7", "db", "mount", "timed out", ""),
		failedStep("i-8", "db", "mount", "timed out", ""),
		reported("i-2", "web", "ok", 0),
	)
	var got []string
	for _, f := range s.Failures {
		got = append(got, fmt.Sprint(f.Count, " ", f.Role, " ", f.Release, " ", f.Step, " ", f.Example, " ", f.VMs))
	}
	slices.Sort(got[2:]) // groups alike in count and role are ordered by fingerprint
	want := []string{
		"3 db r2 mount i-6 [i-6 i-7 i-8]",
		"2 web r2 nginx i-1 [i-1 i-9]",
		"1 db r2 nginx i-5 [i-5]",
		"1 web r3 nginx i-3 [i-3]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStatus_Counts(t *testing.T) {
	at := func(e entry, rel string) entry {
		return with(e, func(r *release.Report) { r.Release = rel })
	}
	entries := []entry{
		reported("i-4", "web", "ok", 3*time.Hour),
		at(reported("i-3", "web", "changed", time.Hour), "r1"),
		reported("i-2", "web", "ok", 2*time.Hour),
		at(reported("i-1", "web", "applying", 0), ""),
		reported("i-5", "db", "held", 40*time.Hour),
	}
	want := []Role{
		{Role: "db", VMs: 1, States: map[string]int{"stale": 1}, Releases: []Count{{"r2", 1}}, Oldest: now.Add(-40 * time.Hour)},
		{Role: "web", VMs: 4, States: map[string]int{"ok": 2, "changed": 1, "applying": 1}, Releases: []Count{{"r2", 2}, {"", 1}, {"r1", 1}}, Oldest: now.Add(-3 * time.Hour)},
	}
	for range 2 { // in whatever order reports come
		s := collect(Filter{}, entries...)
		if !reflect.DeepEqual(s.Roles, want) {
			t.Errorf("roles\n%+v, want\n%+v", s.Roles, want)
		}
		var names []string
		for _, v := range s.VMs {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != "i-1 i-2 i-3 i-4 i-5" || s.Total != 5 || len(s.Stale) != 1 || s.Stale[0].Name != "i-5" {
			t.Errorf("VMs %q, %d in all, stale %+v", got, s.Total, s.Stale)
		}
		if !s.Generated.Equal(now) {
			t.Errorf("generated %v", s.Generated)
		}
		slices.Reverse(entries)
	}
}

func TestStatus_Healthy(t *testing.T) {
	bad := entry{ReportEntry: store.ReportEntry{VM: "i-9", Modified: now, Err: errors.New("parse report: \x1b]0;gotcha\a\nit is torn")}}
	for _, tt := range []struct {
		name string
		e    entry
		want bool
	}{
		{"ok", reported("i-1", "web", "ok", 0), true},
		{"changed", reported("i-1", "web", "changed", 0), true},
		{"applying", reported("i-1", "web", "applying", 0), true},
		{"drifted", reported("i-1", "web", "drifted", 0), true},
		{"held", reported("i-1", "web", "held", 0), true},
		{"failed", reported("i-1", "web", "failed", 0), false},
		{"stale", reported("i-1", "web", "ok", 90*time.Hour), false},
		{"unknown", reported("i-1", "web", "great", 0), false},
		{"unread", bad, false},
	} {
		if got := collect(Filter{}, reported("i-0", "web", "ok", 0), tt.e).Healthy(); got != tt.want {
			t.Errorf("%s: healthy %v", tt.name, got)
		}
	}
	if !collect(Filter{}).Healthy() {
		t.Error("nobody is ill, and it is not healthy")
	}
	s := collect(Filter{}, bad)
	if want := []Unread{{"i-9", "parse report: ]0;gotcha it is torn"}}; !reflect.DeepEqual(s.Unread, want) || s.Total != 0 {
		t.Errorf("unread %+v, want %+v", s.Unread, want)
	}
	// An unreadable report has no role, state or release that a filter could ask for.
	if s := collect(Filter{Role: "web"}, bad); len(s.Unread) != 0 {
		t.Errorf("unread %+v", s.Unread)
	}
}

func TestStatus_Filter(t *testing.T) {
	entries := []entry{
		reported("a", "web", "ok", 0),
		reported("b", "web", "ok", 90*time.Hour),
		reported("c", "db", "failed", 0),
		reported("d", "db", "nonsense", 0),
		with(reported("e", "db", "ok", 0), func(r *release.Report) { r.Release = "r1" }),
	}
	for _, tt := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "a b c d e"},
		{Filter{Role: "web"}, "a b"},
		{Filter{State: "ok"}, "a e"},
		{Filter{State: "stale"}, "b"},
		{Filter{State: "failed"}, "c d"},
		{Filter{State: "nonsense"}, ""},
		{Filter{Release: "r1"}, "e"},
		{Filter{Role: "db", State: "ok"}, "e"},
		{Filter{Role: "web", Release: "r1"}, ""},
	} {
		s := collect(tt.f, entries...)
		var got []string
		for _, v := range s.VMs {
			got = append(got, v.Name)
		}
		if strings.Join(got, " ") != tt.want || s.Total != len(got) {
			t.Errorf("%+v: %q, %d in all, want %q", tt.f, got, s.Total, tt.want)
		}
	}
}

func TestStatus_Warnings(t *testing.T) {
	warns := func(vm string, w ...string) entry {
		return with(reported(vm, "web", "ok", 0), func(r *release.Report) { r.Warn = w })
	}
	s := collect(Filter{}, warns("i-1", "clock is off", "a\x1b[31m\nb"), warns("i-2", "clock is off", "disk is nearly full"))
	if want := []string{"i-1: clock is off", "i-1: a[31m b", "i-2: disk is nearly full"}; !slices.Equal(s.Warnings, want) {
		t.Errorf("%q, want %q", s.Warnings, want)
	}
	odd := warns("i-1", "clock is off", "")
	odd.Warn = "odd\nplace"
	if got, want := newVM(odd, now).Warnings, []string{"odd place", "clock is off"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	var many []entry
	for i := range 100 {
		many = append(many, warns(fmt.Sprint("i-", i), fmt.Sprint("warning ", i)))
	}
	if n := len(collect(Filter{}, many...).Warnings); n != 20 {
		t.Errorf("%d warnings", n)
	}
}

func TestClean(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"", 10, ""},
		{"plain text", 10, "plain text"},
		{"  spaces  ", 10, "spaces"},
		{"a\nb\tc\rd", 10, "a b c d"},
		{"a\u2028b\u2029c\u0085d\vf\fg", 20, "a b c d f g"},
		{"\x1b[31mred\x1b[0m", 20, "[31mred[0m"},
		{"\u009b31mred", 20, "31mred"}, // CSI as one character
		{"\x1b]0;title\a\x1b]8;;http://x\x1b\\link", 40, "]0;title]8;;http://x\\link"},
		{"\x00a\x7fb\x08", 20, "ab"},
		{"abc\u202edcb\u2066x\u200b\ufeff", 20, "abcdcbx"},
		{"tag\U000e0041", 20, "tag"},
		{"\xff\xfea", 20, "?a"},
		{"ünïcödé 漢字", 40, "ünïcödé 漢字"},
		{"0123456789", 9, "012345…"},
		{"ééééé", 9, "ééé…"},
		{"ééééé", 8, "éé…"},
		{"\n\n\n0123456789", 10, "0123456789"},
		{"abcdef", 3, "…"},
		{"abcdef", 2, ""},
		{"abcdef", 0, ""},
		{"abcdef", -1, ""},
	} {
		if got := Clean(tt.in, tt.max); got != tt.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b]0;x\a", "\u202e\u2028", "\xff", "漢字漢字", " \u00a0 a"} {
		f.Add(s, 5)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		got := Clean(s, max)
		if len(got) > 0 && len(got) > max || !utf8.ValidString(got) {
			t.Fatalf("Clean(%q, %d) = %q", s, max, got)
		}
		for _, r := range got {
			if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
				t.Fatalf("Clean(%q, %d) lets %U through", s, max, r)
			}
		}
		if again := Clean(got, max); again != got {
			t.Fatalf("Clean(%q, %d): %q, and once more %q", s, max, got, again)
		}
	})
}
