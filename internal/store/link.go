package store

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/bootwell/bootwell/internal/release"
)

// unlinked reports whether no other tree's file becomes file i.
func (st *stager) unlinked(i int) bool {
	_, ok := st.links[i]
	return !ok
}

// A ref is a file of a source.
type ref struct{ tree, file int }

// findLinks finds, for the files that are not right yet, files of other trees
// with the same content and mode, and reads those to be sure.
func (st *stager) findLinks(ctx context.Context) error {
	need := map[release.Digest][]int{}
	for i, f := range st.l.files {
		if st.regular(i) && f.Size > 0 {
			need[f.Digest] = append(need[f.Digest], i)
		}
	}
	type cand struct {
		digest release.Digest
		mode   uint32
	}
	refs := map[cand][]ref{}
	for t, r := range st.reuse {
		for j, f := range r.files {
			if r.link && len(need[f.Digest]) > 0 && !f.Digest.IsZero() {
				c := cand{f.Digest, f.Mode}
				refs[c] = append(refs[c], ref{t, j})
			}
		}
	}
	cands := slices.Collect(maps.Keys(refs))
	var mu sync.Mutex
	st.links, st.linked = map[int]ref{}, map[int]mark{}
	return inParallel(ctx, len(cands), func(k int) error {
		c := cands[k]
		for _, r := range refs[c] {
			m, ok := st.intact(ctx, r)
			if !ok {
				continue
			}
			mu.Lock()
			defer mu.Unlock()
			for _, i := range need[c.digest] {
				if st.l.files[i].Mode == c.mode {
					st.links[i], st.linked[i] = r, m
				}
			}
			return nil
		}
		return ctx.Err()
	})
}

// intact reports whether a file of a source is still what its manifest says,
// and the mark it had then.
func (st *stager) intact(ctx context.Context, r ref) (mark, bool) {
	src := st.reuse[r.tree]
	f := src.files[r.file]
	m, err := src.tree.mark(f.Path)
	if err != nil || !m.regular() || m.size != f.Size || m.perm() != f.Mode {
		return m, false
	}
	if known, ok := src.index.find(f.Path, m); ok {
		return m, known.Digest == f.Digest
	}
	d, m, err := src.tree.hash(ctx, f.Path)
	return m, err == nil && d == f.Digest
}

// link makes hard links, and forgets those that cannot be made or whose file
// was written to meanwhile. It returns these.
func (st *stager) link() (lost map[int]bool, err error) {
	lost = map[int]bool{}
	order := slices.Sorted(maps.Keys(st.links))
	for _, i := range order {
		if err := st.before(); err != nil {
			return nil, err
		}
		r := st.links[i]
		src := st.reuse[r.tree]
		if err := st.tree.link(st.path(i), src.tree, src.files[r.file].Path); err != nil {
			delete(st.links, i)
			lost[i] = true
		}
	}
	for _, i := range order {
		if lost[i] {
			continue
		}
		m, err := st.tree.mark(st.path(i))
		was := st.linked[i]
		if was.ctime = m.ctime; err != nil || m != was {
			delete(st.links, i)
			lost[i] = true
			if err := st.tree.root.Remove(st.path(i)); err != nil {
				return nil, err
			}
		}
		st.found.marks[i] = m
	}
	return lost, nil
}
