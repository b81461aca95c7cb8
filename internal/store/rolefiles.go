package store

import (
	"path"
	"sort"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/bootwell/bootwell/internal/release"
)

// RoleFiles returns the files of m that a VM of the role needs, in their
// order: those that Role.Files matches (all when it is empty), always those
// its steps and checks name, and what included links point to. An empty role
// selects all files, an unknown one none.
func RoleFiles(m *release.Manifest, role string) []release.File {
	r, ok := m.Roles[role]
	switch {
	case role != "" && !ok:
		return nil
	case role == "" || len(r.Files) == 0:
		return append([]release.File(nil), m.Files...)
	}
	return selectFiles(m, rolePaths(r), append(roleInputs(r), r.Files...))
}

// rolePaths returns the release files and folders that a role's steps and
// checks name.
func rolePaths(r release.Role) []string {
	var out []string
	for _, s := range r.Steps {
		out = append(out, stepPaths(s)...)
	}
	for _, c := range r.Checks {
		out = append(out, checkPaths(c)...)
	}
	return out
}

// roleInputs returns the globs of a role's steps.
func roleInputs(r release.Role) []string {
	var out []string
	for _, s := range r.Steps {
		out = append(out, s.Inputs...)
	}
	return out
}

// stepPaths returns the release files and folders a step names.
func stepPaths(s release.Step) []string {
	var out []string
	if s.Script != "" {
		out = append(out, s.Script)
	}
	for _, f := range s.Files {
		if f.From != "" {
			out = append(out, f.From)
		}
	}
	return out
}

// checkPaths returns the release files a check runs.
func checkPaths(c release.Check) []string {
	if c.Kind == release.CheckRun {
		return []string{c.Target}
	}
	return nil
}

// selectFiles returns the files at or below paths, those that globs match or
// that lie below a folder which globs match, and what their links point to.
func selectFiles(m *release.Manifest, paths, globs []string) []release.File {
	s := selection{m: m, in: make([]bool, len(m.Files))}
	for _, p := range paths {
		s.add(path.Clean(p))
	}
	for i, f := range m.Files {
		for _, g := range globs {
			if !s.in[i] && matchesTree(g, f.Path) {
				s.mark(i)
			}
		}
	}
	for len(s.todo) > 0 {
		p := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		s.add(p)
	}
	var out []release.File
	for i, f := range m.Files {
		if s.in[i] {
			out = append(out, f)
		}
	}
	return out
}

// matchesTree reports whether g matches p or a folder above it.
func matchesTree(g, p string) bool {
	g = strings.TrimSuffix(g, "/")
	for ; p != "." && p != "/"; p = path.Dir(p) {
		if ok, err := doublestar.Match(g, p); ok && err == nil {
			return true
		}
	}
	return false
}

// A selection is a growing set of files of a manifest.
type selection struct {
	m    *release.Manifest
	in   []bool
	todo []string // targets of links that were taken in
}

func (s *selection) mark(i int) {
	if s.in[i] {
		return
	}
	s.in[i] = true
	if f := s.m.Files[i]; f.Link != "" {
		s.todo = append(s.todo, path.Join(path.Dir(f.Path), f.Link))
	}
}

// add takes in the file at p, the files below it, and a link on the way to it.
func (s *selection) add(p string) {
	files := s.m.Files
	first := sort.Search(len(files), func(i int) bool { return files[i].Path >= p })
	if first < len(files) && files[first].Path == p {
		s.mark(first)
	}
	below := p + "/"
	if p == "." {
		below = ""
	}
	for i := sort.Search(len(files), func(i int) bool { return files[i].Path >= below }); i < len(files) && strings.HasPrefix(files[i].Path, below); i++ {
		s.mark(i)
	}
	for d := path.Dir(p); d != "." && d != "/"; d = path.Dir(d) {
		f, ok := s.m.Find(d)
		if !ok || f.Link == "" {
			continue
		}
		i := sort.Search(len(files), func(i int) bool { return files[i].Path >= d })
		if !s.in[i] {
			s.mark(i)
			s.todo = append(s.todo, path.Join(path.Dir(d), f.Link, strings.TrimPrefix(p, d+"/")))
		}
	}
}
