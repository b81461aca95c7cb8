package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func longReport(steps, changes, history int) Report {
	r := Report{Schema: 1, Project: "acme", VM: "i-1", State: StateFailed, Run: &Run{ID: "1"}}
	for i := range steps {
		s := StepResult{Name: fmt.Sprint("step", i), Kind: KindRun, Result: ResultChanged, Tail: strings.Repeat("t", MaxTailBytes)}
		if i%2 == 1 {
			s.Result = ResultFailed
		}
		for j := range changes {
			s.Changes = append(s.Changes, fmt.Sprint("change ", j))
		}
		r.Run.Steps = append(r.Run.Steps, s)
	}
	for range history {
		r.History = append(r.History, RunBrief{ID: "x", Reason: strings.Repeat("r", MaxReasonBytes)})
	}
	return r
}

func TestReportIsShortened(t *testing.T) {
	for _, tc := range []struct {
		name                    string
		steps, changes, history int
		wantSteps, wantHistory  int
		tails                   int
	}{
		{"short", 3, 2, 2, 3, 2, 3},
		{"tails go first, the first failure's stays", 100, 2, MaxHistory, 100, MaxHistory, 1},
		{"then history", 2000, 5, MaxHistory, 2000, 0, 1},
		{"then steps that did not fail", 20000, 5, MaxHistory, 20, 0, 1},
	} {
		r := longReport(tc.steps, tc.changes, tc.history)
		before, _ := json.Marshal(r)
		b, err := r.Bytes()
		if err != nil || len(b) > MaxReportBytes {
			t.Errorf("%s: %d bytes, %v", tc.name, len(b), err)
			continue
		}
		if after, _ := json.Marshal(r); string(after) != string(before) {
			t.Errorf("%s: the report itself was changed", tc.name)
		}
		got, err := ParseReport(b)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		tails := 0
		for i, s := range got.Run.Steps {
			if s.Tail != "" {
				tails++
				if tc.tails == 1 && s.Result != ResultFailed {
					t.Errorf("%s: the tail of step %d stayed, which is %s", tc.name, i, s.Result)
				}
			}
		}
		if len(got.Run.Steps) != tc.wantSteps || len(got.History) != tc.wantHistory || tails != tc.tails {
			t.Errorf("%s: %d steps, %d of history, %d tails", tc.name, len(got.Run.Steps), len(got.History), tails)
		}
	}
	r := Report{Schema: 1, VM: "i-1", Reason: strings.Repeat("x", MaxReportBytes)}
	if _, err := r.Bytes(); err == nil || !strings.Contains(err.Error(), "i-1") {
		t.Errorf("a report that cannot be shortened: %v", err)
	}
}

func TestParseReportRefuses(t *testing.T) {
	for text, want := range map[string]error{
		"":                            ErrFormat,
		`{"schema":1}`:                ErrFormat,
		`{"schema":1,"vm":"../x"}`:    ErrFormat,
		`{"schema":1,"vm":"a\nb"}`:    ErrFormat,
		`{"schema":1,"vm":".hidden"}`: ErrFormat,
		`{"schema":3,"vm":"a"}`:       ErrNewer,
		strings.Repeat(" ", MaxReportBytes) + `{"schema":1,"vm":"a"}`: ErrFormat,
	} {
		if _, err := ParseReport([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.40s: err = %v", text, err)
		}
		if _, err := ParseSummary([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.40s: as a summary: err = %v", text, err)
		}
	}
	r := longReport(0, 0, MaxHistory+9)
	b, _ := json.Marshal(r)
	if got, err := ParseReport(b); err != nil || len(got.History) != MaxHistory {
		t.Errorf("a long history: %v", err)
	}
}

func TestValidVM(t *testing.T) {
	for _, ok := range []string{"i-0abc", "a", "vm_1.example.com", strings.Repeat("x", 128), "9"} {
		if !ValidVM(ok) {
			t.Errorf("%q is refused", ok)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", strings.Repeat("x", 129), "a\x00"} {
		if ValidVM(bad) {
			t.Errorf("%q is let in", bad)
		}
	}
}

func TestDurationText(t *testing.T) {
	var d Duration
	if err := json.Unmarshal([]byte(`"1h30m0s"`), &d); err != nil || d.Std() != 90*time.Minute {
		t.Errorf("%v, %v", d, err)
	}
	if b, err := json.Marshal(Duration(90 * time.Second)); err != nil || string(b) != `"1m30s"` {
		t.Errorf("%s, %v", b, err)
	}
	for _, bad := range []string{`"x"`, `"1"`, `1`, `""`} {
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	b, err := longReport(3, 1, 2).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1,"vm":"a","run":null,"history":[{}]}`))
	f.Add([]byte(`{"schema":2,"vm":"a"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		if !ValidVM(r.VM) || len(r.History) > MaxHistory {
			t.Fatalf("VM %q, %d of history", r.VM, len(r.History))
		}
		if s, err := ParseSummary(b); err != nil || !reflect.DeepEqual(s, r.Summary()) {
			t.Fatalf("summary %+v, %v; of the whole report %+v", s, err, r.Summary())
		}
		out, err := r.Bytes()
		if err != nil {
			return // far-off years, or too long however it is cut
		}
		if _, err := ParseReport(out); err != nil {
			t.Fatalf("written again it does not parse: %v", err)
		}
	})
}

func TestSummary(t *testing.T) {
	long := strings.Repeat("é", 5000)
	r := &Report{
		VM: "i-1", Role: long, State: long, Release: long, Wanted: long, LastGood: long, Reason: long, Sequence: 7, Heartbeat: Duration(time.Hour),
		Facts: Facts{Platform: long, Zone: long}, Warn: append([]string{"", long}, make([]string, 50)...),
		Run: &Run{Seconds: 2.5, Steps: []StepResult{{Name: "a", Result: ResultChanged}, {Name: long, Result: ResultFailed, Reason: long, Tail: long}}},
	}
	s := r.Summary()
	checkParsed := func() {
		t.Helper()
		r.Schema = SchemaVersion
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseSummary(b); err != nil || !reflect.DeepEqual(got, r.Summary()) {
			t.Errorf("parsed %+v, %v; made %+v", got, err, r.Summary())
		}
	}
	checkParsed()
	for _, text := range append(s.Warn, s.Role, s.State, s.Release, s.Wanted, s.LastGood, s.Reason, s.Platform, s.Zone, s.Failed, s.Why) {
		if len(text) > maxSummaryText || len(text) < maxSummaryName {
			t.Errorf("%d bytes: %.20q", len(text), text)
		}
	}
	if s.VM != "i-1" || s.Sequence != 7 || s.Heartbeat != time.Hour || s.Seconds != 2.5 || len(s.Warn) != 1 {
		t.Errorf("%+v", s)
	}
	for i := range 50 {
		r.Warn[i+2] = fmt.Sprint("warning ", i)
	}
	if got := r.Summary().Warn; len(got) != MaxSummaryWarns {
		t.Errorf("%d warnings", len(got))
	}
	r.Run = &Run{Steps: []StepResult{{Name: "nginx", Result: ResultFailed, Reason: "exit status 1", Tail: "one\ntwo\n\n"}}, Checks: []CheckResult{{Result: CheckFailed}}}
	checkParsed()
	if s := r.Summary(); s.Failed != "nginx" || s.Why != "exit status 1: two" {
		t.Errorf("%q: %q", s.Failed, s.Why)
	}
	r.Run.Steps[0].Result, r.Run.Checks[0] = ResultChanged, CheckResult{Name: "home", Result: CheckFailed, Reason: "status 502"}
	checkParsed()
	if s := r.Summary(); s.Failed != "check home" || s.Why != "status 502" {
		t.Errorf("%q: %q", s.Failed, s.Why)
	}
	r.Run.Checks[0].Result = CheckPassed
	checkParsed()
	if s := r.Summary(); s.Failed+s.Why != "" {
		t.Errorf("%q: %q", s.Failed, s.Why)
	}
}
