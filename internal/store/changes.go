package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// Values of RoleChange.Change.
const (
	ChangeSame    = "same"
	ChangeNew     = "new"
	ChangeChanged = "changed"
	ChangeRemoved = "removed"
)

// sameFile reports whether two files put the same on a disk.
func sameFile(a, b release.File) bool {
	return a.Path == b.Path && a.Mode == b.Mode && a.Dir == b.Dir && a.Link == b.Link && a.Digest == b.Digest
}

// fileChanges compares two trees; before may be nil.
func fileChanges(before, after *release.Manifest) FileChanges {
	var c FileChanges
	var old []release.File
	if before != nil {
		old = before.Files
	}
	i, j := 0, 0
	for i < len(old) || j < len(after.Files) {
		switch {
		case j == len(after.Files) || i < len(old) && old[i].Path < after.Files[j].Path:
			c.Removed = append(c.Removed, old[i].Path)
			i++
		case i == len(old) || after.Files[j].Path < old[i].Path:
			c.Added = append(c.Added, after.Files[j].Path)
			j++
		default:
			if !sameFile(old[i], after.Files[j]) {
				c.Changed = append(c.Changed, old[i].Path)
			}
			i, j = i+1, j+1
		}
	}
	return c
}

// roleChanges compares the roles of two releases; before may be nil.
func roleChanges(before, after *release.Manifest) ([]RoleChange, error) {
	names := map[string]bool{}
	for n := range after.Roles {
		names[n] = true
	}
	if before != nil {
		for n := range before.Roles {
			names[n] = true
		}
	} else {
		before = &release.Manifest{}
	}
	var out []RoleChange
	for n := range names {
		c, err := roleChange(n, before, after)
		if err != nil {
			return nil, fmt.Errorf("compare role %s: %w", n, err)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b RoleChange) int { return strings.Compare(a.Role, b.Role) })
	return out, nil
}

func roleChange(name string, before, after *release.Manifest) (RoleChange, error) {
	c := RoleChange{Role: name, Change: ChangeSame}
	was, had := before.Roles[name]
	is, has := after.Roles[name]
	if !has {
		c.Change = ChangeRemoved
		return c, nil
	}
	c.Steps = len(is.Steps)
	files := RoleFiles(after, name)
	for _, f := range files {
		c.Bytes += f.Size
	}
	var have []release.File
	if had {
		have = RoleFiles(before, name)
	}
	c.Delta = fetchBytes(after, files, have)
	if !had {
		c.Change = ChangeNew
		return c, nil
	}
	old, err := roleParts(before, was)
	if err != nil {
		return c, err
	}
	now, err := roleParts(after, is)
	if err != nil {
		return c, err
	}
	c.Changed = differing(old, now)
	if reordered(stepNames(was), stepNames(is)) {
		c.Changed = append(c.Changed, "order of steps")
	}
	if reordered(checkNames(was), checkNames(is)) {
		c.Changed = append(c.Changed, "order of checks")
	}
	if len(c.Changed) > 0 {
		c.Change = ChangeChanged
	}
	return c, nil
}

// A part is what RoleChange.Changed can name, with text that differs when the
// part, or a file it uses, does.
type part struct{ name, text string }

// differing names the parts of now that differ from old, then those that are gone.
func differing(old, now []part) []string {
	was, is := partTexts(old), partTexts(now)
	var out []string
	for _, p := range now {
		if text, ok := was[p.name]; (!ok || text != is[p.name]) && !slices.Contains(out, p.name) {
			out = append(out, p.name)
		}
	}
	for _, p := range old {
		if _, ok := is[p.name]; !ok && !slices.Contains(out, p.name) {
			out = append(out, p.name)
		}
	}
	return out
}

func partTexts(parts []part) map[string]string {
	out := make(map[string]string, len(parts))
	for _, p := range parts {
		out[p.name] += p.text
	}
	return out
}

// roleParts takes a role of m apart.
func roleParts(m *release.Manifest, r release.Role) ([]part, error) {
	var out []part
	var bad error
	add := func(name string, v any, files []release.File) {
		for i := range files {
			files[i].Blobs = nil // where the content is does not matter
		}
		b, err := json.Marshal([]any{v, files})
		bad = errors.Join(bad, err)
		out = append(out, part{name, string(b)})
	}
	for _, s := range r.Steps {
		add(s.Name, s, selectFiles(m, stepPaths(s), s.Inputs))
	}
	for _, k := range r.Checks {
		add("check "+k.Name, k, selectFiles(m, checkPaths(k), nil))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Vars)) {
		add("vars: "+name, r.Vars[name], nil)
	}
	add("schedule", r.Schedule, nil)
	add("platforms", r.Platforms, nil)
	add("files", r.Files, otherFiles(m, r))
	add("attempts", r.Attempts, nil)
	add("description", r.Description, nil)
	return out, bad
}

// otherFiles returns the files that the globs of a role ask for beyond those
// of its steps and checks.
func otherFiles(m *release.Manifest, r release.Role) []release.File {
	used := map[string]bool{}
	for _, f := range selectFiles(m, rolePaths(r), roleInputs(r)) {
		used[f.Path] = true
	}
	asked := selectFiles(m, nil, r.Files)
	return slices.DeleteFunc(asked, func(f release.File) bool { return used[f.Path] })
}

func stepNames(r release.Role) []string {
	var out []string
	for _, s := range r.Steps {
		out = append(out, s.Name)
	}
	return out
}

func checkNames(r release.Role) []string {
	var out []string
	for _, k := range r.Checks {
		out = append(out, k.Name)
	}
	return out
}

// reordered reports whether two lists hold the same in another order.
func reordered(was, is []string) bool {
	return !slices.Equal(was, is) && slices.Equal(slices.Sorted(slices.Values(was)), slices.Sorted(slices.Values(is)))
}
