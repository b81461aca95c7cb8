package project

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a project file.
const (
	maxBytes  = 1 << 20
	maxValues = 100_000 // with every alias expanded
	maxDepth  = 100
)

// A source is the text of one file, by lines.
type source struct {
	name  string
	lines []string
	start []int // byte offset of each line
}

func newSource(name string, data []byte) *source {
	s := &source{name: name}
	for off := 0; ; {
		s.start = append(s.start, off)
		i := bytes.IndexByte(data[off:], '\n')
		if i < 0 {
			s.lines = append(s.lines, string(bytes.TrimSuffix(data[off:], []byte("\r"))))
			return s
		}
		s.lines = append(s.lines, string(bytes.TrimSuffix(data[off:off+i], []byte("\r"))))
		off += i + 1
	}
}

// line returns line n, counted from 1.
func (s *source) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// offset returns the byte at a 1-based line and column.
func (s *source) offset(line, column int) int {
	if line < 1 || line > len(s.lines) {
		return 0
	}
	return s.start[line-1] + byteOf(s.lines[line-1], column-1)
}

// place turns a byte of the file into its line and column.
func (s *source) place(off int) (line, column int) {
	for line < len(s.start) && s.start[line] <= off {
		line++
	}
	l := s.line(line)
	n := min(max(off-s.start[line-1], 0), len(l))
	return line, utf8.RuneCountInString(l[:n]) + 1
}

// A parser reads one project file and collects what is wrong with it.
type parser struct {
	src   *source
	tree  *tree // nil: nothing outside the file is looked at
	diags Diagnostics
}

func (p *parser) add(src *source, sev Severity, code string, line, column, length int, summary, detail string) {
	if len(p.diags) >= maxDiagnostics {
		return
	}
	p.diags = append(p.diags, Diagnostic{
		Severity: sev, Code: code, File: src.name, Line: line, Column: column, Length: max(1, length),
		Offset: src.offset(line, column), Summary: summary, Detail: detail, Snippet: src.line(line),
	})
}

// fail reports an error at n.
func (p *parser) fail(n *yaml.Node, code, summary, detail string) {
	p.add(p.src, SeverityError, code, n.Line, n.Column, p.span(n), summary, detail)
}

// warn reports a warning at n.
func (p *parser) warn(n *yaml.Node, code, summary, detail string) {
	p.add(p.src, SeverityWarning, code, n.Line, n.Column, p.span(n), summary, detail)
}

// whole reports an error of the file as a whole.
func (p *parser) whole(code, summary, detail string) {
	p.diags = append(p.diags, Diagnostic{Severity: SeverityError, Code: code, File: p.src.name, Summary: summary, Detail: detail})
}

// span returns how many characters of its first line n takes.
func (p *parser) span(n *yaml.Node) int {
	line := []rune(p.src.line(n.Line))
	if n.Column < 1 || n.Column > len(line) {
		return 1
	}
	rest := line[n.Column-1:]
	switch {
	case n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0 && n.Content[0].Line == n.Line:
		return p.span(n.Content[0])
	case n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle == 0:
		return 1
	case n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode:
		return balanced(rest)
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return 1
	case rest[0] == '"' || rest[0] == '\'':
		for i := 1; i < len(rest); i++ {
			if rest[i] == '\\' && rest[0] == '"' {
				i++
			} else if rest[i] == rest[0] {
				return i + 1
			}
		}
		return len(rest)
	}
	text, _, _ := strings.Cut(n.Value, "\n")
	if strings.HasPrefix(string(rest), text) {
		return utf8.RuneCountInString(text)
	}
	return 1
}

// balanced returns the length of the bracketed text that r starts with.
func balanced(r []rune) int {
	depth := 0
	for i, c := range r {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 1
}

// document decodes data, or reports why it cannot and returns nil.
func (p *parser) document(data []byte) *yaml.Node {
	if !p.readable(data) {
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		p.whole("E108", "the file is empty", "bootwell init writes a first one")
		return nil
	} else if err != nil {
		p.syntax(err)
		return nil
	}
	if err := d.Decode(&next); err == nil {
		p.fail(&next, "E106", "a second document starts here", "Keep one document: remove this --- and what follows, or move it to another project")
		return nil
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	root := doc.Content[0]
	if (&inspector{p: p, sizes: map[*yaml.Node]int{}, open: map[*yaml.Node]bool{}}).run(root) {
		return root
	}
	return nil
}

// readable reports what keeps data from being text at all.
func (p *parser) readable(data []byte) bool {
	if len(data) > maxBytes {
		p.whole("E101", fmt.Sprintf("the file is larger than %d bytes", maxBytes), "Move long content to files of the project and name them with from:")
		return false
	}
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		p.whole("E102", "the file is UTF-16", "Save it as UTF-8")
		return false
	}
	for off := 0; off < len(data); {
		c, size := utf8.DecodeRune(data[off:])
		what := ""
		switch {
		case c == utf8.RuneError && size == 1:
			what = fmt.Sprintf("byte 0x%02x is not UTF-8", data[off])
		case c < 0x20 && c != '\t' && c != '\n' && c != '\r' || c == 0x7f:
			what = fmt.Sprintf("control character 0x%02x", c)
		}
		if what != "" {
			line, column := p.src.place(off)
			p.add(p.src, SeverityError, "E102", line, column, 1, what, "Save the file as UTF-8 text; in a text in double quotes write \\x.. for a control character")
			return false
		}
		off += size
	}
	return true
}

var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxAdvice says what people usually did when the YAML library complains.
var syntaxAdvice = []struct{ text, summary, detail string }{
	{"mapping values are not allowed", `a ": " in the middle of a text, or wrong indentation`, `Put texts that hold ": " in quotes, and line fields up with their neighbours`},
	{"found character that cannot start any token", "this character cannot start a text", "Put the text in quotes"},
	{"did not find expected key", "this line does not line up with the ones above", "Give all fields of one block the same indentation"},
	{"did not find expected '-' indicator", "this line does not line up with the list above", "Start each item of the list with - in the same column"},
	{"could not find expected ':'", "a field without its colon", "Write: name: value (with a blank after the colon)"},
	{"did not find expected ',' or", "a bracket is not closed", "Close [ with ] and { with }, and part the items with commas"},
	{"found unexpected end of stream", "a quote is not closed", "Close the text with the quote it starts with"},
	{"unknown escape character", "unknown escape after a backslash", "Put the text in single quotes, where a backslash is just a backslash"},
	{"unknown anchor", "alias of an anchor that is not there", "Define the anchor with &name above its first use"},
	{"exceeded max depth", "nested too deep", "Flatten it"},
}

func (p *parser) syntax(err error) {
	m := syntaxError.FindStringSubmatch(err.Error())
	if m == nil {
		p.whole("E103", "not valid YAML: "+err.Error(), "")
		return
	}
	line, _ := strconv.Atoi(m[1])
	line = min(max(line, 1), len(p.src.lines))
	for i, l := range p.src.lines {
		if strings.HasPrefix(l, "<<<<<<<") || strings.HasPrefix(l, ">>>>>>>") {
			p.add(p.src, SeverityError, "E103", i+1, 1, 7, "an unresolved merge conflict", "Take one side, remove the lines with <<<<<<<, ======= and >>>>>>>")
			return
		}
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		if tab := strings.IndexByte(indent, '\t'); tab >= 0 && i+1 >= line-1 && i+1 <= line+1 {
			p.add(p.src, SeverityError, "E104", i+1, tab+1, 1, "a tab in the indentation", "YAML indents with blanks only: replace it with two blanks")
			return
		}
	}
	text := p.src.line(line)
	column := len(text) - len(strings.TrimLeft(text, " ")) + 1
	length := utf8.RuneCountInString(strings.TrimSpace(text))
	summary, detail := "not valid YAML: "+m[2], ""
	for _, a := range syntaxAdvice {
		if strings.Contains(m[2], a.text) {
			summary, detail = a.summary, a.detail
			break
		}
	}
	p.add(p.src, SeverityError, "E103", line, column, length, summary, detail)
}

// An inspector looks at the whole tree once, before anything is made of it:
// duplicate keys, and aliases that would make it endless or huge.
type inspector struct {
	p     *parser
	sizes map[*yaml.Node]int
	open  map[*yaml.Node]bool
	stop  bool // a problem that makes walking the tree unsafe
}

// run reports whether the tree below root is safe to walk.
func (in *inspector) run(root *yaml.Node) bool {
	n := in.size(root, 0)
	if !in.stop && n > maxValues {
		in.p.fail(root, "E107", fmt.Sprintf("aliases make this file more than %d values", maxValues), "Write out what the aliases stand for, or use vars and extends")
		in.stop = true
	}
	return !in.stop
}

func (in *inspector) size(n *yaml.Node, depth int) int {
	if s, ok := in.sizes[n]; ok {
		return s
	}
	if in.stop {
		return 1
	}
	if in.open[n] {
		in.p.fail(n, "E107", "this anchor holds an alias of itself", "Remove the alias inside it")
		in.stop = true
		return 1
	}
	if depth > maxDepth {
		in.p.fail(n, "E103", fmt.Sprintf("nested more than %d deep", maxDepth), "Flatten it")
		in.stop = true
		return 1
	}
	in.open[n] = true
	defer delete(in.open, n)
	s := 1
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		s = in.size(n.Alias, depth)
	}
	if n.Kind == yaml.MappingNode {
		in.keys(n)
	}
	for _, c := range n.Content {
		s = min(s+in.size(c, depth+1), maxValues+1)
	}
	in.sizes[n] = s
	return s
}

// keys reports keys that are no text or occur twice, and merges of no mapping.
func (in *inspector) keys(n *yaml.Node) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolved(n.Content[i]), resolved(n.Content[i+1])
		if k.Kind != yaml.ScalarNode {
			in.p.fail(n.Content[i], "E203", "the name of a field must be text", "")
			continue
		}
		if isMerge(n.Content[i]) {
			for _, m := range merged(v) {
				if m.Kind != yaml.MappingNode {
					in.p.fail(n.Content[i+1], "E107", "<< takes an alias of a mapping", "Write: <<: *name")
				}
			}
			continue
		}
		if line, ok := seen[k.Value]; ok {
			in.p.fail(n.Content[i], "E105", fmt.Sprintf("%q is here twice, first in line %d", k.Value, line), "Keep one of them")
			continue
		}
		seen[k.Value] = n.Content[i].Line
	}
}

func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isMerge(k *yaml.Node) bool { return k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" }

// merged returns the mappings that a << with value v brings in.
func merged(v *yaml.Node) []*yaml.Node {
	if v.Kind != yaml.SequenceNode {
		return []*yaml.Node{v}
	}
	var ms []*yaml.Node
	for _, c := range v.Content {
		ms = append(ms, resolved(c))
	}
	return ms
}

// A pair is one field of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs returns the fields of a mapping with merges resolved, each key once:
// its own fields first, then those of the merged mappings in their order.
func pairs(n *yaml.Node) []pair {
	var ps []pair
	var merges []*yaml.Node
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], resolved(n.Content[i+1])
		if isMerge(k) {
			merges = append(merges, merged(v)...)
			continue
		}
		if k = resolved(k); k.Kind == yaml.ScalarNode && !seen[k.Value] {
			seen[k.Value] = true
			ps = append(ps, pair{k, v})
		}
	}
	for _, m := range merges {
		if m.Kind != yaml.MappingNode {
			continue
		}
		for _, q := range pairs(m) {
			if !seen[q.key.Value] {
				seen[q.key.Value] = true
				ps = append(ps, q)
			}
		}
	}
	return ps
}
