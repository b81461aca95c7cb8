// Package project reads bootwell.yaml, tells everything that is wrong with it
// at once, and resolves it to the roles that a release ships. It knows the
// project's folder but no bucket, key or machine.
//
//   - A diagnostic is one problem at one place; its code has a longer story.
//   - To resolve is to fill in defaults and what roles extend.
//   - The schema is the same format for editors; it never refuses what the
//     parser accepts.
package project

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// FileName is the name of the project file.
const FileName = "bootwell.yaml"

// A Project is a project file that has no errors. It is immutable.
type Project struct {
	Name   string
	Dir    string // absolute; "" when it did not come from [Load]
	File   string // the project file's name within Dir
	Bucket string // URL; a folder is absolute when Dir is set

	// Mirrors are the URLs of further buckets with the same releases, in the
	// order in which VMs try them; a folder is absolute when Dir is set.
	Mirrors []string

	// Ignore holds the globs (doublestar) of what no release contains: those
	// of the project file, the project file and lock themselves, and the
	// buckets that are folders of the project. A glob that matches a folder covers
	// everything below it.
	Ignore []string

	roles    map[string]release.Role
	warnings Diagnostics
}

// Resolve returns the roles with everything filled in, by name, and what is
// worth a warning about them. The caller may change the map but not what the
// roles refer to.
func (p *Project) Resolve() (map[string]release.Role, Diagnostics) {
	return maps.Clone(p.roles), p.Warnings()
}

// Warnings returns what is allowed but probably not meant.
func (p *Project) Warnings() Diagnostics { return append(Diagnostics(nil), p.warnings...) }

// Load reads the project in a folder, or in a file of another name. Its error
// is [Diagnostics] when the file has errors and wraps [fs.ErrNotExist] when
// there is none. Everything the file names is looked up beside it.
func Load(path string) (*Project, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find project %s: %w", path, err)
	}
	dir, name := filepath.Split(abs)
	if st, err := os.Stat(abs); err == nil && st.IsDir() {
		dir, name = abs, FileName
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open project folder: %w", err)
	}
	defer root.Close()
	data, err := readFile(root, name)
	if err != nil {
		return nil, err
	}
	p, diags := Parse(name, data, root.FS())
	if err := diags.Err(); err != nil {
		return nil, err
	}
	p.settle(filepath.Clean(dir))
	return p, nil
}

func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		hint := "run bootwell init, or name the folder with -C"
		if _, err := root.Stat("bootwell.yml"); err == nil && name == FileName {
			hint = "rename bootwell.yml to " + FileName
		}
		return nil, fmt.Errorf("no %s in %s: %s: %w", name, root.Name(), hint, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// settle fills in what follows from the project's folder.
func (p *Project) settle(dir string) {
	p.Dir = dir
	p.Bucket = p.settleBucket(p.Bucket)
	for i, m := range p.Mirrors {
		p.Mirrors[i] = p.settleBucket(m)
	}
}

// settleBucket returns the URL of a bucket with its folder, if it is one,
// absolute and left out of releases.
func (p *Project) settleBucket(bucket string) string {
	rel, ok := strings.CutPrefix(bucket, "file://")
	if !ok {
		return bucket
	}
	folder := rel
	if !strings.HasPrefix(rel, "/") {
		folder = filepath.Join(p.Dir, filepath.FromSlash(rel))
		bucket = "file://" + filepath.ToSlash(folder)
	}
	if in, err := filepath.Rel(p.Dir, filepath.FromSlash(folder)); err == nil && filepath.IsLocal(in) && in != "." {
		p.Ignore = append(p.Ignore, escapeGlob(filepath.ToSlash(in)))
	}
	return bucket
}

// Parse reads the project file called name with the content data. Everything
// the file names is looked up in fsys; with a nil fsys nothing but data is
// looked at. The Project is nil exactly if Diagnostics has errors.
func Parse(name string, data []byte, fsys fs.FS) (*Project, Diagnostics) {
	bom := []byte("\xef\xbb\xbf")
	if len(data) >= 3 && string(data[:3]) == string(bom) {
		data = data[3:]
	}
	p := &parser{src: newSource(name, data)}
	doc := p.document(data)
	if doc == nil {
		return nil, p.diags.sorted(name)
	}
	f := p.file(doc)
	if f == nil {
		return nil, p.diags.sorted(name)
	}
	if fsys != nil {
		p.tree = newTree(fsys, f.ignore)
	}
	project := &Project{
		Name: f.name, File: name, Bucket: f.bucket, Mirrors: f.mirrors,
		Ignore: append([]string{escapeGlob(name), LockName}, f.ignore...),
		roles:  p.resolve(f),
	}
	diags := p.diags.sorted(name)
	if diags.Errors() > 0 {
		return nil, diags
	}
	project.warnings = diags
	return project, diags
}
