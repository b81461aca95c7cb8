package project

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	_ "embed"
)

//go:embed starter.tmpl
var starterText string

// InitOptions say what the first project file holds.
type InitOptions struct {
	Name   string // of the project; "": made from the folder's name
	Bucket string // URL
}

// maxFound bounds what of one sort a first project file names.
const maxFound = 20

// found is what a folder holds that a project file can name.
type found struct {
	Name, Bucket, Schema string
	Scripts              []string // shell scripts
	Later                []string // "ansible/site.yml (an Ansible playbook)"
}

// Init writes a first, commented project file to dir from what is found there:
// a script step for each shell script, and a remark on what has to wait for a
// later bootwell. It returns the names of the files written, relative to dir. It
// overwrites nothing: its error wraps [fs.ErrExist] when there is a project
// file already.
func Init(dir string, o InitOptions) ([]string, error) {
	f := found{Name: o.Name, Bucket: strconv.Quote(o.Bucket), Schema: schemaURL()}
	if f.Name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("find folder %s: %w", dir, err)
		}
		f.Name = strings.TrimPrefix(tryName(filepath.Base(abs), '-'), "Try: ")
		if f.Name == "" {
			f.Name = "project"
		}
	}
	if err := f.search(dir); err != nil {
		return nil, fmt.Errorf("look through %s: %w", dir, err)
	}
	text, err := f.render()
	if err != nil {
		return nil, err
	}
	if _, diags := Parse(FileName, text, nil); diags.Errors() > 0 {
		return nil, fmt.Errorf("make %s: %w", FileName, diags)
	}
	out, err := os.OpenFile(filepath.Join(dir, FileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", FileName, err)
	}
	_, err = out.Write(text)
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, fmt.Errorf("write %s: %w", FileName, err)
	}
	return []string{FileName}, nil
}

func schemaURL() string {
	_, rest, _ := strings.Cut(string(schemaText), `"$id": "`)
	url, _, _ := strings.Cut(rest, `"`)
	return url
}

func (f *found) render() ([]byte, error) {
	t, err := template.New("starter").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(starterText)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", FileName, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, f); err != nil {
		return nil, fmt.Errorf("make %s: %w", FileName, err)
	}
	return b.Bytes(), nil
}

// search fills in the scripts and playbooks of dir.
func (f *found) search(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	fsys := root.FS()
	t := newTree(fsys, []string{"**/node_modules", "vendor", "**/.*"})
	for _, p := range t.walk() {
		if st, err := fs.Stat(fsys, p); err != nil || !st.Mode().IsRegular() {
			continue
		}
		head, err := t.read(p, 4<<10)
		if err != nil || strings.ContainsFunc(p, func(c rune) bool { return c < 0x20 || c == '\\' || c == 0x7f }) {
			continue
		}
		first, _, _ := bytes.Cut(head, []byte("\n"))
		switch what := laterTool(p, head); {
		case what != "" && len(f.Later) < maxFound:
			f.Later = append(f.Later, p+" ("+what+")")
		case isShell(string(first)) && len(f.Scripts) < maxFound:
			f.Scripts = append(f.Scripts, p)
		}
	}
	slices.Sort(f.Scripts)
	return nil
}

func isShell(first string) bool {
	interpreter, ok := strings.CutPrefix(first, "#!")
	if !ok {
		return false
	}
	for _, w := range strings.Fields(interpreter) {
		if slices.Contains([]string{"sh", "bash", "dash", "ash", "ksh", "zsh"}, path.Base(w)) {
			return true
		}
	}
	return false
}

// laterTool names the tool of a later bootwell that a file is for, or "".
func laterTool(p string, head []byte) string {
	base, ext := path.Base(p), path.Ext(p)
	switch {
	case strings.HasSuffix(base, "goss.yaml") || strings.HasSuffix(base, "goss.yml"):
		return "a goss file"
	case (ext == ".yml" || ext == ".yaml") && bytes.Contains(head, []byte("hosts:")) && (bytes.Contains(head, []byte("tasks:")) || bytes.Contains(head, []byte("roles:"))):
		return "an Ansible playbook"
	case ext == ".pp":
		return "a Puppet manifest"
	case ext == ".sls":
		return "a Salt state"
	case ext == ".rb" && strings.Contains(p, "recipes/"):
		return "a Chef recipe"
	}
	return ""
}
