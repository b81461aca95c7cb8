package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// fill makes the tree whole: it links and copies what other trees hold and
// fetches the rest. Nothing is written before it is known to fit.
func (st *stager) fill(ctx context.Context) error {
	err := st.findLinks(ctx)
	if err != nil {
		return err
	}
	if err := st.checkSpace(); err != nil {
		return err
	}
	if err := st.clear(); err != nil {
		return err
	}
	if err := st.folders(); err != nil {
		return err
	}
	if err := st.link(); err != nil {
		return err
	}
	wants, err := st.wants(ctx)
	if err != nil {
		return err
	}
	if wants, err = st.copy(ctx, wants); err != nil {
		return err
	}
	st.countReused(wants)
	f := &fetcher{bucket: st.s.Bucket, coders: st.coders, name: st.nameOf, sink: st.sink, meter: st.meter}
	err = f.run(ctx, plan(st.m.Packs, wants))
	st.stats.Requests, st.stats.Fetched = f.requests, f.bytes
	if err != nil {
		return err
	}
	return st.finish(ctx)
}

func (st *stager) nameOf(w *want) string { return strconv.Quote(st.l.files[w.dst[0].file].Path) }

// regular reports whether file i has content that is not right yet.
func (st *stager) regular(i int) bool {
	f := st.l.files[i]
	return !st.found.good[i] && !f.Dir && f.Link == ""
}

// A ref is a file of a source.
type ref struct{ tree, file int }

// findLinks finds, for the files that are not right yet, files of other trees
// with the same content and mode, and reads those to be sure.
func (st *stager) findLinks(ctx context.Context) error {
	need := map[release.Digest][]int{}
	for i, f := range st.l.files {
		if st.regular(i) && f.Size > 0 {
			need[f.Digest] = append(need[f.Digest], i)
		}
	}
	type cand struct {
		digest release.Digest
		mode   uint32
	}
	refs := map[cand][]ref{}
	for t, r := range st.reuse {
		for j, f := range r.files {
			if r.link && len(need[f.Digest]) > 0 && !f.Digest.IsZero() {
				c := cand{f.Digest, f.Mode}
				refs[c] = append(refs[c], ref{t, j})
			}
		}
	}
	var mu sync.Mutex
	st.links = map[int]ref{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for c, list := range refs {
		g.Go(func() error {
			for _, r := range list {
				if !st.intact(ctx, r) {
					continue
				}
				mu.Lock()
				defer mu.Unlock()
				for _, i := range need[c.digest] {
					if st.l.files[i].Mode == c.mode {
						st.links[i] = r
					}
				}
				return nil
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// intact reports whether a file of a source is still what its manifest says.
func (st *stager) intact(ctx context.Context, r ref) bool {
	src := st.reuse[r.tree]
	f := src.files[r.file]
	fi, err := src.root.Lstat(f.Path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != f.Size || fi.Mode()&modeBits != fs.FileMode(f.Mode) {
		return false
	}
	d, err := hashFile(ctx, src.root, f.Path)
	return err == nil && d == f.Digest
}

func (st *stager) checkSpace() error {
	const block = 4096
	resumed := map[int]bool{}
	for _, i := range st.found.sized {
		resumed[i] = !st.inUse
	}
	var bytes, files int64
	for i, f := range st.l.files {
		if st.found.good[i] {
			continue
		}
		files++
		if _, ok := st.links[i]; !ok && !resumed[i] && st.regular(i) {
			bytes += (f.Size + block - 1) / block * block
		}
	}
	for d := range st.l.dirs {
		if !st.found.have[d] {
			files, bytes = files+1, bytes+block
		}
	}
	return checkSpace(st.dir, bytes, files)
}

// clear removes what is wrong. A file that is replaced while the tree is in
// use stays until its successor is complete; a large file that is there in
// part is gone on with.
func (st *stager) clear() error {
	keep := map[string]bool{}
	for _, i := range st.found.sized {
		f := st.l.files[i]
		if st.inUse {
			keep[f.Path] = true
		} else if len(f.Blobs) > 1 {
			keep[f.Path], st.resume[i] = true, true
		}
	}
	for p, why := range st.found.wrong {
		if keep[p] || st.inUse && why == wrongSize {
			continue
		}
		if err := st.before(); err != nil {
			return err
		}
		if err := st.root.RemoveAll(p); err != nil {
			return fmt.Errorf("remove %q: %w", p, err)
		}
	}
	return nil
}

func (st *stager) folders() error {
	for _, d := range st.l.dirList() {
		if st.found.have[d] {
			continue
		}
		if err := st.before(); err != nil {
			return err
		}
		if err := st.root.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if st.inUse {
		if err := st.before(); err != nil {
			return err
		}
		if err := st.root.Mkdir(scratchDir, 0o700); err != nil {
			return err
		}
	}
	for i, f := range st.l.files {
		if f.Link != "" && !st.found.good[i] {
			if err := st.before(); err != nil {
				return err
			}
			if err := st.root.Symlink(f.Link, f.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// path returns where file i is written.
func (st *stager) path(i int) string {
	if st.inUse {
		return scratchDir + "/" + strconv.Itoa(i)
	}
	return st.l.files[i].Path
}

// link makes hard links, and forgets those that cannot be made.
func (st *stager) link() error {
	order := make([]int, 0, len(st.links))
	for i := range st.links {
		order = append(order, i)
	}
	slices.Sort(order)
	var from, to openDir
	defer from.close()
	defer to.close()
	for _, i := range order {
		if err := st.before(); err != nil {
			return err
		}
		r := st.links[i]
		src := st.reuse[r.tree]
		name := src.files[r.file].Path
		a, err := from.open(src.root, path.Dir(name))
		if err == nil {
			var b *os.File
			if b, err = to.open(st.root, path.Dir(st.path(i))); err == nil {
				err = linkAt(a, name, b, st.path(i))
			}
		}
		if err != nil {
			delete(st.links, i)
		}
	}
	return nil
}

// An openDir keeps the folder that was opened last.
type openDir struct {
	root *os.Root
	dir  string
	f    *os.File
}

func (o *openDir) open(root *os.Root, dir string) (*os.File, error) {
	if o.f != nil && o.root == root && o.dir == dir {
		return o.f, nil
	}
	o.close()
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	o.root, o.dir, o.f = root, dir, f
	return f, nil
}

func (o *openDir) close() {
	if o.f != nil {
		o.f.Close()
		o.f = nil
	}
}

// wants makes the empty and the large files and lists the blobs that are
// still to be got.
func (st *stager) wants(ctx context.Context) ([]*want, error) {
	byDigest := map[release.Digest]*want{}
	var out []*want
	for i, f := range st.l.files {
		if _, linked := st.links[i]; linked || !st.regular(i) {
			continue
		}
		if len(f.Blobs) == 0 {
			if err := st.create(i, nil); err != nil {
				return nil, err
			}
			continue
		}
		there, err := st.large(ctx, i)
		if err != nil {
			return nil, err
		}
		var at int64
		for k, b := range f.Blobs {
			if there == nil || !there[k] {
				w := byDigest[b.Digest]
				if w == nil {
					w = &want{Blob: b}
					byDigest[b.Digest] = w
					out = append(out, w)
				}
				if w.Size != b.Size {
					return nil, fmt.Errorf("file %q: one digest with two sizes: %w", f.Path, release.ErrFormat)
				}
				w.dst = append(w.dst, dest{i, at})
			}
			at += b.Size
		}
	}
	return out, nil
}

// large prepares a file of many blobs; of one that is there in part it
// returns which blobs are right.
func (st *stager) large(ctx context.Context, i int) ([]bool, error) {
	f := st.l.files[i]
	switch {
	case len(f.Blobs) == 1:
		return nil, nil
	case st.resume[i]:
		return st.resumed(ctx, i)
	}
	if err := st.before(); err != nil {
		return nil, err
	}
	w, err := st.root.OpenFile(st.path(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return nil, errors.Join(w.Truncate(f.Size), w.Close())
}

func (st *stager) resumed(ctx context.Context, i int) ([]bool, error) {
	f := st.l.files[i]
	if err := st.root.Chmod(f.Path, 0o600); err != nil {
		return nil, err
	}
	r, err := st.root.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	there, buf, at := make([]bool, len(f.Blobs)), []byte(nil), int64(0)
	for k, b := range f.Blobs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		buf = grow(buf, b.Size)
		_, err := r.ReadAt(buf, at)
		there[k] = err == nil && release.DigestOf(buf) == b.Digest
		at += b.Size
	}
	return there, nil
}

// create writes a whole file that is not there.
func (st *stager) create(i int, data []byte) error {
	f := st.l.files[i]
	if err := st.before(); err != nil {
		return err
	}
	w, err := st.root.OpenFile(st.path(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := st.before(); err != nil {
		w.Close()
		return err
	}
	_, err = w.Write(data)
	// Chmod after creation, since the umask must not take part.
	err = errors.Join(err, w.Chmod(fs.FileMode(f.Mode)), w.Close())
	st.wrote(int64(len(data)))
	return err
}

// sink puts one blob wherever it belongs.
func (st *stager) sink(w *want, data []byte) error {
	for _, d := range w.dst {
		if err := st.put(d, data); err != nil {
			return err
		}
	}
	return nil
}

func (st *stager) put(d dest, data []byte) error {
	if len(st.l.files[d.file].Blobs) == 1 {
		return st.create(d.file, data)
	}
	// A new file is a hole: zeros are there already.
	if !st.resume[d.file] && zeros(data) {
		return nil
	}
	if err := st.before(); err != nil {
		return err
	}
	f, err := st.root.OpenFile(st.path(d.file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, d.at)
	st.wrote(int64(len(data)))
	return errors.Join(err, f.Close())
}

// finish verifies the large files, sets the modes, and puts everything in its
// place.
func (st *stager) finish(ctx context.Context) error {
	st.meter.phase("unpack", 0)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range st.l.files {
		if _, linked := st.links[i]; !linked && st.regular(i) && len(f.Blobs) > 1 {
			g.Go(func() error { return st.finishLarge(gctx, i) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := st.replace(); err != nil {
		return err
	}
	dirs := st.l.dirList()
	slices.Reverse(dirs)
	for _, d := range dirs {
		if !st.found.have[d] || slices.Contains(st.found.modes, d) {
			if err := st.before(); err != nil {
				return err
			}
			if err := st.root.Chmod(d, st.l.dirs[d]); err != nil {
				return err
			}
		}
	}
	if st.inUse {
		return syncTree(st.handle)
	}
	return st.publish()
}

func (st *stager) finishLarge(ctx context.Context, i int) error {
	f, p := st.l.files[i], st.path(i)
	d, err := hashFile(ctx, st.root, p)
	if err != nil {
		return err
	}
	if d != f.Digest {
		return fmt.Errorf("file %q: its parts are right, the whole is not: %w", f.Path, trust.ErrUntrusted)
	}
	if err := st.before(); err != nil {
		return err
	}
	return st.root.Chmod(p, fs.FileMode(f.Mode))
}

// replace moves the new files of a tree in use over the wrong ones.
func (st *stager) replace() error {
	if !st.inUse {
		return nil
	}
	if err := syncTree(st.handle); err != nil {
		return err
	}
	for i, f := range st.l.files {
		if !st.regular(i) {
			continue
		}
		if err := st.before(); err != nil {
			return err
		}
		if err := st.root.Rename(st.path(i), f.Path); err != nil {
			return err
		}
	}
	return st.root.RemoveAll(scratchDir)
}
