package store

import (
	"encoding/json"
	"fmt"
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
	wasText, err := stepTexts(before, was)
	if err != nil {
		return c, err
	}
	isText, err := stepTexts(after, is)
	if err != nil {
		return c, err
	}
	for _, s := range is.Steps {
		if wasText[s.Name] != isText[s.Name] {
			c.Changed = append(c.Changed, s.Name)
		}
	}
	for _, s := range was.Steps {
		if _, ok := isText[s.Name]; !ok {
			c.Changed = append(c.Changed, s.Name)
		}
	}
	same, err := sameRole(before, was, after, is)
	if err != nil {
		return c, err
	}
	if !same || len(c.Changed) > 0 {
		c.Change = ChangeChanged
	}
	return c, nil
}

// stepTexts returns, by step, text that differs when the step or a file it
// uses does.
func stepTexts(m *release.Manifest, r release.Role) (map[string]string, error) {
	out := make(map[string]string, len(r.Steps))
	for _, s := range r.Steps {
		b, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		text, err := contentText(m, stepPaths(s), s.Inputs)
		if err != nil {
			return nil, err
		}
		out[s.Name] = string(b) + text
	}
	return out, nil
}

// sameRole compares all of two roles but the files of their steps.
func sameRole(before *release.Manifest, was release.Role, after *release.Manifest, is release.Role) (bool, error) {
	var text [2]string
	for i, x := range []struct {
		m *release.Manifest
		r release.Role
	}{{before, was}, {after, is}} {
		b, err := json.Marshal(x.r)
		if err != nil {
			return false, err
		}
		t, err := contentText(x.m, checkPaths(x.r), nil)
		if err != nil {
			return false, err
		}
		text[i] = string(b) + t
	}
	return text[0] == text[1], nil
}

// contentText describes the content of the files at or below paths, and of
// those that globs match.
func contentText(m *release.Manifest, paths, globs []string) (string, error) {
	files := selectFiles(m, paths, globs)
	for i := range files {
		files[i].Blobs = nil
	}
	b, err := json.Marshal(files)
	return string(b), err
}
