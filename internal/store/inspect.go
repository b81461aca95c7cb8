package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"sync/atomic"

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
	marks []mark            // by index of files: of the regular ones that are good, when they were read
	wrong map[string]string // path → what is wrong with what is there; it has to go
	modes []string          // folders of the wrong mode
	have  map[string]bool   // folders that are there
	sized []int             // wrong files of the right size
	begun map[int]bool      // of those: files that are not written to their end
}

// inspect compares t with l. It reads all files but those that x vouches for.
func inspect(ctx context.Context, t *tree, l *layout, x *stageIndex) (*findings, error) {
	f := &findings{
		good: make([]bool, len(l.files)), marks: make([]mark, len(l.files)),
		wrong: map[string]string{}, have: map[string]bool{}, begun: map[int]bool{},
	}
	var toHash []int
	if err := f.walk(ctx, t, l, x, ".", &toHash); err != nil {
		return nil, err
	}
	same := make([]bool, len(toHash))
	err := inParallel(ctx, len(toHash), func(k int) error {
		i := toHash[k]
		d, m, err := t.hash(ctx, l.files[i].Path)
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("look at staged tree: %w", err)
		}
		same[k], f.marks[i] = err == nil && d == l.files[i].Digest, m
		return nil
	})
	for k, i := range toHash {
		if f.good[i] = same[k]; !same[k] {
			f.wrong[l.files[i].Path] = "the content differs"
			f.sized = append(f.sized, i)
		}
	}
	return f, err
}

// inParallel calls do for each number below n until there is an error.
func inParallel(ctx context.Context, n int, do func(int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(n, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(i); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (f *findings) walk(ctx context.Context, t *tree, l *layout, x *stageIndex, dir string, toHash *[]int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ents, err := t.list(dir)
	if err != nil {
		return fmt.Errorf("look at staged tree: %w", err)
	}
	for _, e := range ents {
		p := path.Join(dir, e.name)
		if mode, ok := l.dirs[p]; ok {
			if !e.mark.folder() {
				f.wrong[p] = "it is not a folder"
				continue
			}
			f.have[p] = true
			if i, ok := l.at[p]; ok {
				f.good[i] = true
			}
			if e.mark.perm() != uint32(mode) {
				f.modes = append(f.modes, p)
			}
			if err := f.walk(ctx, t, l, x, p, toHash); err != nil {
				return err
			}
			continue
		}
		i, ok := l.at[p]
		if !ok {
			f.wrong[p] = "it is not in the release"
			continue
		}
		if err := f.entry(t, l.files[i], i, e.mark, x, toHash); err != nil {
			return err
		}
	}
	return nil
}

func (f *findings) entry(t *tree, want release.File, i int, m mark, x *stageIndex, toHash *[]int) error {
	switch {
	case want.Link != "":
		if !m.link() {
			f.wrong[want.Path] = "it is not a link"
			return nil
		}
		target, err := t.readlink(want.Path)
		if err != nil {
			return fmt.Errorf("look at staged tree: %w", err)
		}
		if f.good[i] = target == want.Link; !f.good[i] {
			f.wrong[want.Path] = "the link points elsewhere"
		}
	case !m.regular():
		f.wrong[want.Path] = "it is not a file"
	case m.size != want.Size:
		f.wrong[want.Path] = wrongSize
	case m.perm() != want.Mode:
		f.wrong[want.Path] = fmt.Sprintf("the mode is %04o, not %04o", m.perm(), want.Mode)
		f.sized = append(f.sized, i)
		f.begun[i] = m.unfinished()
	default:
		known, ok := x.find(want.Path, m)
		if !ok {
			*toHash = append(*toHash, i)
			return nil
		}
		f.marks[i] = m
		if f.good[i] = known.Digest == want.Digest; !f.good[i] {
			f.wrong[want.Path] = "the content differs"
			f.sized = append(f.sized, i)
		}
	}
	return nil
}

// VerifyStaged reports the first difference between a staged tree and its
// manifest (content, modes, links, extra files), or nil. A difference wraps
// ErrStaged.
func VerifyStaged(ctx context.Context, st Staged, role string) error {
	if _, ok := st.Manifest.Roles[role]; role != "" && !ok {
		return fmt.Errorf("verify %s: role %.100q: %w", st.Dir, role, ErrNoRole)
	}
	t, err := openTree(st.Dir)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer t.Close()
	l := newLayout(RoleFiles(st.Manifest, role))
	f, err := inspect(ctx, t, l, nil)
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
