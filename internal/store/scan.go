package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/release"
)

// maxNamed bounds how many offending files one ErrTree names.
const maxNamed = 100

// A scanner reads a project folder. It collects every offending file before
// it gives up, so that a person repairs a tree once.
type scanner struct {
	dir    string
	ignore []string
	log    *slog.Logger
	meter  *meter

	cache *treeCache

	found []found
	full  bool // the limit of files is reached

	mu  sync.Mutex
	bad map[string]string // path → what is wrong and what to do
}

// A found is a file of the folder. Its size and mark are those of the moment
// when all names were read.
type found struct {
	file    release.File
	regular bool
	size    int64
	mark    mark // zero: what is read of it is not to be remembered
	known   bool // its content is what the cache remembers
}

// scan lists the tree in dir and hashes what cache does not know, which is told
// to cache for its next save. The blobs of the files it returns have no places
// yet. Errors wrap ErrTree.
func scan(ctx context.Context, dir string, ignore []string, cache *treeCache, log *slog.Logger, m *meter) ([]release.File, error) {
	s := &scanner{dir: dir, log: log, meter: m, cache: cache, bad: map[string]string{}}
	for _, p := range ignore {
		if !doublestar.ValidatePattern(p) {
			return nil, fmt.Errorf("scan %s: ignore pattern %q is not a glob: %w", dir, p, ErrTree)
		}
		s.ignore = append(s.ignore, strings.TrimSuffix(p, "/"))
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("scan %s: not a folder", dir)
	}
	for _, part := range []func(context.Context) error{s.list, s.look, s.hash, s.offences} {
		if err := part(ctx); err != nil {
			return nil, fmt.Errorf("scan %s: %w", dir, err)
		}
	}
	files := make([]release.File, len(s.found))
	known := make([]treeEntry, 0, len(s.found))
	for i := range s.found {
		f := &s.found[i]
		files[i] = f.file
		if f.mark != (mark{}) {
			known = append(known, treeEntry{mark: f.mark, file: f.file, fresh: !f.known})
		}
	}
	cache.next = known
	return files, nil
}

// list finds all files, in the order of their paths, while the cache is read.
func (s *scanner) list(ctx context.Context) error {
	var read sync.WaitGroup
	read.Go(s.cache.load)
	defer read.Wait()
	if err := s.walk(ctx, "."); err != nil {
		return err
	}
	byPath := func(a, b found) int { return strings.Compare(a.file.Path, b.file.Path) }
	if !slices.IsSortedFunc(s.found, byPath) { // an empty folder beside names that begin like it
		slices.SortFunc(s.found, byPath)
	}
	return nil
}

func (s *scanner) refuse(p, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad[p] = why
}

func (s *scanner) offences(context.Context) error {
	if len(s.bad) == 0 {
		return nil
	}
	var b strings.Builder
	names := make([]string, 0, len(s.bad))
	for p := range s.bad {
		names = append(names, p)
	}
	slices.Sort(names)
	for i, p := range names {
		if i == maxNamed {
			fmt.Fprintf(&b, "\n  and %d more", len(names)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %q %s", p, s.bad[p])
	}
	return fmt.Errorf("%d file(s) %w:%s", len(names), ErrTree, b.String())
}

// left reports whether the file at p stays out of the release.
func (s *scanner) left(p string) bool {
	if path.Base(p) == ".git" || p == ".bootwell" {
		return true
	}
	for _, g := range s.ignore {
		if doublestar.MatchUnvalidated(g, p) {
			return true
		}
	}
	return false
}

func (s *scanner) walk(ctx context.Context, rel string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ents, err := os.ReadDir(filepath.Join(s.dir, rel))
	if err != nil {
		s.refuse(rel, "cannot be read: "+cause(err)+"; change its rights or add it to ignore:")
		return nil
	}
	n := len(s.found)
	slices.SortFunc(ents, pathOrder)
	for _, e := range ents {
		p := path.Join(rel, e.Name())
		if !s.left(p) && !s.full {
			if err := s.entry(ctx, p, e); err != nil {
				return err
			}
		}
	}
	if rel != "." && len(s.found) == n && !s.full {
		return s.emptyDir(rel)
	}
	return nil
}

// pathOrder puts the entries of a folder in the order of the paths that they
// stand for: what lies below a folder has a slash after its name.
func pathOrder(a, b fs.DirEntry) int {
	x, y := a.Name(), b.Name()
	if a.IsDir() {
		x += "/"
	}
	if b.IsDir() {
		y += "/"
	}
	return strings.Compare(x, y)
}

func (s *scanner) emptyDir(rel string) error {
	fi, err := os.Stat(filepath.Join(s.dir, rel))
	if err != nil {
		s.refuse(rel, "cannot be read: "+cause(err))
		return nil
	}
	s.add(found{file: release.File{Path: rel, Dir: true, Mode: uint32(fi.Mode().Perm())}})
	return nil
}

func (s *scanner) add(f found) {
	if len(s.found) == release.MaxFiles {
		s.full = true
		s.refuse(f.file.Path, fmt.Sprintf("is one file too many: a release holds at most %d; add folders to ignore:", release.MaxFiles))
		return
	}
	s.found = append(s.found, f)
}

func (s *scanner) entry(ctx context.Context, p string, e fs.DirEntry) error {
	if !utf8.ValidString(p) {
		s.refuse(p, "has a name that is not UTF-8: rename it or add it to ignore:")
		return nil
	}
	if err := release.CheckPath(p); err != nil {
		s.refuse(p, err.Error()+": shorten it or add it to ignore:")
		return nil
	}
	switch t := e.Type(); {
	case t.IsDir():
		return s.walk(ctx, p)
	case t&fs.ModeSymlink != 0:
		s.link(p)
	case t.IsRegular():
		s.add(found{file: release.File{Path: p}, regular: true})
	default:
		s.refuse(p, "is a "+typeName(t)+": only files, folders and links can be in a release; remove it or add it to ignore:")
	}
	return nil
}

func typeName(t fs.FileMode) string {
	switch {
	case t&fs.ModeSocket != 0:
		return "socket"
	case t&fs.ModeNamedPipe != 0:
		return "named pipe"
	case t&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

func (s *scanner) link(p string) {
	target, err := os.Readlink(filepath.Join(s.dir, p))
	if err == nil {
		err = release.CheckLink(p, target)
	}
	if err != nil {
		s.refuse(p, cause(err)+": point it to a file of the project by a relative path, or add it to ignore:")
		return
	}
	s.add(found{file: release.File{Path: p, Link: target}})
}

// looked is how many files are looked at in one go.
const looked = 256

// look asks for size and mark of all regular files, in parallel, and the cache
// for their content.
func (s *scanner) look(ctx context.Context) error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(s.found)/looked+1) {
		g.Go(func() error {
			for {
				end := int(next.Add(looked))
				if end-looked >= len(s.found) || ctx.Err() != nil {
					return ctx.Err()
				}
				part := s.found[end-looked : min(end, len(s.found))]
				for i := range part {
					if part[i].regular {
						s.regular(dir, &part[i])
					}
				}
			}
		})
	}
	return g.Wait()
}

func (s *scanner) regular(dir *os.File, f *found) {
	p := f.file.Path
	st, err := lstat(dir, p)
	if err != nil {
		s.refuse(p, cause(err))
		return
	}
	if st.size > release.MaxFileBytes {
		s.refuse(p, fmt.Sprintf("has %d bytes, over the limit of %d: add it to ignore:", st.size, int64(release.MaxFileBytes)))
		return
	}
	if st.special {
		s.log.Warn("setuid, setgid and sticky bits are not published: set them by a step", "path", p)
	}
	f.file.Mode, f.size, f.mark = st.perm, st.size, st.mark
	f.known = s.cache.lookup(f.mark, &f.file)
}

// hash reads the regular files whose content is not known, in parallel.
func (s *scanner) hash(ctx context.Context) error {
	var todo []*found
	var total int64
	for i := range s.found {
		if f := &s.found[i]; f.regular && !f.known {
			todo = append(todo, f)
			total += f.size
		}
	}
	s.meter.phase(PhaseScan, total)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan *found, len(todo))
	for _, f := range todo {
		work <- f
	}
	close(work)
	for range min(runtime.GOMAXPROCS(0), len(todo)) {
		g.Go(func() error {
			var h hasher
			for f := range work {
				if err := ctx.Err(); err != nil {
					return err
				}
				settled, err := s.read(&h, &f.file, f.mark, f.size)
				if err != nil {
					s.refuse(f.file.Path, cause(err))
				}
				if !settled {
					f.mark = mark{}
				}
				s.meter.add(f.size, 0)
			}
			return nil
		})
	}
	return g.Wait()
}

// read hashes a file that was walked with the mark m, and reports whether that
// may be remembered.
func (s *scanner) read(h *hasher, f *release.File, m mark, size int64) (settled bool, err error) {
	r, err := openRegular(filepath.Join(s.dir, f.Path))
	if err != nil {
		return false, fmt.Errorf("cannot be read: change its rights or add it to ignore: %w", err)
	}
	defer r.Close()
	start := s.cache.now()
	before, err := r.Stat()
	if err != nil {
		return false, err
	}
	if !before.Mode().IsRegular() || before.Size() != size {
		return false, errChanged
	}
	err = h.file(r, size, f, func(b []byte) error { return checkSecret(f.Path, b) })
	if err != nil {
		return false, err
	}
	after, err := r.Stat()
	if err != nil {
		return false, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return false, errChanged
	}
	return markOf(before) == m && markOf(after) == m && remembers(m, start), nil
}

var pemPrivate = []byte("PRIVATE KEY-----")

// checkSecret refuses signing keys as package trust writes them: who can read
// the release could sign the next one.
func checkSecret(p string, b []byte) error {
	if len(b) > 64<<10 || !bytes.Contains(b, pemPrivate) {
		return nil
	}
	blk, _ := pem.Decode(b)
	if blk == nil {
		return nil
	}
	signing := blk.Type == "ENCRYPTED BOOTWELL PRIVATE KEY"
	if blk.Type == "PRIVATE KEY" && path.Ext(p) == ".key" {
		k, err := x509.ParsePKCS8PrivateKey(blk.Bytes)
		_, ed := k.(ed25519.PrivateKey)
		signing = err == nil && ed
	}
	if signing {
		return errors.New("holds a private signing key, which must never be published: move it out of the project")
	}
	return nil
}

// cause drops the operation and path that os errors repeat.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return strings.Replace(err.Error(), pe.Error(), pe.Err.Error(), 1)
	}
	return err.Error()
}
