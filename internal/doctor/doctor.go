// Package doctor looks for what keeps bootwell from working with a bucket, and
// says it in words with the remedy: the way to the endpoint, clocks,
// credentials, each right by itself, conditional writes, the bucket's set-up
// and the project's signatures.
//
// It asks the real thing. What it writes are objects of its own below
// locks/doctor-…, which it removes; everything else it learns from writes that
// cannot succeed, and whose body is what the object holds already. No finding
// ever has a secret in it.
package doctor

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Status says how bad a finding is.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning" // works, but is not as it should be
	Problem Status = "problem" // does not work
	Unknown Status = "unknown" // could not be found out; the message says why
)

// A Finding is what came out of one check.
type Finding struct {
	Check   string `json:"name"`             // such as "clock"; unique for one bucket
	Status  Status `json:"result"`           //
	Cause   string `json:"cause,omitempty"`  // one word for machines when the status is not ok, such as "tls_expired"
	Message string `json:"message"`          // one sentence
	Fix     string `json:"fix,omitempty"`    // what to do
	Bucket  string `json:"bucket,omitempty"` // name of the bucket, when it is about one
}

// Findings are what came out of all checks, in a stable order.
type Findings []Finding

// Count returns how many have this status.
func (fs Findings) Count(s Status) int {
	n := 0
	for _, f := range fs {
		if f.Status == s {
			n++
		}
	}
	return n
}

// Has reports whether one of them has this cause.
func (fs Findings) Has(cause string) bool {
	for _, f := range fs {
		if f.Cause == cause {
			return true
		}
	}
	return false
}

func ok(check, format string, a ...any) Finding {
	return Finding{Check: check, Status: OK, Message: clean(fmt.Sprintf(format, a...))}
}

func unknown(check, cause, format string, a ...any) Finding {
	return Finding{Check: check, Status: Unknown, Cause: cause, Message: clean(fmt.Sprintf(format, a...))}
}

func bad(check string, s Status, cause, message, fix string) Finding {
	return Finding{Check: check, Status: s, Cause: cause, Message: clean(message), Fix: clean(fix)}
}

const maxText = 600 // bytes of a message; servers speak in it too

// clean keeps text on one line, printable and bounded.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// Text shows findings as a table and, below it, what to do. Lines are broken
// before width columns; 0: never.
func (fs Findings) Text(width int) string {
	check := len("CHECK")
	for _, f := range fs {
		check = max(check, utf8.RuneCountInString(f.Check))
	}
	var b strings.Builder
	row := func(result, name, message string) {
		head := fmt.Sprintf("%-9s %-*s   ", result, check, name)
		b.WriteString(head + wrap(message, utf8.RuneCountInString(head), width) + "\n")
	}
	row("RESULT", "CHECK", "MESSAGE")
	bucket := ""
	for _, f := range fs {
		if f.Bucket != "" && f.Bucket != bucket {
			b.WriteString("\n" + f.Bucket + "\n")
			bucket = f.Bucket
		}
		row(string(f.Status), f.Check, f.Message)
	}
	b.WriteString("\n" + fs.summary() + "\n")
	for i, f := range fs {
		same := func(g Finding) bool { return g.Fix == f.Fix && g.Bucket == f.Bucket }
		if f.Fix == "" || slices.ContainsFunc(fs[:i], same) {
			continue
		}
		head, fix := fmt.Sprintf("  %-*s   ", check, f.Check), f.Fix
		for _, g := range fs[i+1:] {
			if same(g) && g.Check != f.Check {
				fix += " (also for " + g.Check + ")"
			}
		}
		if f.Bucket != "" {
			fix = f.Bucket + ": " + fix
		}
		b.WriteString(head + wrap(fix, utf8.RuneCountInString(head), width) + "\n")
	}
	return b.String()
}

func (fs Findings) summary() string {
	var parts []string
	for _, s := range []struct {
		status    Status
		one, many string
	}{{Problem, "problem", "problems"}, {Warning, "warning", "warnings"}, {Unknown, "unknown", "unknown"}} {
		switch n := fs.Count(s.status); n {
		case 0:
		case 1:
			parts = append(parts, "1 "+s.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, s.many))
		}
	}
	if len(parts) == 0 {
		return "All is well."
	}
	return strings.Join(parts, ", ") + "."
}

// wrap breaks text at spaces, so that with indent columns before each line none
// is longer than width. A word that is too long stays whole: it is to be copied.
func wrap(text string, indent, width int) string {
	room := width - indent
	if width <= 0 || room < 20 {
		return text
	}
	var b strings.Builder
	col := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case col+1+n > room:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			col = 0
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
	}
	return b.String()
}
