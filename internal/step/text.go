package step

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/release"
)

// maxChanges bounds the lines of one result; a folder of files has thousands.
const maxChanges = 200

// pattern is a regular expression that is compiled when it is first needed:
// most calls of the agent find nothing to do and need none.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// escapes matches the ANSI sequences that tools write to colour and redraw.
var escapes = pattern(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])`)

// clean returns s as valid UTF-8 without escape sequences and control
// characters other than newline and tab; a carriage return ends a line.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = escapes().ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\r':
			return '\n'
		case c == '\n' || c == '\t':
			return c
		case unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == '\u2028' || c == '\u2029':
			return -1
		}
		return c
	}, s)
}

// cleanTail returns the end of raw output as text of at most limit bytes,
// from the start of a line where there is one.
func cleanTail(raw []byte, limit int) string {
	s := strings.Trim(clean(string(raw)), "\n")
	if len(s) <= limit {
		return s
	}
	s = s[len(s)-limit:]
	if i := strings.IndexByte(s, '\n'); i >= 0 && i < len(s)-1 {
		return s[i+1:]
	}
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// oneLine makes s a reason: one clean line of at most
// [release.MaxReasonBytes].
func oneLine(s string) string {
	s = strings.Join(strings.Fields(clean(s)), " ")
	return cut(s, release.MaxReasonBytes)
}

// cut shortens s to at most limit bytes at a rune's start.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	limit -= len("…")
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}

// lastLine returns the last line of output that says something, short enough
// to be a part of a reason.
func lastLine(raw []byte) string {
	s := strings.TrimSpace(clean(string(raw)))
	return cut(strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:]), 300)
}

// boundChanges bounds the number and length of lines.
func boundChanges(lines []string) []string {
	var out []string
	for i, l := range lines {
		if i == maxChanges {
			return append(out, fmt.Sprintf("and %d more", len(lines)-i))
		}
		out = append(out, oneLine(l))
	}
	return out
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// plural returns "1 package" or "3 packages".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
