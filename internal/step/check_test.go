package step

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

func checked(t *testing.T, r *Runner, c release.Check, reason string) release.CheckResult {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = release.Duration(5 * time.Second)
	}
	c.Name = "c"
	res := r.Check(context.Background(), c)
	want := release.CheckPassed
	if reason != "" {
		want = release.CheckFailed
	}
	if res.Result != want || !strings.Contains(res.Reason, reason) {
		t.Errorf("%s %s: %s (%q), want %s (%q)", c.Kind, c.Target, res.Result, res.Reason, want, reason)
	}
	return res
}

func TestCheck_HTTP(t *testing.T) {
	t.Setenv("http_proxy", "http://127.0.0.1:9")
	r, _ := fixture(t, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello\nversion 43\n") })
	mux.HandleFunc("/teapot", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/ok", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, q *http.Request) {
		for q.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat("hello ", 1000)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Host, " ", q.Header.Get("X-Key")) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	tls := httptest.NewTLSServer(mux)
	defer tls.Close()
	get := func(path string) release.Check { return release.Check{Kind: release.CheckHTTP, Target: srv.URL + path} }
	checked(t, r, get("/ok"), "")
	checked(t, r, get("/moved"), "")
	checked(t, r, get("/teapot"), "/teapot answers 418, expected 200")
	checked(t, r, get("/endless"), "")
	c := get("/teapot")
	c.Status = 418
	checked(t, r, c, "")
	c = get("/ok")
	c.Body = []string{"hello", `/^version \d+$/`}
	checked(t, r, c, "")
	c.Body = []string{"bye"}
	checked(t, r, c, `body does not contain "bye"; it begins with "hello version 43"`)
	c.Body = []string{"/[/"}
	checked(t, r, c, "is no regular expression")
	c = get("/endless")
	c.Body = []string{"bye"}
	checked(t, r, c, "body does not contain")
	c = get("/echo")
	c.Headers, c.Body = []string{"Host: www.acme.example", "X-Key: k1"}, []string{"www.acme.example k1"}
	checked(t, r, c, "")
	c.Headers = []string{"nonsense"}
	checked(t, r, c, "is not like Name: value")
	c = get("/slow")
	c.Timeout = release.Duration(100 * time.Millisecond)
	checked(t, r, c, "no answer: timed out after 100ms")
	c = release.Check{Kind: release.CheckHTTP, Target: tls.URL + "/ok"}
	checked(t, r, c, "certificate")
	c.AllowInsecure = true
	checked(t, r, c, "")
	srv.Close()
	checked(t, r, get("/ok"), "connection refused")
	checked(t, r, release.Check{Kind: release.CheckHTTP, Target: "://"}, "missing protocol scheme")
}

func TestCheck_Port(t *testing.T) {
	r, _ := fixture(t, nil)
	no := false
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	tcp := l.Addr().(*net.TCPAddr).Port
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer u.Close()
	udp := u.LocalAddr().(*net.UDPAddr).Port
	port := func(s string, listening *bool) release.Check {
		return release.Check{Kind: release.CheckPort, Target: s, Listening: listening}
	}
	checked(t, r, port(strconv.Itoa(tcp), nil), "")
	checked(t, r, port(fmt.Sprintf("tcp:%d", tcp), nil), "")
	checked(t, r, port(fmt.Sprintf("udp:%d", udp), nil), "")
	checked(t, r, port(fmt.Sprintf("tcp:%d", tcp), &no), fmt.Sprintf("something listens on tcp:%d, expected nothing", tcp))
	must(t, l.Close())
	checked(t, r, port(fmt.Sprintf("tcp:%d", tcp), nil), fmt.Sprintf("nothing listens on tcp:%d", tcp))
	checked(t, r, port(fmt.Sprintf("tcp:%d", tcp), &no), "")
	for _, bad := range []string{"", "http", "tcp:", "tcp:0", "tcp:65536", "sctp:1", "tcp:1:2"} {
		checked(t, r, port(bad, nil), "is not like tcp:80")
	}
}

func TestCheck_File(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Root = t.TempDir()
	no := false
	must(t, os.WriteFile(r.Root+"/f", []byte("listen 80;\nuser www;\n"), 0o640))
	must(t, os.Mkdir(r.Root+"/d", 0o755))
	file := func(c release.Check) release.Check { c.Kind = release.CheckFile; return c }
	checked(t, r, file(release.Check{Target: "/f", Mode: "0640", Contents: []string{"listen 80", "/^user/"}}), "")
	checked(t, r, file(release.Check{Target: "/f", Mode: "0644"}), "/f has mode 0640, expected 0644")
	checked(t, r, file(release.Check{Target: "/f", Contents: []string{"listen 443"}}), `/f does not contain "listen 443"`)
	checked(t, r, file(release.Check{Target: "/f", Exists: &no}), "/f exists, expected not to")
	checked(t, r, file(release.Check{Target: "/g"}), "/g does not exist")
	checked(t, r, file(release.Check{Target: "/f/g"}), "/f/g does not exist")
	checked(t, r, file(release.Check{Target: "/g", Exists: &no}), "")
	checked(t, r, file(release.Check{Target: "/d", Contents: []string{"x"}}), "no file with content")
	checked(t, r, file(release.Check{Target: "/f", Owner: strconv.Itoa(os.Getuid()), Group: strconv.Itoa(os.Getgid())}), "")
	checked(t, r, file(release.Check{Target: "/f", Owner: "12345"}), "expected 12345")
	checked(t, r, file(release.Check{Target: "/f", Group: "12345"}), "expected 12345")
}

func TestCheck_CommandAndRun(t *testing.T) {
	r, log := fixture(t, map[string]src{"c.sh": {text: "#!/bin/sh\necho $BOOTWELL_PHASE; exit 3\n"}})
	cmd := func(c release.Check) release.Check { c.Kind = release.CheckCommand; return c }
	checked(t, r, cmd(release.Check{Target: "echo out; echo err >&2", Stdout: []string{"out"}, Stderr: []string{"/^err$/"}}), "")
	checked(t, r, cmd(release.Check{Target: "echo out; echo err >&2", Stdout: []string{"err"}}), `stdout does not contain "err"; it begins with "out"`)
	checked(t, r, cmd(release.Check{Target: "true", Stderr: []string{"x"}}), "stderr does not contain \"x\"; it is empty")
	checked(t, r, cmd(release.Check{Target: "echo no such table >&2; exit 3"}), "exit 3, expected 0: no such table")
	checked(t, r, cmd(release.Check{Target: "exit 3", ExitStatus: 3}), "")
	checked(t, r, cmd(release.Check{Target: "sleep 60", Timeout: release.Duration(100 * time.Millisecond)}), "timed out after 100ms")
	checked(t, r, cmd(release.Check{Target: "kill -9 $$"}), "killed by SIGKILL")
	checked(t, r, release.Check{Kind: release.CheckRun, Target: "c.sh", ExitStatus: 3, Stdout: []string{"check"}}, "")
	checked(t, r, release.Check{Kind: release.CheckRun, Target: "nope.sh"}, "nope.sh is not in the release")
	must(t, os.WriteFile(r.Tree+"/c.sh", []byte("#!/bin/sh\n"), 0o755))
	checked(t, r, release.Check{Kind: release.CheckRun, Target: "c.sh"}, "does not match the release")
	checked(t, r, release.Check{Kind: "goss", Target: "x"}, `knows no check of kind "goss"`)
	if !strings.Contains(log.String(), "no such table") {
		t.Error("the output of a check is not in the log")
	}
}

func TestCheck_Retries(t *testing.T) {
	r, _ := fixture(t, nil)
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(503)
		}
	}))
	defer srv.Close()
	c := release.Check{Kind: release.CheckHTTP, Target: srv.URL, Retries: 5, Interval: release.Duration(time.Millisecond)}
	if res := checked(t, r, c, ""); res.Attempts != 3 || res.Reason != "" {
		t.Errorf("%+v", res)
	}
	c.Status, c.Retries = 204, 2
	if res := checked(t, r, c, "answers 200, expected 204"); res.Attempts != 3 {
		t.Errorf("%+v", res)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.Retries, c.Interval = 1000, release.Duration(time.Hour)
	if res := r.Check(ctx, c); res.Attempts != 1 || res.Result != release.CheckFailed {
		t.Errorf("%+v", res)
	}
}

func TestCheck_Package(t *testing.T) {
	r, _ := fixture(t, nil)
	if _, ok := r.tool("dpkg-query"); !ok {
		t.Skip("no dpkg")
	}
	no := false
	mgr, err := r.packager()
	must(t, err)
	v, err := mgr.installed(context.Background(), nil)
	must(t, err)
	pkg := func(c release.Check) release.Check { c.Kind = release.CheckPackage; return c }
	checked(t, r, pkg(release.Check{Target: "dpkg"}), "")
	checked(t, r, pkg(release.Check{Target: "dpkg", Versions: []string{"0", v.version("dpkg")}}), "")
	checked(t, r, pkg(release.Check{Target: "dpkg", Versions: []string{"0.1", "0.2"}}), "is installed, expected 0.1 or 0.2")
	checked(t, r, pkg(release.Check{Target: "dpkg", Installed: &no}), "is installed, expected not to be")
	checked(t, r, pkg(release.Check{Target: "nosuch-package"}), "nosuch-package is not installed")
	checked(t, r, pkg(release.Check{Target: "nosuch-package", Installed: &no}), "")
}
