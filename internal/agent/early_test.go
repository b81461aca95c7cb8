package agent

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A release that was made ready before the answer for the next root came takes
// no effect without it. What was fetched is there when it comes.
func TestEarly_HasNoEffectWithoutTheRoot(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("f", "one")))
	w.good()
	current := func() string {
		t.Helper()
		to, err := os.Readlink(w.agent.Paths.Current())
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Base(to)
	}
	before := current()
	large := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{3}).Read(large)
	w.write(w.path("project", "large"), string(large))
	next := w.publish(role(w.put("f", "two")))
	w.pass(5 * time.Minute)
	w.faults.Set(bucket.Fault{Method: "Get", Key: "tuf/metadata/2.root.json", Err: bucket.ErrUnavailable})
	if r, err := w.apply(); err == nil || r.Release != "r1" || r.Wanted != "r1" {
		t.Errorf("%v, %+v", err, r)
	}
	if current() != before || w.text("f") != "one" {
		t.Errorf("current is %s, f %q", current(), w.text("f"))
	}
	if st := w.state(); st.Wanted.Release != "r1" {
		t.Errorf("%+v", st)
	}
	if !isDir(w.agent.Paths.Tree(next.Digest)) {
		t.Error("nothing was made ready")
	}
	w.faults.Set()
	w.pass(5 * time.Minute)
	was := w.count.Traffic()
	w.good()
	if n := w.count.Traffic().Sub(was).Down; n > 100<<10 || w.text("f") != "two" || current() != next.Digest.Hex() {
		t.Errorf("%d bytes later f is %q, current %s", n, w.text("f"), current())
	}
}
