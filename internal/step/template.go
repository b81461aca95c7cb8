package step

import (
	"errors"
	"fmt"
	"strings"
	"text/template/parse"

	template "github.com/DataDog/datadog-agent/pkg/template/text" // calls no methods, so that the linker can drop unused ones
)

// Bounds of templates.
const (
	maxTemplate = 1 << 20  // bytes of source
	maxRendered = 4 << 20  // bytes of output
	maxValue    = 64 << 10 // bytes of what one function returns
	maxTicks    = 200_000  // nodes executed and calls
)

var errTicks = errors.New("the template does too much work")

// render executes a template. A template can neither run for long nor grow
// without bound: every list of nodes and every call of a function that makes
// text is counted.
func (r *Runner) render(name string, src []byte) ([]byte, error) {
	if len(src) > maxTemplate {
		return nil, fmt.Errorf("template %s is over %d bytes", name, maxTemplate)
	}
	m := &meter{left: maxTicks}
	t, err := template.New(name).Option("missingkey=error").Funcs(m.funcs()).Parse(string(src))
	if err != nil {
		return nil, fmt.Errorf("template: %w", trimTemplate(err))
	}
	ticks := map[int]parse.Node{}
	for _, part := range t.Templates() {
		if part.Tree == nil {
			continue
		}
		if err := m.instrument(part.Root, ticks); err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
	}
	data := templateVars(r.Vars)
	data["Facts"], data["Role"], data["Release"], data["Channel"] = r.Facts, r.Role, r.Release, r.Channel
	var out strings.Builder
	if err := t.Execute(&limitWriter{b: &out, left: maxRendered}, data); err != nil {
		return nil, fmt.Errorf("template: %w", trimTemplate(err))
	}
	return []byte(out.String()), nil
}

// trimTemplate shortens the library's words to "file:line: what".
func trimTemplate(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "template: "))
}

// tickName is the function that instrument plants; a template that calls it
// itself only counts itself down.
const tickName = "bootwell_tick"

// instrument puts a call of the meter at the start of each list of nodes, with
// the number of nodes it pays for. ticks holds those calls by number.
func (m *meter) instrument(n *parse.ListNode, ticks map[int]parse.Node) error {
	if n == nil {
		return nil
	}
	weight := 1
	for _, c := range n.Nodes {
		var branch *parse.BranchNode
		switch c := c.(type) {
		case *parse.IfNode:
			branch = &c.BranchNode
		case *parse.RangeNode:
			branch = &c.BranchNode
		case *parse.WithNode:
			branch = &c.BranchNode
		case *parse.ActionNode:
			weight += 1 + len(c.Pipe.String())/16
			continue
		default:
			weight++
			continue
		}
		weight += 1 + len(branch.Pipe.String())/16
		if err := errors.Join(m.instrument(branch.List, ticks), m.instrument(branch.ElseList, ticks)); err != nil {
			return err
		}
	}
	if ticks[weight] == nil {
		t, err := template.New("tick").Funcs(m.funcs()).Parse(fmt.Sprintf("{{%s %d}}", tickName, weight))
		if err != nil {
			return err
		}
		ticks[weight] = t.Root.Nodes[0]
	}
	n.Nodes = append([]parse.Node{ticks[weight]}, n.Nodes...)
	return nil
}

// A meter counts work down.
type meter struct{ left int }

func (m *meter) spend(n int) error {
	if m.left -= n; m.left < 0 {
		return errTicks
	}
	return nil
}

// text pays for a value before it is handed on.
func (m *meter) text(s string) (string, error) {
	if len(s) > maxValue {
		return "", fmt.Errorf("a value is over %d bytes", maxValue)
	}
	return s, m.spend(1 + len(s)/64)
}

func (m *meter) funcs() template.FuncMap {
	return template.FuncMap{
		tickName: func(n int) (string, error) { return "", m.spend(max(n, 1)) },
		"join":   m.join,
		"json":   func(v any) (string, error) { return m.bound([]any{v}, func() string { return varJSON(v) }) },
		"quote": func(v any) (string, error) {
			return m.bound([]any{v}, func() string { return shellQuote(fmt.Sprint(v)) })
		},
		"print":   func(a ...any) (string, error) { return m.bound(a, func() string { return fmt.Sprint(a...) }) },
		"println": func(a ...any) (string, error) { return m.bound(a, func() string { return fmt.Sprintln(a...) }) },
		"html":    func(a ...any) (string, error) { return m.bound(a, func() string { return template.HTMLEscaper(a...) }) },
		"js":      func(a ...any) (string, error) { return m.bound(a, func() string { return template.JSEscaper(a...) }) },
		"urlquery": func(a ...any) (string, error) {
			return m.bound(a, func() string { return template.URLQueryEscaper(a...) })
		},
		"printf": m.printf,
	}
}

// bound pays for the arguments of f before f makes one text of them.
func (m *meter) bound(args []any, f func() string) (string, error) {
	for _, a := range args {
		if err := m.spend(1 + textSize(a)/64); err != nil {
			return "", err
		}
	}
	return m.text(f())
}

// textSize is about the length of v as text.
func textSize(v any) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case []any:
		n := 0
		for _, e := range v {
			n += textSize(e) + 1
		}
		return n
	}
	return 32
}

// printf refuses a format whose result could be large before it makes it: an
// argument can be used many times, and a width be anything.
func (m *meter) printf(format string, args ...any) (string, error) {
	largest := 0
	for _, a := range args {
		largest = max(largest, textSize(a))
	}
	width, n := 0, 0
	for _, c := range format {
		switch {
		case c >= '0' && c <= '9':
			n = min(10*n+int(c-'0'), 1<<20)
		case c == '*':
			n = 1 << 20
		default:
			n = 0
		}
		width = max(width, n)
	}
	// Six bytes for each of %q, and twice that for what is added around lists.
	if strings.Count(format, "%")*(12*largest+width) > 16*maxValue {
		return "", fmt.Errorf("printf: the result may be over %d bytes", maxValue)
	}
	return m.bound(args, func() string { return fmt.Sprintf(format, args...) })
}

func (m *meter) join(sep string, list any) (string, error) {
	items, ok := list.([]any)
	if !ok {
		return "", fmt.Errorf("join: %T is not a list", list)
	}
	size := 0
	parts := make([]string, len(items))
	for i, v := range items {
		parts[i] = fmt.Sprint(v)
		if size += len(parts[i]) + len(sep); size > maxValue {
			return "", fmt.Errorf("join: over %d bytes", maxValue)
		}
	}
	return m.text(strings.Join(parts, sep))
}

// varJSON is JSON of any variable.
func varJSON(v any) string {
	if s, ok := v.(string); ok {
		t, _ := varText([]any{s})
		return strings.TrimSuffix(strings.TrimPrefix(t, "["), "]")
	}
	t, err := varText(v)
	if err != nil {
		return "null" // of the types variables have, none
	}
	return t
}

// A limitWriter ends a template whose output grows too large.
type limitWriter struct {
	b    *strings.Builder
	left int
}

func (w *limitWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, fmt.Errorf("output is over %d bytes", maxRendered)
	}
	return w.b.Write(p)
}
