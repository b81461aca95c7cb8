//go:build !linux

package store

import (
	"io/fs"
	"os"
	"path/filepath"
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
	fi, err := os.Lstat(filepath.Join(dir.Name(), p))
	if err != nil {
		return fileStat{}, err
	}
	return fileStat{
		size: fi.Size(), perm: uint32(fi.Mode().Perm()), special: fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0, mark: markOf(fi),
	}, nil
}
