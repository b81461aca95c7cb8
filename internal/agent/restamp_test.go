package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// statusNow is the status file for all users.
func (w *world) statusNow() (*release.Report, []byte) {
	w.t.Helper()
	b, err := os.ReadFile(w.agent.Paths.Status())
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := release.ParseReport(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, b
}

// The status file tells of each poll, whether it was written anew or only its
// times were.
func TestStatus_IsAsOldAsTheLastPoll(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	before, _ := w.statusNow()
	saved := func() []byte {
		b, err := os.ReadFile(w.agent.Paths.StateFile())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var quiet []byte
	for i := range 4 {
		w.pass(5 * time.Minute)
		w.good()
		now, _ := w.statusNow()
		if !now.Time.Equal(w.now) || now.NextRun.Equal(before.NextRun) {
			t.Errorf("poll %d: time %v, next %v; it is %v", i, now.Time, now.NextRun, w.now)
		}
		if now.Run == nil || now.Run.ID != before.Run.ID || now.Release != "r1" || now.State != release.StateChanged {
			t.Errorf("poll %d: %+v", i, now)
		}
		if i == 0 {
			quiet = saved()
		} else if !bytes.Equal(quiet, saved()) {
			t.Errorf("poll %d wrote the state", i)
		}
	}
	if !strings.Contains(string(quiet), `"shown"`) {
		t.Error("times alone were never written")
	}

	w.write(w.agent.Paths.Hold(), "for a test")
	w.pass(5 * time.Minute)
	w.good()
	if now, _ := w.statusNow(); now.State != release.StateHeld {
		t.Errorf("held: %+v", now)
	}
	if err := os.Remove(w.agent.Paths.Hold()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.pass(5 * time.Minute)
		w.good()
	}
	prom := filepath.Join(w.agent.Paths.Metrics(), metricsFile)
	for _, name := range []string{w.agent.Paths.Status(), prom} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		w.pass(5 * time.Minute)
		w.good()
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if now, _ := w.statusNow(); now.State != release.StateChanged || !now.Time.Equal(w.now) {
		t.Errorf("after it was lost: %+v", now)
	}
	w.publish(role(w.put("a", "two")))
	w.pass(5 * time.Minute)
	w.good()
	if now, _ := w.statusNow(); now.Release != "r2" || now.Run.ID == before.Run.ID {
		t.Errorf("after an update: %+v", now)
	}
}

func TestWithString(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{"a":"x","time":"1","n":{"time":"2"}}`, `{"a":"x","time":"3","n":{"time":"2"}}`},
		{`{"a":"\"time\":\"0\"","time":"1"}`, `{"a":"\"time\":\"0\"","time":"3"}`},
		{`{"time":1}`, ""},
		{`{"time":"1`, ""},
		{`{}`, ""},
	} {
		got, ok := withString([]byte(tt.in), "time", []byte(`"3"`))
		if string(got) != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %s, %v", tt.in, got, ok)
		}
	}
}

func FuzzWithString(f *testing.F) {
	f.Add("a", "b", "c")
	f.Add(`"time":"0"`, `\`, `"`)
	f.Fuzz(func(t *testing.T, project, reason, hostname string) {
		at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
		r := release.Report{Schema: 1, Project: project, Time: at, NextRun: at, Reason: reason, Facts: release.Facts{Hostname: hostname}}
		b, err := json.Marshal(r)
		if err != nil {
			t.Skip()
		}
		r.NextRun = at.Add(time.Hour)
		want, _ := json.Marshal(r)
		text, _ := r.NextRun.MarshalJSON()
		if got, ok := withString(b, "next_run", text); !ok || !bytes.Equal(got, want) {
			t.Errorf("%s\n%s", got, want)
		}
	})
}

func TestLazy(t *testing.T) {
	var v struct{ A, B *lazy[[]int] }
	if err := json.Unmarshal([]byte(`{"A":[1,2]}`), &v); err != nil || v.A.read() || v.B.read() || v.B.get() != nil {
		t.Fatalf("%v, %+v", err, v)
	}
	same := func(want string) {
		t.Helper()
		if b, err := json.Marshal(v); err != nil || string(b) != want {
			t.Errorf("%s, %v; want %s", b, err, want)
		}
	}
	same(`{"A":[1,2],"B":null}`)
	*v.A.get() = append(*v.A.get(), 3)
	v.B = lazyOf(&[]int{4})
	same(`{"A":[1,2,3],"B":[4]}`)
	if err := json.Unmarshal([]byte(`{"A":"no list"}`), &v); err != nil || v.A.get() != nil {
		t.Errorf("%v, %v", err, v.A.get())
	}
	same(`{"A":"no list","B":[4]}`)
}
