package agent

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// A mirroredWorld is a world whose project has further buckets. Each call of
// the agent is a process of its own.
type mirroredWorld struct {
	*world
	mirrors []*bucket.Mem
	faults  []*bucket.Faults // the bucket's first
	counts  []*bucket.Counter
	first   func(bucket.Bucket) bucket.Bucket // what stands before the bucket; may be nil
}

func newMirroredWorld(t *testing.T, n int) *mirroredWorld {
	w := &mirroredWorld{world: newWorld(t)}
	w.faults, w.counts = []*bucket.Faults{w.world.faults}, []*bucket.Counter{w.count}
	for range n {
		m := bucket.NewMem()
		w.mirrors = append(w.mirrors, m)
		w.faults = append(w.faults, bucket.NewFaults(m))
		w.counts = append(w.counts, bucket.Count(w.faults[len(w.faults)-1]))
	}
	return w
}

// copyTo makes mirror n hold what the bucket has, but for what VMs wrote.
func (w *mirroredWorld) copyTo(n int) {
	w.t.Helper()
	for o, err := range w.inner.List(w.t.Context(), "", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(o.Key, "reports/") || strings.HasPrefix(o.Key, "logs/") {
			continue
		}
		b, _, err := bucket.ReadAll(w.t.Context(), w.inner, o.Key, bucket.GetOptions{}, 1<<30)
		if err == nil {
			_, err = w.mirrors[n].Put(w.t.Context(), o.Key, bytes.NewReader(b), bucket.Condition{})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// apply is one call of the agent in a process of its own.
func (w *mirroredWorld) apply() (*release.Report, error) {
	w.t.Helper()
	var list []bucket.Mirror
	for i, c := range w.counts {
		list = append(list, bucket.Mirror{URL: []string{"mem://main?x=y", "mem://west", "mem://east"}[i], Bucket: c})
	}
	if w.first != nil {
		list[0].Bucket = w.first(list[0].Bucket)
	}
	w.agent.Bucket = bucket.Mirrors(list, store.Optional)
	return w.world.apply()
}

func (w *mirroredWorld) good() *release.Report {
	w.t.Helper()
	r, err := w.apply()
	if err != nil {
		w.t.Fatalf("apply: %v\n%s", err, w.lastLog())
	}
	return r
}

// dead makes the bucket (0) or a mirror unreachable.
func (w *mirroredWorld) dead(n int) { w.faults[n].Set(bucket.Fault{Kind: bucket.FaultFail}) }

// during returns how many requests each bucket got while f ran.
func (w *mirroredWorld) during(f func()) []int64 {
	var before, got []int64
	for _, c := range w.counts {
		before = append(before, c.Traffic().Requests())
	}
	f()
	for i, c := range w.counts {
		got = append(got, c.Traffic().Requests()-before[i])
	}
	return got
}

// troubles writes what a report says of buckets: "mem://main unreachable".
func troubles(r *release.Report) string {
	var out []string
	for _, b := range r.Buckets {
		out = append(out, b.URL+" "+b.State)
	}
	return strings.Join(out, ", ")
}

func (w *mirroredWorld) reportIn(b bucket.Bucket) *release.Report {
	r, err := (&store.Store{Bucket: b}).Report(w.t.Context(), "i-0abc")
	if err != nil {
		return nil
	}
	return r
}

func TestMirrors_PollIsOneRequest(t *testing.T) {
	w := newMirroredWorld(t, 2)
	w.publish(role(w.put("f", "one")))
	w.good()
	w.good()
	if n := w.during(func() { w.good() }); !slices.Equal(n, []int64{1, 0, 0}) {
		t.Errorf("requests %v", n)
	}
}

func TestMirrors_BucketAway(t *testing.T) {
	w := newMirroredWorld(t, 1)
	w.publish(role(w.put("f", "one")))
	w.good()
	w.publish(role(w.put("f", "two")))
	w.copyTo(0)
	w.dead(0)
	r := w.good()
	if r.Release != "r2" || w.text("f") != "two" || r.State != release.StateChanged || troubles(r) != "mem://main unreachable" {
		t.Fatalf("%s %s, f is %q, %s", r.Release, r.State, w.text("f"), troubles(r))
	}
	if got := w.reportIn(w.mirrors[0]); got == nil || got.Release != "r2" || got.Sequence != r.Sequence || troubles(got) != troubles(r) {
		t.Errorf("the mirror has the report %+v", got)
	}
	if got := w.reportIn(w.inner); got == nil || got.Release != "r1" {
		t.Errorf("the bucket has the report %+v", got)
	}
	lines, err := Why(w.agent.Paths, w.now)
	if err != nil || !strings.Contains(strings.Join(lines, "\n"), "mem://main cannot be used") {
		t.Errorf("why: %v %q", err, lines)
	}
	w.good()
	if n := w.during(func() { w.good() }); n[1] != 1 {
		t.Errorf("%d requests to the mirror at a poll, %+v", n[1], w.counts[1].Traffic())
	}

	// It is back: that is told, and nothing is wrong any more.
	w.faults[0].Set()
	r = w.good()
	if troubles(r) != "" || troubles(w.reportIn(w.inner)) != "" || w.reportIn(w.inner).Release != "r2" {
		t.Errorf("after the bucket came back: %s", troubles(r))
	}
}

// An outage of all buckets brings each of them one request a poll.
func TestMirrors_OutageCostsNothingMore(t *testing.T) {
	w := newMirroredWorld(t, 1)
	w.publish(role(w.put("f", "one")))
	w.copyTo(0)
	w.good()
	w.dead(0)
	w.dead(1)
	for poll := range 20 {
		n := w.during(func() {
			w.pass(5 * time.Minute)
			if _, err := w.apply(); !errors.Is(err, bucket.ErrUnavailable) {
				t.Fatal(err)
			}
		})
		if poll > 0 && !slices.Equal(n, []int64{1, 1}) {
			t.Errorf("poll %d of an outage asked %v times", poll, n)
		}
	}
	w.faults[0].Set()
	w.faults[1].Set()
	if n := w.during(func() { w.pass(5 * time.Minute); w.good() }); !slices.Equal(n, []int64{1, 0}) {
		t.Errorf("after the outage: %v", n)
	}
}

// A mirror that lags behind a bucket that is away is no attack: the VM keeps
// what it has, and tells.
func TestMirrors_Lagging(t *testing.T) {
	w := newMirroredWorld(t, 1)
	w.publish(role(w.put("f", "one")))
	w.copyTo(0)
	w.publish(role(w.put("f", "two")))
	w.good()
	w.dead(0)
	r, err := w.apply()
	if !errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, trust.ErrRollback) {
		t.Errorf("apply: %v", err)
	}
	if r.Release != "r2" || r.State != release.StateChanged || troubles(r) != "mem://main unreachable, mem://west lags" || !strings.Contains(r.Reason, "r2 stays in force") {
		t.Errorf("%s %s %q: %s", r.Release, r.State, r.Reason, troubles(r))
	}
	if got := w.reportIn(w.mirrors[0]); got == nil || troubles(got) != troubles(r) {
		t.Errorf("the lagging mirror was not told: %+v", got)
	}
	// Time goes on, and the release is still applied again.
	w.now = w.now.Add(2 * time.Hour)
	w.write(w.vm("f"), "drift")
	if r, _ := w.apply(); w.text("f") != "two" || r.Run.Why != release.WhyReapply {
		t.Errorf("f is %q", w.text("f"))
	}
}

func TestMirrors_NextOneIsFresh(t *testing.T) {
	w := newMirroredWorld(t, 2)
	w.publish(role(w.put("f", "one")))
	w.copyTo(0)
	w.publish(role(w.put("f", "two")))
	w.good()
	w.publish(role(w.put("f", "three")))
	w.copyTo(1)
	w.dead(0)
	if r := w.good(); r.Release != "r3" || troubles(r) != "mem://main unreachable, mem://west lags" {
		t.Errorf("%s: %s", r.Release, troubles(r))
	}
}

// damage flips a bit in each object of mirror n whose key holds one of the words.
func (w *mirroredWorld) damage(n int, words ...string) {
	w.t.Helper()
	damaged := 0
	for o, err := range w.mirrors[n].List(w.t.Context(), "", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		if !slices.ContainsFunc(words, func(x string) bool { return strings.Contains(o.Key, x) }) {
			continue
		}
		b, _, err := bucket.ReadAll(w.t.Context(), w.mirrors[n], o.Key, bucket.GetOptions{}, 1<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		b = slices.Clone(b)
		b[len(b)/2] ^= 1
		if _, err := w.mirrors[n].Put(w.t.Context(), o.Key, bytes.NewReader(b), bucket.Condition{}); err != nil {
			w.t.Fatal(err)
		}
		damaged++
	}
	if damaged == 0 {
		w.t.Fatalf("nothing is called %v", words)
	}
}

// A mirror is never trusted more than the signature.
func TestMirrors_Tampered(t *testing.T) {
	for _, tt := range []struct {
		words []string
		fresh bool // the VM has nothing yet
	}{
		{[]string{"timestamp.json"}, false},
		{[]string{"snapshot.json"}, false},
		{[]string{"metadata/2.releases.json", "metadata/3.releases.json"}, false},
		{[]string{"manifests/"}, false},
		{[]string{"targets/channels/"}, false},
		{[]string{"packs/"}, true},
		{[]string{"1.root.json"}, true},
	} {
		w := newMirroredWorld(t, 2)
		w.publish(role(w.put("f", "one")))
		if !tt.fresh {
			w.good()
		}
		w.publish(role(w.put("f", "two")))
		w.unbundle()
		w.copyTo(0)
		w.damage(0, tt.words...)
		w.dead(0)
		w.dead(2)
		before := w.text("f")
		r, err := w.apply()
		if err == nil || w.text("f") != before || r.Release == "r2" || troubles(r) != "mem://main unreachable, mem://west untrusted, mem://east unreachable" {
			t.Errorf("%v: %v, %q, f is %q: %s", tt.words, err, r.Release, w.text("f"), troubles(r))
		}
		w.faults[2].Set()
		w.copyTo(1)
		if r := w.good(); r.Release != "r2" || w.text("f") != "two" || troubles(r) != "mem://main unreachable, mem://west untrusted" {
			t.Errorf("%v: with a good mirror: %q, %s", tt.words, r.Release, troubles(r))
		}
	}
}

// The bucket goes while a release is fetched from it.
func TestMirrors_BucketGoesMidRun(t *testing.T) {
	for _, f := range []bucket.Fault{
		{Kind: bucket.FaultFail, Key: "packs/"},
		{Kind: bucket.FaultCut, Key: "packs/", Bytes: 3},
		{Kind: bucket.FaultCut, Key: "packs/", Bytes: 3, Err: bucket.ErrUnavailable},
		{Kind: bucket.FaultFlip, Key: "packs/", Bytes: 9},
		{Kind: bucket.FaultFail, Key: "packs/", Err: bucket.ErrNotExist},
		{Kind: bucket.FaultFail, Key: "packs/", Err: bucket.ErrPermission},
		{Kind: bucket.FaultFail, Key: "manifests/"},
		{Kind: bucket.FaultFail, Key: "tuf/targets/channels/"},
		{Kind: bucket.FaultFail, Key: "tuf/metadata/*.snapshot.json"},
		{Kind: bucket.FaultCut, Key: "tuf/metadata/*.snapshot.json", Bytes: 3, Err: bucket.ErrUnavailable},
	} {
		w := newMirroredWorld(t, 1)
		w.publish(role(w.put("f", "one")))
		w.unbundle()
		w.copyTo(0)
		w.faults[0].Set(f)
		r, err := w.apply()
		if err != nil || r.Release != "r1" || w.text("f") != "one" || !strings.HasPrefix(troubles(r), "mem://main ") {
			t.Errorf("%v: %v, %s, %s", f, err, r.Release, troubles(r))
		}
		if w.faults[0].Hits() == 0 {
			t.Errorf("%v: nothing went wrong", f)
		}
	}
}

// A bucket that was set back is refused as before, and the mirror helps out.
func TestMirrors_BucketSetBack(t *testing.T) {
	w := newMirroredWorld(t, 1)
	w.publish(role(w.put("f", "one")))
	old, _, err := bucket.ReadAll(t.Context(), w.inner, "tuf/metadata/timestamp.json", bucket.GetOptions{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w.publish(role(w.put("f", "two")))
	w.copyTo(0)
	w.good()
	if _, err := w.inner.Put(t.Context(), "tuf/metadata/timestamp.json", bytes.NewReader(old), bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	if r := w.good(); r.Release != "r2" || troubles(r) != "mem://main lags" {
		t.Errorf("%s: %s", r.Release, troubles(r))
	}
	w.dead(1)
	if r, err := w.apply(); !errors.Is(err, trust.ErrRollback) || r.Release != "r2" {
		t.Errorf("without the mirror: %v", err)
	}
}

// A bucket that confines the VM to a folder of its own gets the reports there,
// not the mirror; one that takes none leaves them to the mirror.
func TestMirrors_RefusedReports(t *testing.T) {
	w := newMirroredWorld(t, 1)
	w.publish(role(w.put("f", "one")))
	w.copyTo(0)
	const id = "AROAEXAMPLE:i-0abc"
	w.first = func(b bucket.Bucket) bucket.Bucket { return &confining{Bucket: b, id: id} }
	if r := w.good(); len(r.Warn) != 0 {
		t.Errorf("warnings %q", r.Warn)
	}
	if got := content(t, w.inner, "reports/"); len(got) != 1 || got[0] != "reports/"+id+"/report.json" || len(content(t, w.mirrors[0], "reports/")) != 0 {
		t.Errorf("the bucket has %q", got)
	}

	// It is away; the mirror knows of no such folder.
	w.publish(role(w.put("f", "two")))
	w.copyTo(0)
	w.dead(0)
	w.faults[1].Set(bucket.Fault{Kind: bucket.FaultFail, Method: "Put", Key: "reports/" + id + "/", Err: bucket.ErrPermission},
		bucket.Fault{Kind: bucket.FaultFail, Method: "Put", Key: "logs/" + id + "/", Err: bucket.ErrPermission})
	w.good()
	if got := w.reportIn(w.mirrors[0]); got == nil || got.Release != "r2" || got.Run.Log == "" {
		t.Errorf("the mirror has %+v", got)
	}

	// The bucket lets nobody report.
	w.publish(role(w.put("f", "three")))
	w.faults[0].Set()
	w.first = func(b bucket.Bucket) bucket.Bucket {
		return bucket.NewFaults(b, bucket.Fault{Kind: bucket.FaultFail, Method: "Put", Err: bucket.ErrPermission})
	}
	w.good()
	if got := w.reportIn(w.mirrors[0]); got == nil || got.Release != "r3" || got.Run.Log == "" {
		t.Errorf("the mirror has %+v", got)
	}
}

// content returns the keys in a bucket below a prefix.
func content(t *testing.T, b bucket.Bucket, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func TestOpenBucket(t *testing.T) {
	opened := func(_ context.Context, url string) (bucket.Bucket, error) {
		if strings.HasPrefix(url, "bad") {
			return nil, errors.New("no such scheme")
		}
		return bucket.NewMem(), nil
	}
	for _, tt := range []struct {
		c       Config
		several bool
		fails   bool
	}{
		{Config{Bucket: "mem:"}, false, false},
		{Config{Bucket: "bad:"}, false, true},
		{Config{Bucket: "mem:", Mirrors: []string{"mem:2", "bad:"}}, true, false},
		{Config{Bucket: "bad:", Mirrors: []string{"mem:2"}}, true, false},
		{Config{Bucket: "bad:", Mirrors: []string{"bad:2"}}, false, true},
	} {
		b, err := OpenBucket(t.Context(), opened, tt.c)
		if (err != nil) != tt.fails {
			t.Errorf("%+v: %v", tt.c, err)
		}
		if _, ok := b.(*bucket.Mirrored); ok != tt.several {
			t.Errorf("%+v: %T", tt.c, b)
		}
	}
}
