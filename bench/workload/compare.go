package workload

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Difference is what a delivered tree has otherwise than its source.
type Difference struct {
	Content []string // files that are missing or hold other bytes
	Modes   []string
	Links   []string // symbolic links that are missing or are something else
	Empty   []string // empty folders that are missing
	Extra   []string // what the source does not have
}

// Wrong tells what is not as in the source, in words; "" if nothing is.
func (d Difference) Wrong() string {
	var words []string
	for _, part := range []struct {
		name  string
		paths []string
	}{{"content", d.Content}, {"modes", d.Modes}, {"links", d.Links}, {"empty folders", d.Empty}, {"not deleted", d.Extra}} {
		if len(part.paths) > 0 {
			words = append(words, fmt.Sprintf("%s (%d: %s)", part.name, len(part.paths), part.paths[0]))
		}
	}
	return strings.Join(words, ", ")
}

// Compare compares two folders, but for what ignore holds: names at the top,
// with all below them. A missing folder compares as an empty one.
func Compare(source, delivered string, ignore ...string) (Difference, error) {
	want, err := scan(source, ignore)
	if err != nil {
		return Difference{}, err
	}
	got, err := scan(delivered, ignore)
	if err != nil {
		return Difference{}, err
	}
	var d Difference
	for p, w := range want {
		d.entry(p, w, got[p])
	}
	for p, g := range got {
		if _, ok := want[p]; !ok && !g.dir {
			d.Extra = append(d.Extra, p)
		}
	}
	for _, paths := range [][]string{d.Content, d.Modes, d.Links, d.Empty, d.Extra} {
		slices.Sort(paths)
	}
	return d, nil
}

func (d *Difference) entry(p string, want, got entry) {
	switch {
	case want.link != "":
		if got.link != want.link {
			d.Links = append(d.Links, p)
		}
	case want.dir:
		if want.empty && !got.dir {
			d.Empty = append(d.Empty, p)
		}
	case got.sum != want.sum:
		d.Content = append(d.Content, p)
	case got.mode != want.mode:
		d.Modes = append(d.Modes, p)
	}
}

type entry struct {
	dir, empty bool
	link       string
	mode       fs.FileMode
	sum        string
}

func scan(dir string, ignore []string) (map[string]entry, error) {
	all := map[string]entry{}
	root, err := filepath.EvalSymlinks(dir)
	if os.IsNotExist(err) {
		return all, nil
	} else if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if slices.Contains(ignore, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		all[rel], err = look(p, d)
		return err
	})
	return all, err
}

func look(p string, d fs.DirEntry) (entry, error) {
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		link, err := os.Readlink(p)
		return entry{link: link}, err
	case d.IsDir():
		below, err := os.ReadDir(p)
		return entry{dir: true, empty: len(below) == 0}, err
	}
	info, err := d.Info()
	if err != nil {
		return entry{}, err
	}
	f, err := os.Open(p)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return entry{}, err
	}
	return entry{mode: info.Mode().Perm(), sum: string(h.Sum(nil))}, nil
}
