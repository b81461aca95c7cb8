package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openRegular opens a file for reading without following a link at its end
// and without waiting on a pipe.
func openRegular(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// checkSpace reports ErrNoSpace unless the file system of dir has room for
// so many bytes and files and a tenth more.
func checkSpace(dir string, bytes, files int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the free space of %s: %w", dir, err)
	}
	need, free := bytes+bytes/10, int64(st.Bavail)*int64(st.Bsize)
	if need > free {
		return fmt.Errorf("%s: the release needs %s, %s is free: %w", dir, megabytes(need), megabytes(free), ErrNoSpace)
	}
	if nodes := files + files/10; st.Files > 0 && nodes > int64(st.Ffree) {
		return fmt.Errorf("%s: the release needs %d files, the file system has room for %d: %w", dir, nodes, st.Ffree, ErrNoSpace)
	}
	return nil
}

// isNoSpace reports whether err says that a disk or quota is full.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// syncTree makes everything written to the file system of dir durable. One
// call costs less than an fsync for each of thousands of files.
func syncTree(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir.Name(), err)
	}
	return nil
}

// lockDir takes dir's lock for as long as dir is open; false: another has it.
func lockDir(dir *os.File) (bool, error) {
	err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
