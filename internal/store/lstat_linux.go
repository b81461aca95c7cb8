package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// A fileStat is what a scan asks of a regular file.
type fileStat struct {
	size    int64
	perm    uint32
	special bool // it has the setuid, setgid or sticky bit
	mark    mark
}

// lstat looks at the file at the path p below dir, without following a link at
// its end.
func lstat(dir *os.File, p string) (fileStat, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), p, &st, unix.AT_SYMLINK_NOFOLLOW)
	for err == unix.EINTR {
		err = unix.Fstatat(int(dir.Fd()), p, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fileStat{}, &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	return fileStat{
		size: st.Size, perm: st.Mode & 0o777, special: st.Mode&0o7000 != 0,
		mark: mark{size: st.Size, mode: st.Mode, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, dev: st.Dev},
	}, nil
}
