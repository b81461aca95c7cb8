package trust

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func TestClient_SeesWhatWasPublished(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if v := mustRefresh(t, c); names(v) != "" || v.Timestamp != 1 || len(v.Warn) != 0 {
		t.Fatalf("empty project: targets %q, timestamp %d, warn %q", names(v), v.Timestamp, v.Warn)
	}
	w.publish()
	w.publish()
	v := mustRefresh(t, c)
	if got := names(v); got != "channels/stable.json releases/r1.json releases/r2.json" {
		t.Fatalf("targets are %q", got)
	}
	if got := len(v.Targets("releases/")); got != 2 {
		t.Fatalf("%d releases", got)
	}
	b, err := v.Fetch(t.Context(), "channels/stable.json")
	if err != nil || string(b) != "pointer to r2" {
		t.Fatalf("fetch: %q, %v", b, err)
	}
	tg, ok := v.Target("releases/r1.json")
	if !ok || tg.Size != 10 || tg.Digest != release.DigestOf([]byte("manifest 1")) {
		t.Fatalf("target is %+v", tg)
	}
	if _, err := v.Fetch(t.Context(), "releases/r9.json"); !errors.Is(err, bucket.ErrNotExist) {
		t.Fatalf("unknown target: %v", err)
	}
	if want := start.Add(DefaultLifetime); !v.Expires.Equal(want) {
		t.Fatalf("expires %v, want %v", v.Expires, want)
	}
}

func TestClient_LastNeedsNoNetworkAndSurvivesExpiry(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	if _, err := c.Last(); !errors.Is(err, ErrNoRelease) {
		t.Fatalf("nothing verified yet: %v", err)
	}
	mustRefresh(t, c)
	w.now = start.Add(10 * 365 * 24 * time.Hour)
	again := &Client{Bucket: bucket.NewFaults(w.bucket, bucket.Fault{}), Dir: c.Dir, Anchor: c.Anchor, Now: w.clock}
	v, err := again.Last()
	if err != nil || names(v) != "channels/stable.json releases/r1.json" {
		t.Fatalf("last: %v", err)
	}
	if len(v.Warn) != 1 || !strings.Contains(v.Warn[0], "expired on 2031-05-30: run bootwell resign") {
		t.Fatalf("warnings are %q", v.Warn)
	}
	if _, err := again.Refresh(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("refresh without a bucket: %v", err)
	}
}

func TestClient_WarnsFromHalfOfTheSoonestLife(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, tt := range []struct {
		days int
		want string
	}{
		{44, ""},
		{45, "the project's signatures expire in 45 days: run bootwell resign"},
		{81, "the project's signatures expire in 9 days: run bootwell resign"},
		{89, "the project's signatures expire in 24 hours: run bootwell resign"},
	} {
		w.now = start.Add(time.Duration(tt.days) * 24 * time.Hour)
		if got := strings.Join(mustRefresh(t, c).Warn, "; "); got != tt.want {
			t.Errorf("day %d: %q, want %q", tt.days, got, tt.want)
		}
	}
}

func TestClient_OfAnotherProjectsFolderStartsAnew(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	if err := c.RaiseFloor(41); err != nil {
		t.Fatal(err)
	}
	o := newWorld(t)
	o.keys.Ops = testKey("other ops")
	o.bucket = bucket.NewMem()
	anchor, err := Init(t.Context(), o.bucket, o.keys, o.now, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Bucket, c.Anchor = o.bucket, anchor
	if _, err := c.Last(); !errors.Is(err, ErrNoRelease) {
		t.Fatalf("the old project's metadata count: %v", err)
	}
	if n, _ := c.Floor(); n != 0 {
		t.Fatalf("the old project's floor of %d counts", n)
	}
	if v := mustRefresh(t, c); v.Timestamp != 1 {
		t.Fatalf("timestamp %d", v.Timestamp)
	}
}

// Processes of one operator share a folder.
func TestClient_FourOnOneFolder(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		c := &Client{Bucket: w.bucket, Dir: dir, Anchor: w.anchor, Now: w.clock}
		p := &Publisher{Client: c, Keys: w.keys, Now: w.clock}
		wg.Go(func() {
			commitUntilDone(t, p, releaseChange(i), false)
			if err := c.RaiseFloor(i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c := &Client{Bucket: w.bucket, Dir: dir, Anchor: w.anchor, Now: w.clock}
	if v, err := c.Last(); err != nil || v.Timestamp != 5 || len(v.Targets("releases/")) != 4 {
		t.Fatalf("last: %v", err)
	}
	if n, _ := c.Floor(); n != 3 {
		t.Fatalf("floor is %d", n)
	}
}

func TestClient_FloorOnlyRises(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, tt := range []struct{ raise, want int }{{3, 3}, {2, 3}, {7, 7}} {
		if err := c.RaiseFloor(tt.raise); err != nil {
			t.Fatal(err)
		}
		mustRefresh(t, c)
		if n, err := c.Floor(); n != tt.want || err != nil {
			t.Fatalf("floor is %d (%v), want %d", n, err, tt.want)
		}
	}
}

func TestPoll_IsOneRequestWhileNothingChanged(t *testing.T) {
	w := newWorld(t)
	w.publish()
	count := bucket.Count(w.bucket)
	c := w.client()
	c.Bucket = count
	poll := func(want bool, requests, notModified int64) {
		t.Helper()
		before := count.Traffic()
		changed, err := c.Poll(t.Context())
		got := count.Traffic().Sub(before)
		if err != nil || changed != want || got.Requests() != requests || got.NotModified != notModified {
			t.Fatalf("poll: changed %v, error %v, traffic %+v", changed, err, got)
		}
	}
	poll(true, 0, 0) // nothing verified yet
	mustRefresh(t, c)
	poll(false, 1, 1)
	c = &Client{Bucket: count, Dir: c.Dir, Anchor: c.Anchor, Now: w.clock} // the next process
	poll(false, 1, 1)
	w.publish()
	poll(true, 1, 0)
	poll(true, 1, 0) // until a refresh has verified it
	mustRefresh(t, c)
	poll(false, 1, 1)
	w.now = w.now.Add(rootInterval * 3 / 4)
	poll(false, 1, 1)
	w.now = w.now.Add(rootInterval / 4)
	poll(true, 0, 0) // look for a new root
	before := count.Traffic()
	mustRefresh(t, c)
	if got := count.Traffic().Sub(before); got.Requests() != 2 || got.NotModified != 1 {
		t.Fatalf("refresh of an unchanged project: %+v", got)
	}
	poll(false, 1, 1)
	w.now = start.Add(DefaultLifetime - nearExpiry/2)
	mustRefresh(t, c)
	poll(true, 0, 0) // near expiry
}

func TestPoll_RemembersOnlyETagsOfVerifiedBytes(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	good := w.read(metadataPrefix + timestampFile)
	w.write(metadataPrefix+timestampFile, []byte("{}"))
	for range 2 {
		if changed, err := c.Poll(t.Context()); !changed || err != nil {
			t.Fatalf("poll of a forged timestamp: %v, %v", changed, err)
		}
		if _, err := c.Refresh(t.Context()); !errors.Is(err, ErrUntrusted) {
			t.Fatalf("refresh of a forged timestamp: %v", err)
		}
	}
	w.write(metadataPrefix+timestampFile, good)
	if changed, err := c.Poll(t.Context()); changed || err != nil {
		t.Fatalf("poll of the good timestamp: %v, %v", changed, err)
	}
}

func TestPoll_SaysThatTheBucketIsAway(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	mustRefresh(t, c)
	c.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{})
	if _, err := c.Poll(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("poll: %v", err)
	}
}

func TestRefresh_SaysWhatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		remove string
		cached bool
		want   error
	}{
		{"empty bucket", metadataPrefix + "1.root.json", false, ErrNotInit},
		{"init was interrupted", metadataPrefix + timestampFile, false, ErrNotInit},
		{"timestamp was deleted", metadataPrefix + timestampFile, true, bucket.ErrNotExist},
		{"snapshot was deleted", metadataPrefix + "2.snapshot.json", true, bucket.ErrNotExist},
		{"targets were deleted", metadataPrefix + "1.targets.json", false, bucket.ErrNotExist},
		{"releases were deleted", metadataPrefix + "2.releases.json", true, bucket.ErrNotExist},
		{"channels were deleted", metadataPrefix + "2.channels.json", false, bucket.ErrNotExist},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBareWorld(t)
			c := w.client()
			if tt.cached {
				mustRefresh(t, c)
			}
			w.publish()
			w.remove(tt.remove)
			if _, err := c.Refresh(t.Context()); !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if v, err := c.Last(); tt.cached && (err != nil || v.Timestamp != 1) {
				t.Fatalf("the view from before is gone: %v", err)
			}
		})
	}
}

func TestRefresh_PassesTheBucketsErrorsOn(t *testing.T) {
	for _, want := range []error{bucket.ErrPermission, bucket.ErrNoBucket, bucket.ErrUnavailable, bucket.ErrTruncated} {
		for _, key := range []string{"1.root.json", timestampFile, "2.snapshot.json", "2.releases.json"} {
			w := newBareWorld(t)
			w.publish()
			c := w.client()
			c.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Key: metadataPrefix + key, Err: want})
			_, err := c.Refresh(t.Context())
			if !errors.Is(err, want) || errors.Is(err, ErrUntrusted) {
				t.Errorf("%s: %v, want %v", key, err, want)
			}
		}
	}
}

func TestRefresh_TakesForbiddenNextRootForNone(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	c.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Key: metadataPrefix + "2.root.json", Err: bucket.ErrPermission})
	mustRefresh(t, c)
}

// What a poll reads is what a refresh has written, and the latest time is that
// of either file.
func TestGlance(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	d := c.durable()
	cur, ok := d.current()
	g, latest, also := d.glance()
	want := glance{cur.Version, cur.ETag, cur.Checked, cur.LookAfter, cur.Expires, moment{cur.Floor.Anchor, cur.Floor.Time}}
	if !ok || !also || g != want || g.Version == 0 || g.ETag == "" || latest.IsZero() || !latest.Equal(cur.Floor.Time) {
		t.Errorf("%v, %+v, %v; want %+v", also, g, latest, want)
	}
	later := cur.Floor
	later.Time = later.Time.Add(time.Hour)
	if err := d.seal(nil, later, nil); err != nil {
		t.Fatal(err)
	}
	if _, latest, _ = d.glance(); !latest.Equal(later.Time) {
		t.Errorf("the latest time is %v, want %v", latest, later.Time)
	}
	d.anchor = release.DigestOf(nil)
	if g, latest, ok := d.glance(); ok || g != (glance{}) || !latest.IsZero() {
		t.Errorf("of another project: %v, %+v, %v", ok, g, latest)
	}
}
