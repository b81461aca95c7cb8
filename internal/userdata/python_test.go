package userdata

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

// pythons returns the interpreters of this machine by version, from 3.6.
func pythons(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	names := []string{"/usr/bin/python3", "python3"}
	for _, minor := range []string{"6", "7", "8", "9", "10", "11", "12", "13", "14"} {
		names = append(names, "python3."+minor)
	}
	if home, err := os.UserHomeDir(); err == nil {
		more, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions/3.*/bin/python3"))
		names = append(names, more...)
	}
	for _, name := range names {
		out, err := exec.Command(name, "-c", `import sys, lzma, ssl
print("%d.%d" % sys.version_info[:2], sys.executable)`).Output()
		if version, path, ok := strings.Cut(strings.TrimSpace(string(out)), " "); err == nil && ok {
			found[version] = path
		}
	}
	if len(found) == 0 {
		needs.Skip(t, "python3", "no interpreter with lzma and ssl was found")
	}
	return found
}

// wholeBootstrap returns the bootstrap with all its parts.
func wholeBootstrap() string {
	head, tail := bootstrap(partOrder)
	return head + tail
}

// TestBootstrap_Versions compiles the source and what becomes of it with every
// interpreter there is, warnings being errors, and runs it on each.
func TestBootstrap_Versions(t *testing.T) {
	object := compress(t, testAgent)
	dir := t.TempDir()
	whole, small := filepath.Join(dir, "whole.py"), filepath.Join(dir, "small.py")
	text := wholeBootstrap()
	for name, text := range map[string]string{whole: text, small: minify(text, shortNames)} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for version, path := range pythons(t) {
		t.Run(version, func(t *testing.T) {
			for _, name := range []string{small, whole} {
				c := exec.Command(path, "-W", "error", "-c", "import sys\nwith open(sys.argv[1]) as f: compile(f.read(), 'bootstrap', 'exec')", name)
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", name, err, out)
				}
			}
			m := newMachine(t)
			m.write("/opt/bin/python3", "#!/bin/sh\nexec "+path+" -W error \"$@\"\n")
			m.write("/etc/bootwell/credentials", "[default]\nazure_storage_key = a2V5\ngoogle_application_credentials = /etc/key.json\n"+
				"os_application_credential_id = id\nos_application_credential_secret = se\"cret\\\nswift_temp_url_key = key\n")
			m.env = []string{"PATH=/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin", "AWS_ACCESS_KEY_ID=KEY", "AWS_SECRET_ACCESS_KEY=secret"}
			empty, keystone := newEmpty(t), newKeystone(t, nil)
			m.write("/etc/key.json", serviceAccountKey(t, empty.URL+"/token"))
			c := configFor("az://acme/az?endpoint="+empty.URL, object)
			c.Mirrors = []string{
				"gs://acme/gs?endpoint=" + empty.URL, "swift://fleet/prod?auth=" + keystone.URL, "swift://fleet?storage=" + empty.URL + "/v1/AUTH_a",
				"s3://acme/prod%20a?endpoint=" + newS3(t, identity{"KEY", "secret", "", "us-east-1"}, object).URL,
			}
			out, code := m.run(generate(t, c))
			if code != 0 || !strings.Contains(out, "agent: "+agentPath) || strings.Count(out, "HTTP Error 404") != 4 {
				t.Errorf("exit code %d, output:\n%s", code, out)
			}
			want := []string{"/az/agents/", "/token", "/storage/v1/b/acme/o/gs/agents/", "/v1/AUTH_a/fleet/agents/"}
			for i, p := range empty.paths {
				if i >= len(want) || !strings.HasPrefix(p, want[i]) {
					t.Errorf("request %d is for %s", i, p)
				}
			}
		})
	}
}

// newEmpty is a store of each cloud that has nothing, but tokens for a service
// account. It takes no request without a signature.
func newEmpty(t *testing.T) *site {
	return newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch auth := r.Header.Get("Authorization"); {
		case r.URL.Path == "/token" && strings.Count(r.PostFormValue("assertion"), ".") == 2:
			_, _ = w.Write([]byte(`{"access_token":"token"}`))
		case strings.HasPrefix(auth, "SharedKey acme:"), auth == "Bearer token", r.URL.Query().Has("temp_url_sig"):
			w.WriteHeader(http.StatusNotFound)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

// serviceAccountKey returns a new key as Google gives it.
func serviceAccountKey(t *testing.T, tokens string) string {
	t.Helper()
	key, err := exec.Command(needs.Tool(t, "openssl"), "genrsa", "2048").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(asJSON(t, map[string]string{"client_email": "vm@acme", "private_key": string(key), "private_key_id": "1", "token_uri": tokens}))
}

// TestMinify_Same compares the syntax trees of the source and of what becomes
// of it, without docstrings and with the variables renamed.
func TestMinify_Same(t *testing.T) {
	dir := t.TempDir()
	var names strings.Builder
	for long, short := range shortNames {
		names.WriteString(long + " " + short + "\n")
	}
	for name, text := range map[string]string{"names": names.String(), "whole": wholeBootstrap(), "small": minify(wholeBootstrap(), shortNames)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range pythons(t) {
		out, err := exec.Command(path, "testdata/same.py", filepath.Join(dir, "whole"), filepath.Join(dir, "small"), filepath.Join(dir, "names")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
}

// TestMinify_Names makes sure that a short name means one thing only.
func TestMinify_Names(t *testing.T) {
	used := map[string]bool{}
	for _, w := range regexp.MustCompile(`\b[A-Za-z_]\w*`).FindAllString(wholeBootstrap(), -1) {
		used[w] = true
	}
	seen := map[string]string{}
	for long, short := range shortNames {
		if !used[long] {
			t.Errorf("%s is not in the bootstrap", long)
		}
		if other, ok := seen[short]; ok {
			t.Errorf("%s and %s are both %s", long, other, short)
		}
		seen[short] = long
	}
}

func TestMinify(t *testing.T) {
	const in = `# comment
import a, b


def f(long, x=1):
    """Doc."""
    if x in "a # b" and not long:
        return x . long  if x else  1
    for i in (1, 2):
        g(i)
        g("# 'quoted' \" long", long=3)
T = """ long
  # kept
"""
`
	const want = "import a,b\ndef f(l,x=1):\n if x in\"a # b\"and not l:return x.long if x else 1\n for i in(1,2):g(i);g(\"# 'quoted' \\\" long\",l=3)\nT=\"\"\" long\n  # kept\n\"\"\"\n"
	if got := minify(in, map[string]string{"long": "l"}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
