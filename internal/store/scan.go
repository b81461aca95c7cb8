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

	files []release.File
	marks []mark // as walked, by index of files; of regular ones
	sizes []int64
	full  bool // the limit of files is reached

	mu  sync.Mutex
	bad map[string]string // path → what is wrong and what to do
}

// scan lists the tree in dir and hashes what cache does not know. The blobs of
// the files it returns have no places yet. Errors wrap ErrTree.
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
	if err := s.walk(ctx, "."); err != nil {
		return nil, fmt.Errorf("scan %s: %w", dir, err)
	}
	if err := s.hash(ctx); err != nil {
		return nil, fmt.Errorf("scan %s: %w", dir, err)
	}
	if err := s.offences(); err != nil {
		return nil, fmt.Errorf("scan %s: %w", dir, err)
	}
	slices.SortFunc(s.files, func(a, b release.File) int { return strings.Compare(a.Path, b.Path) })
	return s.files, nil
}

func (s *scanner) refuse(p, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad[p] = why
}

func (s *scanner) offences() error {
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
	n := len(s.files)
	for _, e := range ents {
		p := path.Join(rel, e.Name())
		if !s.left(p) && !s.full {
			if err := s.entry(ctx, p, e); err != nil {
				return err
			}
		}
	}
	if rel != "." && len(s.files) == n && !s.full {
		return s.emptyDir(rel)
	}
	return nil
}

func (s *scanner) emptyDir(rel string) error {
	fi, err := os.Stat(filepath.Join(s.dir, rel))
	if err != nil {
		s.refuse(rel, "cannot be read: "+cause(err))
		return nil
	}
	s.add(release.File{Path: rel, Dir: true, Mode: uint32(fi.Mode().Perm())}, 0, mark{})
	return nil
}

func (s *scanner) add(f release.File, size int64, m mark) {
	if len(s.files) == release.MaxFiles {
		s.full = true
		s.refuse(f.Path, fmt.Sprintf("is one file too many: a release holds at most %d; add folders to ignore:", release.MaxFiles))
		return
	}
	s.files, s.sizes, s.marks = append(s.files, f), append(s.sizes, size), append(s.marks, m)
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
		s.regular(p, e)
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
	s.add(release.File{Path: p, Link: target}, 0, mark{})
}

func (s *scanner) regular(p string, e fs.DirEntry) {
	fi, err := e.Info()
	if err != nil {
		s.refuse(p, cause(err))
		return
	}
	if fi.Size() > release.MaxFileBytes {
		s.refuse(p, fmt.Sprintf("has %d bytes, over the limit of %d: add it to ignore:", fi.Size(), int64(release.MaxFileBytes)))
		return
	}
	if fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		s.log.Warn("setuid, setgid and sticky bits are not published: set them by a step", "path", p)
	}
	s.add(release.File{Path: p, Mode: uint32(fi.Mode().Perm())}, fi.Size(), markOf(fi))
}

// hash fills in the content of all regular files, and reads those that the
// cache does not know, in parallel.
func (s *scanner) hash(ctx context.Context) error {
	known := make([]treeEntry, 0, len(s.files)) // by index: what is known of a file afterwards
	var todo []int
	var total int64
	for i := range s.files {
		f := &s.files[i]
		if f.Dir || f.Link != "" {
			continue
		}
		if s.cache.lookup(s.marks[i], f) {
			known = append(known, treeEntry{mark: s.marks[i], file: *f})
			continue
		}
		todo = append(todo, i)
		total += s.sizes[i]
	}
	s.meter.phase("scan", total)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan int, len(todo))
	for _, i := range todo {
		work <- i
	}
	close(work)
	for range min(runtime.GOMAXPROCS(0), len(todo)) {
		g.Go(func() error {
			var h hasher
			for i := range work {
				if err := ctx.Err(); err != nil {
					return err
				}
				settled, err := s.read(&h, &s.files[i], s.marks[i], s.sizes[i])
				if err != nil {
					s.refuse(s.files[i].Path, cause(err))
				}
				if !settled {
					s.marks[i] = mark{}
				}
				s.meter.add(s.sizes[i], 0)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, i := range todo {
		if s.marks[i] != (mark{}) {
			known = append(known, treeEntry{mark: s.marks[i], file: s.files[i], fresh: true})
		}
	}
	if len(s.bad) == 0 {
		s.cache.save(known, s.log)
	}
	return nil
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
