package agent

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A confining bucket lets its caller write below folders of its ID only.
type confining struct {
	bucket.Bucket
	id    string
	asked int
}

func (c *confining) CallerID(context.Context) (string, error) {
	c.asked++
	return c.id, nil
}

func (c *confining) Put(ctx context.Context, key string, body io.ReadSeeker, cond bucket.Condition) (bucket.Object, error) {
	if !strings.HasPrefix(key, "reports/"+c.id+"/") && !strings.HasPrefix(key, "logs/"+c.id+"/") {
		return bucket.Object{}, bucket.ErrPermission
	}
	return c.Bucket.Put(ctx, key, body, cond)
}

func TestReport_ConfinedToAFolder(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	vm := w.good().VM
	w.publish(role(w.put("a", "two")))
	b := &confining{Bucket: w.agent.Bucket, id: "AROAEXAMPLE:" + vm}
	w.agent.Bucket = b
	w.pass(5 * time.Minute)
	if r := w.good(); len(r.Warn) != 0 || r.Release != "r2" {
		t.Errorf("%s, warnings %q", r.Release, r.Warn)
	}
	w.publish(role(w.put("a", "three")))
	w.pass(5 * time.Minute)
	w.good()
	if got := w.reported(); got.Release != "r3" || got.Run.Log == "" {
		t.Errorf("reported %s, log %q", got.Release, got.Run.Log)
	}
	if got := Folder(w.agent.Paths); got != b.id {
		t.Errorf("the VM writes below %q", got)
	}
	if b.asked != 1 {
		t.Errorf("asked %d times who it is, want once", b.asked)
	}
	// The role of the instance was replaced.
	b.id = "AROAOTHER:" + vm
	w.publish(role(w.put("a", "four")))
	w.pass(5 * time.Minute)
	w.good()
	if got := w.reported(); got.Release != "r4" || b.asked != 2 {
		t.Errorf("reported %s after %d questions", got.Release, b.asked)
	}
	// A name that is not this VM's is never used.
	b.id = "AROAOTHER:another"
	w.publish(role(w.put("a", "five")))
	w.pass(5 * time.Minute)
	if r := w.good(); !strings.Contains(strings.Join(r.Warn, "\n"), "has not reached the bucket") || r.State == release.StateFailed {
		t.Errorf("%s, warnings %q", r.State, r.Warn)
	}
}
