package userdata

import (
	"strconv"
	"strings"
)

// shortNames are the names of the bootstrap as user-data spells them. None of
// the short names is a name in the bootstrap.
var shortNames = map[string]string{
	"words": "w", "path": "p", "head": "h", "url": "u",
	"known": "k", "name": "n", "reply": "r", "err": "e", "query": "q",
	"key": "a", "secret": "s", "token": "t", "now": "d", "body": "b",
	"names": "m", "text": "x", "scope": "c", "sig": "g", "part": "i",
	"times": "_", "pause": "z", "code": "Z", "data": "F", "why": "y",
	"limit": "l", "mode": "o", "file": "f", "cpu": "j", "want": "H",
	"conf": "B", "done": "U", "have": "D", "temp": "N", "explain": "X",
	"sign": "S", "stored": "K", "account": "A", "client": "C",
	"pack": "P", "assertion": "J", "source": "I", "sink": "O",
	"vendor": "V", "region": "G", "kind": "T", "place": "Y", "ask": "Q", "Stay": "E",
	"put": "W", "say": "M", "get": "L",
}

// pyToken matches one token of the Python that the bootstrap is written in:
// strings in double quotes, words and numbers, spaces, or one other character.
var pyToken = pattern(`(?s)^(?:"""(?:.*?)"""|"(?:[^"\\\n]|\\.)*"|\w+|[ ]+|.)`)

// lineLength is up to which statements are put on one line, in bytes: what a
// screen still shows well.
const lineLength = 120

// minify returns Python source without comments, docstrings, blank lines and
// needless spaces, octal numbers as decimal ones, indented by one space a level, with the names replaced and
// simple statements joined on one line, also with the head of their block. src
// is indented by four, has comments and docstrings on lines of their own, each
// statement on one line, and opens nothing but blocks with a colon at an end.
func minify(src string, rename map[string]string) string {
	lines := codeLines(src, rename)
	var out strings.Builder
	for i := 0; i < len(lines); {
		l := lines[i]
		indent := strings.Repeat(" ", l.depth)
		i++
		if l.opens() {
			if n := block(lines[i:], l.depth); n > 0 {
				if body := join(lines[i : i+n]); len(indent+l.code+body) <= lineLength || n == 1 {
					l.code += body
					i += n
				}
			}
		} else {
			for i < len(lines) && lines[i].joins(l.depth) && len(indent+l.code+lines[i].code) < lineLength {
				l.code += ";" + lines[i].code
				i++
			}
		}
		out.WriteString(indent + l.code + "\n")
	}
	return out.String()
}

// block returns how many lines the block has that lines begin with, or 0 if
// one of them is not a simple statement. Its head has the depth given.
func block(lines []codeLine, depth int) int {
	n := 0
	for n < len(lines) && lines[n].depth > depth {
		if !lines[n].joins(depth + 1) {
			return 0
		}
		n++
	}
	return n
}

func join(lines []codeLine) string {
	var code []string
	for _, l := range lines {
		code = append(code, l.code)
	}
	return strings.Join(code, ";")
}

// A codeLine is one statement, or the head of one that has a block.
type codeLine struct {
	depth int // of blocks
	code  string
}

func (l codeLine) opens() bool { return strings.HasSuffix(l.code, ":") }

// joins reports whether l can stand on a line with others of that depth.
func (l codeLine) joins(depth int) bool {
	return l.depth == depth && !l.opens() && !strings.Contains(l.code, "\n")
}

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
		tok := pyToken().FindString(code)
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
		if n, err := strconv.ParseInt(tok, 0, 64); err == nil && strings.HasPrefix(tok, "0o") {
			tok = strconv.FormatInt(n, 10)
		}
		out.WriteString(tok)
		prev = tok[len(tok)-1]
	}
	return out.String()
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
