package project

import (
	"fmt"
	"strings"
	"testing"
)

// bomb is a document whose aliases double ten times ten times.
func bomb() string {
	var b strings.Builder
	b.WriteString("x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "x-a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String() + topDoc("")
}

// broken are documents that are no usable YAML: what is said, and where.
var broken = []struct{ name, doc, code, where, says string }{
	{"too large", "# " + strings.Repeat("x", maxBytes), "E101", "bootwell.yaml", "larger than 1048576 bytes"},
	{"not UTF-8", "version: 1\nproject: \xff\n", "E102", "bootwell.yaml:2:10", "byte 0xff is not UTF-8"},
	{"UTF-16", "\xff\xfev\x00", "E102", "bootwell.yaml", "UTF-16"},
	{"NUL", "version: 1\n\x00", "E102", "bootwell.yaml:2:1", "control character 0x00"},
	{"binary", "\x7fELF\x02", "E102", "bootwell.yaml:1:1", "control character 0x7f"},
	{"tab", "version: 1\nroles:\n\tweb: {}\n", "E104", "bootwell.yaml:3:1", "a tab in the indentation"},
	{"open quote", "version: 1\nproject: \"acme\n", "E103", "", "a quote is not closed"},
	{"open bracket", "version: 1\nplatforms: [a, b\nproject: x\n", "E103", "", "bracket is not closed"},
	{"colon in text", "version: 1\nproject: a: b\n", "E103", "bootwell.yaml:2:1", `a ": " in the middle of a text`},
	{"indentation", "version: 1\nroles:\n    web:\n      steps: []\n   b: 1\n", "E103", "", "does not line up"},
	{"at sign", "version: 1\nproject: @acme\n", "E103", "bootwell.yaml:2:1", "cannot start a text"},
	{"conflict", "version: 1\n<<<<<<< HEAD\nproject: a\n=======\nproject: b\n>>>>>>> x\n", "E103", "bootwell.yaml:2:1", "merge conflict"},
	{"unknown alias", "version: 1\nproject: *a\n", "E103", "", "alias of an anchor that is not there"},
	{"escape", "version: 1\nproject: \"\\q\"\n", "E103", "", "unknown escape"},
	{"twice", "version: 1\nproject: a\nproject: b\n", "E105", "bootwell.yaml:3:1", `"project" is here twice, first in line 2`},
	{"two documents", "version: 1\n---\nversion: 1\n", "E106", "", "a second document starts here"},
	{"second document broken", "version: 1\n---\n[", "E103", "", ""},
	{"alias of itself", "version: 1\nx-a: &a [*a]\n", "E107", "", "holds an alias of itself"},
	{"alias bomb", bomb(), "E107", "", "aliases make this file more than 100000 values"},
	{"merge of text", "version: 1\nx-a: { <<: text }\n", "E107", "", "<< takes an alias of a mapping"},
	{"deep", "version: 1\nx-a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "E103", "", "nested more than 100 deep"},
	{"list as key", "version: 1\n? [a, b]\n: c\n", "E203", "", "the name of a field must be text"},
}

func TestParse_Broken(t *testing.T) {
	for _, tt := range broken {
		t.Run(tt.name, func(t *testing.T) {
			p, diags := Parse(FileName, []byte(tt.doc), nil)
			if p != nil || len(diags) == 0 {
				t.Fatalf("accepted")
			}
			d := diags[0]
			for _, x := range diags {
				if x.Code == tt.code && strings.Contains(x.Summary, tt.says) {
					d = x
				}
			}
			if d.Code != tt.code || !strings.Contains(d.Summary, tt.says) || tt.where != "" && d.place() != tt.where {
				t.Errorf("%s %s: %s (%s)", d.Code, d.place(), d.Summary, d.Detail)
			}
		})
	}
}

func TestParse_ByteOrderMark(t *testing.T) {
	if p, diags := Parse(FileName, []byte("\xef\xbb\xbf"+topDoc("")), nil); p == nil {
		t.Error(diags)
	}
}

func TestParse_LineEnds(t *testing.T) {
	_, diags := Parse(FileName, []byte(strings.ReplaceAll(topDoc("nope: 1\n"), "\n", "\r\n")), nil)
	if len(diags) != 1 || diags[0].place() != "bootwell.yaml:5:1" || strings.Contains(diags[0].Snippet, "\r") {
		t.Errorf("%+v", diags)
	}
}
