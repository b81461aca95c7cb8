package store

import (
	"cmp"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// When live content is packed again, so that a VM which has nothing does not
// fetch mostly dead packs, nor very many small ones.
const (
	liveShare     = 0.4      // a pack with less live content is rewritten
	smallPack     = 1 << 20  // bytes
	maxSmallPacks = 16       // more of them are merged
	rewriteBudget = 64 << 20 // stored bytes packed again by one publish
)

// A place is where a blob is stored.
type place struct {
	pack           release.Pack
	offset, stored int64
}

// An index knows where blobs are stored. The first place that is told counts,
// so the present release comes first: that keeps manifests alike, and their
// deltas small.
type index map[release.Digest]place

// addManifest takes the places of m whose packs are still usable.
func (x index) addManifest(m *release.Manifest, usable func(release.Pack) bool) {
	ok := make([]bool, len(m.Packs))
	for i, p := range m.Packs {
		ok[i] = usable(p)
	}
	for _, f := range m.Files {
		for _, b := range f.Blobs {
			if _, known := x[b.Digest]; !known && ok[b.Pack] {
				x[b.Digest] = place{m.Packs[b.Pack], b.Offset, b.Stored}
			}
		}
	}
}

// forget drops the places in packs that are better written anew for files.
func (x index) forget(files []release.File) {
	live := map[release.Pack]int64{}
	seen := make(map[release.Digest]bool, len(x))
	for _, f := range files {
		for _, b := range f.Blobs {
			if p, ok := x[b.Digest]; ok && !seen[b.Digest] {
				seen[b.Digest] = true
				live[p.pack] += p.stored
			}
		}
	}
	drop := rewritten(live)
	if len(drop) == 0 {
		return
	}
	for d, p := range x {
		if drop[p.pack] {
			delete(x, d)
		}
	}
}

// rewritten chooses the packs to write anew, by their live bytes.
func rewritten(live map[release.Pack]int64) map[release.Pack]bool {
	var sparse, small []release.Pack
	for p, n := range live {
		if float64(n) < liveShare*float64(p.Size) {
			sparse = append(sparse, p)
		} else if p.Size < smallPack {
			small = append(small, p)
		}
	}
	if len(small) <= maxSmallPacks {
		small = nil
	}
	all := append(sparse, small...)
	slices.SortFunc(all, func(a, b release.Pack) int {
		return cmp.Or(cmp.Compare(live[a], live[b]), strings.Compare(a.Digest.Hex(), b.Digest.Hex()))
	})
	drop, budget := map[release.Pack]bool{}, int64(rewriteBudget)
	for _, p := range all {
		if budget -= live[p]; budget < 0 {
			break
		}
		drop[p] = true
	}
	return drop
}

// A piece is a blob that has to be packed, and where its content is.
type piece struct {
	blob release.Blob
	path string
	at   int64 // offset in the file
}

// missing lists the blobs of files that have no place, each once, in the
// order of the files: neighbours are mostly needed together.
func (x index) missing(files []release.File) (list []piece, bytes int64) {
	seen := map[release.Digest]bool{}
	for _, f := range files {
		var at int64
		for _, b := range f.Blobs {
			if _, ok := x[b.Digest]; !ok && !seen[b.Digest] {
				seen[b.Digest] = true
				list = append(list, piece{b, f.Path, at})
				bytes += b.Size
			}
			at += b.Size
		}
	}
	return list, bytes
}

// locate fills in the places of all blobs and returns copies of the files and
// the list of packs. Packs keep the position they have in before, since a
// shifted position would show in each file's line.
func (x index) locate(files []release.File, before []release.Pack) ([]release.File, []release.Pack) {
	used := map[release.Pack]bool{}
	var order []release.Pack
	n := 0
	for _, f := range files {
		n += len(f.Blobs)
		for _, b := range f.Blobs {
			if p := x[b.Digest].pack; !used[p] {
				used[p] = true
				order = append(order, p)
			}
		}
	}
	packs := slots(before, order, used)
	at := make(map[release.Pack]int, len(packs))
	for i, p := range packs {
		at[p] = i
	}
	out, blobs := slices.Clone(files), make([]release.Blob, 0, n)
	for i := range out {
		first := len(blobs)
		blobs = append(blobs, out[i].Blobs...)
		if out[i].Blobs != nil {
			out[i].Blobs = blobs[first:len(blobs):len(blobs)]
		}
		for j := range out[i].Blobs {
			b := &out[i].Blobs[j]
			p := x[b.Digest]
			b.Pack, b.Offset, b.Stored = at[p.pack], p.offset, p.stored
		}
	}
	return out, packs
}

// slots keeps the used packs of before where they are, puts new ones in the
// gaps and then at the end, and closes gaps that are left from the end.
func slots(before, order []release.Pack, used map[release.Pack]bool) []release.Pack {
	packs, kept := []release.Pack{}, map[release.Pack]bool{}
	var gaps []int
	for _, p := range before {
		if used[p] && !kept[p] {
			kept[p] = true
		} else {
			gaps = append(gaps, len(packs))
			p = release.Pack{}
		}
		packs = append(packs, p)
	}
	for _, p := range order {
		switch {
		case kept[p]:
		case len(gaps) > 0:
			packs[gaps[0]], gaps = p, gaps[1:]
		default:
			packs = append(packs, p)
		}
	}
	for i := 0; i < len(packs); i++ {
		for len(packs) > i && packs[len(packs)-1] == (release.Pack{}) {
			packs = packs[:len(packs)-1]
		}
		if i < len(packs) && packs[i] == (release.Pack{}) {
			packs[i], packs = packs[len(packs)-1], packs[:len(packs)-1]
		}
	}
	return packs
}
