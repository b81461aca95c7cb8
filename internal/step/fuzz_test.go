package step

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/release"
)

func FuzzClean(f *testing.F) {
	f.Add("plain\nline")
	f.Add("\x1b[31mred\x1b]0;t\x07\r\n\xff\u202e")
	f.Add(strings.Repeat("é", 3000))
	f.Fuzz(func(t *testing.T, s string) {
		tail := cleanTail([]byte(s), release.MaxTailBytes)
		reason := oneLine(s)
		if len(tail) > release.MaxTailBytes || len(reason) > release.MaxReasonBytes || !utf8.ValidString(tail) || !utf8.ValidString(reason) {
			t.Fatalf("%d and %d bytes", len(tail), len(reason))
		}
		for _, c := range tail {
			if unicode.IsControl(c) && c != '\n' && c != '\t' {
				t.Fatalf("control character %U", c)
			}
		}
		if strings.ContainsAny(reason, "\n\t\r") {
			t.Fatalf("%q", reason)
		}
		for _, c := range visible(s) {
			if unicode.IsControl(c) && c != '\n' && c != '\t' {
				t.Fatalf("control character %U in a diff", c)
			}
		}
	})
}

func FuzzOutputFile(f *testing.F) {
	f.Add([]byte("changed=true\n"))
	f.Add([]byte("x=1\nchanged=no\n=\n\x00changed=false"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseOutput(b)
		if v != "" && v != "true" && v != "false" {
			t.Fatalf("%q", v)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{.server_name}}", "{{range .names}}{{.}}{{end}}", `{{define "x"}}{{template "x" .}}{{end}}{{template "x" .}}`,
		`{{$x := "a"}}{{range 9}}{{$x = printf "%s%s" $x $x}}{{end}}{{$x}}`, "{{range 999999999999}}{{end}}", `{{join "," .names | quote | json}}`, `{{printf "%*d" 99 1}}`} {
		f.Add(s)
	}
	r := templateRunner(f)
	f.Fuzz(func(t *testing.T, s string) {
		start := time.Now()
		out, err := r.render("t", []byte(s))
		if err == nil && len(out) > maxRendered {
			t.Fatalf("%d bytes", len(out))
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}

func FuzzTools(f *testing.F) {
	for _, s := range []string{"ii \ta\tall\t1\tb (= 1), c\n", "P:a\nV:1\np:b=1 c\n\n", "nginx\t2\t1.20-2\tx86_64\n", "LoadState=loaded\nActiveState=active\n", "Inst a [1] (2 x)\n",
		"1 (a b) c) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0", "root:x:0:0:root:/root:/bin/sh\n", "adm:x:4:a,b\n", "  0: 0100007F:1F90 00000000:0000 0A\n", "#!/bin/sh -e\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _ := parseDpkg(b)
		_ = v.right(release.Package{Name: "a", Version: "1"})
		w := parseApk(b)
		_ = w.has("a")
		x := inventory{versions: map[string][]string{}, provided: map[string]string{}, match: matchEVR}
		parseRpm(b, "nginx", &x)
		_ = x.right(release.Package{Name: "nginx", Version: string(b)})
		_ = unitStatus(parseShow(b))
		_ = parseSimulated(b)
		_, _ = parseStat(string(b))
		for _, u := range parsePasswd(b) {
			if u.uid < 0 || u.name == "" {
				t.Fatalf("%+v", u)
			}
		}
		for _, g := range parseGroup(b) {
			if g.gid < 0 || g.name == "" {
				t.Fatalf("%+v", g)
			}
		}
		_ = scanSockets(strings.NewReader(string(b)), true, 8080)
		if _, port, err := parsePort(string(b)); err == nil && (port < 1 || port > 65535) {
			t.Fatalf("port %d", port)
		}
		if len(b) >= 2 {
			_, _ = (&Runner{}).interpreter(b)
		}
		if packageName().Match(b) && (b[0] == '-' || b[len(b)-1] == '-') || serviceName().Match(b) && strings.ContainsAny(string(b), "/ \n") {
			t.Fatalf("%q is taken for a name", b)
		}
	})
}
