package store

import (
	"io/fs"
	"syscall"
)

// markOf returns the mark of a file; the zero mark where there is none.
func markOf(fi fs.FileInfo) mark {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return mark{}
	}
	return mark{size: st.Size, mode: st.Mode, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, dev: uint64(st.Dev)}
}
