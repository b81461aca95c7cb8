package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/release"
)

// dirMode is the mode of folders that only the paths of files imply.
const dirMode = 0o755

// scratchDir is where a repair writes; no release has a file there.
const scratchDir = ".bootwell"

// A layout is what a tree should hold.
type layout struct {
	files []release.File
	at    map[string]int         // path → index of files
	dirs  map[string]fs.FileMode // all folders but the root
}

func newLayout(files []release.File) *layout {
	l := &layout{files: files, at: make(map[string]int, len(files)), dirs: map[string]fs.FileMode{}}
	for i, f := range files {
		l.at[f.Path] = i
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			if _, ok := l.dirs[d]; ok {
				break
			}
			l.dirs[d] = dirMode
		}
	}
	for _, f := range files {
		if f.Dir {
			l.dirs[f.Path] = fs.FileMode(f.Mode)
		}
	}
	return l
}

// dirList returns the folders, parents first.
func (l *layout) dirList() []string {
	out := make([]string, 0, len(l.dirs))
	for d := range l.dirs {
		out = append(out, d)
	}
	slices.Sort(out)
	return out
}

// Findings are how a tree differs from its layout.
type findings struct {
	good  []bool            // by index of files: as it should be
	wrong map[string]string // path → what is wrong with what is there; it has to go
	modes []string          // folders of the wrong mode
	have  map[string]bool   // folders that are there
	sized []int             // wrong files of the right size
}

// inspect compares the tree in root with l, reading all of it.
func inspect(ctx context.Context, root *os.Root, l *layout) (*findings, error) {
	f := &findings{good: make([]bool, len(l.files)), wrong: map[string]string{}, have: map[string]bool{}}
	var toHash []int
	if err := f.walk(ctx, root, l, ".", &toHash); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range toHash {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := hashFile(ctx, root, l.files[i].Path)
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if f.good[i] = d == l.files[i].Digest; !f.good[i] {
				f.wrong[l.files[i].Path] = "the content differs"
				f.sized = append(f.sized, i)
			}
			return nil
		})
	}
	return f, g.Wait()
}

func (f *findings) walk(ctx context.Context, root *os.Root, l *layout, dir string, toHash *[]int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := root.Open(dir)
	if err != nil {
		return fmt.Errorf("look at staged tree: %w", err)
	}
	ents, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return fmt.Errorf("look at staged tree: %w", err)
	}
	for _, e := range ents {
		p := path.Join(dir, e.Name())
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at staged tree: %w", err)
		}
		if mode, ok := l.dirs[p]; ok {
			if !fi.IsDir() {
				f.wrong[p] = "it is not a folder"
				continue
			}
			f.have[p] = true
			if i, ok := l.at[p]; ok {
				f.good[i] = true
			}
			if fi.Mode()&modeBits != mode {
				f.modes = append(f.modes, p)
			}
			if err := f.walk(ctx, root, l, p, toHash); err != nil {
				return err
			}
			continue
		}
		i, ok := l.at[p]
		if !ok {
			f.wrong[p] = "it is not in the release"
			continue
		}
		if err := f.entry(root, l.files[i], i, fi, toHash); err != nil {
			return err
		}
	}
	return nil
}

// modeBits are the bits of a mode that a release decides on.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func (f *findings) entry(root *os.Root, want release.File, i int, fi fs.FileInfo, toHash *[]int) error {
	switch {
	case want.Link != "":
		if fi.Mode()&fs.ModeSymlink == 0 {
			f.wrong[want.Path] = "it is not a link"
			return nil
		}
		target, err := root.Readlink(want.Path)
		if err != nil {
			return fmt.Errorf("look at staged tree: %w", err)
		}
		if f.good[i] = target == want.Link; !f.good[i] {
			f.wrong[want.Path] = "the link points elsewhere"
		}
	case !fi.Mode().IsRegular():
		f.wrong[want.Path] = "it is not a file"
	case fi.Size() != want.Size:
		f.wrong[want.Path] = wrongSize
	case fi.Mode()&modeBits != fs.FileMode(want.Mode):
		f.wrong[want.Path] = fmt.Sprintf("the mode is %04o, not %04o", fi.Mode().Perm(), want.Mode)
		f.sized = append(f.sized, i)
	default:
		*toHash = append(*toHash, i)
	}
	return nil
}

// hashFile returns the digest of a file of the tree.
func hashFile(ctx context.Context, root *os.Root, p string) (release.Digest, error) {
	f, err := root.Open(p)
	if err != nil {
		return release.Digest{}, fmt.Errorf("hash staged file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, ctxReader{ctx, f}); err != nil {
		return release.Digest{}, fmt.Errorf("hash staged file %q: %w", p, err)
	}
	return release.DigestFromSum([sha256.Size]byte(h.Sum(nil))), nil
}

// A ctxReader ends when ctx does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// VerifyStaged reports the first difference between a staged tree and its
// manifest (content, modes, links, extra files), or nil. A difference wraps
// ErrStaged.
func VerifyStaged(ctx context.Context, st Staged, role string) error {
	if _, ok := st.Manifest.Roles[role]; role != "" && !ok {
		return fmt.Errorf("verify %s: role %.100q: %w", st.Dir, role, ErrNoRole)
	}
	root, err := os.OpenRoot(st.Dir)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer root.Close()
	l := newLayout(RoleFiles(st.Manifest, role))
	f, err := inspect(ctx, root, l)
	if err != nil {
		return fmt.Errorf("verify %s: %w", st.Dir, err)
	}
	if p, why := f.first(l); p != "" {
		return fmt.Errorf("verify %s: %q: %s: %w", st.Dir, p, why, ErrStaged)
	}
	return nil
}

// first returns the first difference in the order of paths, or "".
func (f *findings) first(l *layout) (p, why string) {
	note := func(q, w string) {
		if p == "" || q < p {
			p, why = q, w
		}
	}
	for q, w := range f.wrong {
		note(q, w)
	}
	for _, q := range f.modes {
		note(q, "the folder's mode differs")
	}
	for d := range l.dirs {
		if _, bad := f.wrong[d]; !bad && !f.have[d] {
			note(d, "it is missing")
		}
	}
	for i, ok := range f.good {
		if _, bad := f.wrong[l.files[i].Path]; !ok && !bad {
			note(l.files[i].Path, "it is missing")
		}
	}
	return p, why
}

const wrongSize = "the size differs"
