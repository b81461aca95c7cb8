package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
)

func TestInit_RefusesASecondProject(t *testing.T) {
	w := newWorld(t)
	w.publish()
	before := copyBucket(t, w.bucket)
	for _, keys := range []Keys{w.keys, {testKey("other"), testKey("online")}} {
		if _, err := Init(t.Context(), w.bucket, keys, w.now, 0); !errors.Is(err, ErrInit) {
			t.Fatalf("init: %v", err)
		}
	}
	sameObjects(t, before, copyBucket(t, w.bucket))
}

func TestInit_NeedsBothPrivateKeys(t *testing.T) {
	b := bucket.NewMem()
	if _, err := Init(t.Context(), b, Keys{Ops: testKey("ops"), Online: Key{Public: testKey("online").Public}}, start, 0); !errors.Is(err, ErrKey) {
		t.Fatalf("init: %v", err)
	}
	if n := len(copyBucket(t, b)); n != 0 {
		t.Fatalf("%d objects were written", n)
	}
}

// One script may set up two projects with one person's keys within a second.
func TestInit_TwoProjectsAreTwo(t *testing.T) {
	keys := Keys{testKey("ops"), testKey("online")}
	first, err := Init(t.Context(), bucket.NewMem(), keys, start, 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Init(t.Context(), bucket.NewMem(), keys, start, 0)
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Error("two projects have one anchor")
	}
}

// An init that is killed before any of its writes is done by the next one
// with the same keys, and by no other.
func TestInit_KilledAtEachPoint(t *testing.T) {
	keys := Keys{testKey("ops"), testKey("online")}
	for _, kind := range []bucket.FaultKind{bucket.FaultFail, bucket.FaultLost} {
		for skip := 0; skip < 6; skip++ {
			b := bucket.NewMem()
			killed := bucket.NewFaults(b, bucket.Fault{Kind: kind, Method: "Put", Skip: skip, Times: 1},
				bucket.Fault{Skip: 1 << 30})
			if _, err := Init(t.Context(), killed, keys, start, 0); err == nil {
				t.Fatalf("init survived fault %d", skip)
			}
			if skip > 0 || kind == bucket.FaultLost {
				if _, err := Init(t.Context(), b, Keys{testKey("other"), testKey("online")}, start, 0); !errors.Is(err, ErrInit) {
					t.Fatalf("init with other keys over one killed at write %d: %v", skip, err)
				}
			}
			anchor, err := Init(t.Context(), b, keys, start.Add(time.Hour), 0)
			if kind == bucket.FaultLost && skip == 5 {
				if !errors.Is(err, ErrInit) {
					t.Fatalf("it was done, only the answer got lost: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("init after one killed at write %d: %v", skip, err)
			}
			mustRefresh(t, &Client{Bucket: b, Dir: t.TempDir(), Anchor: anchor, Now: func() time.Time { return start.Add(time.Hour) }})
		}
	}
}

func TestInit_OfTwoAtOnceOneWins(t *testing.T) {
	b := bucket.NewMem()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	anchors := map[string]bool{}
	var mu sync.Mutex
	for i := range errs {
		wg.Go(func() {
			anchor, err := Init(context.Background(), b, Keys{testKey(fmt.Sprint("ops", i)), testKey("online")}, start, 0)
			errs[i] = err
			if err == nil {
				mu.Lock()
				anchors[anchor.String()] = true
				mu.Unlock()
				_, errs[i] = (&Client{Bucket: b, Dir: t.TempDir(), Anchor: anchor, Now: func() time.Time { return start }}).Refresh(context.Background())
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, ErrInit) {
			t.Fatal(err)
		}
	}
	if len(anchors) != 1 {
		t.Fatalf("%d projects were made", len(anchors))
	}
}

func TestCommit_RemoveRevokes(t *testing.T) {
	w := newWorld(t)
	w.publish()
	v := w.publish()
	v, err := w.pub.Commit(t.Context(), v, Change{Remove: []string{"releases/r1.json", "releases/never.json"}})
	if err != nil || names(v) != "channels/stable.json releases/r2.json" {
		t.Fatalf("%q, %v", names(v), err)
	}
	if got := names(mustRefresh(t, w.client())); got != names(v) {
		t.Fatalf("a client sees %q", got)
	}
}

func TestCommit_OfNothingWritesNothing(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	count := bucket.Count(w.bucket)
	w.pub.Client.Bucket = count
	for _, c := range []Change{{}, releaseChange(1), {Remove: []string{"releases/never.json"}}} {
		got, err := w.pub.Commit(t.Context(), v, c)
		if err != nil || got != v {
			t.Fatalf("commit: %v", err)
		}
	}
	if n := count.Traffic().Puts; n != 0 {
		t.Fatalf("%d writes", n)
	}
}

// What is stored elsewhere is signed, counts as changed, and is not written.
func TestCommit_Elsewhere(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	written := func() (n int) {
		for key := range copyBucket(t, w.bucket) {
			if strings.HasPrefix(key, targetsPrefix) {
				n++
			}
		}
		return n
	}
	before := written()
	c := Change{Elsewhere: []Target{targetOf("releases/r7.json", []byte("far away"))}}
	v, err := w.pub.Commit(t.Context(), v, c)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := mustRefresh(t, w.client()).Target("releases/r7.json"); !ok || got != c.Elsewhere[0] {
		t.Errorf("signed is %+v, %t", got, ok)
	}
	if n := written(); n != before {
		t.Errorf("%d targets were written", n-before)
	}
	if again, err := w.pub.Commit(t.Context(), v, c); err != nil || again != v {
		t.Errorf("the same again: %v", err)
	}
	c.Elsewhere[0].Name = "../r7.json"
	if _, err := w.pub.Commit(t.Context(), v, c); err == nil {
		t.Error("a target called ../r7.json was signed")
	}
	c.Elsewhere[0] = Target{Name: "releases/r7.json", Size: maxTargetBytes + 1}
	if _, err := w.pub.Commit(t.Context(), v, c); err == nil {
		t.Error("a target over the limit was signed")
	}
}

func TestCommit_RefusesBadNames(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	for _, name := range []string{"", "x.json", "releases/../x.json", "releases/a/b.json", "releases/*.json", "targets/x.json", "releases/x"} {
		if _, err := w.pub.Commit(t.Context(), v, Change{Blobs: map[string][]byte{name: nil}}); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if _, err := w.pub.Commit(t.Context(), v, Change{Remove: []string{"root"}}); err == nil {
		t.Error("removed a target of no role")
	}
}

func TestCommit_WritesOnlyWhatChanged(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	count := bucket.Count(w.bucket)
	w.pub.Client.Bucket = count
	v, err := w.pub.Commit(t.Context(), v, Change{Blobs: map[string][]byte{"channels/canary.json": []byte("pointer")}})
	if err != nil {
		t.Fatal(err)
	}
	if n := count.Traffic().Puts; n != 6 { // blob, channels, snapshot, two bundles, timestamp
		t.Fatalf("%d writes", n)
	}
	if got := v.set.versions(); got[releasesFile] != 2 || got[channelsFile] != 3 || got[targetsFile] != 1 {
		t.Fatalf("versions: %v", got)
	}
}

func TestCommit_OnAStaleViewIsAConflict(t *testing.T) {
	w := newWorld(t)
	stale := w.publish()
	w.publish()
	other := w.publisher()
	before := names(mustRefresh(t, w.client()))
	_, err := other.Commit(t.Context(), stale, releaseChange(7))
	if !errors.Is(err, ErrConflict) {
		t.Fatalf("commit: %v", err)
	}
	if after := names(mustRefresh(t, w.client())); after != before {
		t.Fatalf("visible: %q, before %q", after, before)
	}
	v, err := other.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, err = other.Commit(t.Context(), v, releaseChange(7)); err != nil || !strings.Contains(names(v), "r2.json releases/r7.json") {
		t.Fatalf("commit on a fresh view: %v", err)
	}
}

func TestCommit_NeedsTheProjectsKeys(t *testing.T) {
	for name, keys := range map[string]Keys{
		"another ops":    {testKey("other"), testKey("online")},
		"another online": {testKey("ops"), testKey("other")},
		"no ops":         {Key{}, testKey("online")},
		"none":           {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v := w.publish()
			before := copyBucket(t, w.bucket)
			w.pub.Keys = keys
			_, err := w.pub.Commit(t.Context(), v, releaseChange(2))
			if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "SHA256:") {
				t.Fatalf("commit: %v", err)
			}
			sameObjects(t, before, copyBucket(t, w.bucket))
		})
	}
}

// Commits that one after the other stop before each of their writes leave what
// is visible as it was, and the next publisher goes on.
func TestCommit_KilledAtEachPoint(t *testing.T) {
	const writes = 8 // two blobs, releases, channels, snapshot, two bundles, timestamp
	w := newWorld(t)
	w.publish()
	for skip := range writes {
		before := mustRefresh(t, w.client())
		killed := w.publisher()
		killed.Client.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Method: "Put", Skip: skip})
		v, err := killed.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := killed.Commit(t.Context(), v, releaseChange(100+skip)); !errors.Is(err, bucket.ErrUnavailable) {
			t.Fatalf("write %d: %v", skip, err)
		}
		after := mustRefresh(t, w.client())
		if names(after) != names(before) || after.Timestamp != before.Timestamp {
			t.Fatalf("killed at write %d: visible %q, before %q", skip, names(after), names(before))
		}
		again := w.publisher()
		if v, err = again.View(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v, err = again.Commit(t.Context(), v, releaseChange(100+skip)); err != nil {
			t.Fatalf("after one killed at write %d: %v", skip, err)
		}
		if got := names(mustRefresh(t, w.client())); got != names(v) || !strings.Contains(got, fmt.Sprintf("r%d.json", 100+skip)) {
			t.Fatalf("visible: %q", got)
		}
	}
}

// Left-overs of any number of dead publishers block nobody.
func TestCommit_SkipsManyLeftOvers(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	for n := 3; n < 300; n++ {
		w.write(fmt.Sprintf("%s%d.releases.json", metadataPrefix, n), []byte("left over"))
		w.write(fmt.Sprintf("%s%d.snapshot.json", metadataPrefix, n), []byte("left over"))
	}
	count := bucket.Count(w.bucket)
	w.pub.Client.Bucket = count
	if _, err := w.pub.Commit(t.Context(), v, releaseChange(2)); err != nil {
		t.Fatal(err)
	}
	if n := count.Traffic().Puts; n > 50 {
		t.Fatalf("%d writes", n)
	}
	mustRefresh(t, w.client())
}

// The answer to each write gets lost once; a lower layer asks again.
func TestCommit_LostAnswers(t *testing.T) {
	for skip := range 8 {
		w := newWorld(t)
		v := w.publish()
		w.pub.Client.Bucket = again{bucket.NewFaults(w.bucket, bucket.Fault{Kind: bucket.FaultLost, Method: "Put", Skip: skip, Times: 1})}
		v, err := w.pub.Commit(t.Context(), v, releaseChange(2))
		if err != nil {
			t.Fatalf("write %d: %v", skip, err)
		}
		if got := names(mustRefresh(t, w.client())); got != names(v) || !strings.Contains(got, "r2.json") {
			t.Fatalf("write %d: visible %q", skip, got)
		}
		if _, err := w.pub.Commit(t.Context(), v, releaseChange(3)); err != nil {
			t.Fatalf("after a lost answer to write %d: %v", skip, err)
		}
	}
}

// A lost answer to the commit itself is found out by looking.
func TestCommit_LostAnswerWithoutRetry(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	w.pub.Client.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Kind: bucket.FaultLost, Method: "Put", Key: metadataPrefix + timestampFile})
	v, err := w.pub.Commit(t.Context(), v, releaseChange(2))
	if err != nil || names(v) != names(mustRefresh(t, w.client())) {
		t.Fatalf("commit: %v", err)
	}
}

func TestCommit_RepairsATargetThatAnotherHandPutThere(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	blob := []byte("manifest 2")
	tg := Target{Name: "releases/r2.json", Digest: release.DigestOf(blob)}
	w.write(tg.Key(), []byte("evil"))
	if _, err := w.pub.Commit(t.Context(), v, releaseChange(2)); err != nil {
		t.Fatal(err)
	}
	got, err := mustRefresh(t, w.client()).Fetch(t.Context(), "releases/r2.json")
	if err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestCommit_RefusesMoreReleasesThanAClientReads(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	c := Change{Blobs: map[string][]byte{}}
	for n := range 9000 {
		c.Blobs[fmt.Sprintf("releases/r%d.json", n)] = []byte("m")
	}
	before := v.Timestamp
	w.pub.Client.Bucket = discardTargets{w.bucket}
	if _, err := w.pub.Commit(t.Context(), v, c); err == nil || !strings.Contains(err.Error(), "remove old releases first") {
		t.Fatalf("commit: %v", err)
	}
	if v := mustRefresh(t, w.client()); v.Timestamp != before {
		t.Fatal("something became visible")
	}
}

// race lets eight publishers commit some releases each and asserts that each
// release that was reported done is there.
func race(t *testing.T, each int, newPublisher func() *Publisher, lock bool) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := []string{"channels/stable.json"}
	conflicts := 0
	for i := range 8 {
		p := newPublisher()
		wg.Go(func() {
			for k := range each {
				name := fmt.Sprintf("releases/r%d.json", 1+i*each+k)
				lost := commitUntilDone(t, p, releaseChange(1+i*each+k), lock)
				mu.Lock()
				want, conflicts = append(want, name), conflicts+lost
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sort.Strings(want)
	p := newPublisher()
	v := mustRefresh(t, p.Client)
	if got := names(v); got != strings.Join(want, " ") {
		t.Fatalf("releases were lost:\nhave %s\nwant %s", got, strings.Join(want, " "))
	}
	for _, tg := range v.Targets("") {
		if _, err := v.Fetch(t.Context(), tg.Name); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d lost races", conflicts)
}

func commitUntilDone(t *testing.T, p *Publisher, c Change, lock bool) (lost int) {
	ctx := context.Background()
	for {
		err := func() error {
			if lock {
				unlock, err := p.Lock(ctx, "someone", time.Hour)
				if err != nil {
					return err
				}
				defer unlock(ctx)
			}
			v, err := p.View(ctx)
			if err != nil {
				return err
			}
			_, err = p.Commit(ctx, v, c)
			return err
		}()
		if err == nil {
			return lost
		}
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrLocked) {
			t.Error(err)
			return lost
		}
		lost++
		time.Sleep(time.Duration(lost%8) * time.Millisecond)
	}
}

func TestCommit_EightAtOnceLoseNothing(t *testing.T) {
	t.Run("mem", func(t *testing.T) {
		w := newWorld(t)
		race(t, 1, w.publisher, false)
	})
	t.Run("mem, each with the lock", func(t *testing.T) {
		w := newWorld(t)
		race(t, 2, w.publisher, true)
	})
	t.Run("mem without IfMatch", func(t *testing.T) {
		w := newWorldIn(t, bucket.NewMemWith(bucket.Caps{IfAbsent: true}))
		race(t, 1, w.publisher, false)
	})
	t.Run("mem without IfMatch, each with the lock", func(t *testing.T) {
		w := newWorldIn(t, bucket.NewMemWith(bucket.Caps{IfAbsent: true}))
		race(t, 2, w.publisher, true)
	})
	t.Run("file", func(t *testing.T) {
		b, err := file.OpenDir(t.TempDir(), file.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorldIn(t, b)
		race(t, 1, w.publisher, false)
	})
	t.Run("versitygw", func(t *testing.T) {
		srv := buckettest.VersityGW(t)
		srv.CreateBucket("fleet")
		b, err := s3.Open(t.Context(), srv.URL("fleet", "prod"), s3.Options{Sources: []s3.Source{s3.Static(buckettest.RootKey, buckettest.RootSecret, "")}})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorldIn(t, b)
		race(t, 1, w.publisher, false)
	})
}

// Two publishers on a bucket without any condition, such as Swift: they take
// turns by lock, settle, read back. The second looks for the lock before the
// first has written it.
func TestCommit_WithoutAnyCondition(t *testing.T) {
	w := newWorldIn(t, bucket.NewMemWith(bucket.Caps{}))
	a, b := w.publisher(), w.publisher()
	va, err := a.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vb, err := b.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var errB error
	started := false
	a.Client.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Method: "Put", Key: lockKey, Times: 1, Kind: bucket.FaultDelay, Before: func() {
		started = true
		_, errB = b.Commit(t.Context(), vb, releaseChange(2)) // all of it, between a's look and a's write
	}})
	_, errA := a.Commit(t.Context(), va, releaseChange(1))
	if !started || errB != nil {
		t.Fatalf("b: %v", errB)
	}
	if !errors.Is(errA, ErrConflict) {
		t.Fatalf("a: %v", errA)
	}
	if got := names(mustRefresh(t, w.client())); got != "channels/stable.json releases/r2.json" {
		t.Fatalf("visible: %q", got)
	}
}

func TestLock_NamesItsHolder(t *testing.T) {
	w := newWorld(t)
	unlock, err := w.pub.Lock(t.Context(), "alice@laptop", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other := w.publisher()
	if _, err := other.Lock(t.Context(), "bob", time.Hour); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), `"alice@laptop" is publishing, or was cut off: its lock locks/publish ends 2031-03-01 13:00:00 UTC`) {
		t.Fatalf("lock: %v", err)
	}
	if err := other.Locked(t.Context()); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), `"alice@laptop" is publishing`) {
		t.Fatalf("as another sees it: %v", err)
	}
	if err := w.pub.Locked(t.Context()); err != nil {
		t.Fatalf("as the holder sees it: %v", err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Locked(t.Context()); err != nil {
		t.Fatalf("given back: %v", err)
	}
	free, err := other.Lock(t.Context(), "bob", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(t.Context()); err != nil { // once more: it is bob's now
		t.Fatal(err)
	}
	if _, err := w.pub.Lock(t.Context(), "alice", time.Hour); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "bob") {
		t.Fatalf("alice's second unlock took bob's lock away: %v", err)
	}
	if err := free(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLock_ExpiredIsTakenOverByOne(t *testing.T) {
	for name, caps := range map[string]bucket.Caps{"conditions": {IfAbsent: true, IfMatch: true}, "none": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorldIn(t, bucket.NewMemWith(caps))
			late, err := w.pub.Lock(t.Context(), "alice", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			v, err := w.pub.View(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(2 * time.Minute)
			if _, err := w.publisher().Lock(t.Context(), "bob", time.Hour); err != nil {
				t.Fatalf("take over: %v", err)
			}
			if _, err := w.publisher().Lock(t.Context(), "carol", time.Hour); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "bob") {
				t.Fatalf("lock: %v", err)
			}
			if !w.pub.atomic() {
				if _, err := w.pub.Commit(t.Context(), v, releaseChange(1)); !errors.Is(err, ErrLocked) {
					t.Fatalf("commit with a lock that ran out: %v", err)
				}
			}
			if err := late(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := w.publisher().Lock(t.Context(), "carol", time.Hour); !errors.Is(err, ErrLocked) {
				t.Fatalf("the late unlock took bob's lock away: %v", err)
			}
		})
	}
}

func TestLock_LostAnswerIsStillOurs(t *testing.T) {
	w := newWorld(t)
	w.pub.Client.Bucket = again{bucket.NewFaults(w.bucket, bucket.Fault{Kind: bucket.FaultLost, Method: "Put", Key: lockKey, Times: 1})}
	unlock, err := w.pub.Lock(t.Context(), "alice", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLock_UnreadableLeaseEnds(t *testing.T) {
	written := start
	for _, tt := range []struct {
		body string
		end  time.Time
	}{
		{`{"owner":"a","token":"t","expires":"2031-03-01T12:30:00Z"}`, start.Add(30 * time.Minute)},
		{`garbage`, start.Add(unreadableTTL)},
		{``, start.Add(unreadableTTL)},
	} {
		if got := parseLease([]byte(tt.body), written); !got.Expires.Equal(tt.end) || got.Token == "" {
			t.Errorf("%q: %+v, want the end %v", tt.body, got, tt.end)
		}
	}
}

func TestResign_RevivesAnExpiredProject(t *testing.T) {
	w := newWorld(t)
	w.publish()
	w.now = start.Add(3 * 365 * 24 * time.Hour)
	if _, err := w.pub.View(t.Context()); !errors.Is(err, ErrExpired) {
		t.Fatalf("view: %v", err)
	}
	v, err := w.pub.Resign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := w.now.Add(DefaultLifetime); !v.Expires.Equal(want) || len(v.Warn) != 0 {
		t.Fatalf("expires %v, want %v; %q", v.Expires, want, v.Warn)
	}
	if got := v.set.versions(); got[targetsFile] != 2 || v.set.root.Signed.Version != 2 {
		t.Fatalf("root and targets were not renewed: %v", got)
	}
	mustRefresh(t, w.client())
	w.publish()
}

// Each VM follows every root there ever was, so one is made only when due.
func TestResign_EveryMonthMakesFewRoots(t *testing.T) {
	w := newWorld(t)
	w.publish()
	for range 12 {
		w.now = w.now.Add(30 * 24 * time.Hour)
		if _, err := w.pub.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	v := mustRefresh(t, w.client())
	if n := v.set.root.Signed.Version; n != 2 {
		t.Fatalf("root is version %d after a year", n)
	}
	if v.Timestamp != 14 || len(v.Warn) != 0 {
		t.Fatalf("timestamp %d, %q", v.Timestamp, v.Warn)
	}
}

func TestResign_WithTheOnlineKeyAlone(t *testing.T) {
	w := newWorld(t)
	w.publish()
	w.now = start.Add(40 * 24 * time.Hour)
	w.pub.Keys.Ops.Private = nil
	v, err := w.pub.Resign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := v.set.lives()
	if !l[5].expires.Equal(w.now.Add(DefaultLifetime)) || !v.Expires.Equal(start.Add(DefaultLifetime)) {
		t.Fatalf("timestamp until %v, all until %v", l[5].expires, v.Expires)
	}
	w.pub.Keys.Online.Private = nil
	if _, err := w.pub.Resign(t.Context()); !errors.Is(err, ErrKey) {
		t.Fatalf("resign without a key: %v", err)
	}
}

func TestResign_KilledAtEachPoint(t *testing.T) {
	for skip := range 8 { // root, targets, releases, channels, snapshot, two bundles, timestamp
		w := newWorld(t)
		w.publish()
		w.now = start.Add(200 * 24 * time.Hour)
		killed := w.publisher()
		killed.Client.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Method: "Put", Skip: skip})
		if _, err := killed.Resign(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
			t.Fatalf("write %d: %v", skip, err)
		}
		if _, err := w.publisher().Resign(t.Context()); err != nil {
			t.Fatalf("after one killed at write %d: %v", skip, err)
		}
		mustRefresh(t, w.client())
	}
}

func TestPublisher_KeepsTheProjectsOwnLifetime(t *testing.T) {
	b := bucket.NewMem()
	w := &world{t: t, bucket: b, keys: Keys{testKey("ops"), testKey("online")}, now: start}
	anchor, err := Init(t.Context(), b, w.keys, w.now, 10*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.anchor = anchor
	w.pub = w.publisher()
	w.now = start.Add(4 * 24 * time.Hour)
	v := w.publish()
	if want := w.now.Add(10 * 24 * time.Hour); !v.Expires.Equal(want) {
		t.Fatalf("expires %v, want %v", v.Expires, want)
	}
	w.now = w.now.Add(6 * 24 * time.Hour)
	if v := mustRefresh(t, w.client()); len(v.Warn) != 1 || !strings.Contains(v.Warn[0], "in 4 days") {
		t.Fatalf("warnings: %q", v.Warn)
	}
	w.pub.Life = 30 * 24 * time.Hour
	if v, err = w.pub.Resign(t.Context()); err != nil || !v.Expires.Equal(w.now.Add(30*24*time.Hour)) {
		t.Fatalf("expires %v: %v", v.Expires, err)
	}
}

// An active project renews by publishing what would otherwise expire.
func TestCommit_RenewsRolesInTheSecondHalfOfTheirLife(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	w.now = start.Add(50 * 24 * time.Hour)
	v, err := w.pub.Commit(t.Context(), v, Change{Blobs: map[string][]byte{"channels/stable.json": []byte("pointer")}})
	if err != nil {
		t.Fatal(err)
	}
	if want := w.now.Add(DefaultLifetime); !v.Expires.Equal(want) {
		t.Fatalf("expires %v, want %v", v.Expires, want)
	}
}

func sameObjects(t *testing.T, want, got map[string][]byte) {
	t.Helper()
	for key, b := range got {
		if !bytes.Equal(b, want[key]) {
			t.Errorf("%s was written", key)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d objects, before %d", len(got), len(want))
	}
}
