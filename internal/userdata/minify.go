package userdata

import (
	"regexp"
	"strings"
)

// shortNames are the variables of bootstrap.py as user-data spells them.
// None of the short names is a name in bootstrap.py.
var shortNames = map[string]string{
	"words": "w", "path": "p", "head": "h", "verb": "v", "url": "u",
	"known": "k", "name": "n", "reply": "r", "err": "e", "query": "q",
	"key": "a", "secret": "s", "token": "t", "now": "d", "body": "b",
	"names": "m", "text": "x", "scope": "c", "sig": "g", "part": "i",
	"start": "t0", "pause": "z", "code": "c0", "data": "d0", "why": "y",
	"limit": "l", "mode": "o", "file": "f", "cpu": "j", "want": "w0",
	"conf": "f0", "done": "k0", "have": "h0", "credentials": "creds",
	"temp": "n0",
}

// pyToken matches one token of the Python that bootstrap.py is written in:
// strings in double quotes, words and numbers, spaces, or one other character.
var pyToken = regexp.MustCompile(`(?s)^(?:"""(?:.*?)"""|"(?:[^"\\\n]|\\.)*"|\w+|[ ]+|.)`)

// minify returns Python source without comments, docstrings, blank lines and
// needless spaces, indented by one space a level, with the variables renamed
// and a block of one simple statement on the line that opens it. src is
// indented by four, has comments and docstrings on lines of their own, each
// statement on one line, and opens nothing but blocks with a colon at an end.
func minify(src string, rename map[string]string) string {
	lines := codeLines(src, rename)
	var out strings.Builder
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		out.WriteString(strings.Repeat(" ", l.depth) + l.code)
		if l.opens() && i+1 < len(lines) && !lines[i+1].opens() &&
			(i+2 == len(lines) || lines[i+2].depth <= l.depth) {
			i++
			out.WriteString(lines[i].code)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// A codeLine is one statement, or the head of one that has a block.
type codeLine struct {
	depth int // of blocks
	code  string
}

func (l codeLine) opens() bool { return strings.HasSuffix(l.code, ":") }

func codeLines(src string, rename map[string]string) []codeLine {
	var lines []codeLine
	for src != "" {
		var line string
		line, src = cutLine(src)
		code := strings.TrimLeft(line, " ")
		if code == "" || code[0] == '#' || strings.HasPrefix(code, `"""`) {
			continue
		}
		lines = append(lines, codeLine{(len(line) - len(code)) / 4, squeeze(code, rename)})
	}
	return lines
}

// cutLine cuts the first logical line off src, which goes on through a string
// in triple quotes.
func cutLine(src string) (line, rest string) {
	line, rest, _ = strings.Cut(src, "\n")
	for strings.Count(line, `"""`)%2 == 1 && rest != "" {
		var more string
		more, rest, _ = strings.Cut(rest, "\n")
		line += "\n" + more
	}
	return line, rest
}

// squeeze shortens one line of code.
func squeeze(code string, rename map[string]string) string {
	var out strings.Builder
	prev := byte(0)
	for code != "" {
		tok := pyToken.FindString(code)
		code = code[len(tok):]
		if tok[0] == ' ' {
			if code != "" && isWord(prev) && isWord(code[0]) {
				out.WriteByte(' ')
			}
			continue
		}
		if short, ok := rename[tok]; ok && prev != '.' {
			tok = short
		}
		out.WriteString(tok)
		prev = tok[len(tok)-1]
	}
	return out.String()
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
