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
	"sync/atomic"

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
	tree   *tree  // in dir; its handle holds the lock
	spare  *stageIndex
	found  *findings
	reuse  []source
	links  map[int]ref  // files that are hard links to verified ones
	linked map[int]mark // of those, before they were linked
	began  int64        // of diskClock, before anything was looked at
	drain  drain
	early  *early

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
	tree  *tree
	files []release.File
	link  bool        // whole files may be hard-linked
	index *stageIndex // nil: its files have to be read
}

// Stage writes the tree of m to o.Dir: every byte verified, modes and links
// set, made durable, and nothing in it that is not in m. It fetches ranges of
// packs in parallel, whole packs when most is needed. A tree that is already
// complete is verified and left alone; wrong files in it are replaced. What a
// killed call left behind is verified and used. Memory does not grow with the
// size of files.
//
// A spare tree becomes the new one in place: only what differs is written,
// linked and removed, and no file is written into, since other trees may have
// it as a hard link and programs may have it open. Of the files of a spare and of
// trees to reuse, those are not read again that their index vouches for.
//
// Errors: ErrNoRole, ErrNoSpace, trust.ErrUntrusted for wrong content,
// bucket.ErrTruncated for less than there should be, and those of the bucket.
func (s *Store) Stage(ctx context.Context, m *release.Manifest, o StageOptions) (StageStats, error) {
	st := &stager{s: s, m: m, o: o, meter: newMeter(o.Progress)}
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
	st.began = diskClock()
	defer st.close()
	if err := st.open(); err != nil {
		return err
	}
	st.meter.phase("verify", 0)
	if st.found, err = inspect(ctx, st.tree, st.l, st.spare); err != nil {
		return err
	}
	st.stats.Files = len(st.l.files)
	if p, _ := st.found.first(st.l); p == "" {
		st.stats.Reused = len(st.l.files)
		return st.publish()
	}
	if st.inUse {
		if err := st.invalidate(st.o.Dir); err != nil {
			return err
		}
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
		if err := st.begin(); err != nil {
			return err
		}
	default:
		return err
	}
	if st.tree, err = openTree(st.dir); err != nil {
		return err
	}
	st.tree.own = !st.inUse
	if ok, err := lockDir(st.tree.dir); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("another process is staging %s", st.o.Dir))
	}
	st.sweep(parent)
	for _, r := range st.o.Reuse {
		st.use(r)
	}
	if st.inUse {
		st.reuse = append(st.reuse, source{tree: st.tree, files: st.l.files})
	}
	return nil
}

// begin makes the folder for a new tree: what a killed call left, the spare
// tree, or an empty one.
func (st *stager) begin() error {
	if st.o.Spare.Dir != "" {
		if _, err := os.Lstat(st.dir); errors.Is(err, fs.ErrNotExist) && st.takeSpare() == nil {
			return nil
		}
	}
	if err := st.before(); err != nil {
		return err
	}
	if err := os.Mkdir(st.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// takeSpare hides the spare tree under the name of the one it is to become.
func (st *stager) takeSpare() error {
	fi, err := os.Lstat(st.o.Spare.Dir)
	if err != nil || !fi.IsDir() {
		return errors.Join(err, fs.ErrInvalid)
	}
	index := loadIndex(st.o.Spare.Dir)
	if err := st.invalidate(st.o.Spare.Dir); err != nil {
		return err
	}
	if err := st.before(); err != nil {
		return err
	}
	if err := os.Rename(st.o.Spare.Dir, st.dir); err != nil {
		return err
	}
	st.spare = index
	if err := st.before(); err != nil {
		return err
	}
	return errors.Join(os.Chmod(st.dir, 0o700), os.Chown(st.dir, os.Geteuid(), os.Getegid()))
}

// invalidate removes the index of a tree, before that is worked on.
func (st *stager) invalidate(dir string) error {
	index := filepath.Clean(dir) + IndexSuffix
	if _, err := os.Lstat(index); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := st.before(); err != nil {
		return err
	}
	if err := os.Remove(index); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// use makes a tree one whose content may be used again.
func (st *stager) use(r Staged) {
	s := source{link: true, index: loadIndex(r.Dir)}
	switch {
	case r.Manifest != nil:
		s.files = r.Manifest.Files
	case s.index != nil:
		s.files = s.index.files
	}
	var err error
	if s.tree, err = openTree(r.Dir); err != nil || s.files == nil {
		st.s.log().Warn("a tree cannot be used again", "dir", r.Dir, "err", err)
		if err == nil {
			s.tree.Close()
		}
		return
	}
	s.tree.own = true
	st.reuse = append(st.reuse, s)
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
	_ = st.drain.wait()
	for _, r := range st.reuse {
		if r.tree != st.tree {
			r.tree.Close()
		}
	}
	if st.tree != nil {
		st.tree.Close()
	}
}

// publish gives a complete tree its name.
func (st *stager) publish() error {
	if st.inUse {
		st.remember(st.began)
		return nil
	}
	if err := st.tree.root.Chmod(".", dirMode); err != nil {
		return err
	}
	if err := st.sync(); err != nil {
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
	st.remember(diskClock())
	return nil
}

// remember writes the index of the tree, and anew those of the trees it has
// many links to: a link changes a file's change time. Files that were written
// to after the time start are read again by whoever comes next.
func (st *stager) remember(start int64) {
	if !st.o.Remember {
		return
	}
	indexes := map[string]*stageIndex{filepath.Clean(st.o.Dir): {start: start, files: st.l.files, marks: st.found.marks}}
	links := make([]int, len(st.reuse))
	for _, r := range st.reuse {
		if r.index != nil {
			r.index.restart(start)
		}
	}
	for i, r := range st.links {
		x := st.reuse[r.tree].index
		if links[r.tree]++; x == nil {
			continue
		}
		if k, ok := x.at[st.reuse[r.tree].files[r.file].Path]; ok {
			x.marks[k] = st.found.marks[i]
		}
	}
	for t, n := range links {
		if s := st.reuse[t]; s.index != nil && n > len(s.files)/fewLinks {
			indexes[s.tree.root.Name()] = s.index
		}
	}
	for dir, x := range indexes {
		if err := replaceFile(dir+IndexSuffix, x.bytes()); err != nil {
			st.s.log().Warn("the files of a staged tree are not remembered", "dir", dir, "err", err)
		}
	}
}

// fewLinks is the share of a tree's files, as a divisor, up to which to read
// them again costs less than to write the whole index.
const fewLinks = 16

// wrote counts what was written, and has the disk begin with it early.
func (st *stager) wrote(n int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stats.Written += n
	st.drain.wrote(st.tree.dir, n)
}

// sync makes everything that was written durable.
func (st *stager) sync() error { return errors.Join(st.drain.wait(), syncTree(st.tree.dir)) }

// A drain lets a file system write to its disk while more comes, so that in
// the end there is little left to wait for. It begins soon, for the sake of
// small trees, and then syncs more seldom.
type drain struct {
	fill int64 // since the last sync began
	next int64 // fill with which the next one begins
	busy atomic.Bool
	done sync.WaitGroup
	err  error // of the last sync, which the next would not tell again
}

const (
	firstDrain = 2 << 20
	mostDrain  = 16 << 20
)

func (d *drain) wrote(dir *os.File, n int64) {
	if d.fill += n; d.fill < max(d.next, firstDrain) || !d.busy.CompareAndSwap(false, true) {
		return
	}
	d.fill, d.next = 0, min(2*max(d.next, firstDrain), mostDrain)
	d.done.Go(func() {
		d.err = errors.Join(d.err, syncTree(dir))
		d.busy.Store(false)
	})
}

func (d *drain) wait() error {
	d.done.Wait()
	return d.err
}
