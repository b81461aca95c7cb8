package project

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("v1.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("v1.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON is what an editor hands to the schema: the YAML as JSON.
func asJSON(data string) (any, error) {
	var v any
	if err := yaml.Unmarshal([]byte(data), &v); err != nil {
		return nil, err
	}
	b, err := json.Marshal(plain(v))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(b))
}

func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
		return v
	case map[any]any:
		m := map[string]any{}
		for k, x := range v {
			m[fmt.Sprint(k)] = plain(x)
		}
		return m
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
		return v
	case time.Time:
		return v.Format("2006-01-02")
	case float64:
		if v != v || v > 1e300 || v < -1e300 {
			return fmt.Sprint(v)
		}
	}
	return v
}

func TestSchema_PublishedCopy(t *testing.T) {
	b, err := os.ReadFile("../../schema/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, Schema()) {
		t.Error("schema/v1.json differs from internal/project/schema.json: copy it")
	}
}

// TestSchema_Fields holds the fields of the schema equal to the parser's.
func TestSchema_Fields(t *testing.T) {
	var s struct {
		Properties  map[string]any
		Definitions map[string]struct {
			Properties map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	var top []string
	for k := range s.Properties {
		top = append(top, k)
	}
	same := func(what string, got, want []string) {
		got, want = slices.Clone(got), slices.Clone(want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: schema has %v, parser has %v", what, got, want)
		}
	}
	same("top", top, topFields)
	for def, want := range map[string][]string{
		"role": roleFields, "schedule": scheduleFields, "step": stepFields, "check": allCheckFields(),
		"package_item": packageFields, "service_item": serviceFields, "user": userFields, "file": fileFields,
	} {
		var got []string
		for k, f := range s.Definitions[def].Properties {
			got = append(got, k)
			if f.Description == "" {
				t.Errorf("%s.%s has no description", def, k)
			}
		}
		same(def, got, want)
	}
}

// role and step wrap a fragment into a whole project file.
func roleDoc(body string) string {
	return "version: 1\nproject: acme\nbucket: s3://acme/prod\nroles:\n  web:\n" + indent(body, 4)
}

func stepDoc(body string) string  { return roleDoc("checks: [{ port: 80 }]\nsteps:\n" + item(body)) }
func checkDoc(body string) string { return roleDoc("steps: []\nchecks:\n" + item(body)) }
func fileDoc(body string) string  { return stepDoc("files:\n" + item(body)) }
func userDoc(body string) string  { return stepDoc("users:\n" + item(body)) }
func varsDoc(body string) string {
	return roleDoc("checks: [{ port: 80 }]\nsteps: []\nvars: { v: " + body + " }")
}

func topDoc(body string) string {
	return "version: 1\nproject: acme\nbucket: s3://acme/prod\nroles: { web: { steps: [], checks: [{ port: 80 }] } }\n" + body
}

func bucketDoc(url string) string { return strings.Replace(topDoc(""), "s3://acme/prod", url, 1) }

func indent(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Repeat(" ", n) + strings.Join(lines, "\n"+strings.Repeat(" ", n)) + "\n"
}

func item(s string) string { return "  - " + strings.TrimLeft(indent(s, 4), " ") }

// documents are project files, the codes the parser answers with (none: it
// is accepted), and whether the schema refuses it too.
var documents = []struct {
	name, doc, codes string
	schema           bool
}{
	{"smallest", topDoc(""), "", false},
	{"empty", "", "E108", true},
	{"only a comment", "# hello\n", "E108", true},
	{"a list", "[a]\n", "E108", true},
	{"version 2", "version: 2\nproject: 7\n", "E301", true},
	{"version text", strings.Replace(topDoc(""), "version: 1", `version: "1"`, 1), "E301", true},
	{"no version", strings.Replace(topDoc(""), "version: 1", "x-a: 1", 1), "E202", true},
	{"no project", strings.Replace(topDoc(""), "project: acme", "x-a: 1", 1), "E202", true},
	{"no bucket", strings.Replace(topDoc(""), "bucket: s3://acme/prod", "x-a: 1", 1), "E202", true},
	{"no roles", "version: 1\nproject: acme\nbucket: s3://acme\n", "E304", true},
	{"empty roles", "version: 1\nproject: acme\nbucket: s3://acme\nroles: {}\n", "E304", true},
	{"null roles", "version: 1\nproject: acme\nbucket: s3://acme\nroles:\n", "E205", true},
	{"project with capitals", strings.Replace(topDoc(""), "project: acme", "project: Acme Web", 1), "E209", true},
	{"project too long", strings.Replace(topDoc(""), "project: acme", "project: "+strings.Repeat("a", 40), 1), "E209", true},
	{"project a number", strings.Replace(topDoc(""), "project: acme", "project: 12", 1), "E204", true},
	{"notes", topDoc("x-note: [1, { a: b }]\n"), "", false},
	{"unknown at top", topDoc("platform: [debian-12]\n"), "E201", true},
	{"later at top", topDoc("rollout: { waves: [1] }\n"), "E207", true},
	{"bucket without scheme", strings.Replace(topDoc(""), "s3://acme/prod", "acme/prod", 1), "E302", true},
	{"bucket of Azure", bucketDoc("az://acmeaccount/releases/prod?endpoint=https://127.0.0.1:10000/devstoreaccount1&client_id=x&ca=/c"), "", false},
	{"bucket of Azure without container", bucketDoc("az://acme/"), "E302", false},
	{"bucket of Google", bucketDoc("gs://acme/prod?endpoint=https://127.0.0.1:4443&ca=/c"), "", false},
	{"bucket of Google by another name", bucketDoc("gcs://acme/prod"), "E302", true},
	{"bucket of OpenStack", bucketDoc("swift://releases/prod?auth=https://keystone.example.org:5000/v3&region=RegionOne&interface=public"), "", false},
	{"bucket of OpenStack without container", bucketDoc("swift:///prod?auth=https://a/v3"), "E302", false},
	{"bucket temp URL", bucketDoc("swift://releases?storage=https://swift.example.org/v1/AUTH_x"), "", false},
	{"bucket option misspelt", bucketDoc("s3://acme/prod?regoin=x"), "E302", false},
	{"bucket option of another scheme", bucketDoc("gs://acme/prod?region=x"), "E302", false},
	{"bucket option twice", bucketDoc("s3://acme/prod?region=x&region=y"), "E302", false},
	{"bucket option empty", bucketDoc("s3://acme/prod?region="), "E302", false},
	{"bucket options broken", bucketDoc("s3://acme/prod?region=%zz"), "E302", false},
	{"bucket folder with option", bucketDoc("file:///srv/b?ca=x"), "E302", false},
	{"bucket with options", strings.Replace(topDoc(""), "s3://acme/prod", "s3://acme/prod?endpoint=http://127.0.0.1:9000&region=x", 1), "", false},
	{"bucket folder", strings.Replace(topDoc(""), "s3://acme/prod", "file:///srv/bucket", 1), "", false},
	{"bucket relative folder", strings.Replace(topDoc(""), "s3://acme/prod", "file://./bucket", 1), "", false},
	{"bucket with file host", strings.Replace(topDoc(""), "s3://acme/prod", "file://bucket/x", 1), "E302", false},
	{"bucket with password", strings.Replace(topDoc(""), "s3://acme/prod", "https://ana:pw@host/x", 1), "E302", false},
	{"bucket unknown scheme", strings.Replace(topDoc(""), "s3://", "s4://", 1), "E302", true},
	{"mirrors", topDoc("mirrors: ['s3://acme-west/prod?region=us-west-2', https://mirror.example.org/acme, file://./mirror]\n"), "", false},
	{"mirrors none", topDoc("mirrors: []\n"), "E205", true},
	{"mirrors text", topDoc("mirrors: s3://acme-west\n"), "E203", true},
	{"mirror without scheme", topDoc("mirrors: [acme-west]\n"), "E302", true},
	{"mirror with password", topDoc("mirrors: ['https://ana:pw@host/x']\n"), "E302", false},
	{"mirror is the bucket", topDoc("mirrors: ['s3://acme/prod/?region=eu-west-1', 's3://acme/prod/?path_style=true']\n"), "E318", false},
	{"mirror twice", topDoc("mirrors: ['https://host/x', 'https://HOST/x/?ca=/c']\n"), "E318", false},
	{"mirrors twice word for word", topDoc("mirrors: ['https://host/x', 'https://host/x']\n"), "E318", true},
	{"mirrors of one name in two clouds", topDoc("mirrors: ['swift://acme/prod?auth=https://a/v3&region=A', 'swift://acme/prod?auth=https://a/v3&region=B', gs://acme/prod]\n"), "", false},
	{"mirrors nine", topDoc("mirrors: [s3://m1, s3://m2, s3://m3, s3://m4, s3://m5, s3://m6, s3://m7, s3://m8, s3://m9]\n"), "E318", true},
	{"platforms", topDoc("platforms: [debian-12, ubuntu-24.04, opensuse-leap-15.6]\n"), "", false},
	{"platform without release", topDoc("platforms: [debian]\n"), "E303", true},
	{"platform text", topDoc("platforms: debian-12\n"), "E203", true},
	{"no platforms", topDoc("platforms: []\n"), "E205", true},
	{"windows", topDoc("platforms: [windows-2022]\n"), "E207", false},
	{"vars", topDoc(`vars: { a: text, b: 4, c: true, d: [1, two, false], e: "4.10", f: "", g: [] }` + "\n"), "", false},
	{"var float", varsDoc("4.10"), "E315", true},
	{"var yes", varsDoc("yes"), "E206", false},
	{"var off", varsDoc("Off"), "E206", false},
	{"var quoted yes", varsDoc(`"yes"`), "", false},
	{"var null", varsDoc("~"), "E205", true},
	{"var nested", varsDoc("{ a: b }"), "E315", true},
	{"var list in list", varsDoc("[[1]]"), "E315", true},
	{"var date", varsDoc("2026-01-01"), "E315", false},
	{"var octal", varsDoc("0600"), "E315", false},
	{"var huge", varsDoc("90071992547409930"), "E315", false},
	{"var tagged", varsDoc("!secret x"), "E203", false},
	{"var name", topDoc("vars: { Server-Name: x }\n"), "E209", true},
	{"ignore", topDoc("ignore: [docs, '**/*.bak', 'a/{b,c}']\n"), "", false},
	{"ignore absolute", topDoc("ignore: [/docs]\n"), "E406", true},
	{"ignore broken", topDoc("ignore: ['a[']\n"), "E406", false},
	{"ignore slash", topDoc("ignore: [docs/]\n"), "E406", false},
	{"schedule", topDoc("schedule: { poll: 1m, reapply: 1h30m }\n"), "", false},
	{"reapply never", topDoc("schedule: { reapply: never }\n"), "", false},
	{"reapply 0", topDoc("schedule: { reapply: 0 }\n"), "", false},
	{"poll too often", topDoc("schedule: { poll: 5s }\n"), "E211", false},
	{"poll words", topDoc("schedule: { poll: 10 minutes }\n"), "E210", true},
	{"poll number", topDoc("schedule: { poll: 300 }\n"), "E210", true},
	{"poll days", topDoc("schedule: { poll: 1d }\n"), "E210", true},
	{"schedule every", topDoc("schedule: { every: 30m }\n"), "E201", true},
	{"role name", strings.Replace(topDoc(""), "web:", "Web:", 1), "E209", true},
	{"role null", roleDoc("\n"), "E307", true},
	{"role without steps", roleDoc("checks: [{ port: 80 }]"), "E307", true},
	{"role with only extends", roleDoc("extends: base\nchecks: [{ port: 80 }]") + "  base: { steps: [] }\n", "", false},
	{"extends nothing", roleDoc("extends: bse\nsteps: []\nchecks: []") + "  base: { steps: [], checks: [{ port: 1 }] }\n", "E305", false},
	{"extends itself", roleDoc("extends: web\nsteps: []"), "E306", false},
	{"role notes", roleDoc("x-owner: ana\nsteps: []\nchecks: [{ port: 80 }]"), "", false},
	{"attempts 0", roleDoc("attempts: 0\nsteps: []"), "E211 W104", true},
	{"attempts", roleDoc("attempts: 5\nsteps: []"), "W104", false},
	{"steps text", roleDoc("steps: nginx"), "E203 W104", true},
	{"packages", stepDoc(`packages: [nginx, nginx=1.22.1-9, { name: curl, version: "8.1" }, { name: x, state: absent }, libstdc++6, "a:amd64"]`), "", false},
	{"packages text", stepDoc("packages: nginx"), "E203", true},
	{"packages empty", stepDoc("packages: []"), "E205", true},
	{"package range", stepDoc("packages: ['nginx>=1.2']"), "E316", false},
	{"package option", stepDoc("packages: ['-o x']"), "E316", true},
	{"package version float", stepDoc("packages: [{ name: x, version: 1.22 }]"), "E204", true},
	{"package unknown field", stepDoc("packages: [{ name: x, vers: a }]"), "E201", true},
	{"package without name", stepDoc("packages: [{ state: absent }]"), "E202", true},
	{"services", stepDoc("services: [nginx, { name: x, state: stopped, enabled: false }, getty@tty1]"), "", false},
	{"service started", stepDoc("services: [{ name: x, state: started }]"), "E208", true},
	{"service enabled yes", stepDoc("services: [{ name: x, enabled: yes }]"), "E206", true},
	{"service path", stepDoc("services: [a/b]"), "E209", true},
	{"users", stepDoc("users: [deploy, { name: app, system: true, uid: 400, groups: [www-data], home: /srv/app, shell: /bin/sh, comment: The app }]"), "", false},
	{"user root id", userDoc("{ name: x, uid: 0 }"), "E211", true},
	{"user key", userDoc("{ name: x, ssh_keys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0 ana'] }"), "", false},
	{"user bad key", userDoc("{ name: x, ssh_keys: [hello] }"), "E317", false},
	{"user name", userDoc("Ana B"), "E209", true},
	{"user gone", userDoc("{ name: x, state: absent }"), "", false},
	{"user gone with home", userDoc("{ name: x, state: absent, home: /x }"), "E317", false},
	{"user comment with colon", userDoc("{ name: x, comment: 'a:b' }"), "E317", true},
	{"file from", fileDoc(`{ from: web/x, to: /x, mode: "0600", owner: root, group: "0", validate: nginx -t -c %s }`), "", false},
	{"file content", fileDoc(`{ content: "", to: /x }`), "", false},
	{"file link", fileDoc("{ link: ../y, to: /x }"), "", false},
	{"file folder", fileDoc("{ state: directory, to: /x }"), "", false},
	{"file absent", fileDoc("{ state: absent, to: /x }"), "", false},
	{"file present", fileDoc("{ state: present, from: a, to: /x }"), "", false},
	{"file mode", fileDoc("{ from: a, to: /x, mode: 0600 }"), "E213", true},
	{"file mode short", fileDoc(`{ from: a, to: /x, mode: "644" }`), "E213", true},
	{"file mode words", fileDoc(`{ from: a, to: /x, mode: u+x }`), "E213", true},
	{"file relative", fileDoc("{ from: a, to: etc/x }"), "E212", true},
	{"file unclean", fileDoc("{ from: a, to: /etc//x }"), "E212", false},
	{"file cp habit", fileDoc("{ from: a/b.conf, to: /etc/ }"), "E212", false},
	{"file without to", fileDoc("{ from: a }"), "E202", true},
	{"file without source", fileDoc("{ to: /x }"), "E312", true},
	{"file two sources", fileDoc("{ to: /x, from: a, content: b }"), "E312", true},
	{"file absent with source", fileDoc("{ to: /x, from: a, state: absent }"), "E312", false},
	{"file secret", fileDoc("{ to: /x, secret: tls }"), "E207", true},
	{"file from outside", fileDoc("{ to: /x, from: ../a }"), "E408", false},
	{"file from absolute", fileDoc("{ to: /x, from: /etc/motd }"), "E408", true},
	{"file link with mode", fileDoc(`{ to: /x, link: a, mode: "0644" }`), "E312", false},
	{"file validate", fileDoc("{ to: /x, from: a, validate: nginx -t }"), "E313", true},
	{"file template yes", fileDoc("{ to: /x, from: a, template: yes }"), "E206", true},
	{"script", stepDoc("script: scripts/a.sh\nargs: [--port, 80, '']\nenv: { PORT: 80, NAME: x }\ninputs: ['web/**']\ncreates: /x\nuser: deploy"), "", false},
	{"script with backslash", stepDoc(`script: 'scripts\a.sh'`), "E408", true},
	{"run", stepDoc("run: echo hi\nname: hello\nonly: [debian-*]\nrerun: never\ntimeout: 90s\nretries: 3\non_error: continue\nreboot: if-changed\nrestart: [nginx]\nreload: [ssh]\nunless: test -e /x\nx-why: because"), "", false},
	{"run empty", stepDoc("run: ''"), "E205", true},
	{"run number", stepDoc("run: 1"), "E204", true},
	{"two kinds", stepDoc("run: echo\npackages: [a]"), "E308", true},
	{"no kind", stepDoc("name: x"), "E308", true},
	{"misspelt kind", stepDoc("pakages: [x]"), "E201", true},
	{"ansible", stepDoc("ansible: site.yml\ntags: [a]"), "E207", true},
	{"bake", stepDoc("run: echo\nbake: true"), "E207", true},
	{"args of run", stepDoc("run: echo\nargs: [a]"), "E309", true},
	{"env of packages", stepDoc("packages: [a]\nenv: { A: b }"), "E309", true},
	{"env of bootwell", stepDoc("run: echo\nenv: { BOOTWELL_X: b }"), "E209", false},
	{"env true", stepDoc("run: echo\nenv: { A: true }"), "E204", true},
	{"env yes", stepDoc("run: echo\nenv: { A: yes }"), "W101", false},
	{"env name", stepDoc("run: echo\nenv: { A-B: c }"), "E209", true},
	{"rerun once", stepDoc("run: echo\nrerun: once"), "E208", true},
	{"reboot yes", stepDoc("run: echo\nreboot: 'yes'"), "E208", true},
	{"retries 50", stepDoc("run: echo\nretries: 50"), "E211", true},
	{"retries text", stepDoc("run: echo\nretries: '5'"), "E203", true},
	{"timeout 0s", stepDoc("run: echo\ntimeout: 0s"), "E211", false},
	{"timeout days", stepDoc("run: echo\ntimeout: 1000h"), "E211", false},
	{"restart text", stepDoc("run: echo\nrestart: nginx"), "E203", true},
	{"unknown in step", stepDoc("run: echo\nrestrat: [a]"), "E201", true},
	{"same names", roleDoc("checks: [{ port: 80 }]\nsteps: [{ name: a, run: x }, { name: a, run: y }]"), "E310", false},
	{"only nothing", topDoc("") + "platforms: [debian-12]\n", "", false},
	{"checks", roleDoc("steps: []\nchecks: [{ port: 80 }, { port: 'tcp:443', listening: false }, { port: udp:53 }, { service: nginx, enabled: true }, { package: nginx, versions: ['1.2'] }, { file: /x, mode: '0644', owner: root, contents: [a, /b+/] }, { command: nginx -t, exit_status: 0, stderr: ok, timeout: 1m, retries: 0, interval: 0s, name: n }, { run: checks/a.sh }]"), "", false},
	{"http", checkDoc("http: http://127.0.0.1:8080/\nstatus: 204\nbody: hi\nheaders: ['Host: x']\nallow_insecure: true"), "", false},
	{"http without scheme", checkDoc("http: 127.0.0.1"), "E314", true},
	{"http header as fields", checkDoc("http: http://a/\nheaders: [Host: x]"), "E314", true},
	{"http status", checkDoc("http: http://a/\nstatus: 1000"), "E211", true},
	{"port 0", checkDoc("port: 0"), "E314", true},
	{"port 70000", checkDoc("port: 70000"), "E314", true},
	{"port word", checkDoc("port: http"), "E314", true},
	{"goss spelling", checkDoc("command: x\nexit-status: 1"), "E201", true},
	{"goss file", roleDoc("steps: []\nchecks: [checks/web.goss.yaml]"), "E207", true},
	{"goss kind", checkDoc("goss: web.yaml"), "E207", true},
	{"check of two kinds", checkDoc("port: 80\nservice: nginx"), "E308", true},
	{"check of no kind", checkDoc("name: x"), "E308", true},
	{"field of another check", checkDoc("port: 80\nstatus: 200"), "E309", true},
	{"gone file with mode", checkDoc("file: /x\nexists: false\nmode: '0644'"), "E314", false},
	{"bad expression", checkDoc("command: x\nstdout: /a(/"), "E314", false},
	{"negation", checkDoc("command: x\nstdout: '!a'"), "E314", false},
	{"anchors", roleDoc("x-common: &c { retries: 2 }\nchecks: [{ port: 80 }]\nsteps: [{ <<: *c, run: x }]"), "", false},
	{"merge wins not", roleDoc("x-common: &c { run: b }\nchecks: [{ port: 80 }]\nsteps: [{ <<: [*c, *c], run: x, retries: 1 }]"), "", false},
}

func codesOf(ds Diagnostics) string {
	var codes []string
	for _, d := range ds {
		if !slices.Contains(codes, d.Code) {
			codes = append(codes, d.Code)
		}
	}
	slices.Sort(codes)
	return strings.Join(codes, " ")
}

func TestParse_AgreesWithSchema(t *testing.T) {
	schema := compileSchema(t)
	for _, tt := range documents {
		t.Run(tt.name, func(t *testing.T) {
			p, diags := Parse(FileName, []byte(tt.doc), nil)
			if got := codesOf(diags); got != tt.codes {
				t.Errorf("codes %q, want %q\n%s\n%v", got, tt.codes, tt.doc, diags)
			}
			if (p == nil) != (diags.Errors() > 0) {
				t.Errorf("project %v with %d errors", p, diags.Errors())
			}
			v, err := asJSON(tt.doc)
			if err != nil {
				t.Fatal(err)
			}
			err = schema.Validate(v)
			if (err != nil) != tt.schema {
				t.Errorf("schema: %v, want it to refuse: %v", err, tt.schema)
			}
			if err != nil && p != nil {
				t.Errorf("the schema refuses what the parser accepts: %v", err)
			}
		})
	}
}
