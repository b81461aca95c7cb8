package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// A stageIndex says which content the files of a tree had when they were
// verified last, and the mark each had then. Whoever works on the tree next
// need not read a file whose mark is the same: the change time cannot be set
// by programs, so that a file that was written to has another one, even when
// it got its old size and modification time back.
//
// It is no proof: whoever may write to the tree may write to the index. What
// must be sure of a tree's content reads it ([VerifyStaged]).
//
// In the file: the version, the time start, the number
// of files and the files as formatTree writes them; at the end is the SHA-256 of
// everything before, so that a torn file counts as none.
type stageIndex struct {
	start int64 // of [diskClock], when all files had been verified and nobody had been told of the tree
	files []release.File
	marks []mark
	at    map[string]int // path → index of both
}

const (
	indexVersion  = "bootwell index 1\n"
	maxIndexBytes = 256 << 20
)

var errIndex = errors.New("not an index of a tree")

// find returns the file at p if it still has the mark m.
func (x *stageIndex) find(p string, m mark) (release.File, bool) {
	if x == nil {
		return release.File{}, false
	}
	i, ok := x.at[p]
	if !ok || x.marks[i] != m || m.ctime == 0 || m.tick() >= x.start {
		return release.File{}, false
	}
	return x.files[i], true
}

// tick is the last moment that the times of a file can stand for: one that was
// written within the tick in which an index was begun could have been written
// again in it. Whole seconds are those of a file system that knows no parts of
// one, such as ext4 with small inodes.
func (m mark) tick() int64 {
	t := max(m.ctime, m.mtime)
	if t%int64(time.Second) == 0 {
		t += int64(time.Second) - 1
	}
	return t
}

// restart makes start the index's, for what it is written anew with. What it
// did not vouch for before it never will.
func (x *stageIndex) restart(start int64) {
	for i, m := range x.marks {
		if m.tick() >= x.start {
			x.marks[i] = mark{}
		}
	}
	x.start = start
}

// loadIndex reads the index of the tree in dir; one that is not there or cannot
// be used is nil.
func loadIndex(dir string) *stageIndex {
	b, err := readAtMost(filepath.Clean(dir)+IndexSuffix, maxIndexBytes)
	if err != nil {
		return nil
	}
	x, err := parseIndex(b)
	if err != nil {
		return nil
	}
	return x
}

// unseal returns what is between the version and the seal of b.
func unseal(b []byte) ([]byte, error) {
	n := len(b) - sha256.Size
	if n < len(indexVersion) || string(b[:len(indexVersion)]) != indexVersion || sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, errIndex
	}
	return b[len(indexVersion):n], nil
}

func parseIndex(b []byte) (*stageIndex, error) {
	b, err := unseal(b)
	if err != nil {
		return nil, err
	}
	r := newTreeReader(b)
	x := &stageIndex{start: r.int()}
	n := r.length(1)
	x.files, x.marks, x.at = make([]release.File, 0, n), make([]mark, 0, n), make(map[string]int, n)
	for range n {
		var e treeEntry
		r.entry(&e)
		if r.torn || release.CheckPath(e.file.Path) != nil {
			return nil, errIndex
		}
		e.file.Mode = e.mark.perm()
		x.at[e.file.Path] = len(x.files)
		x.files, x.marks = append(x.files, e.file), append(x.marks, e.mark)
	}
	if len(r.b) > 0 || r.torn {
		return nil, errIndex
	}
	return x, nil
}

// bytes returns what parseIndex reads. Files without a mark are left out.
func (x *stageIndex) bytes() []byte {
	n := 0
	for _, m := range x.marks {
		if m.regular() {
			n++
		}
	}
	b := make([]byte, 0, 4096+160*n)
	b = binary.AppendVarint(append(b, indexVersion...), x.start)
	b = binary.AppendUvarint(b, uint64(n))
	for i, m := range x.marks {
		if m.regular() {
			b = appendEntry(b, &treeEntry{mark: m, file: x.files[i]})
		}
	}
	return seal(b)
}

// Bits of a mark's mode.
const (
	typeMask   = 0o170000
	typeFile   = 0o100000
	typeFolder = 0o040000
	typeLink   = 0o120000

	// sticky marks a file that is still being written: no file of a release
	// has this bit.
	sticky = 0o1000
)

func (m mark) regular() bool { return m.mode&typeMask == typeFile }
func (m mark) folder() bool  { return m.mode&typeMask == typeFolder }
func (m mark) link() bool    { return m.mode&typeMask == typeLink }

// perm returns the mode bits that a release decides on.
func (m mark) perm() uint32 { return m.mode & 0o7777 }

// unfinished reports whether the mark is of a file that reserve made and
// finish has not been called for.
func (m mark) unfinished() bool { return m.regular() && m.mode&sticky != 0 }

// An entry is what a folder of a tree holds under a name.
type entry struct {
	name string
	mark mark
}

var hashBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// IndexSuffix makes the name of a tree that of its index.
const IndexSuffix = ".index"

// HasIndex reports whether there is a whole index beside the tree in dir: the
// tree can be used again without its manifest.
func HasIndex(dir string) bool {
	b, err := readAtMost(filepath.Clean(dir)+IndexSuffix, maxIndexBytes)
	if err != nil {
		return false
	}
	_, err = unseal(b)
	return err == nil
}
