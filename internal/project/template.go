package project

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/bootwell/bootwell/internal/release"
)

// mainTemplate is the name of a file's own text, which no define can have.
const mainTemplate = "\x00"

// A problem is what is wrong with a template: at a byte of it, or on a line.
type problem struct {
	code, summary, detail string
	offset, length, line  int
}

// builtinData are what templates see beside the role's variables.
var builtinData = []string{"Facts", "Role", "Release", "Channel"}

var templateError = regexp.MustCompile(`(?s)^template: .*?:([0-9]+):(?:[0-9]+:)? (.*)$`)

// templateFuncs names the functions that templates have on a VM beside those
// of text/template. They are not called here.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"join":  func(string, any) string { return "" },
		"json":  func(any) string { return "" },
		"quote": func(any) string { return "" },
	}
}

// checkTemplate parses a Go text/template and looks for data that a VM of the
// role would not have. A template sees the variables at the top (.server_name)
// beside .Facts, .Role, .Release and .Channel.
func checkTemplate(name, text, role string, vars release.Vars) []problem {
	t, err := template.New(mainTemplate).Funcs(templateFuncs()).Parse(text)
	if err != nil {
		pr := problem{code: "E404", summary: fmt.Sprintf("not a template: %v", err), detail: `For a literal {{ write {{"{{"}}`}
		if m := templateError.FindStringSubmatch(err.Error()); m != nil {
			pr.line, _ = strconv.Atoi(m[1])
			pr.summary = "not a template: " + m[2]
		}
		return []problem{pr}
	}
	w := &templateWalk{text: text, role: role, vars: vars, trees: map[string]*parse.Tree{}, seen: map[string]bool{}}
	for _, d := range t.Templates() {
		if d.Tree != nil {
			w.trees[d.Name()] = d.Tree
		}
	}
	if main := w.trees[mainTemplate]; main != nil && main.Root != nil {
		w.list(main.Root, true, true)
	}
	return w.problems
}

// A templateWalk follows a template as its execution would. Where dot or $ is
// not the whole data (in range, with and called templates) nothing is known
// of fields.
type templateWalk struct {
	text     string
	role     string
	vars     release.Vars
	trees    map[string]*parse.Tree
	seen     map[string]bool // called templates with the whole data as dot
	problems []problem
}

func (w *templateWalk) list(l *parse.ListNode, dot, dollar bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		w.node(n, dot, dollar)
	}
}

func (w *templateWalk) node(n parse.Node, dot, dollar bool) {
	switch n := n.(type) {
	case *parse.ActionNode:
		w.pipe(n.Pipe, dot, dollar)
	case *parse.IfNode:
		w.pipe(n.Pipe, dot, dollar)
		w.list(n.List, dot, dollar)
		w.list(n.ElseList, dot, dollar)
	case *parse.RangeNode:
		w.branch(&n.BranchNode, dot, dollar)
	case *parse.WithNode:
		w.branch(&n.BranchNode, dot, dollar)
	case *parse.TemplateNode:
		w.call(n, dot, dollar)
	}
}

func (w *templateWalk) branch(n *parse.BranchNode, dot, dollar bool) {
	w.pipe(n.Pipe, dot, dollar)
	w.list(n.List, false, dollar)
	w.list(n.ElseList, dot, dollar)
}

func (w *templateWalk) call(n *parse.TemplateNode, dot, dollar bool) {
	w.pipe(n.Pipe, dot, dollar)
	t := w.trees[n.Name]
	if t == nil {
		w.add(n.Position(), len("template"), "E404", fmt.Sprintf("no template %q is defined", n.Name), "Templates see only what their own file defines")
		return
	}
	whole := n.Pipe != nil && len(n.Pipe.Cmds) == 1 && len(n.Pipe.Cmds[0].Args) == 1 && isWhole(n.Pipe.Cmds[0].Args[0], dot, dollar)
	if whole && !w.seen[n.Name] {
		w.seen[n.Name] = true
		w.list(t.Root, true, true)
	}
}

func isWhole(n parse.Node, dot, dollar bool) bool {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.VariableNode:
		return dollar && len(n.Ident) == 1 && n.Ident[0] == "$"
	}
	return false
}

func (w *templateWalk) pipe(p *parse.PipeNode, dot, dollar bool) {
	if p == nil {
		return
	}
	for _, c := range p.Cmds {
		for _, a := range c.Args {
			w.arg(a, dot, dollar)
		}
	}
}

func (w *templateWalk) arg(n parse.Node, dot, dollar bool) {
	switch n := n.(type) {
	case *parse.FieldNode:
		if dot {
			w.field(n.Position(), n.Ident)
		}
	case *parse.VariableNode:
		if dollar && n.Ident[0] == "$" && len(n.Ident) > 1 {
			w.field(n.Position()+1, n.Ident[1:])
		}
	case *parse.ChainNode:
		w.arg(n.Node, dot, dollar)
	case *parse.PipeNode:
		w.pipe(n, dot, dollar)
	}
}

// field checks one use of the data: .name or .Facts.Name.
func (w *templateWalk) field(pos parse.Pos, ident []string) {
	name := ident[0]
	// The parser gives a chain of fields the position of its second one.
	chain := "." + strings.Join(ident, ".")
	if i := strings.LastIndex(w.text[:min(int(pos)+len(chain), len(w.text))], chain); i >= 0 && i <= int(pos) && int(pos)-i < len(chain) {
		pos = parse.Pos(i)
	}
	if _, ok := w.vars[name]; ok || slices.Contains(builtinData, name) {
		if name == "Facts" && len(ident) > 1 && !slices.Contains(factNames(), ident[1]) {
			detail := "Facts has " + strings.Join(factNames(), ", ")
			if d := meant(ident[1], factNames()); d != "" {
				detail = d
			}
			w.add(pos, len(".Facts."+ident[1]), "E405", fmt.Sprintf("no fact %q", ident[1]), detail)
		}
		return
	}
	names := slices.Sorted(maps.Keys(w.vars))
	detail := fmt.Sprintf("Role %s has no vars. Add: vars: { %s: … }", w.role, name)
	if len(names) > 0 {
		detail = fmt.Sprintf("Role %s has %s.", w.role, strings.Join(names, ", "))
	}
	if d := meant(name, append(names, builtinData...)); d != "" {
		detail += " " + d
	}
	w.add(pos, len("."+name), "E405", fmt.Sprintf("no var %q", name), detail)
}

func (w *templateWalk) add(pos parse.Pos, length int, code, summary, detail string) {
	w.problems = append(w.problems, problem{code: code, summary: summary, detail: detail, offset: int(pos), length: length})
}

// factNames are the fields of [release.Facts].
func factNames() []string {
	t := reflect.TypeFor[release.Facts]()
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Name)
	}
	slices.Sort(names)
	return names
}
