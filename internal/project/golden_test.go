package project

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files and generated tables")

// messages are documents whose whole answer is kept in testdata/messages.golden,
// so that every change of a message is seen in review.
var messages = []struct{ name, doc string }{
	{"mode and misspelt field", roleDoc(`checks: [{ port: 80 }]
steps:
  - name: site config
    files:
      - { content: x, to: /etc/nginx/tls.key, mode: 0600 }
    restrat: [nginx]`)},
	{"version", "version: 2\n"},
	{"project", strings.Replace(topDoc(""), "project: acme", `project: "Acme Web"`, 1)},
	{"bucket", strings.Replace(topDoc(""), "s3://acme/prod", "acme/prod", 1)},
	{"bucket of Google", bucketDoc("gcs://acme/prod")},
	{"bucket of Azure", bucketDoc("az://acme")},
	{"bucket of nobody", bucketDoc("swft://acme")},
	{"bucket option", bucketDoc("s3://acme/prod?regoin=eu-west-1")},
	{"bucket option of another scheme", bucketDoc("gs://acme/prod?path_style=true")},
	{"mirrors", topDoc("mirrors:\n  - s3://acme/prod?path_style=true\n  - gcs://acme\n  - https://host/x\n  - https://host/x/\n")},
	{"platforms", topDoc("platforms: [debian, ubuntu-noble]\n")},
	{"vars", topDoc("vars: { app_version: 4.10, tls: yes, serial: 0123 }\n")},
	{"no roles", "version: 1\nproject: acme\nbucket: s3://acme/prod\n"},
	{"extends", roleDoc("extends: bse\nsteps: []\nchecks: [{ port: 80 }]") + "  base: { steps: [], checks: [{ port: 80 }] }\n"},
	{"circle", roleDoc("extends: app\nsteps: []") + "  app: { extends: web, steps: [] }\n"},
	{"no steps", roleDoc("description: empty")},
	{"no checks", roleDoc("steps: []")},
	{"goss file", roleDoc("steps: []\nchecks: [checks/web.goss.yaml]")},
	{"two kinds", stepDoc("packages: [nginx]\nrun: echo")},
	{"no kind", stepDoc("name: hello")},
	{"misspelt kind", stepDoc("pacakges: [nginx]")},
	{"same name", roleDoc("checks: [{ port: 80 }]\nsteps:\n  - { name: nginx, packages: [nginx] }\n  - { name: nginx, services: [nginx] }")},
	{"packages", stepDoc("packages: nginx")},
	{"not absolute", fileDoc("{ content: x, to: etc/nginx/nginx.conf }")},
	{"file sources", fileDoc("{ content: x, link: y, to: /x }")},
	{"template var", fileDoc("{ from: web/nginx.conf.tmpl, to: /x, template: true }") + "    vars: { server_name: x, workers: 4 }\n"},
	{"validate", fileDoc("{ content: x, to: /x, validate: nginx -t }")},
	{"script", stepDoc("script: scripts/sysctl.sh")},
	{"script not there", stepDoc("script: scripts/syctl.sh")},
	{"ansible", stepDoc("ansible: ansible/app.yml\ntags: [a]")},
	{"module", stepDoc("module: hardening\nwith: { a: b }")},
	{"secrets", stepDoc("run: echo\nsecrets: [db_url]\nbake: true")},
	{"rerun", stepDoc("run: echo\nrerun: once")},
	{"only", stepDoc("run: echo\nonly: [debain-*]") + "platforms: [debian-12, ubuntu-24.04]\n"},
	{"restart", stepDoc("run: echo\nrestart: nginx")},
	{"reboot", stepDoc("run: echo\nreboot: \"yes\"")},
	{"timeout", stepDoc("run: echo\ntimeout: 10 minutes")},
	{"retries", stepDoc("run: echo\nretries: 50")},
	{"on_error", stepDoc("run: echo\non_error: ignore")},
	{"poll", topDoc("schedule: { poll: 5s, reapply: 1m }\n")},
	{"every", topDoc("schedule: { every: 30m, jitter: 10m }\n")},
	{"later at the top", topDoc("environments: { prod: {} }\ntrusted_keys: [keys/ops.pub]\nmirror: {}\n")},
	{"goss spelling", checkDoc("command: nginx -t\nexit-status: 0\nretires: 3")},
	{"tab", "version: 1\nroles:\n\tweb: {}\n"},
	{"twice", topDoc("project: b\n")},
	{"wide characters", topDoc("x-a: 1\nplatforms: [\"日本語\", debian]\n")},
	{"escape sequences", topDoc("platforms: [\"\\e[31mred\"]\n")},
	{"unquoted words", stepDoc("run: echo\nenv: { DEBUG: on, PORT: 80, TLS: true }")},
}

// TestRender_Messages keeps the wording of errors.
func TestRender_Messages(t *testing.T) {
	files := map[string]string{"scripts/sysctl.sh": "sysctl -w a=b\n", "web/nginx.conf.tmpl": "a\nb\nworkers {{ .worker }};\n"}
	var got bytes.Buffer
	for _, m := range messages {
		_, diags := parseIn(m.doc, files)
		if len(diags) == 0 {
			t.Errorf("%s: nothing is said", m.name)
		}
		fmt.Fprintf(&got, "=== %s\n", m.name)
		if err := Render(&got, diags, false); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&got)
	}
	golden(t, "testdata/messages.golden", got.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s:%d differs (go test -update writes it anew):\n got %s", name, i+1, g[i])
		}
	}
	t.Fatalf("%s is longer than what is said now", name)
}

// TestRender holds the form of a bad project file byte for byte.
func TestRender(t *testing.T) {
	_, diags := Parse(FileName, []byte(messages[0].doc), nil)
	var out strings.Builder
	if err := Render(&out, diags, false); err != nil {
		t.Fatal(err)
	}
	want := `error: 2 problems in bootwell.yaml

bootwell.yaml:10:57: mode must be in quotes
  10 |           - { content: x, to: /etc/nginx/tls.key, mode: 0600 }
     |                                                         ^^^^
     YAML reads 0600 as the number 384. Write: mode: "0600"

bootwell.yaml:11:9: unknown field "restrat" in a step
  11 |         restrat: [nginx]
     |         ^^^^^^^ did you mean "restart"?
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	var colored strings.Builder
	if err := Render(&colored, diags, true); err != nil || !strings.Contains(colored.String(), "\x1b[31m^^^^\x1b[0m") {
		t.Errorf("colour: %q %v", colored.String(), err)
	}
}

func TestRender_ShowsTwenty(t *testing.T) {
	var b strings.Builder
	for i := range 30 {
		fmt.Fprintf(&b, "nope%d: 1\n", i)
	}
	_, diags := Parse(FileName, []byte(topDoc(b.String())), nil)
	var out strings.Builder
	if err := Render(&out, diags, false); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "unknown field"); len(diags) != 30 || n != 20 || !strings.Contains(out.String(), "and 10 more (30 problems in all)") {
		t.Errorf("%d of %d shown:\n%s", n, len(diags), out.String())
	}
}

func TestDiagnostic_JSON(t *testing.T) {
	_, diags := Parse(FileName, []byte(topDoc("# é\nplatforms: [\"日\"]\n")), nil)
	b, err := json.Marshal(diags)
	if err != nil {
		t.Fatal(err)
	}
	offset := len(topDoc("# é\nplatforms: ["))
	want := fmt.Sprintf(`[{"severity":"error","code":"E303","summary":"platform \"日\": say which release, e.g. debian-12 (known: debian-12, ubuntu-24.04, rocky-9, …)",`+
		`"detail":"It is ID-VERSION_ID of /etc/os-release, in lower case","range":{"filename":"bootwell.yaml",`+
		`"start":{"line":6,"column":13,"byte":%d},"end":{"line":6,"column":16,"byte":%d}},`+
		`"snippet":{"context":null,"code":"platforms: [\"日\"]","start_line":6,"highlight_start_offset":12,"highlight_end_offset":17,"values":[]}}]`, offset, offset+5)
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"restrat", "restart"}, {"Restart", "restart"}, {"relod", "reload"}, {"xyz", ""}, {"run", ""}, {"ru", "run"}, {"rnu", "run"}, {strings.Repeat("a", 100), ""}, {"", ""},
	} {
		if got := nearest(tt.s, []string{"restart", "reload", "run"}); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.s, got, tt.want)
		}
	}
}
