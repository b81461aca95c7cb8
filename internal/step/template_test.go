package step

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/release"
)

func templateRunner(t testing.TB) *Runner {
	var vars release.Vars
	must(t, vars.UnmarshalJSON([]byte(`{"server_name":"www","workers":4,"big":12345678901,"on":true,"names":["a","b c"],"q":"it's <x>"}`)))
	return &Runner{Vars: vars, Role: "web", Release: "r43", Channel: "stable", Facts: release.Facts{Hostname: "h1", CPUs: 2}}
}

func TestTemplate_Render(t *testing.T) {
	r := templateRunner(t)
	for _, c := range []struct{ src, want, err string }{
		{"{{.server_name}} {{.workers}} {{.big}} {{.on}}", "www 4 12345678901 true", ""},
		{"{{.Role}} {{.Release}} {{.Channel}} {{.Facts.Hostname}} {{.Facts.CPUs}}", "web r43 stable h1 2", ""},
		{"{{if gt .workers 3}}many{{end}}{{if eq .workers 4}}4{{end}}", "many4", ""},
		{"{{range .names}}[{{.}}]{{else}}none{{end}}", "[a][b c]", ""},
		{`{{join ", " .names}} {{json .names}} {{json .q}} {{quote .q}}`, `a, b c ["a","b c"] "it's <x>" 'it'\''s <x>'`, ""},
		{`{{printf "%05d %q %s" .workers .server_name .q}} {{.q | html}} {{print "a" 1}}`, `00004 "www" it's <x> it&#39;s &lt;x&gt; a1`, ""},
		{"{{define \"x\"}}<{{.}}>{{end}}{{template \"x\" .Role}}{{block \"y\" .}}{{.Role}}{{end}}", "<web>web", ""},
		{"{{range $i, $n := .names}}{{if $i}},{{end}}{{$n}}{{end}}", "a,b c", ""},
		{"{{.worker}}", "", `no entry for key "worker"`},
		{"{{.Facts.Nope}}", "", "Nope"},
		{"a\n{{if}}\n", "", "t.tmpl:2"},
		{"{{exec \"id\"}}", "", `function "exec" not defined`},
		{"{{.Facts.Hostname | nofunc}}", "", "nofunc"},
	} {
		got, err := r.render("t.tmpl", []byte(c.src))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.src, err, c.err)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.src, got, err, c.want)
		}
	}
}

// Each of these would run or grow for ages without the meter.
func TestTemplate_HostileIsBounded(t *testing.T) {
	r := templateRunner(t)
	var tree strings.Builder
	for i := range 60 {
		fmt.Fprintf(&tree, `{{define "t%d"}}{{template "t%d"}}{{template "t%d"}}{{end}}`, i, i+1, i+1)
	}
	for name, s := range map[string]string{
		"range":          "{{range 9223372036854775807}}{{end}}",
		"range text":     "{{range 9223372036854775807}}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{end}}",
		"recursion":      `{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`,
		"tree":           tree.String() + `{{define "t60"}}{{end}}{{template "t0"}}`,
		"doubling":       `{{$x := "aaaaaaaa"}}{{range 60}}{{$x = printf "%s%s" $x $x}}{{end}}{{$x}}`,
		"print doubling": `{{$x := "aaaaaaaa"}}{{range 60}}{{$x = print $x $x}}{{end}}{{$x}}`,
		"many arguments": `{{$x := printf "%060000d" 1}}{{printf "` + strings.Repeat("%[1]s", 1000) + `" $x}}`,
		"width":          `{{printf "` + strings.Repeat("%999999d", 100) + `" 1}}`,
		"star width":     `{{printf "` + strings.Repeat("%[1]*[1]d", 100) + `" 999999}}`,
		"nested":         strings.Repeat("{{range 1000}}", 50) + strings.Repeat("{{end}}", 50),
		"big expression": "{{range 1000000}}{{if eq 1 " + strings.Repeat("(len \"a\") ", 5000) + "}}{{end}}{{end}}",
		"break":          "{{range 9223372036854775807}}{{continue}}{{end}}",
		"source":         strings.Repeat("x", maxTemplate+1),
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := r.render("t", []byte(s)); err == nil {
				t.Errorf("was rendered, to %d bytes", len(out))
			}
		})
	}
}
