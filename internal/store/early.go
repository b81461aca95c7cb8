package store

import (
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
)

// An early says which files were made while their content was awaited: to make
// a file costs more than to write a small one.
type early struct {
	order []int // the files that may be made, by index of the layout's
	next  atomic.Int64
	files []earlyFile // by index of the layout's files
}

type earlyFile struct {
	mu          sync.Mutex
	made, taken bool
}

// newEarly is for the files of which spans bring all content at once. Those
// that are made side by side are far from each other, since only one at a time
// can be made in a folder.
func newEarly(l *layout, spans []span) *early {
	var files []int
	for _, s := range spans {
		for _, w := range s.frames {
			for _, d := range w.dst {
				if len(l.files[d.file].Blobs) == 1 {
					files = append(files, d.file)
				}
			}
		}
	}
	e := &early{files: make([]earlyFile, len(l.files)), order: make([]int, 0, len(files))}
	stride := (len(files) + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	for first := range stride {
		for k := first; k < len(files); k += stride {
			e.order = append(e.order, files[k])
		}
	}
	return e
}

// take reports whether file i was made early. From now on it will not be.
func (e *early) take(i int) bool {
	f := &e.files[i]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = true
	return f.made
}

// createEarly makes one of the files that are awaited, and reports whether there
// may be another. It is not left open: hundreds of open files make the kernel
// enlarge the process's table of them, and wait each time.
func (st *stager) createEarly() (bool, error) {
	e := st.early
	k := int(e.next.Add(1)) - 1
	if k >= len(e.order) {
		return false, nil
	}
	i := e.order[k]
	f := &e.files[i]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken {
		return true, nil
	}
	if err := st.before(); err != nil {
		return false, err
	}
	file, err := st.tree.create(st.path(i), fs.FileMode(st.l.files[i].Mode))
	if err != nil {
		return false, err
	}
	f.made = true
	return true, file.Close()
}
