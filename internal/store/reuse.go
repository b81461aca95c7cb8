package store

import (
	"context"
	"sync"

	"github.com/bootwell/bootwell/internal/release"
)

// A piecePlace is a blob within a file of a source.
type piecePlace struct {
	ref
	at int64
}

// copy writes the blobs that other trees hold and returns those that they do
// not.
func (st *stager) copy(ctx context.Context, wants []*want) ([]*want, error) {
	places := st.places(wants)
	if len(places) == 0 {
		return wants, nil
	}
	var mu sync.Mutex
	var rest []*want
	err := inParallel(ctx, len(wants), func(k int) error {
		w := wants[k]
		if data := st.find(w, places[w.Digest]); data != nil {
			return st.sink(w, data)
		}
		mu.Lock()
		defer mu.Unlock()
		rest = append(rest, w)
		return nil
	})
	return rest, err
}

// split tells the blobs that other trees should hold from those that they do not.
func (st *stager) split(wants []*want) (near, away []*want) {
	places := st.places(wants)
	for _, w := range wants {
		if len(places[w.Digest]) > 0 {
			near = append(near, w)
		} else {
			away = append(away, w)
		}
	}
	return near, away
}

// places finds wanted blobs in the sources.
func (st *stager) places(wants []*want) map[release.Digest][]piecePlace {
	if len(st.reuse) == 0 {
		return nil
	}
	wanted := make(map[release.Digest]bool, len(wants))
	for _, w := range wants {
		wanted[w.Digest] = true
	}
	out := map[release.Digest][]piecePlace{}
	for t, r := range st.reuse {
		for j, f := range r.files {
			var at int64
			for _, b := range f.Blobs {
				if wanted[b.Digest] {
					out[b.Digest] = append(out[b.Digest], piecePlace{ref{t, j}, at})
				}
				at += b.Size
			}
		}
	}
	return out
}

// maxPlaces bounds how many copies of a blob are tried before it is fetched.
const maxPlaces = 4

// find returns the content of w from one of places, or nil.
func (st *stager) find(w *want, places []piecePlace) []byte {
	for _, p := range places[:min(len(places), maxPlaces)] {
		src := st.reuse[p.tree]
		data := make([]byte, w.Size)
		if src.tree.readAt(src.files[p.file].Path, data, p.at) == nil && release.DigestOf(data) == w.Digest {
			return data
		}
	}
	return nil
}

// countReused counts the files for which nothing has to be fetched.
func (st *stager) countReused(wants []*want) {
	away := map[int]bool{}
	for _, w := range wants {
		for _, d := range w.dst {
			away[d.file] = true
		}
	}
	st.stats.Reused = len(st.l.files) - len(away)
}
