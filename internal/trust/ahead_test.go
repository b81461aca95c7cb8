package trust

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A slowRoots answers after a second of a test's own time, but for roots after
// a minute.
type slowRoots struct{ bucket.Bucket }

func (b slowRoots) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if strings.HasSuffix(key, rootBase) {
		time.Sleep(50 * time.Second)
	} else {
		time.Sleep(time.Second)
	}
	return b.Bucket.Get(ctx, key, o)
}

// polledWhile polls and refreshes, and returns the view that came ahead with
// the second in which it came.
func polledWhile(t *testing.T, c *Client) (ahead *View, second int, v *View, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c.Bucket = slowRoots{c.Bucket}
		changed, perr := c.Poll(t.Context())
		if perr != nil || !changed {
			t.Fatalf("poll: %v, %v", changed, perr)
		}
		v, err = c.RefreshWhile(t.Context(), func(v *View) {
			if ahead != nil {
				t.Error("called twice")
			}
			ahead, second = v, int(time.Since(began)/time.Second)
		})
	})
	return ahead, second, v, err
}

func TestRefreshWhile_DoesNotWaitForTheNextRoot(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.publish()
	ahead, second, v, err := polledWhile(t, c)
	if err != nil || ahead == nil || ahead != v || second != 2 {
		t.Fatalf("ahead %p in second %d, then %p, %v", ahead, second, v, err)
	}
	if names(v) != "channels/stable.json releases/r1.json releases/r2.json" {
		t.Errorf("targets %s", names(v))
	}
}

// A root that only turns up now can make what was shown ahead void.
func TestRefreshWhile_AnotherRoot(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	before := mustRefresh(t, c)
	w.publish()
	w.nextRoot(func(r *metadata.RootType) {
		_, old := tufKeyOf(t, w.keys.Online)
		fresh, id := tufKeyOf(t, testKey("another online key"))
		delete(r.Keys, old)
		r.Keys[id] = fresh
		for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
			r.Roles[role].KeyIDs = []string{id}
		}
	}, w.keys.Ops)
	ahead, _, v, err := polledWhile(t, c)
	if ahead == nil || v != nil || !errors.Is(err, ErrUntrusted) {
		t.Fatalf("ahead %v, then %v, %v", ahead, v, err)
	}
	if last, err := c.Last(); err != nil || last.Timestamp != before.Timestamp {
		t.Errorf("kept %+v, %v", last, err)
	}
}

// What this machine has seen bounds what is shown ahead too.
func TestRefreshWhile_ShowsNothingBelowTheFloor(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := copyBucket(t, w.bucket)
	w.publish()
	now := copyBucket(t, w.bucket)
	c := w.client()
	restore(t, w.bucket, old)
	mustRefresh(t, c)
	restore(t, w.bucket, now)
	mustRefresh(t, c)
	cur, _ := c.durable().current()
	if err := os.Truncate(filepath.Join(c.Dir, cur.Generation), 100); err != nil {
		t.Fatal(err)
	}
	restore(t, w.bucket, old)
	c.known = nil
	if ahead, _, _, err := polledWhile(t, c); !errors.Is(err, ErrRollback) || ahead != nil {
		t.Errorf("ahead %v, %v", ahead, err)
	}
}
