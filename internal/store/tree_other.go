//go:build !linux

package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/bootwell/bootwell/internal/release"
)

// A tree is a folder and what is done in it, as on Linux, with less care for
// speed.
type tree struct {
	root *os.Root
	dir  *os.File
	own  bool // of no effect
}

func openTree(name string) (*tree, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &tree{root: root, dir: dir}, nil
}

func (t *tree) Close() {
	t.dir.Close()
	t.root.Close()
}

func (t *tree) forget() {}

// markOfInfo knows nothing of a change time, so that no file is trusted for it.
func markOfInfo(fi fs.FileInfo) mark {
	m := mark{size: fi.Size(), mode: uint32(fi.Mode().Perm())}
	switch fi.Mode() & fs.ModeType {
	case 0:
		m.mode |= typeFile
	case fs.ModeDir:
		m.mode |= typeFolder
	case fs.ModeSymlink:
		m.mode |= typeLink
	}
	for bit, b := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: sticky} {
		if fi.Mode()&bit != 0 {
			m.mode |= b
		}
	}
	return m
}

func (t *tree) mark(p string) (mark, error) {
	fi, err := t.root.Lstat(p)
	if err != nil {
		return mark{}, err
	}
	return markOfInfo(fi), nil
}

func (t *tree) list(dir string) (out []entry, err error) {
	d, err := t.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		m, err := t.mark(path.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, entry{name, m})
	}
	return out, nil
}

type newFile struct{ *os.File }

func (t *tree) create(p string, _ fs.FileMode) (newFile, error) {
	f, err := t.root.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return newFile{f}, err
}

func (t *tree) reopen(p string) (newFile, error) {
	f, err := t.root.OpenFile(p, os.O_WRONLY, 0)
	return newFile{f}, err
}

func (f newFile) write(data []byte, mode fs.FileMode) (mark, error) {
	_, err := f.Write(data)
	if err := errors.Join(err, f.Chmod(mode)); err != nil {
		return mark{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return mark{}, err
	}
	return markOfInfo(fi), nil
}

func (t *tree) reserve(p string, size int64) error {
	f, err := t.root.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600|fs.ModeSticky), f.Truncate(size), f.Close())
}

func (t *tree) finish(p string, mode fs.FileMode) (mark, error) {
	if err := t.root.Chmod(p, mode); err != nil {
		return mark{}, err
	}
	return t.mark(p)
}

func (t *tree) writeAt(p string, data []byte, at int64) error {
	f, err := t.root.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Close())
}

func (t *tree) readAt(p string, data []byte, at int64) error {
	if m, err := t.mark(p); err != nil || !m.regular() {
		return errors.Join(err, fs.ErrInvalid)
	}
	f, err := t.root.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(data, at)
	return err
}

func (t *tree) hash(ctx context.Context, p string) (release.Digest, mark, error) {
	m, err := t.mark(p)
	if err != nil || !m.regular() {
		return release.Digest{}, m, errors.Join(err, fs.ErrInvalid)
	}
	f, err := t.root.Open(p)
	if err != nil {
		return release.Digest{}, m, err
	}
	defer f.Close()
	h := sha256.New()
	buf := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(buf)
	for {
		if err := ctx.Err(); err != nil {
			return release.Digest{}, m, err
		}
		n, err := f.Read(*buf)
		h.Write((*buf)[:n])
		if err == io.EOF {
			return release.DigestFromSum([sha256.Size]byte(h.Sum(nil))), m, nil
		}
		if err != nil {
			return release.Digest{}, m, err
		}
	}
}

func (t *tree) readlink(p string) (string, error) { return t.root.Readlink(p) }

func (t *tree) mkdir(p string, mode fs.FileMode) (uint32, error) {
	if err := t.root.Mkdir(p, mode); err != nil {
		return 0, err
	}
	m, err := t.mark(p)
	return m.perm(), err
}

func (t *tree) link(string, *tree, string) error { return errors.ErrUnsupported }

func diskClock() int64 { return 0 }
