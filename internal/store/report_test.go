package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func report(vm string, n int64) release.Report {
	return release.Report{Schema: 1, Project: "acme", VM: vm, Role: "web", Channel: "stable", Sequence: n, State: release.StateOK}
}

// told runs Reports and describes each entry in a word.
func told(t *testing.T, s *Store, cache string) string {
	t.Helper()
	var out []string
	for e, err := range (ReportSource{Store: s, CacheDir: cache}).Reports(context.Background()) {
		switch {
		case err != nil:
			out = append(out, "error")
		case e.Err != nil:
			out = append(out, e.VM+"!")
		default:
			out = append(out, fmt.Sprint(e.VM, ":", e.Summary.Sequence))
		}
		if err == nil && e.Modified.IsZero() {
			t.Errorf("%s has no time", e.VM)
		}
	}
	return strings.Join(out, " ")
}

func TestReports(t *testing.T) {
	mem := bucket.NewMem()
	c := bucket.Count(mem)
	s, ctx, cache := &Store{Bucket: c}, context.Background(), filepath.Join(t.TempDir(), "cache")
	for _, vm := range []string{"i-b", "i", "i-a", "z.1"} {
		if err := s.PutReport(ctx, report(vm, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutLog(ctx, vm, 3, []byte("log")); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := told(t, s, cache), "i:1 i-a:1 i-b:1 z.1:1"; got != want {
		t.Errorf("reports %q, want %q", got, want)
	}
	before := c.Traffic()
	if err := s.PutReport(ctx, report("i-a", 2)); err != nil {
		t.Fatal(err)
	}
	if got, want := told(t, s, cache), "i:1 i-a:2 i-b:1 z.1:1"; got != want {
		t.Errorf("reports %q, want %q", got, want)
	}
	if tr := c.Traffic().Sub(before); tr.Gets != 1 || tr.Lists != 1 {
		t.Errorf("one changed report took %+v", tr)
	}
	ents, _ := os.ReadDir(cache)
	for _, e := range ents {
		if fi, _ := e.Info(); fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), fi.Mode())
		}
	}
	if err := mem.Delete(ctx, "reports/i-b/report.json"); err != nil {
		t.Fatal(err)
	}
	if got, want := told(t, s, cache), "i:1 i-a:2 z.1:1"; got != want {
		t.Errorf("reports %q, want %q", got, want)
	}
	if got := told(t, s, ""); got != "i:1 i-a:2 z.1:1" {
		t.Errorf("without a cache: %q", got)
	}
	if got := told(t, s, "/dev/null/not-a-folder"); got != "i:1 i-a:2 z.1:1" {
		t.Errorf("with a cache that cannot be written: %q", got)
	}
	r, err := s.Report(ctx, "i-a")
	if err != nil || r.Sequence != 2 {
		t.Errorf("Report: %+v %v", r, err)
	}
	if _, err := s.Report(ctx, "nobody"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("Report of nobody: %v", err)
	}
}

func TestReportsThatAreBad(t *testing.T) {
	mem := bucket.NewMem()
	s, ctx := &Store{Bucket: mem}, context.Background()
	if err := s.PutReport(ctx, report("good", 1)); err != nil {
		t.Fatal(err)
	}
	mallory, _ := report("good", 9).Bytes()
	put(t, mem, "reports/mallory/report.json", mallory)
	put(t, mem, "reports/garbage/report.json", []byte("\x00"))
	put(t, mem, "reports/newer/report.json", []byte(`{"schema":99,"vm":"newer"}`))
	put(t, mem, "reports/big/report.json", bytes.Repeat([]byte(" "), release.MaxReportBytes+1))
	put(t, mem, "reports/ev il/report.json", []byte("{}"))
	put(t, mem, "reports/a/b/report.json", []byte("{}")) // what VM a may write beside its own report
	put(t, mem, "reports/report.json", []byte("{}"))
	for range 2 {
		cache := t.TempDir()
		if got, want := told(t, s, cache), `big! "ev il"! garbage! good:1 mallory! newer!`; got != want {
			t.Errorf("reports %q, want %q", got, want)
		}
	}
	for _, vm := range []string{"", "../x", "a/b", ".", strings.Repeat("x", 200)} {
		if err := s.PutReport(ctx, report(vm, 1)); err == nil {
			t.Errorf("a report of %q was written", vm)
		}
		if _, err := s.PutLog(ctx, vm, 1, nil); err == nil {
			t.Errorf("a log of %q was written", vm)
		}
		if _, err := s.Report(ctx, vm); !errors.Is(err, release.ErrFormat) {
			t.Errorf("a report of %q was looked for: %v", vm, err)
		}
	}
	down := &Store{Bucket: bucket.NewFaults(mem, bucket.Fault{Method: "List"})}
	if got := told(t, down, ""); got != "error" {
		t.Errorf("no list: %q", got)
	}
	down = &Store{Bucket: bucket.NewFaults(mem, bucket.Fault{Method: "Get", Skip: 3})}
	if got := told(t, down, ""); got != "error" {
		t.Errorf("the bucket went away: %q", got)
	}
}

// A seen counts the objects that lists yield.
type seen struct {
	bucket.Bucket
	lists, objects int
}

func (b *seen) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	b.lists++
	return func(yield func(bucket.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			b.objects++
			if !yield(o, err) {
				return
			}
		}
	}
}

// VMs may write what they like below their own prefix: that must not keep
// operators from the reports of others.
func TestReportsOfCrowdedVMs(t *testing.T) {
	mem := bucket.NewMem()
	b := &seen{Bucket: mem}
	s, ctx := &Store{Bucket: b}, context.Background()
	vms := []string{"crowd-after", "crowd-before", "crowd-both", "crowd-deep", "crowd-deep0", "few", "good", "good!", "good0"}
	for i, vm := range vms {
		r, err := report(strings.Trim(vm, "!"), int64(i)).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		put(t, mem, "reports/"+vm+"/report.json", r)
	}
	crowd := func(format string, n int) {
		for i := range n {
			put(t, mem, fmt.Sprintf(format, i), nil)
		}
	}
	crowd("reports/crowd-after/z%d", 3000)
	crowd("reports/crowd-before/a%d", 3000)
	crowd("reports/crowd-both/a%d", 3000)
	crowd("reports/crowd-both/z%d", 3000)
	crowd("reports/crowd-deep/a/%d/report.json", 3000)
	crowd("reports/crowd-none/%d", 3000)
	crowd("reports/few/%d", 20)
	crowd("reports/few-none/%d", 20)
	crowd("reports/report.json.%d", 20)
	if got, want := told(t, s, ""), "crowd-after:0 crowd-before:1 crowd-both:2 crowd-deep:3 crowd-deep0:4 crowd-none! few:5 good:6 \"good!\"! good0:8"; got != want {
		t.Errorf("reports %q, want %q", got, want)
	}
	if b.lists > 11 || b.objects > 6*maxBeside {
		t.Errorf("%d lists of %d objects", b.lists, b.objects)
	}
	for e := range (ReportSource{Store: s}).Reports(ctx) {
		if crowded := strings.HasPrefix(e.VM, "crowd") && e.VM != "crowd-deep0"; crowded != (e.Warn != "" || e.Err != nil && strings.Contains(e.Err.Error(), "other objects")) {
			t.Errorf("%s: warning %q, %v", e.VM, e.Warn, e.Err)
		}
	}
}

func TestReportsOfTooManyVMs(t *testing.T) {
	mem := bucket.NewMem()
	for i := range maxVMs + 1 {
		put(t, mem, fmt.Sprintf("reports/vm-%d/x", i), nil)
	}
	for _, err := range (ReportSource{Store: &Store{Bucket: mem}}).Reports(context.Background()) {
		if !errors.Is(err, bucket.ErrTooLarge) || !strings.Contains(err.Error(), "100000 VMs") {
			t.Fatalf("%v, want %v", err, bucket.ErrTooLarge)
		}
		return
	}
	t.Error("the walk did not end")
}

func TestLogs(t *testing.T) {
	mem := bucket.NewMem()
	s, ctx := &Store{Bucket: mem}, context.Background()
	long := append(append([]byte("START"), bytes.Repeat([]byte("x"), 3<<20)...), "END"...)
	for n, log := range map[int64][]byte{7: []byte("short"), 12: nil, 25: long} {
		name, err := s.PutLog(ctx, "vm", n, log)
		if err != nil || name != fmt.Sprintf("%d.zst", n%release.MaxReportedRuns) {
			t.Fatal(name, err)
		}
		got, err := s.RunLog(ctx, "vm", name)
		if err != nil {
			t.Fatal(err)
		}
		if len(log) <= maxLog && !bytes.Equal(got, log) {
			t.Errorf("run %d: %d bytes came back of %d", n, len(got), len(log))
		}
		if len(log) > maxLog && (len(got) != maxLog || !bytes.HasPrefix(got, []byte("START")) || !bytes.HasSuffix(got, []byte("END")) || !bytes.Contains(got, []byte("bytes left out"))) {
			t.Errorf("run %d: %d bytes came back of %d", n, len(got), len(log))
		}
	}
	for _, name := range []string{"report.json", "10.zst", ".zst", "../x/1.zst", "a.zst", "1", "log-1.zst", "1.zst.zst"} {
		if _, err := s.RunLog(ctx, "vm", name); !errors.Is(err, release.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.RunLog(ctx, "vm", "9.zst"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("no such log: %v", err)
	}
	// Logs are where a list of the reports does not walk over them.
	for o, err := range mem.List(ctx, "", "") {
		if err != nil || !strings.HasPrefix(o.Key, "logs/vm/") {
			t.Errorf("there is %q, %v", o.Key, err)
		}
	}
	// A VM may write anything: a bomb unpacks to nothing.
	c, err := sharedCoders()
	if err != nil {
		t.Fatal(err)
	}
	put(t, mem, "logs/vm/1.zst", c.normal.EncodeAll(make([]byte, 64<<20), nil))
	if _, err := s.RunLog(ctx, "vm", "1.zst"); err == nil {
		t.Error("a bomb was unpacked")
	}
}
