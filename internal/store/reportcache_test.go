package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A fleetBucket is a bucket with reports that can be listed in parts.
type fleetBucket struct {
	*bucket.Counter
	mem *bucket.Mem
}

func newFleet(t *testing.T, n int) fleetBucket {
	t.Helper()
	mem := bucket.NewMemWith(bucket.Caps{IfAbsent: true, IfMatch: true, ListFrom: true})
	b := fleetBucket{bucket.Count(mem), mem}
	for i := range n {
		b.say(t, fleetVM(i), 1)
	}
	return b
}

// fleetVM is a name; those with "-x" sort before the one without as objects.
func fleetVM(i int) string { return fmt.Sprintf("i-%05d%s", i/2, []string{"", "-x"}[i%2]) }

func (b fleetBucket) say(t *testing.T, vm string, n int64) {
	t.Helper()
	r, err := report(vm, n).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	put(t, b.mem, reportKey(vm), r)
}

func (b fleetBucket) drop(t *testing.T, vm string) {
	t.Helper()
	if err := b.mem.Delete(t.Context(), reportKey(vm)); err != nil {
		t.Fatal(err)
	}
}

// all reads every report, and what that took of the bucket.
func (b fleetBucket) all(t *testing.T, cache string) (map[string]int64, bucket.Traffic) {
	t.Helper()
	before, seqs, last := b.Traffic(), map[string]int64{}, ""
	for e, err := range (ReportSource{Store: &Store{Bucket: b}, CacheDir: cache}).Reports(t.Context()) {
		if err != nil || e.Err != nil {
			t.Fatal(err, e.Err)
		}
		if e.VM <= last {
			t.Errorf("%s comes after %s", e.VM, last)
		}
		last, seqs[e.VM] = e.VM, e.Summary.Sequence
	}
	return seqs, b.Traffic().Sub(before)
}

// TestReports_OnlyWhatChanged: a later read is the pages of a listing and one GET
// for each report that changed.
func TestReports_OnlyWhatChanged(t *testing.T) {
	const n = 3100
	b, cache := newFleet(t, n), t.TempDir()
	want := map[string]int64{}
	for i := range n {
		want[fleetVM(i)] = 1
	}
	for _, step := range []struct {
		name        string
		change      func()
		gets, lists int64
	}{
		{"first", func() {}, n, 4},
		{"unchanged", func() {}, 0, 4},
		{"some changed", func() {
			for i := 0; i < n; i += 100 {
				b.say(t, fleetVM(i), 2)
				want[fleetVM(i)] = 2
			}
		}, n / 100, 4},
		{"unchanged again", func() {}, 0, 4},
		{"some are new, before, between and behind the others", func() {
			for _, vm := range []string{"a", "i-00000-y", "i-00500-y", "i-01000-a", "z"} {
				b.say(t, vm, 7)
				want[vm] = 7
			}
		}, 5, 4},
		{"many are gone, among them where the listing was cut", func() {
			for i := range n {
				if i%reportsPart > reportsPart-200 || i < 50 {
					b.drop(t, fleetVM(i))
					delete(want, fleetVM(i))
				}
			}
		}, 0, 4},
		{"so many new ones in a part that a page is not enough", func() {
			for i := range 1500 {
				vm := fmt.Sprintf("i-00300-new%04d", i)
				b.say(t, vm, 9)
				want[vm] = 9
			}
		}, 1500, 5},
	} {
		step.change()
		got, tr := b.all(t, cache)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %d reports, want %d", step.name, len(got), len(want))
		}
		if tr.Gets != step.gets || tr.Lists != step.lists || tr.Requests() != tr.Gets+tr.Lists {
			t.Errorf("%s: %+v, want %d GETs and %d LISTs", step.name, tr, step.gets, step.lists)
		}
	}
	// All gone, and the cache forgets them.
	for vm := range want {
		b.drop(t, vm)
	}
	if got, _ := b.all(t, cache); len(got) != 0 {
		t.Errorf("%d reports of nobody", len(got))
	}
	if c, err := loadReports(cache); err != nil || len(c.had) != 0 {
		t.Errorf("the cache holds %d reports: %v", len(c.had), err)
	}
}

// TestReports_CacheIsNoTruth: whatever the cache file holds costs GETs at most.
func TestReports_CacheIsNoTruth(t *testing.T) {
	const n = 40
	b, cache := newFleet(t, n), t.TempDir()
	want, _ := b.all(t, cache)
	name := filepath.Join(cache, cacheFile)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the cache has mode %v, %v", st.Mode(), err)
	}
	flipped := bytes.Clone(good)
	flipped[bytes.Index(good, []byte("web"))] ^= 1 // what it holds is still well formed
	for what, text := range map[string][]byte{
		"empty": {}, "torn": good[:len(good)/2], "without its end": good[:len(good)-1], "flipped": flipped, "longer": append(bytes.Clone(good), 0),
		"foreign": []byte("bootwell reports 99\n" + string(good[20:])), "nothing of ours": bytes.Repeat([]byte("x"), 5000),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, tr := b.all(t, cache)
		if !reflect.DeepEqual(got, want) || tr.Gets != n {
			t.Errorf("%s: %d reports with %d GETs", what, len(got), tr.Gets)
		}
		if _, tr := b.all(t, cache); tr.Gets != 0 {
			t.Errorf("%s: it was not mended: %d GETs", what, tr.Gets)
		}
	}
	// One of other VMs, in order: nothing of it is believed.
	other, foreign := newFleet(t, 0), t.TempDir()
	for i := range n {
		other.say(t, fmt.Sprint("j-", 100+i), 5)
	}
	other.all(t, foreign)
	text, err := os.ReadFile(filepath.Join(foreign, cacheFile))
	if err != nil || os.WriteFile(name, text, 0o600) != nil {
		t.Fatal(err)
	}
	if got, tr := b.all(t, cache); !reflect.DeepEqual(got, want) || tr.Gets != n {
		t.Errorf("another fleet's: %d reports with %d GETs", len(got), tr.Gets)
	}
	if err := os.Remove(name); err != nil || os.Mkdir(name, 0o700) != nil {
		t.Fatal(err)
	}
	if got, _ := b.all(t, cache); !reflect.DeepEqual(got, want) {
		t.Errorf("with a folder in its place: %d reports", len(got))
	}
	if left, _ := filepath.Glob(name + ".*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestReports_BrokenOff: what was read before an error is not read again.
func TestReports_BrokenOff(t *testing.T) {
	const n = 500
	b, cache := newFleet(t, n), t.TempDir()
	src := ReportSource{Store: &Store{Bucket: bucket.NewFaults(b, bucket.Fault{Method: "Get", Skip: 300})}, CacheDir: cache}
	for _, err := range src.Reports(t.Context()) {
		if !errors.Is(err, bucket.ErrUnavailable) {
			t.Fatalf("%v, want %v", err, bucket.ErrUnavailable)
		}
	}
	if got, tr := b.all(t, cache); len(got) != n || tr.Gets >= n || tr.Gets < n-300 {
		t.Errorf("the second time: %d reports with %d GETs", len(got), tr.Gets)
	}
	// A listing that breaks off takes nothing out of the cache.
	src.Store.Bucket = bucket.NewFaults(b, bucket.Fault{Method: "List"})
	for _, err := range src.Reports(t.Context()) {
		if err == nil {
			t.Fatal("no error")
		}
	}
	if _, tr := b.all(t, cache); tr.Gets != 0 {
		t.Errorf("after a listing that broke off: %d GETs", tr.Gets)
	}
}

// TestReports_SharedCache: commands at the same time have one cache.
func TestReports_SharedCache(t *testing.T) {
	const n = 200
	b, cache := newFleet(t, n), t.TempDir()
	for round := range 5 {
		b.say(t, fleetVM(round), int64(10+round))
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				read := 0
				for e, err := range (ReportSource{Store: &Store{Bucket: b}, CacheDir: cache}).Reports(t.Context()) {
					if read++; err != nil || e.Err != nil || e.VM == fleetVM(round) && e.Summary.Sequence != int64(10+round) {
						t.Error(e, err)
					}
				}
				if read != n {
					t.Errorf("%d reports, want %d", read, n)
				}
			})
		}
		wg.Wait()
		if _, tr := b.all(t, cache); tr.Gets != 0 {
			t.Errorf("round %d: %d GETs", round, tr.Gets)
		}
	}
}

// Commands that were cut off leave temporary files, which do not stay for ever.
func TestReports_CacheIsSwept(t *testing.T) {
	b, cache := newFleet(t, 3), t.TempDir()
	old, fresh := filepath.Join(cache, "reports.1.tmp"), filepath.Join(cache, "reports.2.tmp")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(old)
	if err != nil || os.Chtimes(old, st.ModTime(), st.ModTime().Add(-2*cacheTrash)) != nil {
		t.Fatal(err)
	}
	b.all(t, cache)
	_, errOld := os.Stat(old)
	_, errFresh := os.Stat(fresh)
	if !os.IsNotExist(errOld) || errFresh != nil {
		t.Errorf("old: %v, fresh: %v", errOld, errFresh)
	}
}

// noETags is a bucket whose listings have no ETags.
type noETags struct{ bucket.Bucket }

func (b noETags) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			o.ETag = ""
			if !yield(o, err) {
				return
			}
		}
	}
}

// Where a listing has no ETags each report is asked for, but comes only if it changed.
func TestReports_ListingWithoutETags(t *testing.T) {
	b, cache := newFleet(t, 20), t.TempDir()
	plain := fleetBucket{bucket.Count(noETags{b.mem}), b.mem}
	want, _ := plain.all(t, cache)
	b.say(t, fleetVM(7), 2)
	want[fleetVM(7)] = 2
	if got, tr := plain.all(t, cache); !reflect.DeepEqual(got, want) || tr.Gets != 20 || tr.NotModified != 19 {
		t.Errorf("%d reports, %+v", len(got), tr)
	}
}

func TestByKey(t *testing.T) {
	names := []string{"a", "a-b", "a.b", "a0", "a-", "a:b", "ab", "b", "", "a-b-c", "a/", "aa"}
	for _, a := range names {
		for _, b := range names {
			if got, want := byKey(a, b), strings.Compare(a+"/", b+"/"); got != want {
				t.Errorf("%q %q: %d, want %d", a, b, got, want)
			}
		}
	}
}

func encoded(t testing.TB, reports ...cachedReport) string {
	t.Helper()
	var b strings.Builder
	if err := encodeReports(&b, reports); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func someSummary(vm string) *release.Summary {
	r := report(vm, -3)
	s := r.Summary()
	s.Heartbeat, s.Seconds, s.Warn = -1, 1e-9, []string{"", "a\x00é", strings.Repeat("w", 300)}
	return s
}

func TestReportCache_RoundTrip(t *testing.T) {
	reports := []cachedReport{
		{"AROAEXAMPLE:i-1", `"x"`, someSummary("i-1")}, {"i-1-a", "y", someSummary("i-1-a")}, {"i-1", "z", (&release.Report{VM: "i-1"}).Summary()},
	}
	got, err := decodeReports(encoded(t, reports...))
	if err != nil || !reflect.DeepEqual(got, reports) {
		t.Errorf("%+v, %v", got, err)
	}
	for what, bad := range map[string][]cachedReport{
		"not in order":     {reports[2], reports[1]},
		"twice":            {reports[1], reports[1]},
		"of another VM":    {{"i-1", "x", someSummary("i-2")}},
		"no folder":        {{"..", "x", someSummary("..")}},
		"without an ETag":  {{"i-1", "", someSummary("i-1")}},
		"too many warning": {{"i-1", "x", &release.Summary{VM: "i-1", Warn: make([]string, release.MaxSummaryWarns+1)}}},
	} {
		if got, err := decodeReports(encoded(t, bad...)); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func FuzzReportCache(f *testing.F) {
	whole := encoded(f, cachedReport{"a-b", "x", someSummary("a-b")}, cachedReport{"a", "y", someSummary("a")})
	f.Add(whole[len(cacheHead) : len(whole)-32])
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
	f.Add("\x80\x80\x01")
	f.Fuzz(func(t *testing.T, body string) {
		if _, err := decodeReports(body); err == nil {
			t.Fatal("without a digest it was read")
		}
		got, err := decodeReports(sealed(body))
		if err != nil {
			return
		}
		again, err := decodeReports(encoded(t, got...))
		if err != nil || !slices.EqualFunc(got, again, sameCached) {
			t.Fatalf("%+v became %+v, %v", got, again, err)
		}
	})
}

func sameCached(a, b cachedReport) bool {
	x, y := *a.summary, *b.summary
	if x.Seconds != x.Seconds { // not a number is not equal to itself
		x.Seconds, y.Seconds = 0, 0
	}
	return a.folder == b.folder && a.etag == b.etag && reflect.DeepEqual(x, y)
}

// sealed makes a whole cache file of what is between its head and its digest.
func sealed(body string) string {
	var b strings.Builder
	w := newSealer(&b)
	_, _ = io.WriteString(w, cacheHead+body)
	if err := w.seal(); err != nil {
		panic(err)
	}
	return b.String()
}

func BenchmarkReports(b *testing.B) {
	const n = 20_000
	mem := bucket.NewMem()
	vms := make([]string, n)
	for i := range vms {
		vms[i] = fmt.Sprintf("i-%016x", rand.Uint64())
		text, _ := report(vms[i], 1).Bytes()
		if _, err := mem.Put(b.Context(), reportKey(vms[i]), bytes.NewReader(text), bucket.Condition{}); err != nil {
			b.Fatal(err)
		}
	}
	src := ReportSource{Store: &Store{Bucket: mem}}
	read := func(b *testing.B) {
		for b.Loop() {
			for _, err := range src.Reports(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/report")
	}
	b.Run("first", read)
	src.CacheDir = b.TempDir()
	b.Run("again", read)
}
