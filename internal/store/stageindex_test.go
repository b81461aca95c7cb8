package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

func TestIndexVouchesOnlyForTheSameMark(t *testing.T) {
	m := mark{size: 3, mode: typeFile | 0o644, mtime: 1000, ctime: 1001, inode: 7, dev: 9}
	x, err := parseIndex((&stageIndex{
		start: 2000,
		files: []release.File{{Path: "a/b", Mode: 0o644, Size: 3, Digest: release.DigestOf([]byte("abc"))}, {Path: "link"}},
		marks: []mark{m, {}},
	}).bytes())
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := x.find("a/b", m); !ok || f.Digest != release.DigestOf([]byte("abc")) {
		t.Fatalf("nothing is known of the file: %+v", f)
	}
	for name, change := range map[string]func(*mark){
		"size":              func(m *mark) { m.size++ },
		"mode":              func(m *mark) { m.mode |= 0o111 },
		"kind":              func(m *mark) { m.mode = typeLink | 0o644 },
		"modification time": func(m *mark) { m.mtime++ },
		"change time":       func(m *mark) { m.ctime++ },
		"inode":             func(m *mark) { m.inode++ },
		"device":            func(m *mark) { m.dev++ },
	} {
		other := m
		change(&other)
		if _, ok := x.find("a/b", other); ok {
			t.Errorf("another %s goes unnoticed", name)
		}
	}
	for _, p := range []string{"link", "a", ""} {
		if _, ok := x.find(p, m); ok {
			t.Errorf("%q is vouched for", p)
		}
	}
	// What was written in the tick in which the index was begun, or after it.
	for _, start := range []int64{m.ctime, m.mtime, 0} {
		x.start = start
		if _, ok := x.find("a/b", m); ok {
			t.Errorf("begun at %d, changed at %d: it is vouched for", start, m.ctime)
		}
	}
	if _, ok := (*stageIndex)(nil).find("a/b", m); ok {
		t.Error("no index vouches")
	}
}

func TestTornIndexCountsAsNone(t *testing.T) {
	f := release.File{Path: "a", Size: 3, Digest: release.DigestOf([]byte("abc")), Blobs: []release.Blob{{Size: 1, Digest: release.DigestOf([]byte("a"))}, {Size: 2, Digest: release.DigestOf([]byte("bc"))}}}
	good := (&stageIndex{start: 5, files: []release.File{f}, marks: []mark{{size: 3, mode: typeFile, ctime: 1}}}).bytes()
	if x, err := parseIndex(good); err != nil || len(x.files) != 1 || len(x.files[0].Blobs) != 2 {
		t.Fatal(x, err)
	}
	for n := range good {
		if _, err := parseIndex(good[:n]); !errors.Is(err, errIndex) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		bad := slices.Clone(good)
		bad[n] ^= 1
		if _, err := parseIndex(bad); !errors.Is(err, errIndex) {
			t.Fatalf("byte %d flipped: %v", n, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	file := release.File{Path: "a/b", Mode: 0o755, Size: 3, Digest: release.DigestOf([]byte("abc"))}
	f.Add((&stageIndex{start: 5, files: []release.File{file}, marks: []mark{{size: 3, mode: typeFile | 0o755, ctime: 1}}}).bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		// The seal is no secret: what it is over can be anything.
		x, err := parseIndex(seal(append([]byte(indexVersion), b...)))
		if err != nil {
			return
		}
		if y, err := parseIndex(x.bytes()); err != nil || len(y.files) > len(x.files) || !bytes.Equal(y.bytes(), x.bytes()) {
			t.Fatalf("read and written again: %v", err)
		}
	})
}

// settledTree stages m with an index, on a disk so slow that its clock moves on
// before each change.
func settledTree(t *testing.T, b bucket.Bucket, m *release.Manifest, o StageOptions) {
	t.Helper()
	o.Remember = true
	st := &stager{s: &Store{Bucket: b}, m: m, o: o, meter: newMeter(nil), step: tick}
	if err := st.run(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func tick() error {
	for now := diskClock(); diskClock() == now; {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// vouched returns how many of the files in dir need not be read.
func vouched(t *testing.T, dir string, m *release.Manifest) (n int) {
	t.Helper()
	tr, err := openTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	x := loadIndex(dir)
	for _, f := range m.Files {
		if mk, err := tr.mark(f.Path); err == nil && mk.regular() {
			if _, ok := x.find(f.Path, mk); ok {
				n++
			}
		}
	}
	return n
}

// A file of a tree that is altered in place, with its size and times put back,
// is not used for the next tree.
func TestAlteredFileIsNoticed(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	for i := range 20 {
		f.write(fmt.Sprintf("more/%d", i), fmt.Sprint("content ", i))
	}
	f.publish()
	m1 := f.manifest()
	f.write("new", "2")
	f.publish()
	m2, want := f.manifest(), snapshot(t, f.dir)
	for _, as := range []string{"reuse", "spare"} {
		dir := t.TempDir()
		old, o := filepath.Join(dir, "old"), StageOptions{Dir: filepath.Join(dir, "new"), Remember: true}
		settledTree(t, f.b, m1, StageOptions{Dir: old})
		if n := vouched(t, old, m1); n < 20 {
			t.Fatalf("only %d files are vouched for", n)
		}
		p := filepath.Join(old, "a/plain")
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.WriteAt([]byte("ono"), 0)
		if err := errors.Join(err, w.Close(), os.Chtimes(p, fi.ModTime(), fi.ModTime())); err != nil {
			t.Fatal(err)
		}
		if as == "reuse" {
			o.Reuse = []Staged{{Dir: old}}
		} else {
			o.Spare = Staged{Dir: old}
		}
		mustStage(t, f.b, m2, o)
		sameTree(t, want, snapshot(t, o.Dir))
	}
}

// A torn index, one of another tree, and none at all only cost time.
func TestSpareWithoutUsableIndex(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m1 := f.manifest()
	f.write("a/plain", "two")
	f.publish()
	m2, want := f.manifest(), snapshot(t, f.dir)
	for name, spoil := range map[string]func(index string, b []byte) error{
		"none":  func(index string, _ []byte) error { return os.Remove(index) },
		"torn":  func(index string, b []byte) error { return os.WriteFile(index, b[:len(b)/2], 0o600) },
		"empty": func(index string, _ []byte) error { return os.WriteFile(index, nil, 0o600) },
		"forged": func(index string, b []byte) error {
			b[len(b)/2] ^= 1
			return os.WriteFile(index, b, 0o600)
		},
	} {
		dir := t.TempDir()
		old, o := filepath.Join(dir, "old"), StageOptions{Dir: filepath.Join(dir, "new"), Spare: Staged{Dir: filepath.Join(dir, "old")}, Remember: true}
		settledTree(t, f.b, m1, StageOptions{Dir: old})
		if !HasIndex(old) {
			t.Fatal("no index")
		}
		b, err := os.ReadFile(old + IndexSuffix)
		if err == nil {
			err = spoil(old+IndexSuffix, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		if HasIndex(old) {
			t.Errorf("%s: taken for an index", name)
		}
		mustStage(t, f.b, m2, o)
		sameTree(t, want, snapshot(t, o.Dir))
		if left, _ := os.ReadDir(dir); len(left) != 2 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

// Killed before each change of a conversion, the trees in use are as they
// were, and the next call ends well.
func TestSpareKilledAnywhere(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.write("gone/x", "x")
	f.publish()
	m1 := f.manifest()
	f.write("b/linked", "in r2 and r3")
	f.write("a/plain", "two")
	f.publish()
	m2 := f.manifest()
	f.write("a/plain", "three")
	large := noise(1, smallFile+300_000)
	large[700_000] ^= 1
	f.write("large", string(large))
	if err := os.RemoveAll(filepath.Join(f.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	f.publish()
	m3, want := f.manifest(), snapshot(t, f.dir)
	for n := 0; ; n++ {
		dir := t.TempDir()
		old, now := filepath.Join(dir, "old"), filepath.Join(dir, "now")
		mustStage(t, f.b, m1, StageOptions{Dir: old, Remember: true})
		settledTree(t, f.b, m2, StageOptions{Dir: now, Reuse: []Staged{{Dir: old}}})
		before := snapshot(t, now)
		o := StageOptions{Dir: filepath.Join(dir, "new"), Reuse: []Staged{{Dir: now}}, Spare: Staged{Dir: old}, Remember: true}
		ended := stageUntil(t, f.b, m3, o, n)
		sameTree(t, before, snapshot(t, now))
		if _, err := os.Lstat(old); err == nil && HasIndex(old) {
			if err := VerifyStaged(context.Background(), Staged{old, m1}, ""); err != nil {
				t.Fatalf("killed before change %d: the spare was changed under its index: %v", n, err)
			}
		}
		mustStage(t, f.b, m3, o)
		sameTree(t, want, snapshot(t, o.Dir))
		sameTree(t, before, snapshot(t, now))
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
			t.Fatalf("killed before change %d: %v is left", n, left)
		}
		if t.Failed() {
			t.Fatalf("killed before change %d", n)
		}
		if ended {
			break
		}
	}
}

// An update of one file touches one file.
func TestSpareTouchesOnlyWhatDiffers(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	for i := range 60 {
		f.write(fmt.Sprintf("d%02d/f%03d", i/20, i), fmt.Sprint("content ", i))
	}
	f.publish()
	m1 := f.manifest()
	f.write("d01/f030", "changed")
	f.publish()
	m2 := f.manifest()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustStage(t, f.b, m1, StageOptions{Dir: at("r1"), Remember: true})
	settledTree(t, f.b, m1, StageOptions{Dir: at("twin"), Reuse: []Staged{{Dir: at("r1")}}})
	// To link the files changed them, and the index knows.
	if a, b := vouched(t, at("r1"), m1), vouched(t, at("twin"), m1); a != 60 || b != 60 {
		t.Errorf("of 60 files %d and %d are vouched for", a, b)
	}
	o := StageOptions{Dir: at("r2"), Reuse: []Staged{{Dir: at("r1")}}, Spare: Staged{Dir: at("twin")}, Remember: true}
	steps := 0
	st := &stager{s: &Store{Bucket: f.b}, m: m2, o: o, meter: newMeter(nil), step: func() error { steps++; return tick() }}
	if err := st.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := VerifyStaged(context.Background(), Staged{at("r2"), m2}, ""); err != nil {
		t.Error(err)
	}
	// The index goes, the spare is hidden, a file goes and is made and written, the tree appears.
	if steps != 8 || st.stats.Written != int64(len("changed")) || st.stats.Reused != 59 {
		t.Errorf("%d changes of the disk, %+v", steps, st.stats)
	}
	if n := vouched(t, at("r2"), m2); n != 60 {
		t.Errorf("%d of 60 files are vouched for", n)
	}
}

// A file that other trees have too, or that a program has open, is replaced
// and never written into.
func TestSpareIsNotWrittenInto(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("large", string(noise(1, 3<<20)))
	f.publish()
	m1 := f.manifest()
	changed := noise(1, 3<<20)
	changed[1<<20] ^= 1
	f.write("large", string(changed))
	f.publish()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustStage(t, f.b, m1, StageOptions{Dir: at("now"), Remember: true})
	settledTree(t, f.b, m1, StageOptions{Dir: at("old"), Reuse: []Staged{{Dir: at("now")}}})
	open, err := os.Open(at("old/large"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	c := bucket.Count(f.b)
	mustStage(t, c, f.manifest(), StageOptions{Dir: at("new"), Reuse: []Staged{{Dir: at("now")}}, Spare: Staged{Dir: at("old")}, Remember: true})
	if d := c.Traffic().Down; d > 600<<10 {
		t.Errorf("a byte cost %d", d)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(open); err != nil || release.DigestOf(b.Bytes()) != release.DigestOf(noise(1, 3<<20)) {
		t.Errorf("the file that was open has changed (%v)", err)
	}
	if err := VerifyStaged(context.Background(), Staged{at("now"), m1}, ""); err != nil {
		t.Error(err)
	}
}

// An index that is written anew vouches for no more than before.
func TestIndexRestart(t *testing.T) {
	x := &stageIndex{start: 2500, at: map[string]int{"a": 0, "b": 1}, files: make([]release.File, 2), marks: []mark{{ctime: 2400}, {ctime: 2500}}}
	marks := slices.Clone(x.marks)
	x.restart(9000)
	if _, ok := x.find("a", marks[0]); !ok {
		t.Error("a settled file is forgotten")
	}
	if _, ok := x.find("b", marks[1]); ok {
		t.Error("a file that could have been written again is vouched for")
	}
	second := mark{ctime: int64(time.Second)}
	whole := &stageIndex{start: second.ctime + 5, at: map[string]int{"a": 0}, files: make([]release.File, 1), marks: []mark{second}}
	if _, ok := whole.find("a", second); ok {
		t.Error("a file of a clock of whole seconds is vouched for within its second")
	}
}
