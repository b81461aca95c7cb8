package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// A clock is the time of a bucket and of all who use it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now().Add(time.Hour).Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// clocked returns a project in memory in which time is what the clock says.
func clocked(t testing.TB) (*fixture, *bucket.Mem, *clock) {
	c, mem := newClock(), bucket.NewMem()
	mem.Now = c.now
	f := newFixture(t, mem)
	f.now = c.now
	return f, mem, c
}

func (f *fixture) collect(b bucket.Bucket, o CollectOptions) (Collected, error) {
	if o.Now.IsZero() {
		o.Now = f.now().Add(time.Millisecond) // what was written in this very moment is old
	}
	return (&Store{Bucket: b}).Collect(context.Background(), f.publisher(b), o)
}

func (f *fixture) mustCollect(o CollectOptions) Collected {
	f.t.Helper()
	c, err := f.collect(f.b, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// history publishes n releases in which a large file stays and a small one
// changes, an hour apart.
func (f *fixture) history(c *clock, n int) {
	f.t.Helper()
	f.write("large", string(noise(1, 100_000)))
	for range n {
		c.add(time.Hour)
		f.write("small", c.now().String())
		f.publish()
	}
}

// whole shows that all is there and verifies that the listed releases need, and
// returns their names.
func (f *fixture) whole(b bucket.Bucket) (names []string) {
	f.t.Helper()
	ctx, s := context.Background(), &Store{Bucket: b}
	v, err := f.client(b).Refresh(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	list, err := s.Releases(ctx, v)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range list {
		m, err := s.Manifest(ctx, v, r.Name, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, p := range m.Packs {
			data, _, err := bucket.ReadAll(ctx, b, packKey(p.Digest), bucket.GetOptions{}, p.Size)
			if err != nil || release.DigestOf(data) != p.Digest {
				f.t.Errorf("%s: pack %s: %v", r.Name, p.Digest.Short(), err)
			}
		}
		names = append(names, r.Name)
	}
	return names
}

func countBelow(t testing.TB, b bucket.Bucket, prefix string) int {
	t.Helper()
	n := 0
	for _, err := range b.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// What is left are the objects of the live releases and nothing else, and a
// second collection writes and deletes nothing.
func TestCollect(t *testing.T) {
	f, mem, c := clocked(t)
	f.history(c, 12)
	before := countBelow(t, mem, "")
	c.add(time.Hour)
	dry := f.mustCollect(CollectOptions{Keep: 3, DryRun: true})
	if n := countBelow(t, mem, ""); n != before {
		t.Fatalf("a dry run made %d objects of %d", n, before)
	}
	got := f.mustCollect(CollectOptions{Keep: 3})
	if want := []string{"r9", "r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1"}; !slices.Equal(got.Dropped, want) || !slices.Equal(dry.Dropped, want) {
		t.Errorf("dropped %v, dry run %v", got.Dropped, dry.Dropped)
	}
	if names := f.whole(mem); !slices.Equal(names, []string{"r12", "r11", "r10"}) {
		t.Errorf("releases %v", names)
	}
	mustStage(t, mem, f.manifest(), StageOptions{Dir: stageDir(t)})
	gone := got.Buckets[0].Gone
	// r1 holds the large file; of the others one small pack each.
	if n := gone["packs"].Objects; n != 8 {
		t.Errorf("%d packs went: %+v", n, gone)
	}
	if n := countBelow(t, mem, "packs/"); n != 4 {
		t.Errorf("%d packs are left", n)
	}
	c.add(time.Hour)
	rest := f.mustCollect(CollectOptions{Keep: 3}) // of the states that the collection itself made
	if s := Sum(rest.Buckets[0].Gone); s.Objects == 0 || s.Objects > 8 {
		t.Errorf("the second collection: %+v", rest)
	}
	want := map[string]int{"packs/": 4, "manifests/": 3 + 3, "tuf/targets/channels/": 1}
	for prefix, n := range want {
		if got := countBelow(t, mem, prefix); got != n {
			t.Errorf("%d objects below %s, want %d", got, prefix, n)
		}
	}
}

// The size of a bucket does not depend on how many releases there were.
func TestCollectKeepsTheBucketBounded(t *testing.T) {
	f, mem, c := clocked(t)
	sizes := map[int]int{}
	for i := 1; i <= 24; i++ {
		f.history(c, 1)
		if i%8 == 0 {
			c.add(time.Hour)
			f.mustCollect(CollectOptions{Keep: 3})
			sizes[i] = countBelow(t, mem, "")
		}
	}
	if sizes[24] > sizes[8] || sizes[24] > 40 {
		t.Errorf("objects after so many releases: %v", sizes)
	}
}

// What was replaced within the grace stays, for those who still read it, also
// when it was written long ago; then it goes.
func TestCollectGrace(t *testing.T) {
	const day = 24 * time.Hour
	f, mem, c := clocked(t)
	f.write("small", "first")
	f.publish()
	behind := f.client(mem) // a VM that has just read timestamp.json
	v, err := behind.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := v.Own().Objects
	maps.DeleteFunc(old, func(key string, _ bool) bool { return strings.HasPrefix(key, "tuf/targets/releases/") }) // they travel as manifests/
	for _, prefix := range []string{"packs/", "manifests/"} {
		for key := range content(t, mem, prefix) {
			old[key] = true
		}
	}
	c.add(10 * day)
	lost := f.loseRace(t, mem, c) // leaves metadata that nobody ever made visible
	f.write("small", "second")
	f.publish()
	c.add(time.Hour)
	f.mustCollect(CollectOptions{Keep: 1, Grace: day})
	c.add(time.Hour)
	f.mustCollect(CollectOptions{Keep: 1, Grace: day})
	for key := range old {
		if _, _, err := bucket.ReadAll(t.Context(), mem, key, bucket.GetOptions{}, 1<<30); err != nil {
			t.Errorf("within the grace: %v", err)
		}
	}
	s := &Store{Bucket: mem}
	m, err := s.Manifest(t.Context(), v, "r1", nil)
	if err != nil {
		t.Fatal(err)
	}
	mustStage(t, mem, m, StageOptions{Dir: stageDir(t)})
	c.add(day)
	f.mustCollect(CollectOptions{Keep: 1, Grace: day})
	if names := f.whole(mem); !slices.Equal(names, []string{"r2"}) {
		t.Errorf("releases %v", names)
	}
	for key := range old {
		_, _, err := bucket.ReadAll(t.Context(), mem, key, bucket.GetOptions{}, 1<<30)
		stays := strings.HasSuffix(key, ".root.json") || strings.HasSuffix(key, "timestamp.json") || strings.HasSuffix(key, "1.targets.json")
		if stays != (err == nil) {
			t.Errorf("after the grace: %s: %v", key, err)
		}
	}
	for _, key := range lost {
		if _, _, err := bucket.ReadAll(t.Context(), mem, key, bucket.GetOptions{}, 1<<30); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("of a publish that was cut off: %s: %v", key, err)
		}
	}
}

// loseRace publishes and fails at the last write. It returns what that left.
func (f *fixture) loseRace(t *testing.T, b bucket.Bucket, c *clock) (left []string) {
	t.Helper()
	before := content(t, b, "")
	f.write("small", "never")
	faulty := bucket.NewFaults(b, bucket.Fault{Method: "Put", Key: "tuf/metadata/timestamp.json", Err: bucket.ErrPermission})
	if _, err := f.publishTo(faulty, f.options()); !errors.Is(err, bucket.ErrPermission) {
		t.Fatal(err)
	}
	for key := range content(t, b, "") {
		if _, was := before[key]; !was {
			left = append(left, key)
		}
	}
	if len(left) < 5 {
		t.Fatalf("a publish that was cut off left %v", left)
	}
	c.add(time.Hour)
	return left
}

// Whatever the state in which a publish is: a collection with no grace at all
// takes nothing from it that its release needs.
func TestCollectAtEachWriteOfAPublish(t *testing.T) {
	t.Parallel()
	base, _, c := clocked(t)
	base.history(c, 3)
	base.loseRace(t, base.b, c) // its pack is found again, by its name, by the one below
	for n := 0; ; n++ {
		f, b := *base, copyOf(t, base.b)
		b.Now = c.now
		f.write("small", "never")
		c.add(time.Hour)
		ran := false
		faulty := bucket.NewFaults(b, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Skip: n, Times: 1, Before: func() {
			ran = true
			if _, err := f.collect(b, CollectOptions{Now: c.now().Add(time.Hour)}); err != nil {
				t.Errorf("before write %d: %v", n, err)
			}
		}})
		if _, err := f.publishTo(faulty, f.options()); err != nil {
			t.Fatalf("collection before write %d: %v", n, err)
		}
		if !ran {
			if n < 8 {
				t.Fatalf("a publish made %d writes", n)
			}
			return
		}
		if names := f.whole(b); names[0] != "r4" {
			t.Errorf("collection before write %d: releases %v", n, names)
		}
	}
}

// A publish that starts at any moment of a collection waits for its end or
// makes it look again.
func TestPublishAtEachCallOfACollection(t *testing.T) {
	t.Parallel()
	base, _, c := clocked(t)
	base.history(c, 3)
	base.loseRace(t, base.b, c)
	for n := 0; ; n += 4 {
		f, b := *base, copyOf(t, base.b)
		b.Now = c.now
		f.write("small", "never")
		done := make(chan error, 1)
		ran := false
		faulty := bucket.NewFaults(b, bucket.Fault{Kind: bucket.FaultDelay, Skip: n, Times: 1, Before: func() {
			ran = true
			go func() {
				_, err := f.publishTo(b, f.options())
				done <- err
			}()
			// Either it is through before the next call, or it has to wait.
			time.Sleep(5 * time.Millisecond)
		}})
		if _, err := f.collect(faulty, CollectOptions{Now: c.now().Add(time.Hour)}); err != nil {
			t.Fatalf("publish at call %d: %v", n, err)
		}
		if !ran {
			if n < 20 {
				t.Fatalf("a collection made %d calls", n)
			}
			return
		}
		if err := <-done; err != nil {
			t.Fatalf("publish at call %d: %v", n, err)
		}
		if names := f.whole(b); names[0] != "r4" {
			t.Errorf("publish at call %d: releases %v", n, names)
		}
	}
}

// Killed before or right after any of its writes and deletes, a collection
// leaves a whole bucket, and the next one brings it to the same end.
func TestCollectKilledAtEachCall(t *testing.T) {
	t.Parallel()
	base, _, c := clocked(t)
	base.history(c, 4)
	base.loseRace(t, base.b, c)
	for _, kind := range []bucket.FaultKind{bucket.FaultFail, bucket.FaultLost} {
		for n := 0; ; n += 1 + n/8*4 { // the deletes are all alike
			f, b, now := *base, copyOf(t, base.b), &clock{at: c.now().Add(time.Hour)}
			f.b, f.now, b.Now = b, now.now, now.now
			var faults []bucket.Fault
			faulty := bucket.NewFaults(b)
			var calls atomic.Int64 // some writes are made side by side
			dead := func() {
				if calls.Add(1) == int64(n+1) {
					faulty.Set(bucket.Fault{Kind: kind, Method: "", Times: 1, Err: bucket.ErrPermission}, bucket.Fault{Err: bucket.ErrPermission})
				}
			}
			for _, method := range []string{"Put", "Delete"} {
				faults = append(faults, bucket.Fault{Kind: bucket.FaultDelay, Method: method, Before: dead})
			}
			faulty.Set(faults...)
			_, err := f.collect(faulty, CollectOptions{Keep: 2})
			if names := f.whole(b); names[0] != "r4" {
				t.Errorf("killed at write %d: releases %v", n, names)
			}
			now.add(time.Hour)
			if _, err := f.collect(b, CollectOptions{Keep: 2}); err != nil {
				t.Fatalf("after a kill at write %d: %v", n, err)
			}
			if names := f.whole(b); !slices.Equal(names, []string{"r4", "r3"}) || countBelow(t, b, "packs/") != 3 {
				t.Errorf("after a kill at write %d: releases %v, %d packs", n, names, countBelow(t, b, "packs/"))
			}
			if err == nil {
				if calls.Load() < 20 {
					t.Fatalf("a collection made %d writes", calls.Load())
				}
				break
			}
		}
	}
}

// A collector lets the publisher go first who holds the lock, for it was outrun
// already, but the lock of one who was killed stands in its way for a moment only.
func TestCollectGivesWay(t *testing.T) {
	for name, keep := range map[string]int{"deletes": 4, "drops releases first": 1} {
		for _, killed := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", killed ", killed), func(t *testing.T) {
				base, mem, c := clocked(t)
				base.history(c, 4)
				base.loseRace(t, mem, c)
				synctest.Test(t, func(t *testing.T) {
					zero, at := time.Now(), c.now()
					f := *base
					f.t, f.now = t, func() time.Time { return at.Add(time.Since(zero)) }
					unlock, err := f.publisher(mem).Lock(t.Context(), "alice@laptop", lockTTL)
					if err != nil {
						t.Fatal(err)
					}
					ends := lockPatience
					if !killed {
						ends /= 4
						time.AfterFunc(ends, func() {
							if err := unlock(context.Background()); err != nil {
								t.Error(err)
							}
						})
					}
					commits := 0
					b := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Key: "tuf/metadata/timestamp.json", Before: func() {
						if since := time.Since(zero); commits == 0 && (since < ends || since > ends+2*time.Second) {
							t.Errorf("the first commit comes after %v", since)
						}
						commits++
					}})
					var told []string
					_, err = f.collect(b, CollectOptions{Keep: keep, Now: at.Add(time.Hour), Progress: func(p Progress) {
						if p.Text != "" {
							told = append(told, p.Text)
						}
					}})
					if err != nil || commits < 2 {
						t.Errorf("%d commits, %v", commits, err)
					}
					if len(told) == 0 || !strings.HasPrefix(told[0], `"alice@laptop" is publishing, or was cut off: its lock`) {
						t.Errorf("told %q", told)
					}
				})
			})
		}
	}
}

// churn has six publishers publish what they published before again and again,
// while two collectors without grace delete whatever they may.
func churn(t *testing.T, b bucket.Bucket, rounds int) {
	f := newFixture(t, b)
	f.write("who", "start")
	f.publish()
	ended := make(chan struct{})
	var wg, gc sync.WaitGroup
	var errs [8]error
	for i := range 6 {
		g := *f
		g.dir = t.TempDir()
		g.write("common", string(noise(1, 50_000)))
		wg.Go(func() {
			for round := range rounds {
				g.write("who", fmt.Sprint("tree ", i/2, round%2)) // of two publishers each, so that packs come again
				o := g.options()
				o.Owner = fmt.Sprint("publisher ", i)
				if _, err := g.publishTo(b, o); err != nil {
					errs[i] = fmt.Errorf("publisher %d, round %d: %w", i, round, err)
					return
				}
			}
		})
	}
	var collected atomic.Int64
	for i := range 2 {
		gc.Go(func() {
			for {
				c, err := f.collect(b, CollectOptions{Keep: 2, Now: time.Now().Add(time.Hour)})
				if err != nil {
					errs[6+i] = err
					return
				}
				collected.Add(int64(Sum(c.Buckets[0].Gone).Objects))
				select {
				case <-ended:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	wg.Wait()
	close(ended)
	gc.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	names := f.whole(b)
	if len(names) == 0 || collected.Load() == 0 {
		t.Errorf("releases %v, %d objects were collected", names, collected.Load())
	}
	t.Logf("releases %v, %d objects were collected", names, collected.Load())
}

func TestCollectWhileOthersPublish(t *testing.T) {
	t.Parallel()
	churn(t, bucket.NewMem(), 3)
}

func TestCollectWhileOthersPublishOnS3(t *testing.T) {
	t.Parallel()
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	b, err := s3.Open(t.Context(), srv.URL("fleet", "prod"), s3.Options{Sources: []s3.Source{s3.Static(buckettest.RootKey, buckettest.RootSecret, "")}})
	if err != nil {
		t.Fatal(err)
	}
	churn(t, bucket.Retry(b, bucket.RetryPolicy{}), 2)
}

// Where a bucket has no conditions, the lock keeps publishers and collectors apart.
func TestCollectWithoutConditions(t *testing.T) {
	t.Parallel()
	mem := bucket.NewMemWith(bucket.Caps{})
	f := newFixture(t, mem)
	for i := range 2 {
		f.write("small", fmt.Sprint(i))
		f.publish()
	}
	faulty := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "Delete", Key: "tuf/metadata/", Times: 1, Before: func() {
		// Who had the lock now would wait for the end, and the end for the lock.
		if unlock, err := f.publisher(mem).Lock(t.Context(), "another", time.Minute); !errors.Is(err, trust.ErrLocked) {
			t.Errorf("lock while garbage is deleted: %v", err)
			unlock(t.Context())
		}
	}})
	c, err := f.collect(faulty, CollectOptions{Keep: 1, Now: time.Now().Add(time.Hour)})
	if err != nil || Sum(c.Buckets[0].Gone).Objects == 0 {
		t.Errorf("nothing was collected: %+v, %v", c, err)
	}
	if names := f.whole(mem); !slices.Equal(names, []string{"r2"}) {
		t.Errorf("releases %v", names)
	}
}

// What nobody asked to delete stays: what is not ours, agents, reports.
func TestCollectLeavesTheRest(t *testing.T) {
	const day = 24 * time.Hour
	f, mem, c := clocked(t)
	f.history(c, 3)
	hex := func(i byte) string { return release.DigestOf([]byte{i}).Hex() }
	foreign := []string{"README", "packs/README", "packs/" + hex(9) + ".bak", "tuf/metadata/7.other.json", "tuf/targets/x.json", "manifests/notes", "mirror/x", "reports/stray"}
	old := []string{"agents/" + hex(1), "agents/" + hex(2), "reports/dead/report.json", "logs/dead/0.zst", "reports/gone/x", "logs/alive/3.zst"}
	for _, key := range append(slices.Clone(foreign), old...) {
		put(t, mem, key, []byte("x"))
	}
	c.add(60 * day)
	put(t, mem, "reports/alive/report.json", []byte("x"))
	put(t, mem, "agents/"+hex(3), []byte("x"))
	has := func(key string) bool {
		_, _, err := bucket.ReadAll(t.Context(), mem, key, bucket.GetOptions{}, 10)
		return err == nil
	}
	f.mustCollect(CollectOptions{Keep: 1, Grace: day})
	for _, key := range append(slices.Clone(foreign), old...) {
		if !has(key) {
			t.Errorf("%s went although nobody asked for it", key)
		}
	}
	pinned, err := release.ParseDigest("sha256:" + hex(1))
	if err != nil {
		t.Fatal(err)
	}
	got := f.mustCollect(CollectOptions{Keep: 1, Grace: day, Agents: 30 * day, Reports: 30 * day, Pinned: []release.Digest{pinned}})
	want := map[string]bool{"agents/" + hex(1): true, "agents/" + hex(2): false, "agents/" + hex(3): true, "reports/dead/report.json": false, "logs/dead/0.zst": false,
		"reports/gone/x": false, "logs/alive/3.zst": true, "reports/alive/report.json": true}
	for key, stays := range want {
		if has(key) != stays {
			t.Errorf("%s: there: %t, want %t", key, has(key), stays)
		}
	}
	if g := got.Buckets[0].Gone; g["agents"].Objects != 1 || g["reports"].Objects != 3 || g["logs"].Objects != 1 {
		t.Errorf("counted %v", g)
	}
	f.whole(mem)
}

// A release that is listed and cannot be read: what it needs is not known.
func TestCollectUnreadableRelease(t *testing.T) {
	f, mem, c := clocked(t)
	f.history(c, 3)
	v, err := f.client(mem).Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key := range content(t, mem, "") {
		if key == packedManifest(v.Digest(releaseTarget("r2"))) {
			if err := mem.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := slices.Sorted(maps.Keys(content(t, mem, "")))
	_, err = f.collect(mem, CollectOptions{Now: c.now().Add(time.Hour)})
	if !errors.Is(err, bucket.ErrNotExist) || !strings.Contains(err.Error(), "r2") || !strings.Contains(err.Error(), "nothing is deleted") {
		t.Errorf("%v", err)
	}
	if after := slices.Sorted(maps.Keys(content(t, mem, ""))); !slices.Equal(before, after) {
		t.Errorf("objects %v, before %v", after, before)
	}
	f.mustCollect(CollectOptions{Keep: 1, Now: c.now().Add(time.Hour)}) // taken off the list, it is in nobody's way
	if names := f.whole(mem); !slices.Equal(names, []string{"r3"}) {
		t.Errorf("releases %v", names)
	}
}

// stubborn is a bucket in which the first delete ends the collection.
type stubborn struct {
	bucket.Bucket
	t    *testing.T
	stop func()
}

func (b stubborn) Delete(ctx context.Context, key string) error {
	b.stop()
	if ctx.Err() != nil {
		b.t.Errorf("the delete of %s was given up half-way", key)
	}
	return b.Bucket.Delete(ctx, key)
}

// A delete that was given up could take effect after publishers were told to go on.
func TestCollectEndsWhatItBegan(t *testing.T) {
	f, mem, c := clocked(t)
	f.history(c, 3)
	ctx, stop := context.WithCancel(t.Context())
	b := stubborn{mem, t, stop}
	_, err := (&Store{Bucket: b}).Collect(ctx, f.publisher(b), CollectOptions{Keep: 1, Now: c.now().Add(time.Hour)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	f.publish() // nobody has to wait
}

func TestCollectForbidden(t *testing.T) {
	f, mem, c := clocked(t)
	f.history(c, 3)
	b := bucket.NewFaults(mem, bucket.Fault{Method: "Delete", Err: bucket.ErrPermission})
	_, err := f.collect(b, CollectOptions{Keep: 1, Now: c.now().Add(time.Hour)})
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "delete ") {
		t.Errorf("%v", err)
	}
	f.publish() // nobody has to wait for the one who was refused
}

func TestCollectMirrors(t *testing.T) {
	f, mem, c := clocked(t)
	f.history(c, 6)
	west, east, away := bucket.NewMem(), bucket.NewMem(), bucket.NewFaults(bucket.NewMem(), bucket.Fault{})
	west.Now, east.Now = c.now, c.now
	clients := []*trust.Client{f.client(west), f.client(east), f.client(away)}
	replicate := func(to *trust.Client) {
		t.Helper()
		v, err := f.client(mem).Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&Store{Bucket: mem}).Replicate(t.Context(), v, to, ReplicateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	replicate(clients[0])
	replicate(clients[1])
	c.add(time.Hour)
	f.mustCollect(CollectOptions{Keep: 2}) // takes them off the list; the mirrors hear of it below
	f.write("small", "new")
	f.publish()
	replicate(clients[0])
	eastBefore := slices.Sorted(maps.Keys(content(t, east, "")))
	c.add(time.Hour)
	got := f.mustCollect(CollectOptions{Keep: 2, Mirrors: clients})
	if got.Buckets[1].Err != nil || Sum(got.Buckets[1].Gone).Objects < 10 {
		t.Errorf("west: %+v", got.Buckets[1])
	}
	if err := got.Buckets[2].Err; err == nil || !strings.Contains(err.Error(), "up to date") {
		t.Errorf("east, which lags: %v", err)
	}
	if err := got.Buckets[3].Err; !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("the one that is away: %v", err)
	}
	if after := slices.Sorted(maps.Keys(content(t, east, ""))); !slices.Equal(after, eastBefore) {
		t.Error("a mirror that lags was changed")
	}
	for _, b := range []bucket.Bucket{mem, west} {
		if names := f.whole(b); !slices.Equal(names, []string{"r7", "r6"}) {
			t.Errorf("releases %v", names)
		}
	}
	f.whole(east)
	if n := countBelow(t, west, "packs/"); n != countBelow(t, mem, "packs/") {
		t.Errorf("%d packs in the mirror, %d in the bucket", n, countBelow(t, mem, "packs/"))
	}
	one, err := bucketTimestamp(mem)
	two, err2 := bucketTimestamp(west)
	if err != nil || err2 != nil || one != two {
		t.Errorf("the mirror does not hold the last state: %v %v", err, err2)
	}
}

func bucketTimestamp(b bucket.Bucket) (string, error) {
	data, _, err := bucket.ReadAll(context.Background(), b, "tuf/metadata/timestamp.json", bucket.GetOptions{}, 1<<20)
	return string(data), err
}
