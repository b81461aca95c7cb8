package store

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/needs"
)

// What a step gave to another user does not become a part of the next tree,
// which that user could then write to.
func TestSpareAndReuseOfAnotherUser(t *testing.T) {
	needs.Root(t)
	f := newFixture(t, bucket.NewMem())
	f.write("d/given", "content")
	f.write("kept", "more content")
	f.publish()
	m, dir := f.manifest(), t.TempDir()
	for _, o := range []StageOptions{
		{Dir: filepath.Join(dir, "1"), Spare: Staged{Dir: filepath.Join(dir, "0")}, Remember: true},
		{Dir: filepath.Join(dir, "3"), Reuse: []Staged{{Dir: filepath.Join(dir, "2")}}, Remember: true},
	} {
		old := o.Spare.Dir
		if old == "" {
			old = o.Reuse[0].Dir
		}
		settledTree(t, f.b, m, StageOptions{Dir: old})
		for _, p := range []string{"", "d", "d/given"} {
			if err := os.Chown(filepath.Join(old, p), 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}
		mustStage(t, f.b, m, o)
		for _, p := range []string{"", "d", "d/given", "kept"} {
			fi, err := os.Stat(filepath.Join(o.Dir, p))
			if err != nil {
				t.Fatal(err)
			}
			if owner := fi.Sys().(*syscall.Stat_t); owner.Uid != 0 || owner.Gid != 0 {
				t.Errorf("%q in %s belongs to %d:%d", p, o.Dir, owner.Uid, owner.Gid)
			}
		}
	}
}
