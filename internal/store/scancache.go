package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// A treeCache remembers what the files of a project folder held when they were
// read last, so that a publish reads only what was written since.
//
// A file counts as unchanged as long as its path, size, mode, modification
// and change time, inode and device are what they were; the change time cannot
// be set by programs, so a file that was given its old size and modification
// time back is read again. A file that was written shortly before it was read
// is not remembered: a second write within the same tick of the file system's
// clock would not show.
//
// The worst that a wrong cache can do is to hide a change: the new release
// then holds what the file held before. It cannot bring in content that was
// never hashed, since what is packed is read and hashed again; where that
// differs the publish forgets the cache and reads everything. A cache that is
// torn, of another version or of another folder counts as none.
type treeCache struct {
	name    string // of the file; "": nothing is kept
	dir     string // absolute path of the project folder
	now     func() time.Time
	entries []treeEntry // in the order of their paths
	next    []treeEntry // what the last scan found, in that order
}

type treeEntry struct {
	mark  mark
	file  release.File // digest and blobs count
	fresh bool         // not in the file yet
}

// A mark changes whenever a file is written to, renamed over or touched.
// Times are in nanoseconds since 1970, of the file system's clock.
type mark struct {
	size         int64
	mode         uint32
	mtime, ctime int64
	inode, dev   uint64
}

const (
	treeFile     = "tree"
	treeVersion  = "bootwell tree 2\n" // also changes with chunkSizes and checkSecret
	maxTreeBytes = 256 << 20

	// settled is how long ago a file must have been written when it is read,
	// for the reading to be remembered: the coarsest clock of a file system, FAT's.
	settled = 2 * time.Second
)

// openTreeCache returns the cache of the project folder dir in the folder at.
// With at "" it remembers nothing.
func openTreeCache(at, dir string) *treeCache {
	c := &treeCache{now: time.Now}
	if abs, err := filepath.Abs(dir); at != "" && err == nil {
		c.name, c.dir = filepath.Join(at, treeFile), abs
	}
	return c
}

// load reads what is remembered.
func (c *treeCache) load() {
	if c.name == "" {
		return
	}
	if b, err := readAtMost(c.name, maxTreeBytes); err == nil {
		if e, err := parseTree(b, c.dir); err == nil {
			c.entries = e
		}
	}
}

// readAtMost returns a file of at most max bytes.
func readAtMost(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > max {
		return nil, errNoTree
	}
	b := make([]byte, st.Size())
	_, err = io.ReadFull(f, b)
	return b, err
}

// lookup fills in the content of f, whose path is set, if the file still has
// the mark it was read with.
func (c *treeCache) lookup(m mark, f *release.File) bool {
	i := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].file.Path >= f.Path })
	if i == len(c.entries) || c.entries[i].file.Path != f.Path || c.entries[i].mark != m || m == (mark{}) {
		return false
	}
	e := &c.entries[i]
	f.Size, f.Digest, f.Blobs = e.file.Size, e.file.Digest, e.file.Blobs
	return true
}

// remembers reports whether what was read of a file with mark m at the time
// read can be told from anything written later.
func remembers(m mark, read time.Time) bool {
	return m != (mark{}) && max(m.mtime, m.ctime) < read.Add(-settled).UnixNano()
}

// save remembers what the last scan found. It is a hint: nobody waits for the
// disk.
func (c *treeCache) save(log *slog.Logger) {
	fresh := len(c.next) != len(c.entries)
	for i := range c.next {
		fresh = fresh || c.next[i].fresh
	}
	if c.name == "" || !fresh {
		return
	}
	if err := replaceFile(c.name, formatTree(c.dir, c.next)); err != nil {
		log.Debug("the digests of the project's files are not remembered", "err", err)
	}
}

// forget removes the cache.
func (c *treeCache) forget() {
	if c.name != "" {
		os.Remove(c.name)
	}
}

// replaceFile writes a file that is there whole or not at all while the machine
// runs, and may be torn when it loses its power.
func replaceFile(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// formatTree writes entries: version, folder, number, the entries with numbers
// as varints, and the SHA-256 of all that.
func formatTree(dir string, entries []treeEntry) []byte {
	b := make([]byte, 0, 4096+160*len(entries))
	b = append(b, treeVersion...)
	b = appendText(b, dir)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	return seal(b)
}

// appendEntry writes what treeReader.entry reads.
func appendEntry(b []byte, e *treeEntry) []byte {
	b = appendText(b, e.file.Path)
	b = binary.AppendVarint(b, e.mark.size)
	b = binary.AppendUvarint(b, uint64(e.mark.mode))
	b = binary.AppendVarint(b, e.mark.mtime)
	b = binary.AppendVarint(b, e.mark.ctime)
	b = binary.AppendUvarint(b, e.mark.inode)
	b = binary.AppendUvarint(b, e.mark.dev)
	b = appendDigest(b, e.file.Digest)
	blobs := e.file.Blobs
	if len(blobs) == 1 && blobs[0].Digest == e.file.Digest {
		blobs = nil
	}
	b = binary.AppendUvarint(b, uint64(len(blobs)))
	for _, p := range blobs {
		b = binary.AppendVarint(appendDigest(b, p.Digest), p.Size)
	}
	return b
}

func seal(b []byte) []byte { return appendDigest(b, release.DigestOf(b)) }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendDigest(b []byte, d release.Digest) []byte {
	sum := d.Sum()
	return append(b, sum[:]...)
}

var errNoTree = errors.New("not a whole cache of this version and folder")

// parseTree reads what formatTree wrote for dir.
func parseTree(b []byte, dir string) ([]treeEntry, error) {
	n := len(b) - sha256.Size
	if n < len(treeVersion) || !bytes.HasPrefix(b, []byte(treeVersion)) || sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, errNoTree
	}
	r := newTreeReader(b[len(treeVersion):n])
	if r.text() != dir {
		return nil, errNoTree
	}
	count := r.length(1)
	out := make([]treeEntry, count)
	for i := range out {
		r.entry(&out[i])
		r.torn = r.torn || i > 0 && out[i-1].file.Path >= out[i].file.Path
		if r.torn {
			break
		}
	}
	if r.torn || len(r.b) > 0 {
		return nil, errNoTree
	}
	return out, nil
}

// A treeReader takes values from the front of b until one is not there.
type treeReader struct {
	b     []byte
	all   string // the same bytes from the beginning, which texts share
	blobs []release.Blob
	torn  bool
}

func newTreeReader(b []byte) *treeReader { return &treeReader{b: b, all: string(b)} }

func (r *treeReader) entry(e *treeEntry) {
	e.file.Path = r.text()
	e.mark = mark{size: r.int(), mode: uint32(r.uint()), mtime: r.int(), ctime: r.int(), inode: r.uint(), dev: r.uint()}
	e.file.Size, e.file.Digest = e.mark.size, r.digest()
	n := r.length(sha256.Size + 1)
	if n == 0 && e.file.Size > 0 {
		e.file.Blobs = append(r.list(1), release.Blob{Digest: e.file.Digest, Size: e.file.Size})
		return
	}
	var sum int64
	if n > 0 {
		e.file.Blobs = r.list(n)
	}
	for range n {
		p := release.Blob{Digest: r.digest(), Size: r.int()}
		if p.Size < 1 || p.Size > release.MaxChunkBytes {
			r.torn = true
			return
		}
		sum += p.Size
		e.file.Blobs = append(e.file.Blobs, p)
	}
	r.torn = r.torn || sum != e.file.Size
}

// list returns an empty list with room for n.
func (r *treeReader) list(n int) []release.Blob {
	if len(r.blobs) < n {
		r.blobs = make([]release.Blob, max(n, 512))
	}
	l := r.blobs[:0:n]
	r.blobs = r.blobs[n:]
	return l
}

func (r *treeReader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	return varint(r, v, n)
}

func (r *treeReader) int() int64 {
	v, n := binary.Varint(r.b)
	return varint(r, v, n)
}

func varint[T int64 | uint64](r *treeReader, v T, n int) T {
	if n <= 0 {
		r.torn, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// length reads how many values of at least size bytes each follow.
func (r *treeReader) length(size int) int {
	n := r.uint()
	if n > uint64(len(r.b)/size) {
		r.torn, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *treeReader) take(n int) []byte {
	if n > len(r.b) {
		r.torn, r.b = true, nil
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *treeReader) text() string {
	n := r.length(1)
	at := len(r.all) - len(r.b)
	if r.torn {
		return ""
	}
	r.b = r.b[n:]
	return r.all[at : at+n]
}

func (r *treeReader) digest() release.Digest {
	return release.DigestFromSum([sha256.Size]byte(r.take(sha256.Size)))
}
