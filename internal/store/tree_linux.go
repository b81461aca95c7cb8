package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// A tree is a folder whose files are reached through handles of the folders
// they are in: a path is not walked for each file anew, and no link within the
// tree leads out of it. What it does seldom it does through root. Safe for
// concurrent use, but not for two writers of one file.
type tree struct {
	root *os.Root
	dir  *os.File

	// own makes what another user owns neither a file, nor a folder, nor a
	// link: it is not to become a part of a new tree, which its owner could write to.
	own bool

	mu      sync.Mutex
	folders map[string]*folder
}

// A folder is an open folder of a tree.
type folder struct {
	fd   int
	uses int
	lost bool // no longer in the tree's table: closed by its last user
}

// maxFolders are open at once, besides those in use.
const maxFolders = 64

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
	return &tree{root: root, dir: dir, folders: map[string]*folder{}}, nil
}

func (t *tree) Close() {
	t.forget()
	t.dir.Close()
	t.root.Close()
}

// forget closes the folders. It has to be called when one was removed.
func (t *tree) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, f := range t.folders {
		delete(t.folders, name)
		if f.lost = true; f.uses == 0 {
			unix.Close(f.fd)
		}
	}
}

// enter opens the folder dir; the caller leaves it.
func (t *tree) enter(dir string) (*folder, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, err := t.open(dir)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(t.root.Name(), dir), Err: err}
	}
	f.uses++
	return f, nil
}

func (t *tree) open(dir string) (*folder, error) {
	if f := t.folders[dir]; f != nil {
		return f, nil
	}
	at, name := int(t.dir.Fd()), "."
	if dir != "." {
		up, err := t.open(path.Dir(dir))
		if err != nil {
			return nil, err
		}
		at, name = up.fd, path.Base(dir)
	}
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(t.folders) >= maxFolders {
		for name, f := range t.folders {
			if f.uses == 0 {
				delete(t.folders, name)
				unix.Close(f.fd)
			}
		}
	}
	f := &folder{fd: fd}
	t.folders[dir] = f
	return f, nil
}

func (t *tree) leave(f *folder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.uses--; f.lost && f.uses == 0 {
		unix.Close(f.fd)
	}
}

// in calls do with the folder that p is in and its name there.
func (t *tree) in(op, p string, do func(fd int, name string) error) error {
	f, err := t.enter(path.Dir(p))
	if err != nil {
		return err
	}
	defer t.leave(f)
	if err := again(func() error { return do(f.fd, path.Base(p)) }); err != nil {
		var no unix.Errno
		if errors.As(err, &no) {
			return &fs.PathError{Op: op, Path: filepath.Join(t.root.Name(), p), Err: err}
		}
		return err
	}
	return nil
}

// again repeats a call that a signal interrupted.
func again(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

func markOfStat(st *unix.Stat_t) mark {
	return mark{size: st.Size, mode: st.Mode, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, dev: uint64(st.Dev)}
}

// look returns the mark for st.
func (t *tree) look(st *unix.Stat_t) mark {
	m := markOfStat(st)
	if t.own && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		m.mode &^= typeMask
	}
	return m
}

// mark returns the mark of what is at p, without following a link.
func (t *tree) mark(p string) (m mark, err error) {
	err = t.in("stat", p, func(fd int, name string) error {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		m = t.look(&st)
		return err
	})
	return m, err
}

// list returns what is in the folder dir.
func (t *tree) list(dir string) (out []entry, err error) {
	f, err := t.enter(dir)
	if err != nil {
		return nil, err
	}
	defer t.leave(f)
	var fd int
	err = again(func() (err error) {
		fd, err = unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(t.root.Name(), dir), Err: err}
	}
	d := os.NewFile(uintptr(fd), filepath.Join(t.root.Name(), dir))
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var st unix.Stat_t
		err := again(func() error { return unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "stat", Path: filepath.Join(d.Name(), name), Err: err}
		}
		out = append(out, entry{name, t.look(&st)})
	}
	return out, nil
}

// A newFile is a file that create made and nothing is in yet.
type newFile struct{ fd int }

// create makes a file that is not there.
func (t *tree) create(p string, mode fs.FileMode) (f newFile, err error) {
	err = t.in("create", p, func(dir int, name string) (err error) {
		f.fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
		return err
	})
	return f, err
}

// reopen opens a file that create made.
func (t *tree) reopen(p string) (f newFile, err error) {
	err = t.in("open", p, func(dir int, name string) (err error) {
		f.fd, err = unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	return f, err
}

// write writes all of the file, gives it its mode whatever the umask is, and
// returns its mark.
func (f newFile) write(data []byte, mode fs.FileMode) (mark, error) {
	if err := writeAll(f.fd, data, -1); err != nil {
		return mark{}, err
	}
	return settle(f.fd, mode)
}

// Close may be called once.
func (f newFile) Close() error { return unix.Close(f.fd) }

// settle gives an open file its mode and returns its mark.
func settle(fd int, mode fs.FileMode) (mark, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstat(fd, &st) })
	if err == nil && fs.FileMode(st.Mode&0o7777) != mode.Perm() {
		if err = again(func() error { return unix.Fchmod(fd, uint32(mode.Perm())) }); err == nil {
			err = again(func() error { return unix.Fstat(fd, &st) })
		}
	}
	return markOfStat(&st), err
}

// writeAll writes at an offset; at less than 0: at the end of what was written.
func writeAll(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		var n int
		err := again(func() (err error) {
			if at < 0 {
				n, err = unix.Write(fd, data)
			} else {
				n, err = unix.Pwrite(fd, data, at)
			}
			return err
		})
		if err != nil {
			return err
		}
		if data = data[n:]; at >= 0 {
			at += int64(n)
		}
	}
	return nil
}

// reserve makes a file of a size without content, marked as unfinished.
func (t *tree) reserve(p string, size int64) error {
	return t.in("create", p, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		err = errors.Join(unix.Fchmod(fd, 0o600|sticky), unix.Ftruncate(fd, size))
		return errors.Join(err, unix.Close(fd))
	})
}

// finish gives a file that reserve made its mode, begins to write it to the
// disk, and returns its mark.
func (t *tree) finish(p string, mode fs.FileMode) (m mark, err error) {
	err = t.withFile(p, unix.O_RDONLY, func(fd int) error {
		// A hint that saves time at the end: its error says nothing.
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		m, err = settle(fd, mode)
		return err
	})
	return m, err
}

func (t *tree) withFile(p string, flags int, do func(fd int) error) error {
	return t.in("open", p, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = do(fd)
		// A handler's error must not look like one to be tried again.
		return errors.Join(err, unix.Close(fd))
	})
}

// writeAt writes a part of a file that reserve made.
func (t *tree) writeAt(p string, data []byte, at int64) error {
	return t.withFile(p, unix.O_WRONLY, func(fd int) error { return writeAll(fd, data, at) })
}

// readAt fills data from a file, and reports fs.ErrInvalid when it is shorter or no file.
func (t *tree) readAt(p string, data []byte, at int64) error {
	return t.withFile(p, unix.O_RDONLY, func(fd int) error {
		for len(data) > 0 {
			n, err := unix.Pread(fd, data, at)
			if err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				err = fs.ErrInvalid
			}
			if err != nil {
				return err
			}
			data, at = data[n:], at+int64(n)
		}
		return nil
	})
}

// hash returns the digest of a regular file, and the mark it had before it was
// read.
func (t *tree) hash(ctx context.Context, p string) (d release.Digest, m mark, err error) {
	buf := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(buf)
	err = t.withFile(p, unix.O_RDONLY, func(fd int) error {
		var st unix.Stat_t
		if err := again(func() error { return unix.Fstat(fd, &st) }); err != nil {
			return err
		}
		if m = markOfStat(&st); !m.regular() {
			return fs.ErrInvalid
		}
		h := sha256.New()
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := unix.Read(fd, *buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			h.Write((*buf)[:n])
		}
		d = release.DigestFromSum([sha256.Size]byte(h.Sum(nil)))
		return nil
	})
	return d, m, err
}

// readlink returns where the link p points to.
func (t *tree) readlink(p string) (to string, err error) {
	err = t.in("readlink", p, func(dir int, name string) error {
		b := make([]byte, release.MaxPathBytes+1)
		n, err := unix.Readlinkat(dir, name, b)
		if err == nil {
			to = string(b[:n])
		}
		return err
	})
	return to, err
}

// mkdir makes a folder and returns its mode, which the umask has a part in.
func (t *tree) mkdir(p string, mode fs.FileMode) (uint32, error) {
	var st unix.Stat_t
	err := t.in("mkdir", p, func(dir int, name string) error {
		if err := unix.Mkdirat(dir, name, uint32(mode.Perm())); err != nil {
			return err
		}
		return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st.Mode & 0o7777, err
}

// link makes p a hard link of a file of another tree.
func (t *tree) link(p string, from *tree, src string) error {
	return from.in("link", src, func(sdir int, sname string) error {
		return t.in("link", p, func(dir int, name string) error { return unix.Linkat(sdir, sname, dir, name, 0) })
	})
}

// diskClock returns the time of the clock that file systems take a file's
// times from, in nanoseconds since 1970.
func diskClock() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts) != nil {
		return 0
	}
	return ts.Nano()
}
