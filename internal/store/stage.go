package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// A tree that is being staged is a hidden sibling of its final folder, so
// that no half of a tree ever has a release's name.
const (
	partialPrefix = "."
	partialSuffix = ".partial"
)

// A stager makes one tree what a manifest says.
type stager struct {
	s      *Store
	m      *release.Manifest
	o      StageOptions
	l      *layout
	coders *coders
	meter  *meter

	dir    string // where the tree is while it is worked on
	inUse  bool   // dir is the final folder: files are replaced one by one
	root   *os.Root
	handle *os.File // of dir; holds its lock
	found  *findings
	reuse  []source
	resume map[int]bool // large files that are there in part
	links  map[int]ref  // files that are hard links to verified ones

	// step is called before each change of the disk; an error ends the call
	// there and then, as a power loss would. Tests set it.
	step func() error

	mu    sync.Mutex
	stats StageStats
}

func (st *stager) before() error {
	if st.step == nil {
		return nil
	}
	return st.step()
}

// A source is a tree whose content may be used again.
type source struct {
	root  *os.Root
	files []release.File
	link  bool // whole files may be hard-linked
}

// Stage writes the tree of m to o.Dir: every byte verified, modes and links
// set, made durable, and nothing in it that is not in m. It fetches ranges of
// packs in parallel, whole packs when most is needed. A tree that is already
// complete is verified and left alone; wrong files in it are replaced. What a
// killed call left behind is verified and used. Memory does not grow with the
// size of files.
//
// Errors: ErrNoRole, ErrNoSpace, trust.ErrUntrusted for wrong content,
// bucket.ErrTruncated for less than there should be, and those of the bucket.
func (s *Store) Stage(ctx context.Context, m *release.Manifest, o StageOptions) (StageStats, error) {
	st := &stager{s: s, m: m, o: o, meter: newMeter(o.Progress), resume: map[int]bool{}}
	err := st.run(ctx)
	if isNoSpace(err) && !errors.Is(err, ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		st.discard(err)
		return st.stats, fmt.Errorf("stage %s in %s: %w", m.Name(), o.Dir, err)
	}
	return st.stats, nil
}

// discard removes a tree that another try would not want to go on with.
func (st *stager) discard(err error) {
	useless := errors.Is(err, ErrNoSpace) || errors.Is(err, trust.ErrUntrusted) || errors.Is(err, release.ErrFormat)
	if st.dir == "" || st.inUse || !useless {
		return
	}
	if err := os.RemoveAll(st.dir); err != nil {
		st.s.log().Warn("cannot remove a half-staged tree", "dir", st.dir, "err", err)
	}
}

func (st *stager) run(ctx context.Context) (err error) {
	if _, ok := st.m.Roles[st.o.Role]; st.o.Role != "" && !ok {
		return fmt.Errorf("role %.100q: %w", st.o.Role, ErrNoRole)
	}
	st.l = newLayout(RoleFiles(st.m, st.o.Role))
	if err := checkFiles(st.l.files); err != nil {
		return err
	}
	if st.coders, err = sharedCoders(); err != nil {
		return err
	}
	if err := st.open(); err != nil {
		return err
	}
	defer st.close()
	st.meter.phase("verify", 0)
	if st.found, err = inspect(ctx, st.root, st.l); err != nil {
		return err
	}
	st.stats.Files = len(st.l.files)
	if p, _ := st.found.first(st.l); p == "" {
		st.stats.Reused = len(st.l.files)
		return st.publish()
	}
	return st.fill(ctx)
}

// checkFiles refuses what no publisher writes and what would cost memory.
func checkFiles(files []release.File) error {
	for _, f := range files {
		for _, b := range f.Blobs {
			if err := checkStored(b); err != nil {
				return fmt.Errorf("file %q: %w", f.Path, err)
			}
		}
		if len(f.Blobs) == 1 && f.Blobs[0].Digest != f.Digest {
			return fmt.Errorf("file %q: its only blob has another digest: %w", f.Path, release.ErrFormat)
		}
		if f.Path == scratchDir || strings.HasPrefix(f.Path, scratchDir+"/") {
			return fmt.Errorf("file %q: no release has files there: %w", f.Path, release.ErrFormat)
		}
	}
	return nil
}

// open finds the tree to work on, takes its lock, and removes what killed
// runs left of other trees.
func (st *stager) open() error {
	parent, base := filepath.Split(filepath.Clean(st.o.Dir))
	parent = filepath.Clean(parent)
	fi, err := os.Lstat(st.o.Dir)
	switch {
	case err == nil && !fi.IsDir():
		return fmt.Errorf("%s is not a folder: %w", st.o.Dir, fs.ErrExist)
	case err == nil:
		st.dir, st.inUse = st.o.Dir, true
	case errors.Is(err, fs.ErrNotExist):
		st.dir = filepath.Join(parent, partialPrefix+base+partialSuffix)
		if err := st.before(); err != nil {
			return err
		}
		if err := os.Mkdir(st.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	default:
		return err
	}
	if st.root, err = os.OpenRoot(st.dir); err != nil {
		return err
	}
	if st.handle, err = st.root.Open("."); err != nil {
		return err
	}
	if ok, err := lockDir(st.handle); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("another process is staging %s", st.o.Dir))
	}
	st.sweep(parent)
	for _, r := range st.o.Reuse {
		root, err := os.OpenRoot(r.Dir)
		if err != nil || r.Manifest == nil {
			st.s.log().Warn("a tree cannot be used again", "dir", r.Dir, "err", err)
			continue
		}
		st.reuse = append(st.reuse, source{root, r.Manifest.Files, true})
	}
	if st.inUse {
		st.reuse = append(st.reuse, source{st.root, st.l.files, false})
	}
	return nil
}

// sweep removes half-staged trees that no process works on.
func (st *stager) sweep(parent string) {
	ents, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range ents {
		p := filepath.Join(parent, e.Name())
		if !e.IsDir() || p == st.dir || !strings.HasPrefix(e.Name(), partialPrefix) || !strings.HasSuffix(e.Name(), partialSuffix) {
			continue
		}
		d, err := os.Open(p)
		if err != nil {
			continue
		}
		if free, err := lockDir(d); err == nil && free {
			if err := os.RemoveAll(p); err != nil {
				st.s.log().Warn("cannot remove a half-staged tree", "dir", p, "err", err)
			}
		}
		d.Close()
	}
}

func (st *stager) close() {
	for _, r := range st.reuse {
		if r.root != st.root {
			r.root.Close()
		}
	}
	if st.handle != nil {
		st.handle.Close()
	}
	if st.root != nil {
		st.root.Close()
	}
}

// publish gives a complete tree its name.
func (st *stager) publish() error {
	if st.inUse {
		return nil
	}
	if err := st.root.Chmod(".", dirMode); err != nil {
		return err
	}
	if err := syncTree(st.handle); err != nil {
		return err
	}
	if err := st.before(); err != nil {
		return err
	}
	if err := os.Rename(st.dir, st.o.Dir); err != nil {
		return err
	}
	if err := st.before(); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(filepath.Clean(st.o.Dir)))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := parent.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", parent.Name(), err)
	}
	return nil
}

func (st *stager) wrote(n int64) {
	st.mu.Lock()
	st.stats.Written += n
	st.mu.Unlock()
}
