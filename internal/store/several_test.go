package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func TestOptional(t *testing.T) {
	for key, want := range map[string]bool{
		"tuf/metadata/timestamp.json": false, "tuf/metadata/1.root.json": false, "tuf/metadata/2.root.json": true, "tuf/metadata/12.root.json": true,
		"tuf/metadata/2.snapshot.json": false, "tuf/targets/releases/x.r1.json": false, "packs/x": false, "agents/x": false,
		"manifests/x.zst": false, "manifests/x-y.zst": true, "reports/vm/report.json": true, "logs/vm/0.zst": true, "locks/publish": true,
	} {
		if Optional(key) != want {
			t.Errorf("%s: %v", key, !want)
		}
	}
}

// said writes a report with a sequence to a bucket.
func said(t *testing.T, b bucket.Bucket, vm string, sequence int64) {
	t.Helper()
	r := release.Report{Schema: release.SchemaVersion, VM: vm, Sequence: sequence, State: release.StateOK}
	if err := (&Store{Bucket: b}).PutReport(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestMergeReports(t *testing.T) {
	main, west, dead := bucket.NewMem(), bucket.NewMem(), bucket.NewFaults(bucket.NewMem(), bucket.Fault{Kind: bucket.FaultFail})
	clock := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	tick := func() time.Time { clock = clock.Add(time.Second); return clock }
	main.Now, west.Now = tick, tick
	said(t, main, "a", 1)
	said(t, main, "b", 1)
	said(t, west, "b", 2)
	said(t, main, "c", 4)
	said(t, west, "c", 3) // an older one, written later: it was on its way for long
	said(t, west, "d", 1)
	put(t, main, "reports/e/report.json", []byte("{torn"))
	said(t, west, "e", 1)
	said(t, main, "f", 1)
	put(t, west, "reports/f/report.json", []byte("{torn"))
	put(t, west, "reports/\"x/report.json", []byte("{}"))
	said(t, west, "z", 7)

	var got []string
	failures := map[int]error{}
	sources := []ReportSource{{Store: &Store{Bucket: main}}, {Store: &Store{Bucket: dead}}, {Store: &Store{Bucket: west}, CacheDir: t.TempDir()}}
	for e := range MergeReports(t.Context(), sources, func(i int, err error) { failures[i] = err }) {
		if e.Summary == nil {
			got = append(got, e.VM+" unreadable")
			continue
		}
		got = append(got, fmt.Sprintf("%s %d", e.VM, e.Summary.Sequence))
	}
	want := []string{`"\"x" unreadable`, "a 1", "b 2", "c 4", "d 1", "e 1", "f unreadable", "z 7"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if len(failures) != 1 || !errors.Is(failures[1], bucket.ErrUnavailable) {
		t.Errorf("failures: %v", failures)
	}
	n := 0
	for range MergeReports(t.Context(), sources, func(int, error) {}) {
		n++
		break
	}
	if n != 1 {
		t.Error("it does not end when it is told to")
	}
}

func TestNewestReport(t *testing.T) {
	main, west := bucket.NewMem(), bucket.NewMem()
	dead := bucket.NewFaults(main, bucket.Fault{Kind: bucket.FaultFail})
	stores := []*Store{{Bucket: main}, {Bucket: west}}
	if _, _, err := NewestReport(t.Context(), stores, "a"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	said(t, main, "a", 2)
	said(t, west, "a", 1)
	if e, at, err := NewestReport(t.Context(), stores, "a"); err != nil || at != 0 || e.Sequence != 2 {
		t.Errorf("%+v at %d: %v", e, at, err)
	}
	said(t, west, "a", 3)
	stores[0].Bucket = dead
	if e, at, err := NewestReport(t.Context(), stores, "a"); err != nil || at != 1 || e.Sequence != 3 {
		t.Errorf("%+v at %d: %v", e, at, err)
	}
	if _, _, err := NewestReport(t.Context(), stores, "b"); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("none, and one that cannot be asked: %v", err)
	}
}
