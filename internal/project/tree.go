package project

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

const (
	maxTreeNames  = 50_000  // paths looked through for suggestions and globs
	maxTemplate   = 1 << 20 // bytes of a template
	maxShellTexts = 500     // texts given to sh -n
)

// A tree is the project's folder as a release would see it.
type tree struct {
	fsys   fs.FS
	ignore []string
	names  []string // all files not ignored; filled by walk
	walked bool
	shell  map[string]string // what sh -n said of a text
}

func newTree(fsys fs.FS, ignore []string) *tree {
	return &tree{fsys: fsys, ignore: ignore, shell: map[string]string{}}
}

// ignoredBy returns the glob that leaves p out of releases, or "".
func (t *tree) ignoredBy(p string) string {
	for d := p; d != "."; d = path.Dir(d) {
		for _, g := range t.ignore {
			if doublestar.MatchUnvalidated(g, d) {
				return g
			}
		}
		if b := path.Base(d); b == ".git" || d == ".bootwell" {
			return d
		}
	}
	return ""
}

// walk returns the paths of the tree, a bounded number of them.
func (t *tree) walk() []string {
	if t.walked {
		return t.names
	}
	t.walked = true
	// Errors only cost suggestions.
	_ = fs.WalkDir(t.fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && d != nil && d.IsDir():
			return fs.SkipDir
		case err != nil || p == ".":
			return nil
		case t.ignoredBy(p) != "" && d.IsDir():
			return fs.SkipDir
		case t.ignoredBy(p) != "":
			return nil
		case len(t.names) >= maxTreeNames:
			return fs.SkipAll
		}
		if !d.IsDir() {
			t.names = append(t.names, p)
		}
		return nil
	})
	return t.names
}

// similar returns the path of the tree that p was probably meant to be.
func (t *tree) similar(p string) string {
	names := t.walk()
	if n := nearest(p, names); n != "" {
		return n
	}
	for _, n := range names {
		if path.Base(n) == path.Base(p) {
			return n
		}
	}
	return ""
}

// read returns the start of a file.
func (t *tree) read(p string, limit int64) ([]byte, error) {
	f, err := t.fsys.Open(p)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return b, nil
}

// settleFolders lets the files of a folder keep their modes where no mode is
// given for them.
func (p *parser) settleFolders(roles []*role) {
	if p.tree == nil {
		return
	}
	for _, r := range roles {
		for _, s := range r.steps {
			for _, rf := range s.refs {
				if rf.kind != refFile || rf.mode {
					continue
				}
				if st, err := fs.Stat(p.tree.fsys, rf.text); err == nil && st.IsDir() {
					s.Files[rf.item].Mode = ""
				}
			}
		}
	}
}

// checkRefs looks at everything that steps and checks name in the project.
func (p *parser) checkRefs(f *file, lines map[string]lineage, resolved map[string]release.Role) {
	if p.tree == nil {
		return
	}
	for _, r := range f.roles {
		for _, g := range r.files {
			p.checkGlob(ref{at: r.key, field: "files of role " + r.name, text: g})
		}
		for _, rf := range r.refs() {
			switch rf.kind {
			case refScript:
				p.checkScript(rf)
			case refFile:
				p.checkFrom(rf)
			case refGlob:
				p.checkGlob(rf)
			case refShell:
				p.checkShell(rf)
			}
			if !rf.template {
				continue
			}
			for _, user := range f.roles {
				if line, ok := lines[user.name]; ok && contains(line, r) && p.checkTemplate(rf, user.name, resolved[user.name].Vars) {
					break
				}
			}
		}
	}
}

func contains(line lineage, r *role) bool {
	for _, l := range line {
		if l == r {
			return true
		}
	}
	return false
}

// present returns what is at rf's path, or reports that nothing usable is.
func (p *parser) present(rf ref) fs.FileInfo {
	st, err := fs.Stat(p.tree.fsys, rf.text)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.fail(rf.at, "E401", rf.text+" is not there", p.absentAdvice(rf))
	case err != nil:
		p.fail(rf.at, "E401", fmt.Sprintf("%s cannot be read: %s", rf.text, cause(err)), "A link must stay within the project's folder, and its files must be readable")
	case p.tree.ignoredBy(rf.text) != "":
		p.fail(rf.at, "E402", rf.text+" is left out of releases", fmt.Sprintf("ignore: %s covers it. Take it out of ignore, or move the file", p.tree.ignoredBy(rf.text)))
	default:
		return st
	}
	return nil
}

func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func (p *parser) absentAdvice(rf ref) string {
	if first, args, ok := strings.Cut(rf.text, " "); ok && rf.kind == refScript {
		if _, err := fs.Stat(p.tree.fsys, first); err == nil && fs.ValidPath(first) {
			return fmt.Sprintf("Write: %s: %s and args: [%s]", rf.field, first, strings.Join(strings.Fields(args), ", "))
		}
	}
	if n := p.tree.similar(rf.text); n != "" {
		return "Did you mean " + n + "?"
	}
	return "Paths are relative to the project's folder"
}

func (p *parser) checkScript(rf ref) {
	st := p.present(rf)
	if st == nil {
		return
	}
	if !st.Mode().IsRegular() {
		p.fail(rf.at, "E403", rf.text+" is not a file", "Name the program itself")
		return
	}
	if st.Mode().Perm()&0o111 != 0 {
		return
	}
	if head, err := p.tree.read(rf.text, 2); err != nil || string(head) != "#!" {
		p.fail(rf.at, "E403", rf.text+" is not executable and has no #! line", "Give it the first line #!/bin/sh, or: chmod +x "+rf.text)
	}
}

func (p *parser) checkFrom(rf ref) {
	st := p.present(rf)
	switch {
	case st == nil:
	case st.IsDir() && rf.template:
		p.fail(rf.at, "E404", rf.text+" is a folder, and only files can be templates", "Name each template as its own item")
	case !st.IsDir() && !st.Mode().IsRegular():
		p.fail(rf.at, "E401", rf.text+" is neither a file nor a folder", "")
	case st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 && !rf.mode && !rf.template:
		p.warn(rf.at, "W103", rf.text+` is executable here, and will be 0644 on the VM`, `Write: mode: "0755", or chmod -x it`)
	}
}

func (p *parser) checkGlob(rf ref) {
	if !doublestar.ValidatePattern(rf.text) {
		return
	}
	for _, n := range p.tree.walk() {
		for d := n; d != "."; d = path.Dir(d) {
			if doublestar.MatchUnvalidated(rf.text, d) {
				return
			}
		}
	}
	p.warn(rf.at, "W102", fmt.Sprintf("%s: %s matches no file of the project", rf.field, rf.text), "Globs are relative to the project's folder; ** stands for any folders")
}

var shellError = regexp.MustCompile(`(?m)^[^:\n]*: (?:line )?([0-9]+): (?:[Ss]yntax error: )?(.*)$`)

// checkShell asks sh -n, which reads but does not run, about shell text.
func (p *parser) checkShell(rf ref) {
	said, ok := p.tree.shell[rf.text]
	if !ok && len(p.tree.shell) < maxShellTexts {
		said = shellSyntax(rf.text)
		p.tree.shell[rf.text] = said
	}
	m := shellError.FindStringSubmatch(said)
	if m == nil {
		return
	}
	detail := "Run it through: sh -n"
	if strings.Contains(m[2], "end of file") {
		detail = "A quote, if, do, case or { is not closed"
	}
	p.fail(rf.at, "E407", fmt.Sprintf("%s: %s near line %s (sh -n)", rf.field, m[2], m[1]), detail)
}

// shellSyntax returns what sh says of a text, "" if nothing or if there is no
// sh here.
func shellSyntax(text string) string {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, sh, "-n")
	cmd.Stdin = strings.NewReader(text + "\n")
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	var out bytes.Buffer
	cmd.Stderr = &limited{buf: &out, left: 4 << 10}
	if err := cmd.Run(); err == nil {
		return ""
	}
	return out.String()
}

// limited keeps the start of what is written to it.
type limited struct {
	buf  *bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.buf.Write(b[:n])
	l.left -= n
	return len(b), nil
}

// checkTemplate checks a template with the variables of one role and reports
// whether it complained.
func (p *parser) checkTemplate(rf ref, role string, vars release.Vars) bool {
	text, at := rf.text, position{node: rf.at, src: p.src}
	if rf.kind == refFile {
		st, err := fs.Stat(p.tree.fsys, rf.text)
		if err != nil || !st.Mode().IsRegular() {
			return true // reported by checkFrom
		}
		b, err := p.tree.read(rf.text, maxTemplate+1)
		if err != nil || len(b) > maxTemplate {
			p.fail(rf.at, "E404", fmt.Sprintf("%s is larger than %d bytes", rf.text, maxTemplate), "Only small texts can be templates")
			return true
		}
		text, at = string(b), position{src: newSource(rf.text, b)}
	}
	problems := checkTemplate(rf.text, text, role, vars)
	for _, pr := range problems {
		line, column, length := at.of(pr, text)
		p.add(at.src, SeverityError, pr.code, line, column, length, pr.summary, pr.detail)
	}
	return len(problems) > 0
}

// A position maps a byte of a template to its place: in its own file, or in
// the project file when it is the text of a node.
type position struct {
	src  *source
	node *yaml.Node
}

func (at position) of(pr problem, text string) (line, column, length int) {
	local := newSource("", []byte(text))
	line, column = local.place(pr.offset)
	if pr.line > 0 {
		line, column = pr.line, 1
		length = len([]rune(local.line(line)))
	}
	length = max(length, pr.length)
	switch {
	case at.node == nil:
		return line, column, length
	case at.node.Style&yaml.LiteralStyle == 0:
		return at.node.Line, at.node.Column, 1
	}
	raw, want := at.src.line(at.node.Line+line), local.line(line)
	indent := len(raw) - len(strings.TrimLeft(raw, " "))
	if i := strings.Index(raw, want); want != "" && i >= 0 {
		indent = i
	}
	return at.node.Line + line, indent + column, length
}
