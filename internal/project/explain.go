package project

import (
	_ "embed"
	"slices"
	"strings"
)

//go:embed codes.md
var codesText string

//go:embed schema.json
var schemaText []byte

// Schema returns the JSON Schema (draft-07) of the project file, for editors.
// What it refuses [Parse] refuses too.
func Schema() []byte { return slices.Clone(schemaText) }

// Explain returns the long story of a code such as E204, in plain text, and
// whether there is such a code.
func Explain(code string) (string, bool) {
	for _, s := range stories() {
		if strings.EqualFold(s.code, strings.TrimSpace(code)) {
			return s.text, true
		}
	}
	return "", false
}

// Codes returns all codes of diagnostics, sorted.
func Codes() []string {
	var codes []string
	for _, s := range stories() {
		codes = append(codes, s.code)
	}
	slices.Sort(codes)
	return codes
}

type story struct{ code, text string }

// stories reads codes.md: a heading "## E204 title" and its text, for each.
func stories() []story {
	var out []story
	for _, part := range strings.Split("\n"+codesText, "\n## ")[1:] {
		head, body, _ := strings.Cut(part, "\n")
		code, _, _ := strings.Cut(head, " ")
		out = append(out, story{code, head + "\n\n" + strings.TrimSpace(body) + "\n"})
	}
	return out
}
