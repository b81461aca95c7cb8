package store

import (
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A VM that the bucket's rules confine writes below a folder of the identity
// they know it by. It is one VM under its own name, whoever else uses that.
func TestReports_ConfinedToAFolder(t *testing.T) {
	mem := bucket.NewMem()
	s := &Store{Bucket: mem}
	confined := &Store{Bucket: mem, Folder: "AROAEXAMPLE:i-b"}
	for _, w := range []struct {
		s  *Store
		vm string
		n  int64
	}{{s, "i-c", 1}, {s, "i-a", 1}, {s, "i-b", 7}, {confined, "i-b", 2}} {
		if err := w.s.PutReport(t.Context(), report(w.vm, w.n)); err != nil {
			t.Fatal(err)
		}
	}
	cache := t.TempDir()
	for range 2 {
		if got, want := told(t, s, cache), "i-a:1 i-b:2 i-c:1"; got != want {
			t.Errorf("reports %q, want %q", got, want)
		}
	}
	name, err := confined.PutLog(t.Context(), "i-b", 3, []byte("its log"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.RunLog(t.Context(), "i-b", name); err != nil || string(got) != "its log" {
		t.Errorf("log %q, %v", got, err)
	}
	if err := mem.Delete(t.Context(), "reports/i-b/report.json"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Report(t.Context(), "i-b"); err != nil || got.Sequence != 2 {
		t.Errorf("report %+v, %v", got, err)
	}
	// An identity cannot speak for a VM of another name.
	other := &Store{Bucket: mem, Folder: "AROAEXAMPLE:i-x"}
	if err := other.PutReport(t.Context(), report("i-a", 9)); err != nil {
		t.Fatal(err)
	}
	if got, want := told(t, s, ""), "i-a:1 i-b:2 i-c:1 i-x!"; got != want {
		t.Errorf("reports %q, want %q", got, want)
	}
}
