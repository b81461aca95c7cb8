package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// fill makes the tree whole: it links and copies what other trees hold and
// fetches the rest. Nothing is written before it is known to fit. What no other
// tree may have is asked for before anything is done on the disk, which there
// is time for until the answer comes.
func (st *stager) fill(ctx context.Context) error {
	if err := st.findLinks(ctx); err != nil {
		return err
	}
	if err := st.checkSpace(); err != nil {
		return err
	}
	wants, err := st.wants(ctx, st.unlinked)
	if err != nil {
		return err
	}
	near, away := st.split(wants)
	spans := plan(st.m.Packs, away)
	st.early = newEarly(st.l, spans)
	f := &fetcher{
		bucket: st.s.Bucket, coders: st.coders, name: st.nameOf, sink: st.sink, meter: st.meter,
		ready: make(chan struct{}), idle: st.createEarly,
	}
	defer func() { st.stats.Requests, st.stats.Fetched = f.requests, f.bytes }()
	var late []*want
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.run(gctx, spans) })
	g.Go(func() (err error) {
		late, err = st.local(gctx, near, f.ready)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	st.countReused(slices.Concat(away, late))
	if len(late) > 0 {
		if err := f.run(ctx, plan(st.m.Packs, late)); err != nil {
			return err
		}
	}
	return st.finish(ctx)
}

// local does what can be done without the bucket, and closes ready when content
// may come. It returns those of near that no other tree has after all, and what
// could not be linked.
func (st *stager) local(ctx context.Context, near []*want, ready chan<- struct{}) ([]*want, error) {
	lost, err := st.prepare()
	if err != nil {
		return nil, err
	}
	close(ready)
	if len(lost) > 0 {
		more, err := st.wants(ctx, func(i int) bool { return lost[i] })
		if err != nil {
			return nil, err
		}
		near = append(near, more...)
	}
	return st.copy(ctx, near)
}

// prepare readies the disk for what is to be written: it removes what is wrong
// and makes folders, links, and empty and large files. It returns the files
// that could not be linked.
func (st *stager) prepare() (lost map[int]bool, err error) {
	if err := st.clear(); err != nil {
		return nil, err
	}
	if err := st.folders(); err != nil {
		return nil, err
	}
	if lost, err = st.link(); err != nil {
		return nil, err
	}
	for i, f := range st.l.files {
		if !st.regular(i) || !st.unlinked(i) {
			continue
		}
		switch {
		case len(f.Blobs) == 0:
			err = st.create(i, nil)
		case len(f.Blobs) > 1 && !st.resumable(i):
			if err = st.before(); err == nil {
				err = st.tree.reserve(st.path(i), f.Size)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return lost, nil
}

func (st *stager) nameOf(w *want) string { return strconv.Quote(st.l.files[w.dst[0].file].Path) }

// regular reports whether file i has content that is not right yet.
func (st *stager) regular(i int) bool {
	f := st.l.files[i]
	return !st.found.good[i] && !f.Dir && f.Link == ""
}

func (st *stager) checkSpace() error {
	const block = 4096
	var bytes, files int64
	for i, f := range st.l.files {
		if st.found.good[i] {
			continue
		}
		files++
		if st.regular(i) && st.unlinked(i) && !st.resumable(i) {
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

// resumable reports whether file i is a large one that a killed call left in
// part. Only such a file is ever written into: it is in no other tree, and no
// program has it open.
func (st *stager) resumable(i int) bool {
	return !st.inUse && st.found.begun[i] && len(st.l.files[i].Blobs) > 1
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
		} else if st.resumable(i) {
			keep[f.Path] = true
		}
	}
	defer st.tree.forget()
	for p, why := range st.found.wrong {
		if keep[p] || st.inUse && why == wrongSize {
			continue
		}
		if err := st.before(); err != nil {
			return err
		}
		if err := st.tree.root.RemoveAll(p); err != nil {
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
		// The mode comes last where it would keep the owner out.
		mode := st.l.dirs[d]
		made, err := st.tree.mkdir(d, mode|0o700)
		if err != nil {
			return err
		}
		if made != uint32(mode) {
			st.found.modes = append(st.found.modes, d)
		}
	}
	if st.inUse {
		if err := st.before(); err != nil {
			return err
		}
		if _, err := st.tree.mkdir(scratchDir, 0o700); err != nil {
			return err
		}
	}
	for i, f := range st.l.files {
		if f.Link != "" && !st.found.good[i] {
			if err := st.before(); err != nil {
				return err
			}
			if err := st.tree.root.Symlink(f.Link, f.Path); err != nil {
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

// wants lists the blobs that are still to be got for those of the files that
// take says.
func (st *stager) wants(ctx context.Context, take func(i int) bool) ([]*want, error) {
	byDigest := map[release.Digest]*want{}
	var out []*want
	for i, f := range st.l.files {
		if !st.regular(i) || !take(i) {
			continue
		}
		var there []bool
		if st.resumable(i) {
			var err error
			if there, err = st.resumed(ctx, i); err != nil {
				return nil, err
			}
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

func (st *stager) resumed(ctx context.Context, i int) ([]bool, error) {
	f := st.l.files[i]
	there, buf, at := make([]bool, len(f.Blobs)), []byte(nil), int64(0)
	for k, b := range f.Blobs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		buf = grow(buf, b.Size)
		err := st.tree.readAt(f.Path, buf, at)
		there[k] = err == nil && release.DigestOf(buf) == b.Digest
		at += b.Size
	}
	return there, nil
}

// create writes a whole file, which is not there or was made early.
func (st *stager) create(i int, data []byte) error {
	p, mode := st.path(i), fs.FileMode(st.l.files[i].Mode)
	var file newFile
	var err error
	if st.early.take(i) {
		file, err = st.tree.reopen(p)
	} else if err = st.before(); err == nil {
		file, err = st.tree.create(p, mode)
	}
	if err != nil {
		return err
	}
	if err = st.before(); err == nil {
		st.found.marks[i], err = file.write(data, mode)
	}
	st.wrote(int64(len(data)))
	return errors.Join(err, file.Close())
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
	if !st.resumable(d.file) && zeros(data) {
		return nil
	}
	if err := st.before(); err != nil {
		return err
	}
	err := st.tree.writeAt(st.path(d.file), data, d.at)
	st.wrote(int64(len(data)))
	return err
}

// finish verifies the large files, sets the modes, and puts everything in its
// place.
func (st *stager) finish(ctx context.Context) error {
	st.meter.phase("unpack", 0)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range st.l.files {
		if st.regular(i) && st.unlinked(i) && len(f.Blobs) > 1 {
			g.Go(func() error { return st.finishLarge(gctx, i) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := st.replace(); err != nil {
		return err
	}
	// What is further down comes first: a mode may keep the owner out.
	slices.Sort(st.found.modes)
	for _, d := range slices.Backward(st.found.modes) {
		if err := st.before(); err != nil {
			return err
		}
		if err := st.tree.root.Chmod(d, st.l.dirs[d]); err != nil {
			return err
		}
	}
	if st.inUse {
		if err := st.sync(); err != nil {
			return err
		}
	}
	return st.publish()
}

func (st *stager) finishLarge(ctx context.Context, i int) error {
	f, p := st.l.files[i], st.path(i)
	d, _, err := st.tree.hash(ctx, p)
	if err != nil {
		return err
	}
	if d != f.Digest {
		return fmt.Errorf("file %q: its parts are right, the whole is not: %w", f.Path, trust.ErrUntrusted)
	}
	if err := st.before(); err != nil {
		return err
	}
	st.found.marks[i], err = st.tree.finish(p, fs.FileMode(f.Mode))
	return err
}

// replace moves the new files of a tree in use over the wrong ones.
func (st *stager) replace() error {
	if !st.inUse {
		return nil
	}
	if err := st.sync(); err != nil {
		return err
	}
	for i, f := range st.l.files {
		if !st.regular(i) {
			continue
		}
		if err := st.before(); err != nil {
			return err
		}
		if err := st.tree.root.Rename(st.path(i), f.Path); err != nil {
			return err
		}
		st.found.marks[i] = mark{} // renaming changed it
	}
	return st.tree.root.RemoveAll(scratchDir)
}
