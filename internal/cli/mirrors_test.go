package cli_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/needs"
)

// withMirrors adds mirrors to o's project file.
func (o operator) withMirrors(t *testing.T, urls ...string) {
	t.Helper()
	name := filepath.Join(o.project, "bootwell.yaml")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b) + "\nmirrors:\n"
	for _, u := range urls {
		text += "  - " + u + "\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// readerOf is somebody who only knows the bucket at url, for looking at a mirror
// as if it were the bucket.
func (o operator) readerOf(t *testing.T, url string) operator {
	t.Helper()
	r := o.colleague(t)
	name := filepath.Join(r.project, "bootwell.yaml")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(b), "\nmirrors:")
	var lines []string
	for _, l := range strings.Split(text, "\n") {
		if strings.HasPrefix(l, "bucket:") {
			l = "bucket: " + url
		}
		lines = append(lines, l)
	}
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

// folder makes an empty bucket beside the project's.
func (o operator) folder(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(o.project), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMirrors_EightOperatorsAtOnce: none of their releases is lost, in the
// bucket and in the mirror, which end as one.
func TestMirrors_EightOperatorsAtOnce(t *testing.T) {
	first := newOperator(t)
	west := first.folder(t, "west")
	first.withMirrors(t, "file://"+west)
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		o := first.colleague(t)
		o.write(t, "who.txt", fmt.Sprint("operator ", i))
		wg.Go(func() {
			if out, err := o.command("publish", "-m", fmt.Sprint("by ", i)).CombinedOutput(); err != nil || strings.Contains(string(out), "was not brought up to date") {
				t.Errorf("operator %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	there, here := first.releases(t), first.readerOf(t, "file://"+west).releases(t)
	if len(there) != n || len(here) != n {
		t.Errorf("%d releases in the bucket and %d in the mirror, want %d", len(there), len(here), n)
	}
	a, err := os.ReadFile(filepath.Join(filepath.Dir(first.project), "bucket", "tuf/metadata/timestamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(west, "tuf/metadata/timestamp.json"))
	if err != nil || string(a) != string(b) {
		t.Errorf("the mirror is not at the bucket's state: %v", err)
	}
}

// TestMirrors_KilledAnywhere kills the real command at moments spread over the
// time that a publish with its mirror takes. Who reads the mirror sees its old
// state or the new one, and the next publish brings it up to date.
func TestMirrors_KilledAnywhere(t *testing.T) {
	o := newOperator(t)
	west := o.folder(t, "west")
	o.withMirrors(t, "file://"+west)
	lock := filepath.Join(filepath.Dir(o.project), "bucket", "locks", "publish")
	change := func(i int) {
		o.write(t, "big.txt", strings.Repeat(fmt.Sprintln("line of try", i), 50_000))
		if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	var whole time.Duration
	for i := range 3 {
		change(-i)
		began := time.Now()
		if _, stderr, code := o.run(t, "publish"); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		whole = max(whole, time.Since(began))
	}
	mirror := o.readerOf(t, "file://"+west)
	seen := len(mirror.releases(t))
	const tries = 12
	killed, behind := 0, 0
	for i := range tries {
		change(i)
		c := o.command("publish")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(whole/4+whole*3/4*time.Duration(i)/tries, func() { c.Process.Kill() })
		var exit *exec.ExitError
		if err := c.Wait(); errors.As(err, &exit) && !exit.Exited() {
			killed++
		}
		timer.Stop()
		published, mirrored := len(o.releases(t)), len(mirror.releases(t))
		if mirrored != seen && mirrored != published {
			t.Fatalf("try %d: the mirror has %d releases, before it had %d, and the bucket has %d", i, mirrored, seen, published)
		}
		if mirrored < published {
			behind++
		}
		seen = mirrored
	}
	if killed < tries/4 {
		t.Errorf("only %d of %d were killed before their end: the test shows little", killed, tries)
	}
	t.Logf("%d of %d killed in %v, %d left the mirror behind", killed, tries, whole, behind)
	change(tries)
	if _, stderr, code := o.run(t, "publish"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if published, mirrored := len(o.releases(t)), len(mirror.releases(t)); mirrored != published {
		t.Errorf("the mirror has %d releases in the end, the bucket %d", mirrored, published)
	}
}

// A hole passes connections on to a server, until it swallows them.
type hole struct {
	listener net.Listener
	mu       sync.Mutex
	closed   bool
	conns    []net.Conn
}

func newHole(t *testing.T, server string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{listener: l}
	t.Cleanup(func() { l.Close(); h.swallow(true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, c)
			if !h.closed {
				go pipe(c, server)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

func pipe(c net.Conn, server string) {
	defer c.Close()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	_, _ = io.Copy(c, s)
}

// swallow makes new connections stay without an answer, and ends those there are.
func (h *hole) swallow(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = yes
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
}

// startNginx serves a folder, read only.
func startNginx(t *testing.T, root string) string {
	t.Helper()
	nginx := needs.Tool(t, "nginx")
	work := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := filepath.Join(work, "nginx.conf")
	text := fmt.Sprintf("daemon off; user root; pid %[1]s/pid; error_log %[1]s/error.log;\nevents {}\nhttp { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;\nserver { listen %[2]s; root %[3]s; } }\n", work, addr, root)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(nginx, "-c", conf, "-e", filepath.Join(work, "error.log"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Signal(os.Interrupt); c.Wait() })
	for range 200 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return "http://" + addr
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nginx does not answer")
	return ""
}

// TestMirrors_RealServers: a bucket on one S3 server, a mirror on another, and a
// web server before a third copy. The first one turns into a black hole.
func TestMirrors_RealServers(t *testing.T) {
	needs.Root(t)
	east, west := buckettest.VersityGW(t), buckettest.VersityGW(t)
	east.CreateBucket("main")
	west.CreateBucket("main")
	front := newHole(t, east.Addr)
	o := newOperator(t)
	copied := o.folder(t, "copied")
	web := startNginx(t, copied)
	bucket := strings.Replace(east.URL("main", "prod"), strings.TrimPrefix(east.Endpoint(), "http://127.0.0.1:"), strings.TrimPrefix(front.listener.Addr().String(), "127.0.0.1:"), 1)
	mirrors := []string{web, west.URL("main", "prod"), "file://" + copied}

	o = o.readerOf(t, bucket)
	if err := os.Remove(filepath.Join(o.project, "bootwell.lock")); err != nil {
		t.Fatal(err)
	}
	env := []string{"AWS_ACCESS_KEY_ID=" + buckettest.RootKey, "AWS_SECRET_ACCESS_KEY=" + buckettest.RootSecret}
	run := func(want int, tool string, args ...string) (stdout, stderr string) {
		t.Helper()
		c := o.command(args...)
		c.Path = filepath.Join(binDir, tool)
		c.Env = append(c.Env, env...)
		var out, diag strings.Builder
		c.Stdout, c.Stderr = &out, &diag
		_ = c.Run()
		if got := c.ProcessState.ExitCode(); got != want {
			t.Fatalf("%s %v: exit code %d, want %d\n%s%s", tool, args, got, want, &out, &diag)
		}
		return out.String(), diag.String()
	}
	o.write(t, "bootwell.yaml", "version: 1\nproject: acme\nbucket: "+bucket+"\nmirrors: ['"+strings.Join(mirrors, "', '")+
		"']\nroles:\n  web:\n    steps: [{ files: [{ to: /etc/hello, from: hello.txt }] }]\n    checks: [{ file: /etc/hello }]\n")
	o.write(t, "hello.txt", "one\n")
	run(0, "bootwell", "init", "--no-passphrase")
	_, told := run(0, "bootwell", "publish")
	for _, want := range []string{"mirror s3://main/prod has it too", "mirror file://" + copied + " has it too", "is read only: copy the bucket there yourself; VMs read it"} {
		if !strings.Contains(told, want) {
			t.Errorf("publish does not tell %q:\n%s", want, told)
		}
	}

	vm := t.TempDir()
	for name, text := range map[string]string{
		"etc/bootwell/agent.yaml":           "project: acme\nbucket: " + bucket + "\nmirrors: ['" + strings.Join(mirrors[:2], "', '") + "']\nrole: web\nroot: " + o.root(t) + "\n",
		"run/cloud-init/instance-data.json": `{"v1":{"instance_id":"vm-1","cloud_name":"nocloud"}}`,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(vm, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vm, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env = append(env, "BOOTWELL_ROOT="+vm)
	hello := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(vm, "etc/hello")); err != nil || string(b) != want {
			t.Errorf("/etc/hello is %q (%v), want %q", b, err, want)
		}
	}
	run(0, "bootwell-agent", "apply", "--timer")
	hello("one\n")

	o.write(t, "hello.txt", "two\n")
	run(0, "bootwell", "publish")
	front.swallow(true)
	_, told = run(0, "bootwell-agent", "apply", "--timer")
	hello("two\n")
	if !strings.Contains(told, "s3://main/prod cannot be used") {
		t.Errorf("the agent does not tell of the bucket:\n%s", told)
	}
	stdout, told := run(0, "bootwell", "status", "--vms", "--plain")
	if !strings.HasPrefix(stdout, "vm-1\tweb\tchanged\tr2") {
		t.Errorf("status without the bucket:\n%s%s", stdout, told)
	}

	// The bucket is back with the VM's older report; a publish catches up.
	front.swallow(false)
	stdout, _ = run(0, "bootwell", "status", "--vms", "--plain")
	if !strings.HasPrefix(stdout, "vm-1\tweb\tchanged\tr2") {
		t.Errorf("status with the bucket's older report:\n%s", stdout)
	}
	_, told = run(0, "bootwell-agent", "apply", "--timer")
	if !strings.Contains(told, "r2: nothing to do") || strings.Contains(told, "cannot be used") {
		t.Errorf("after the bucket came back:\n%s", told)
	}
}

// root returns the anchor in o's lock file.
func (o operator) root(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.project, "bootwell.lock"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), `"root": "`)
	root, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		t.Fatalf("no root in %s", b)
	}
	return root
}
