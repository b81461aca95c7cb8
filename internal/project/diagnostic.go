package project

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Severity says whether a project can be used despite a [Diagnostic].
type Severity string

// The severities. Their words are those of terraform's diagnostics.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Limits of what is collected and shown.
const (
	maxShown       = 20
	maxDiagnostics = 1000
	maxSnippet     = 160 // characters of a source line that are shown
)

// A Diagnostic is one problem at one place of a file.
type Diagnostic struct {
	Severity Severity
	Code     string // such as E204; [Explain] has its story
	File     string // as given to [Parse], or a path within the project
	Line     int    // 1-based; 0: the whole file
	Column   int    // 1-based, in characters
	Length   int    // in characters, at least 1
	Offset   int    // 0-based byte of the file
	Summary  string // one line: what is wrong
	Detail   string // one line: what to do; may be empty
	Snippet  string // the source line, without its end
}

// Diagnostics are problems in the order of their place in the files. As an
// error they stand for a project file that cannot be used.
type Diagnostics []Diagnostic

// Error implements error with the number of problems and the first of them.
func (ds Diagnostics) Error() string {
	for _, d := range ds {
		if d.Severity == SeverityError {
			return fmt.Sprintf("%s in %s: %s: %s", ds.count(), d.File, d.place(), d.Summary)
		}
	}
	return ds.count()
}

// Err returns ds as an error if one of them is an error, else nil.
func (ds Diagnostics) Err() error {
	if ds.Errors() == 0 {
		return nil
	}
	return ds
}

// Errors returns how many of ds are errors.
func (ds Diagnostics) Errors() int {
	n := 0
	for _, d := range ds {
		if d.Severity == SeverityError {
			n++
		}
	}
	return n
}

// Warnings returns those of ds that are warnings.
func (ds Diagnostics) Warnings() Diagnostics {
	var w Diagnostics
	for _, d := range ds {
		if d.Severity == SeverityWarning {
			w = append(w, d)
		}
	}
	return w
}

// count words the totals, such as "2 problems and 1 warning".
func (ds Diagnostics) count() string {
	e := ds.Errors()
	w := len(ds) - e
	switch {
	case e > 0 && w > 0:
		return plural(e, "problem") + " and " + plural(w, "warning")
	case e > 0:
		return plural(e, "problem")
	}
	return plural(w, "warning")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (d Diagnostic) place() string {
	if d.Line == 0 {
		return d.File
	}
	return fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column)
}

// sorted orders ds by place: first the project file, then the others by name.
func (ds Diagnostics) sorted(first string) Diagnostics {
	sort.SliceStable(ds, func(i, j int) bool {
		a, b := ds[i], ds[j]
		if a.File != b.File {
			return a.File == first || b.File != first && a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return ds
}

// Render writes diags for people: a heading, then each with its place, source
// line, caret and remedy. It shows the first twenty and tells how many there
// are. Control characters of the files never reach w.
func Render(w io.Writer, diags Diagnostics, color bool) error {
	if len(diags) == 0 {
		return nil
	}
	p := painter(color)
	var b strings.Builder
	if diags.Errors() > 0 {
		fmt.Fprintf(&b, "%s %s in %s\n\n", p.paint(red, "error:"), diags.count(), printable(diags[0].File))
	}
	for i, d := range diags {
		if i == maxShown {
			fmt.Fprintf(&b, "\nand %d more (%s in all)\n", len(diags)-maxShown, diags.count())
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		d.render(&b, p)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

func (d Diagnostic) render(b *strings.Builder, p painter) {
	fmt.Fprintf(b, "%s: ", p.paint(bold, printable(d.place())))
	if d.Severity == SeverityWarning {
		fmt.Fprintf(b, "%s %s (bootwell explain %s)\n", p.paint(yellow, "warning:"), printable(d.Summary), d.Code)
	} else {
		fmt.Fprintf(b, "%s\n", printable(d.Summary))
	}
	hint := strings.HasPrefix(d.Detail, "did you mean")
	if d.Line > 0 {
		line, from, length := window(d.Snippet, d.Column, d.Length)
		num := fmt.Sprintf("%4d", d.Line)
		fmt.Fprintf(b, "%s | %s\n", num, printable(line))
		caret := p.paint(red, strings.Repeat("^", cells(line, from, length)))
		fmt.Fprintf(b, "%s | %s%s", strings.Repeat(" ", len(num)), pad(line, from), caret)
		if hint {
			b.WriteString(" " + printable(d.Detail))
		}
		b.WriteByte('\n')
	}
	if d.Detail != "" && (!hint || d.Line == 0) {
		fmt.Fprintf(b, "     %s\n", printable(d.Detail))
	}
}

// window cuts a long line around its marked part and returns the part's place
// in what is left, counted in characters from 0.
func window(line string, column, length int) (string, int, int) {
	r := []rune(line)
	from := min(max(column-1, 0), len(r))
	start := 0
	if len(r) > maxSnippet {
		start = min(max(from-maxSnippet/2, 0), len(r)-maxSnippet)
		r = r[start : start+maxSnippet]
	}
	from -= start
	length = max(1, min(length, len(r)-from))
	return string(r), from, length
}

// pad returns blanks as wide as the first n characters of line.
func pad(line string, n int) string {
	var b strings.Builder
	for i, c := range []rune(line) {
		switch {
		case i >= n:
			return b.String()
		case c == '\t':
			b.WriteByte('\t')
		case wide(c):
			b.WriteString("  ")
		case !unicode.Is(unicode.Mn, c):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// cells returns how many cells of a terminal length characters take.
func cells(line string, from, length int) int {
	n := 0
	for i, c := range []rune(line) {
		if i < from || i >= from+length {
			continue
		}
		if n++; wide(c) {
			n++
		}
	}
	return max(n, 1)
}

// wide reports whether terminals give c two cells (Unicode TR 11, the blocks
// that occur in running text).
func wide(c rune) bool {
	return c >= 0x1100 && (c <= 0x115f || c >= 0x2e80 && c <= 0xa4cf || c >= 0xac00 && c <= 0xd7a3 ||
		c >= 0xf900 && c <= 0xfaff || c >= 0xfe30 && c <= 0xfe6f || c >= 0xff00 && c <= 0xff60 ||
		c >= 0x1f300 && c <= 0x1faff || c >= 0x20000 && c <= 0x3fffd)
}

// printable replaces what could move a terminal's cursor or colour its text.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' || unicode.IsPrint(c) || unicode.Is(unicode.Mn, c) {
			return c
		}
		return utf8.RuneError
	}, s)
}

type painter bool

const (
	red    = "31"
	yellow = "33"
	bold   = "1"
)

func (p painter) paint(style, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

type jsonPos struct {
	Line   int `json:"line"`
	Column int `json:"column"`
	Byte   int `json:"byte"`
}

type jsonRange struct {
	Filename string  `json:"filename"`
	Start    jsonPos `json:"start"`
	End      jsonPos `json:"end"`
}

type jsonSnippet struct {
	Context   *string  `json:"context"`
	Code      string   `json:"code"`
	StartLine int      `json:"start_line"`
	Start     int      `json:"highlight_start_offset"`
	End       int      `json:"highlight_end_offset"`
	Values    []string `json:"values"`
}

type jsonDiagnostic struct {
	Severity Severity     `json:"severity"`
	Code     string       `json:"code"`
	Summary  string       `json:"summary"`
	Detail   string       `json:"detail"`
	Range    *jsonRange   `json:"range,omitempty"`
	Snippet  *jsonSnippet `json:"snippet,omitempty"`
}

// MarshalJSON returns d in the form of the entries of diagnostics[] that
// `terraform validate -json` prints, with our code added. Lines and columns
// count from 1, bytes from 0, and the end is just past the last character.
func (d Diagnostic) MarshalJSON() ([]byte, error) {
	j := jsonDiagnostic{Severity: d.Severity, Code: d.Code, Summary: d.Summary, Detail: d.Detail}
	if d.Line > 0 {
		from := byteOf(d.Snippet, d.Column-1)
		to := byteOf(d.Snippet, d.Column-1+d.Length)
		j.Range = &jsonRange{
			Filename: d.File,
			Start:    jsonPos{d.Line, d.Column, d.Offset},
			End:      jsonPos{d.Line, d.Column + d.Length, d.Offset + to - from},
		}
		j.Snippet = &jsonSnippet{Code: d.Snippet, StartLine: d.Line, Start: from, End: to, Values: []string{}}
	}
	b, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("encode diagnostic: %w", err)
	}
	return b, nil
}

// byteOf returns the byte at which character n of s starts.
func byteOf(s string, n int) int {
	for i := range s {
		if n <= 0 {
			return i
		}
		n--
	}
	return len(s)
}
