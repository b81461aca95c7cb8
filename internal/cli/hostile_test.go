package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
)

// hostile is what a VM that was taken over may say of itself: it colours,
// renames the window, links, rings, goes back over what was printed, begins a
// line of its own, hides and reverses text, and is long.
var hostile = "\x1b[31mred\x1b]0;owned\x07\x1b]8;;http://evil.example\x1b\\\u009b2J\u0090q\u009c\rX\bY\x7f\x00\nFORGED line\n\u202ereversed\u200bhidden\ufeff" + strings.Repeat("long ", 300)

// fill puts text into each string that v holds, and one element into each list.
func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Now().UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), text)
		}
	}
}

func hostileReport(vm string) *release.Report {
	r := &release.Report{}
	fill(reflect.ValueOf(r).Elem(), hostile)
	r.Schema, r.VM = release.SchemaVersion, vm
	return r
}

// report puts a report where the one of vm belongs.
func (o operator) report(t *testing.T, vm string, b []byte) {
	t.Helper()
	dir := filepath.Join(filepath.Dir(o.project), "bucket", "reports", vm)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (o operator) reportOf(t *testing.T, r *release.Report) {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	o.report(t, r.VM, b)
}

// run returns what a command prints on both streams, and its exit code.
func (o operator) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return finished(t, o.command(args...))
}

// harmless fails t if text could do more to a terminal than be read there.
func harmless(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("not UTF-8: %.300q", text)
	}
	for i, c := range text {
		if c != '\n' && c != '\t' && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c)) {
			t.Errorf("holds %U: …%q", c, text[max(0, i-40):min(len(text), i+40)])
			return
		}
	}
}

// TestHostileReports: whatever VMs write into their reports and logs, the
// operator's terminal shows text, and the other VMs are still there to see.
func TestHostileReports(t *testing.T) {
	o := newOperator(t)
	plain := hostileReport("i-honest")
	fill(reflect.ValueOf(plain).Elem(), "fine")
	plain.Schema, plain.VM, plain.Role, plain.State, plain.Release = release.SchemaVersion, "i-honest", "web", release.StateOK, "r1"
	plain.Heartbeat = release.Duration(time.Hour)
	o.reportOf(t, plain)
	o.reportOf(t, hostileReport("i-taken"))

	// One that fails, so that it is grouped, and one with a log.
	failed := hostileReport("i-failed")
	failed.State, failed.Run.Result, failed.Run.Steps[0].Result = release.StateFailed, release.ResultFailed, release.ResultFailed
	o.reportOf(t, failed)
	b, err := file.OpenDir(filepath.Join(filepath.Dir(o.project), "bucket"), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	logged := hostileReport("i-logged")
	if logged.Run.Log, err = (&store.Store{Bucket: b}).PutLog(context.Background(), "i-logged", 0, []byte(hostile)); err != nil {
		t.Fatal(err)
	}
	o.reportOf(t, logged)

	for _, args := range [][]string{
		{"status"},
		{"status", "--progress", "tty"},
		{"status", "--vms"},
		{"status", "--vms", "--plain"},
		{"status", "--vms", "--state", "failed"},
		{"status", "i-taken"},
		{"status", "i-failed"},
		{"status", "i-logged", "--progress", "tty"},
		{"logs", "i-logged"},
		{"logs", "i-logged", "--run", hostile[:5]},
		{"logs", "i-taken"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			stdout, stderr, _ := o.run(t, args...)
			harmless(t, stdout)
			harmless(t, stderr)
			if len(stdout) == 0 && len(stderr) == 0 {
				t.Error("nothing is shown")
			}
			if len(stdout)+len(stderr) > 20_000 {
				t.Errorf("%d bytes are shown", len(stdout)+len(stderr))
			}
			if args[0] == "status" && strings.Contains("\n"+stdout+"\n"+stderr, "\nFORGED") {
				t.Errorf("a report begins a line of its own:\n%s%s", stdout, stderr)
			}
			if len(args) > 1 && args[1] == "--vms" && args[len(args)-1] != "failed" {
				if n := strings.Count(stdout, "i-"); n != 4 {
					t.Errorf("%d VMs, want 4:\n%s", n, stdout)
				}
			}
			if args[len(args)-1] == "--plain" {
				for line := range strings.Lines(stdout) {
					if strings.Count(line, "\t") != 6 {
						t.Errorf("a report adds a column: %.200q", line)
					}
				}
			}
		})
	}
	stdout, _, code := o.run(t, "status", "--check")
	if code != 3 || !strings.Contains(stdout, "web") {
		t.Errorf("exit code %d, want 3:\n%s", code, stdout)
	}
}

// TestUnreadableReports: a report that cannot be read is named and counted, and
// hides no other.
func TestUnreadableReports(t *testing.T) {
	o := newOperator(t)
	honest := &release.Report{Schema: release.SchemaVersion, VM: "i-honest", Role: "web", State: release.StateOK, Release: "r1", Time: time.Now(), Heartbeat: release.Duration(time.Hour)}
	o.reportOf(t, honest)
	b, err := json.Marshal(honest)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"i-empty":         nil,
		"i-garbage":       []byte("\x00\xff\x1b[31m"),
		"i-torn":          b[:len(b)/2],
		"i-other":         b,
		"i-newer":         bytes.Replace(b, []byte(`"schema":1`), []byte(`"schema":9`), 1),
		"i-named":         bytes.Replace(b, []byte("i-honest"), []byte(`\u001b[31m`), 1),
		"i-huge":          append(bytes.Repeat([]byte(" "), release.MaxReportBytes), b...),
		"\u009b31mi-evil": b,
		"\u202ei-evil":    b,
	}
	for vm, text := range bad {
		o.report(t, vm, text)
	}
	for _, args := range [][]string{{"status"}, {"status", "--vms"}, {"status", "--check"}} {
		stdout, stderr, code := o.run(t, args...)
		harmless(t, stdout)
		harmless(t, stderr)
		if want := map[string]int{"--check": 3}[args[len(args)-1]]; code != want {
			t.Errorf("%v: exit code %d, want %d:\n%s%s", args, code, want, stdout, stderr)
		}
	}
	stdout, _, _ := o.run(t, "status")
	if !strings.Contains(stdout, "1 VM ") || !strings.Contains(stdout, "UNREADABLE: 9 reports") {
		t.Errorf("not counted:\n%s", stdout)
	}
	if stdout, _, _ = o.run(t, "status", "--vms", "--plain"); !strings.HasPrefix(stdout, "i-honest\tweb\tok\tr1\t") {
		t.Errorf("the VM whose report can be read is not shown:\n%s", stdout)
	}
	stdout, _, _ = o.run(t, "status", "--json")
	var doc struct {
		Unread []struct{ VM, Error string }
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, u := range doc.Unread {
		named[u.VM] = true
		if u.Error == "" {
			t.Errorf("%s has no reason", u.VM)
		}
	}
	for vm := range bad {
		if strings.HasPrefix(vm, "i-") && !named[vm] {
			t.Errorf("%s is not named in %v", vm, doc.Unread)
		}
	}
	for _, vm := range []string{"i-torn", "i-huge", "i-newer", "i-named"} {
		stdout, stderr, code := o.run(t, "status", vm)
		harmless(t, stdout+stderr)
		if code == 0 || !strings.Contains(stderr, vm) {
			t.Errorf("status %s: exit code %d: %s", vm, code, stderr)
		}
	}
}
