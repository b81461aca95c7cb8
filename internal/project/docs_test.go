package project

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type schemaField struct {
	Ref         string `json:"$ref"`
	Type        any
	Enum        []any
	Const       any
	Default     any
	Description string
	Items       *schemaField
}

type schemaObject struct {
	Required   []string
	Properties json.RawMessage
}

// words says in a few words what a field takes.
func (f schemaField) words() string {
	if f.Ref != "" {
		name := strings.TrimPrefix(f.Ref, "#/definitions/")
		if w, ok := map[string]string{
			"file_in_project": "path in the project", "path": "absolute path", "line": "text", "globs": "list of globs", "texts": "text or list",
			"services": "list of services", "platforms": "list of platforms", "account": "name", "mode": "octal text", "text_or_number": "text or number",
		}[name]; ok {
			return w
		}
		return strings.ReplaceAll(name, "_", " ")
	}
	switch {
	case f.Const != nil:
		return fmt.Sprintf("`%v`", f.Const)
	case f.Enum != nil:
		var ws []string
		for _, e := range f.Enum {
			ws = append(ws, fmt.Sprintf("`%v`", e))
		}
		return strings.Join(ws, ", ")
	case f.Type == "array":
		return "list"
	case f.Type == "object":
		return "fields"
	case f.Type == "boolean":
		return "true, false"
	case f.Type == "integer":
		return "whole number"
	case f.Type == "string":
		return "text"
	}
	return "see there"
}

// fieldTable is the table of one object of the schema, in its order.
func fieldTable(t *testing.T, o schemaObject) string {
	t.Helper()
	var fields map[string]schemaField
	if err := json.Unmarshal(o.Properties, &fields); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| field | takes | default | what |\n|---|---|---|---|\n")
	for _, name := range keysInOrder(t, o.Properties) {
		f := fields[name]
		def := ""
		switch {
		case slices.Contains(o.Required, name):
			def = "required"
		case f.Default != nil:
			def = fmt.Sprintf("`%v`", f.Default)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, f.words(), def, strings.ReplaceAll(f.Description, "|", `\|`))
	}
	return b.String()
}

func keysInOrder(t *testing.T, raw json.RawMessage) []string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for d.More() {
		k, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

// TestReference holds the tables of docs/project-file.md equal to the schema
// and to the fields of a later bootwell.
func TestReference(t *testing.T) {
	const name = "../../docs/project-file.md"
	var schema struct {
		schemaObject
		Definitions map[string]schemaObject
	}
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	got := regexp.MustCompile(`(?s)<!-- (fields: (\w+)|later) -->\n.*?<!-- end -->`).ReplaceAllStringFunc(string(page), func(part string) string {
		head, _, _ := strings.Cut(part, "\n")
		what := strings.Trim(strings.TrimPrefix(head, "<!-- "), " ->")
		table := ""
		if def, ok := strings.CutPrefix(what, "fields: "); ok {
			seen[def] = true
			o := schema.Definitions[def]
			if def == "top" {
				o = schema.schemaObject
			}
			table = fieldTable(t, o)
		} else {
			table = "| field | until then |\n|---|---|\n"
			for _, k := range slices.Sorted(maps.Keys(later)) {
				table += fmt.Sprintf("| `%s` | %s |\n", k, later[k])
			}
		}
		return head + "\n" + table + "<!-- end -->"
	})
	for def, o := range schema.Definitions {
		if o.Properties != nil && !seen[def] {
			t.Errorf("%s has no table in the reference", def)
		}
	}
	golden(t, name, []byte(got))
}
