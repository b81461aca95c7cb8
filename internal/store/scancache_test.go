package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A remembered is a folder that is scanned again and again with one cache, by
// a clock that is ahead: everything counts as settled.
type remembered struct {
	t       *testing.T
	dir, at string
	ahead   time.Duration
}

func newRemembered(t *testing.T) *remembered {
	return &remembered{t: t, dir: t.TempDir(), at: t.TempDir(), ahead: time.Hour}
}

// scan returns the digest of each file and how many bytes were read.
func (r *remembered) scan() (map[string]release.Digest, int64) {
	r.t.Helper()
	c := openTreeCache(r.at, r.dir)
	c.now = func() time.Time { return time.Now().Add(r.ahead) }
	var read int64
	m := newMeter(func(p Progress) { read = p.Total })
	files, err := scan(context.Background(), r.dir, nil, c, (&Store{}).log(), m)
	if err != nil {
		r.t.Fatal(err)
	}
	c.save((&Store{}).log())
	out := map[string]release.Digest{}
	for _, f := range files {
		out[f.Path] = f.Digest
		var sum int64
		for _, b := range f.Blobs {
			sum += b.Size
		}
		if sum != f.Size {
			r.t.Errorf("%s: blobs of %d of %d bytes", f.Path, sum, f.Size)
		}
	}
	return out, read
}

func (r *remembered) path(name string) string { return filepath.Join(r.dir, name) }

func TestTreeIsRemembered(t *testing.T) {
	r := newRemembered(t)
	write(t, r.dir, "small", []byte("small"), 0o644)
	write(t, r.dir, "empty", nil, 0o644)
	write(t, r.dir, "dir/large", noise(1, 3<<20), 0o755)
	first, read := r.scan()
	if read != 5+3<<20 {
		t.Errorf("read %d bytes at first", read)
	}
	again, read := r.scan()
	if read != 0 || fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("read %d bytes: %v", read, again)
	}
	write(t, r.dir, "small", []byte("other"), 0o644)
	now, read := r.scan()
	if read != 5 || now["small"] != release.DigestOf([]byte("other")) || now["dir/large"] != first["dir/large"] {
		t.Errorf("read %d bytes: %v", read, now)
	}
	if err := os.Rename(r.path("dir"), r.path("moved")); err != nil {
		t.Fatal(err)
	}
	if now, read = r.scan(); read != 3<<20 || now["moved/large"] != first["dir/large"] || len(now) != 3 {
		t.Errorf("read %d bytes: %v", read, now)
	}
}

// Whatever is done to a file, what is published is what it holds.
func TestTreeCacheSeesEachChange(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	for name, change := range map[string]func(p string) error{
		"another size":                  func(p string) error { return os.WriteFile(p, []byte("longer text"), 0o644) },
		"same size, old time":           func(p string) error { return rewrite(p, old) },
		"same size, time in the future": func(p string) error { return rewrite(p, time.Now().Add(time.Hour)) },
		"replaced":                      func(p string) error { return replaced(p, old) },
		"mapped":                        func(p string) error { return overwrite(p, old) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemembered(t)
			write(t, r.dir, "f", []byte("before"), 0o644)
			if err := os.Chtimes(r.path("f"), old, old); err != nil {
				t.Fatal(err)
			}
			r.scan()
			if _, read := r.scan(); read != 0 {
				t.Fatal("it was not remembered")
			}
			// The kernel's clock for files ticks a few hundred times a second.
			time.Sleep(20 * time.Millisecond)
			if err := change(r.path("f")); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(r.path("f"))
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := r.scan(); got["f"] != release.DigestOf(b) {
				t.Errorf("the scan found %v, not %q", got, b)
			}
		})
	}
}

// rewrite puts other text of the same length, and the time, in place.
func rewrite(p string, mtime time.Time) error {
	if err := os.WriteFile(p, []byte("behind"), 0o644); err != nil {
		return err
	}
	return os.Chtimes(p, mtime, mtime)
}

func replaced(p string, mtime time.Time) error {
	if err := os.WriteFile(p+"~", []byte("behind"), 0o644); err != nil {
		return err
	}
	if err := os.Chtimes(p+"~", mtime, mtime); err != nil {
		return err
	}
	return os.Rename(p+"~", p)
}

func overwrite(p string, mtime time.Time) error {
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("X"), 2); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chtimes(p, mtime, mtime)
}

// Each part of a mark counts.
func TestMarkParts(t *testing.T) {
	m := mark{size: 1, mode: 2, mtime: 3, ctime: 4, inode: 5, dev: 6}
	c := openTreeCache("", t.TempDir())
	c.entries = []treeEntry{{mark: m, file: release.File{Path: "f", Digest: release.DigestOf(nil)}}}
	f := release.File{Path: "f"}
	if !c.lookup(m, &f) || f.Digest.IsZero() {
		t.Error("the same file was not known")
	}
	for i, change := range []func(*mark){
		func(m *mark) { m.size++ }, func(m *mark) { m.mode++ }, func(m *mark) { m.mtime++ },
		func(m *mark) { m.ctime-- }, func(m *mark) { m.inode++ }, func(m *mark) { m.dev++ },
	} {
		n := m
		change(&n)
		if f := (release.File{Path: "f"}); c.lookup(n, &f) {
			t.Errorf("change %d went unnoticed", i)
		}
	}
	if f := (release.File{Path: "g"}); c.lookup(m, &f) {
		t.Error("another path went unnoticed")
	}
	// A system without marks remembers nothing.
	c.entries = []treeEntry{{file: release.File{Path: "f"}}}
	if c.lookup(mark{}, &f) {
		t.Error("no mark was taken for a mark")
	}
}

// A file written within the last two seconds, or by a clock that was ahead of
// the present one, is read again each time.
func TestRecentFilesAreNotRemembered(t *testing.T) {
	for _, ahead := range []time.Duration{0, -24 * time.Hour} {
		r := newRemembered(t)
		r.ahead = ahead
		write(t, r.dir, "f", []byte("text"), 0o644)
		for range 2 {
			if _, read := r.scan(); read != 4 {
				t.Errorf("clock ahead by %v: read %d bytes", ahead, read)
			}
		}
	}
}

func TestBadTreeCacheIsNone(t *testing.T) {
	r := newRemembered(t)
	write(t, r.dir, "f", []byte("text"), 0o644)
	r.scan()
	name := filepath.Join(r.at, treeFile)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	newer := append([]byte("bootwell tree 9\n"), good[len(treeVersion):]...)
	other := formatTree("/elsewhere", []treeEntry{{file: release.File{Path: "f"}}})
	for what, b := range map[string][]byte{"flipped": flipped, "cut": good[:len(good)-1], "empty": {}, "newer": newer, "of another folder": other} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, read := r.scan(); read != 4 {
			t.Errorf("%s: read %d bytes", what, read)
		}
		if _, read := r.scan(); read != 0 {
			t.Errorf("%s: the cache did not heal", what)
		}
	}
}

// A cache that lies costs a second reading, never a wrong byte.
func TestLyingTreeCache(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("f", "text")
	o := f.options()
	o.Cache = t.TempDir()
	fi, err := os.Lstat(filepath.Join(f.dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := release.DigestOf([]byte("what"))
	lie := formatTree(f.dir, []treeEntry{{mark: markOf(fi), file: release.File{Path: "f", Size: 4, Digest: wrong, Blobs: []release.Blob{{Digest: wrong, Size: 4}}}}})
	if err := os.WriteFile(filepath.Join(o.Cache, treeFile), lie, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.publishTo(f.b, o); err != nil {
		t.Fatal(err)
	}
	dir := stageDir(t)
	mustStage(t, f.b, f.manifest(), StageOptions{Dir: dir})
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}

func FuzzTreeCache(f *testing.F) {
	d := release.DigestOf([]byte("x"))
	for _, entries := range [][]treeEntry{nil, {{mark: mark{0, 2, 3, 4, 5, 6}, file: release.File{Path: "a", Digest: d}}}} {
		whole := formatTree("/p", entries)
		f.Add(whole[len(treeVersion) : len(whole)-sha256.Size])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// The seal is no defence against who can write the file.
		b = seal(append([]byte(treeVersion), b...))
		entries, err := parseTree(b, "/p")
		if err != nil {
			return
		}
		for i, e := range entries {
			if p := e.file.Path; i > 0 && entries[i-1].file.Path >= p {
				t.Errorf("%q comes after %q", p, entries[i-1].file.Path)
			}
			var sum int64
			for _, b := range e.file.Blobs {
				sum += b.Size
			}
			if sum != e.file.Size {
				t.Errorf("%q: %d of %d bytes", e.file.Path, sum, e.file.Size)
			}
		}
	})
}
