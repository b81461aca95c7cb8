package cli_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

// finding is one check in the output of doctor --json.
type finding struct{ Name, Result, Cause, Message, Fix string }

// doctor runs bootwell doctor on a bucket, and returns its findings and its
// exit code.
func (o operator) doctor(t *testing.T, url string, env ...string) (map[string]finding, int) {
	t.Helper()
	c := with(o.command("doctor", "--json", "--bucket", url), env...)
	out, err := c.Output()
	if err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "topsecret") {
		t.Errorf("a secret is shown: %s", out)
	}
	var doc struct{ Checks []finding }
	line, _, _ := strings.Cut(string(out), "\n")
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	found := map[string]finding{}
	for _, f := range doc.Checks {
		found[f.Name] = f
	}
	return found, c.ProcessState.ExitCode()
}

// TestDoctor_Cloud looks at a bucket on a real server from the first moment on:
// without keys, without a bucket, without rights, and in order.
func TestDoctor_Cloud(t *testing.T) {
	srv := buckettest.StartVersityGW(t, buckettest.ServerConfig{Versioning: true})
	o := newOperator(t)
	url := srv.URL("fleet", "prod")
	keys := func(user, secret string) []string {
		return []string{"AWS_ACCESS_KEY_ID=" + user, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_EC2_METADATA_DISABLED=true"}
	}
	root := keys(buckettest.RootKey, buckettest.RootSecret)
	expect := func(env []string, code int, check, result, cause string) {
		t.Helper()
		found, got := o.doctor(t, url, env...)
		if f := found[check]; got != code || f.Result != result || f.Cause != cause {
			t.Errorf("exit %d, want %d; %s: %+v, want %s %s; all: %+v", got, code, check, f, result, cause, found)
		}
	}
	expect([]string{"AWS_EC2_METADATA_DISABLED=true"}, 3, "credentials", "problem", "credentials_missing")
	expect(keys(buckettest.RootKey, "topsecret"), 3, "credentials", "problem", "credentials_refused")
	expect(root, 3, "bucket", "problem", "no_bucket")
	srv.CreateBucket("fleet")
	srv.CreateUser("eve", "topsecret")
	expect(keys("eve", "topsecret"), 3, "delete", "problem", "denied")
	expect(root, 0, "conditions", "ok", "")
	expect(root, 0, "versions", "warning", "unversioned")
	expect(root, 0, "credentials", "ok", "")
}

// TestDoctor_Proxy: a proxy from the environment that wants a password.
func TestDoctor_Proxy(t *testing.T) {
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer p.Close()
	env := []string{"HTTPS_PROXY=" + strings.Replace(p.URL, "//", "//ana:topsecret@", 1), "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s"}
	found, code := newOperator(t).doctor(t, "s3://fleet/prod?endpoint=https://s3.acme.example", env...)
	if f := found["endpoint"]; code != 3 || f.Cause != "proxy_auth" || !strings.Contains(f.Fix, "HTTPS_PROXY=http://USER:PASSWORD@") {
		t.Errorf("exit %d, %+v", code, f)
	}
}

// TestDoctor_Interrupt: a bucket that says nothing holds nobody up.
func TestDoctor_Interrupt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := with(newOperator(t).command("doctor", "--bucket", "s3://fleet/prod?endpoint=http://"+l.Addr().String()), "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s")
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	asked, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	if _, err := io.ReadFull(asked, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 130 || !strings.Contains(out.String(), "not looked at to the end") || c.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("exit %d:\n%s", code, out.String())
	}
}

// TestScreen_Doctor: on a terminal no line is too wide, and what is to be copied
// stays whole.
func TestScreen_Doctor(t *testing.T) {
	o := newOperator(t)
	for _, c := range []*exec.Cmd{o.command("doctor"), o.command("doctor", "--bucket", "s3://fleet/prod?endpoint=http://127.0.0.1:1")} {
		raw := onTerminal(t, with(c, "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s"), nil)
		lines := rows(t, raw)
		if lines[0] != strings.TrimSpace(lines[0]) || !strings.HasPrefix(lines[0], "RESULT    CHECK") {
			t.Errorf("the first line is %q", lines[0])
		}
		for i, line := range lines {
			word := regexp.MustCompile(`^\s*\S+$`).MatchString(line)
			if len([]rune(line)) > columns-1 && !word {
				t.Errorf("line %d is too wide: %q", i+1, line)
			}
		}
	}
}
