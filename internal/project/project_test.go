package project

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// parseIn parses doc beside the files, whose names may end in * to be executable.
func parseIn(doc string, files map[string]string) (*Project, Diagnostics) {
	m := fstest.MapFS{}
	for name, text := range files {
		mode := fs.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: mode}
	}
	return Parse(FileName, []byte(doc), m)
}

func resolveRole(t *testing.T, doc, role string) release.Role {
	t.Helper()
	p, diags := Parse(FileName, []byte(doc), nil)
	if p == nil {
		t.Fatal(diags)
	}
	roles, _ := p.Resolve()
	r, ok := roles[role]
	if !ok {
		t.Fatalf("no role %s in %v", role, roles)
	}
	return r
}

func TestResolve_Defaults(t *testing.T) {
	r := resolveRole(t, roleDoc(`
steps:
  - packages: [nginx, nginx-common=1.22.1-9]
  - services: [nginx]
  - files: [{ content: hi, to: /etc/motd }, { state: directory, to: /srv/x }, { link: b, to: /a }, { state: absent, to: /gone }]
  - run: |
      echo one
      echo two
  - run: echo one
  - script: ./scripts/setup.sh
    args: [--port, 80]
    user: root
checks: [{ http: "http://127.0.0.1/" }, { port: 80 }, { service: nginx }, { file: /etc/motd }, { package: nginx }, { command: nginx -t }]`), "web")
	on := true
	yes := func(b *bool) bool { return b != nil && *b }
	if r.Schedule.Poll.Std() != 5*time.Minute || r.Schedule.Reapply.Std() != time.Hour || r.Attempts != 3 || len(r.Platforms) != 0 {
		t.Errorf("schedule %v, attempts %d, platforms %v", r.Schedule, r.Attempts, r.Platforms)
	}
	if got := r.Steps[0].Packages; !slices.Equal(got, []release.Package{{Name: "nginx"}, {Name: "nginx-common", Version: "1.22.1-9"}}) {
		t.Errorf("packages %v", got)
	}
	if s := r.Steps[1].Services[0]; s.State != release.ServiceRunning || !yes(s.Enabled) || *s.Enabled != on {
		t.Errorf("service %v", s)
	}
	files := r.Steps[2].Files
	for i, want := range []release.FileItem{
		{To: "/etc/motd", State: release.StatePresent, Mode: "0644", Owner: "root", Group: "root"},
		{To: "/srv/x", State: release.StateDirectory, Mode: "0755", Owner: "root", Group: "root"},
		{To: "/a", Link: "b", State: release.StatePresent, Owner: "root", Group: "root"},
		{To: "/gone", State: release.StateAbsent, Owner: "root", Group: "root"},
	} {
		got := files[i]
		got.Content = nil
		if got != want {
			t.Errorf("file %d: %+v, want %+v", i, got, want)
		}
	}
	wantNames := []string{"packages nginx nginx-common", "services nginx", "files /etc/motd /srv/x /a and 1 more", "run echo one …", "run echo one", "script scripts/setup.sh"}
	for i, s := range r.Steps {
		rerun := release.RerunAlways
		if i > 2 {
			rerun = release.RerunChanged
		}
		if s.Name != wantNames[i] || s.Rerun != rerun || s.Timeout.Std() != 10*time.Minute || s.OnError != release.OnErrorStop || s.Reboot != release.RebootNever || s.User != "" {
			t.Errorf("step %d: %+v", i, s)
		}
	}
	if !slices.Equal(r.Steps[5].Args, []string{"--port", "80"}) {
		t.Errorf("args %q", r.Steps[5].Args)
	}
	c := r.Checks
	if c[0].Status != 200 || c[1].Target != "tcp:80" || !yes(c[1].Listening) || !yes(c[2].Running) || c[2].Enabled != nil || !yes(c[3].Exists) || !yes(c[4].Installed) {
		t.Errorf("checks %+v", c)
	}
	for _, c := range c {
		if c.Timeout.Std() != checkTimeout || c.Retries != checkRetries || c.Interval.Std() != checkInterval || c.Name == "" {
			t.Errorf("check %+v", c)
		}
	}
}

func TestResolve_Extends(t *testing.T) {
	doc := `version: 1
project: acme
bucket: s3://acme/prod
vars: { a: project, b: project, c: project }
platforms: [debian-12]
schedule: { poll: 10m }
roles:
  web:
    extends: base
    vars: { c: web, n: 12345678901 }
    schedule: { reapply: never }
    files: [web/**]
    steps: [{ run: echo hi }, { script: a.sh }]
    checks: [{ port: 80 }]
  base:
    vars: { b: base, c: base }
    platforms: [ubuntu-24.04]
    files: [base/**]
    attempts: 7
    steps: [{ run: echo hi }]
    checks: [{ port: 80 }]
`
	r := resolveRole(t, doc, "web")
	b, err := json.Marshal(r.Vars)
	if err != nil || string(b) != `{"a":"project","b":"base","c":"web","n":12345678901}` {
		t.Errorf("vars %s %v", b, err)
	}
	if r.Attempts != 7 || !slices.Equal(r.Platforms, []string{"ubuntu-24.04"}) || r.Schedule.Poll.Std() != 10*time.Minute || r.Schedule.Reapply != 0 {
		t.Errorf("%+v", r)
	}
	if !slices.Equal(r.Files, []string{"base/**", "web/**", "a.sh"}) {
		t.Errorf("files %v", r.Files)
	}
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	for _, c := range r.Checks {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"run echo hi", "run echo hi (2)", "script a.sh", "port tcp:80", "port tcp:80 (2)"}) {
		t.Errorf("names %q", names)
	}
}

func TestResolve_WritesGlobsOut(t *testing.T) {
	s := resolveRole(t, stepDoc("run: echo\ninputs: [web, 'a/**']\nonly: [rocky-9, ubuntu-24.04, debian-*]"), "web").Steps[0]
	if !slices.Equal(s.Inputs, []string{"web", "web/**", "a/**"}) || !slices.Equal(s.Only, []string{"rocky-9", "rocky-9.*", "ubuntu-24.04", "debian-*"}) {
		t.Errorf("inputs %q, only %q", s.Inputs, s.Only)
	}
}

// TestResolve_RoundTrip shows that a resolved role is what a VM decodes.
func TestResolve_RoundTrip(t *testing.T) {
	r := resolveRole(t, topDoc("vars: { a: 1, b: [x, 2, true], c: false }\n"), "web")
	first, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back release.Role
	if err := json.Unmarshal(first, &back); err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(back)
	if err != nil || string(first) != string(second) {
		t.Errorf("%s\n%s\n%v", first, second, err)
	}
}

func TestParse_Tree(t *testing.T) {
	files := map[string]string{
		"scripts/setup.sh": "#!/bin/sh\n", "scripts/tool*": "ELF", "scripts/plain.sh": "echo\n", "docs/a.sh": "#!/bin/sh\n", "web/index.html": "x",
		"ok.tmpl":  "{{.name}} {{range $i, $x := .list}}{{.foo}}{{$.name}}{{end}}{{with .name}}{{.bar}}{{end}}{{.Facts.Platform}}{{.Role}}{{.Release}}{{.Channel}}{{template \"t\" .}}{{define \"t\"}}{{.name}}{{end}}",
		"bad.tmpl": "a\n{{ .nme }}", "dollar.tmpl": "{{range .list}}{{$.other}}{{end}}", "fact.tmpl": "{{.Facts.Plattform}}", "broken.tmpl": "a\n{{ if }}",
		"called.tmpl": "{{template \"t\" .}}{{define \"t\"}}{{.nope}}{{end}}", "undefined.tmpl": "{{template \"u\" .}}", "if.tmpl": "{{if eq .nope 1}}{{end}}",
	}
	tests := []struct{ name, body, codes, where, says string }{
		{"script", "script: scripts/setup.sh", "", "", ""},
		{"executable without #!", "script: scripts/tool", "", "", ""},
		{"neither", "script: scripts/plain.sh", "E403", "bootwell.yaml:11:17", "is not executable and has no #! line"},
		{"misspelt", "script: scripts/setpu.sh", "E401", "", "is not there"},
		{"with arguments", "script: scripts/setup.sh --fast", "E401", "", "is not there"},
		{"a folder", "script: scripts", "E403", "", "is not a file"},
		{"ignored", "script: docs/a.sh", "E402", "", "is left out of releases"},
		{"folder to copy", "files: [{ from: web, to: /srv/www }]", "", "", ""},
		{"executable to copy", "files: [{ from: scripts/tool, to: /usr/local/bin/tool }]", "W103", "", ""},
		{"executable with mode", `files: [{ from: scripts/tool, to: /usr/local/bin/tool, mode: "0755" }]`, "", "", ""},
		{"nothing to copy", "files: [{ from: web/indx.html, to: /x }]", "E401", "", ""},
		{"inputs of nothing", "run: echo\ninputs: [wbe/**]", "W102", "", ""},
		{"inputs of a folder", "run: echo\ninputs: [web]", "", "", ""},
		{"template", "files: [{ from: ok.tmpl, to: /x, template: true }]", "", "", ""},
		{"template as plain file", "files: [{ from: bad.tmpl, to: /x }]", "", "", ""},
		{"template var", "files: [{ from: bad.tmpl, to: /x, template: true }]", "E405", "bad.tmpl:2:4", `no var "nme"`},
		{"template $", "files: [{ from: dollar.tmpl, to: /x, template: true }]", "E405", "dollar.tmpl:1:19", `no var "other"`},
		{"template fact", "files: [{ from: fact.tmpl, to: /x, template: true }]", "E405", "fact.tmpl:1:3", `no fact "Plattform"`},
		{"template syntax", "files: [{ from: broken.tmpl, to: /x, template: true }]", "E404", "broken.tmpl:2:1", "missing value for if"},
		{"template called", "files: [{ from: called.tmpl, to: /x, template: true }]", "E405", "called.tmpl:1:35", `no var "nope"`},
		{"template not defined", "files: [{ from: undefined.tmpl, to: /x, template: true }]", "E404", "", `no template "u"`},
		{"template in if", "files: [{ from: if.tmpl, to: /x, template: true }]", "E405", "if.tmpl:1:9", ""},
		{"template folder", "files: [{ from: web, to: /x, template: true }]", "E404", "", "only files can be templates"},
		{"content template", "files:\n  - to: /x\n    template: true\n    content: |\n      one\n      {{ .nme }}", "E405", "bootwell.yaml:16:18", ""},
		{"content in quotes", "files: [{ to: /x, template: true, content: '{{.nme}}' }]", "E405", "bootwell.yaml:11:52", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc := topDoc("")
			doc = doc[:strings.Index(doc, "roles:")] + "ignore: [docs]\nroles:\n  web:\n    vars: { name: x, list: [a] }\n    checks: [{ port: 80 }]\n    steps:\n\n" + indent(item(tt.body), 4)
			_, diags := parseIn(doc, files)
			if got := codesOf(diags); got != tt.codes {
				t.Fatalf("codes %q, want %q: %v\n%s", got, tt.codes, diags, doc)
			}
			if tt.codes == "" {
				return
			}
			if tt.where != "" && diags[0].place() != tt.where {
				t.Errorf("at %s, want %s", diags[0].place(), tt.where)
			}
			if !strings.Contains(diags[0].Summary, tt.says) {
				t.Errorf("says %q, want %q", diags[0].Summary, tt.says)
			}
		})
	}
}

func TestParse_FolderKeepsModes(t *testing.T) {
	p, diags := parseIn(fileDoc("{ from: web, to: /srv/www }"), map[string]string{"web/a": "x"})
	if p == nil {
		t.Fatal(diags)
	}
	roles, _ := p.Resolve()
	if m := roles["web"].Steps[0].Files[0].Mode; m != "" {
		t.Errorf("mode %q", m)
	}
}

// TestParse_TemplateOfEachRole shows that a base's template must suit every
// role that extends it, and the base itself.
func TestParse_TemplateOfEachRole(t *testing.T) {
	doc := `version: 1
project: acme
bucket: s3://acme/prod
roles:
  base:
    steps: [{ files: [{ to: /x, template: true, from: t }] }]
  web: { extends: base, vars: { name: x }, steps: [], checks: [{ port: 80 }] }
`
	_, diags := parseIn(doc, map[string]string{"t": "{{.name}}"})
	if codesOf(diags) != "E405" || len(diags) != 1 || !strings.Contains(diags[0].Detail, "Role base has no vars") {
		t.Errorf("%v", diags)
	}
	if p, diags := parseIn(strings.Replace(doc, "  base:\n", "  base:\n    vars: { name: y }\n", 1), map[string]string{"t": "{{.name}}"}); p == nil {
		t.Errorf("%v", diags)
	}
}

func TestParse_Shell(t *testing.T) {
	needs.Tool(t, "sh")
	tests := []struct{ body, codes string }{
		{"run: |\n  if true; then\n    echo hi\n", "E407"},
		{"run: echo \"hi", "E407"},
		{"run: if true; then echo hi; fi", ""},
		{"run: echo\nunless: (", "E407"},
		{"files: [{ from: x, to: /x, validate: '( %s' }]", "E407"},
		{"files: [{ from: x, to: /x, validate: 'test -s %s' }]", ""},
	}
	for _, tt := range tests {
		if _, diags := parseIn(stepDoc(tt.body), map[string]string{"x": ""}); codesOf(diags) != tt.codes {
			t.Errorf("%s: %q, want %q: %v", tt.body, codesOf(diags), tt.codes, diags)
		}
	}
}

func TestParse_NeverRunsTheText(t *testing.T) {
	needs.Tool(t, "sh")
	mark := filepath.Join(t.TempDir(), "mark")
	if _, diags := parseIn(stepDoc("run: touch "+mark+"; echo $(touch "+mark+")"), nil); len(diags) > 0 {
		t.Fatal(diags)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("checking the text ran it: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "bootwell init") {
		t.Errorf("no file: %v", err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("bootwell.yml", "")
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "rename bootwell.yml") {
		t.Errorf("other name: %v", err)
	}
	write(FileName, strings.Replace(topDoc("ignore: [docs]\n"), "s3://acme/prod", "file://./bucket", 1))
	p, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "acme" || p.Dir != dir || p.Bucket != "file://"+dir+"/bucket" || !slices.Equal(p.Ignore, []string{"bootwell.yaml", "bootwell.lock", "docs", "bucket"}) {
		t.Errorf("%+v", p)
	}
	write(FileName, topDoc("mirrors: [file://./west, s3://acme-west, file:///srv/east]\n"))
	if p, err = Load(dir); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Mirrors, []string{"file://" + dir + "/west", "s3://acme-west", "file:///srv/east"}) || !slices.Equal(p.Ignore, []string{"bootwell.yaml", "bootwell.lock", "west"}) {
		t.Errorf("mirrors: %+v", p)
	}
	write("other.yaml", "version: 1\n")
	_, err = Load(filepath.Join(dir, "other.yaml"))
	var diags Diagnostics
	if !errors.As(err, &diags) || diags.Errors() != 3 || diags[0].File != "other.yaml" {
		t.Errorf("other file: %v", err)
	}
}

func TestLoad_LinkOutside(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/bin/sh", filepath.Join(dir, "a.sh")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(stepDoc("script: a.sh")), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "a.sh cannot be read") {
		t.Errorf("%v", err)
	}
}

// TestCodes holds that every code in the sources has a story, and the other
// way round, and that some document of the tests brings each about.
func TestCodes(t *testing.T) {
	code := regexp.MustCompile(`"([EW][0-9]{3})"`)
	used := map[string]bool{}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if strings.HasSuffix(s, "_test.go") {
			continue
		}
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(string(b), -1) {
			used[m[1]] = true
		}
	}
	for c := range used {
		if text, ok := Explain(strings.ToLower(c)); !ok || len(text) < 60 {
			t.Errorf("%s has no story", c)
		}
	}
	for _, c := range Codes() {
		if !used[c] {
			t.Errorf("%s is explained and never used", c)
		}
	}
	if _, ok := Explain("E999"); ok {
		t.Error("E999 is explained")
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadLock(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no lock: %v", err)
	}
	l := Lock{Root: release.DigestOf([]byte("r")), Agents: map[string]release.Digest{"arm64": release.DigestOf([]byte("a")), "amd64": release.DigestOf([]byte("b"))}}
	if err := WriteLock(dir, l); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(dir)
	if err != nil || got.Root != l.Root || got.Agents["amd64"] != l.Agents["amd64"] || len(got.Agents) != 2 {
		t.Errorf("%v %v", got, err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, LockName))
	if err := WriteLock(dir, got); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, LockName)); string(before) != string(after) {
		t.Errorf("written again it differs:\n%s\n%s", before, after)
	}
	for _, bad := range []string{"", "{", `{"root":"x"}`, `{"rot":""}`, "{}{}", `{"agents":{"amd64":""}}`, "<<<<<<< HEAD\n{}", strings.Repeat(" ", maxLockBytes+1)} {
		if _, err := parseLock([]byte(bad)); !errors.Is(err, ErrLock) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d.doc))
	}
	for _, d := range broken {
		f.Add([]byte(d.doc))
	}
	schema := compileSchema(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, diags := Parse(FileName, data, nil)
		if (p == nil) != (diags.Errors() > 0) {
			t.Fatalf("project %v with %v", p, diags)
		}
		var out strings.Builder
		if err := Render(&out, diags, false); err != nil || strings.Contains(out.String(), "\x1b") {
			t.Fatalf("rendered %q: %v", out.String(), err)
		}
		if _, err := json.Marshal(diags); err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return
		}
		v, err := asJSON(string(data))
		if err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		if err := schema.Validate(v); err != nil {
			t.Fatalf("the schema refuses what the parser accepts: %v", err)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{.name}}", "{{range $i, $x := .list}}{{$.nope}}{{end}}", "{{define \"a\"}}{{template \"a\" .}}{{end}}{{template \"a\" .}}", "{{.Facts.Nope}}", "{{(.name).x}}", "{{with $y := .nope}}{{$y}}{{else}}{{.a}}{{end}}", "\x00", "{{/* */}}{{- 1 -}}"} {
		f.Add(s)
	}
	vars := release.Vars{"name": "x", "list": []any{"a"}}
	f.Fuzz(func(t *testing.T, text string) {
		for _, pr := range checkTemplate("t", text, "web", vars) {
			line, column, length := position{src: newSource("t", []byte(text))}.of(pr, text)
			if pr.code == "" || pr.summary == "" || line < 1 || column < 1 || length < 0 || pr.offset > len(text) {
				t.Fatalf("%+v at %d:%d+%d", pr, line, column, length)
			}
		}
	})
}

func FuzzLock(f *testing.F) {
	f.Add([]byte(`{"root":"sha256:` + strings.Repeat("0a", 32) + `","agents":{}}`))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseLock(b); err != nil && !errors.Is(err, ErrLock) {
			t.Fatal(err)
		}
	})
}
