// Package e2e runs the main job on real machines: a stock Debian in QEMU that
// knows nothing of bootwell, in a network of its own with the cloud's metadata
// service, a private S3 bucket and a package repository.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// Addresses in the lab's network. They are for documentation (RFC 5737), so
// that nothing of the real network can be meant.
const (
	serverIP  = "192.0.2.10"
	storeAddr = serverIP + ":7070"
	webAddr   = serverIP + ":80"
)

// patience bounds one wait for a machine. Emulation on a busy host is slow, and
// no test is about speed.
const patience = 10 * time.Minute

var binDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bootwell-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build makes the operator's command and the agent as users get them.
var build = sync.OnceValue(func() error {
	c := exec.Command("make", "--no-print-directory", "-C", "..", "BIN="+binDir,
		filepath.Join(binDir, "bootwell"), filepath.Join(binDir, "bootwell-agent-linux-amd64.xz"))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("make: %w\n%s", err, out)
	}
	return nil
})

// A world is a network with servers, and an operator with a project.
type world struct {
	t       *testing.T
	image   lab.Image
	net     *lab.Network
	dir     string // the project
	bucket  string // its bucket's URL
	env     []string
	store   *exec.Cmd // the S3 server that runs now
	data    string    // its data
	netFile string    // the network as a file, for nsenter
	web     *webServer
}

// newWorld makes a network with the servers that every test needs.
func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("virtual machines take minutes")
	}
	needs.Root(t)
	for _, tool := range []string{"make", "nsenter", "qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "lz4"} {
		needs.Tool(t, tool)
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	img, err := lab.StockDebian(deadline(t, 20*time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := lab.NewNetwork(lab.MetadataAddress, serverIP)
	if errors.Is(err, lab.ErrForbidden) {
		needs.Skip(t, "root", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	w := &world{t: t, image: img, net: n, dir: filepath.Join(t.TempDir(), "project"), web: &webServer{}}
	w.env = []string{
		"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "BOOTWELL_AGENTS=" + binDir, "BOOTWELL_BY=ana@laptop",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=" + buckettest.RootKey, "AWS_SECRET_ACCESS_KEY=" + buckettest.RootSecret,
	}
	w.openNetwork()
	if _, err := n.Serve(webAddr, w.web); err != nil {
		t.Fatal(err)
	}
	return w
}

func deadline(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// openNetwork gives the network a name for programs that this process does
// not start itself.
func (w *world) openNetwork() {
	var f *os.File
	err := w.net.Do(func() (err error) {
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	w.netFile = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

// serveMetadata puts the metadata service at the address where clouds have it.
func (w *world) serveMetadata(svc *metadata.Service) {
	w.t.Helper()
	if _, err := w.net.Serve(lab.MetadataAddress+":80", svc); err != nil {
		w.t.Fatal(err)
	}
}

// startStore starts the S3 server, with what it had before it was stopped.
func (w *world) startStore(t *testing.T) *buckettest.Server {
	t.Helper()
	if w.data == "" {
		w.data = t.TempDir()
	}
	return buckettest.StartVersityGW(t, buckettest.ServerConfig{Listen: storeAddr, Dir: w.data, Client: w.net.Client(), Hook: func(cmd *exec.Cmd) {
		w.enter(cmd)
		if strings.Contains(strings.Join(cmd.Args, " "), " posix ") {
			w.store = cmd
		}
	}})
}

// enter makes a command run in the lab's network.
func (w *world) enter(cmd *exec.Cmd) {
	cmd.Args = append([]string{"nsenter", "--net=" + w.netFile, "--"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = needs.Tool(w.t, "nsenter")
}

// stopStore ends the S3 server and returns when nobody answers there.
func (w *world) stopStore(t *testing.T) {
	t.Helper()
	if err := w.store.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for ctx := deadline(t, time.Minute); ; {
		c, err := w.net.Dial(ctx, "tcp", storeAddr)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			return
		}
		c.Close()
	}
}

// project copies an example from testdata, for the operator to change.
func (w *world) project(example, bucket string, replace ...string) {
	w.t.Helper()
	w.bucket = bucket
	if err := os.CopyFS(w.dir, os.DirFS(filepath.Join("testdata", example))); err != nil {
		w.t.Fatal(err)
	}
	w.edit(append([]string{"@BUCKET@", bucket}, replace...)...)
}

// edit replaces texts in the project file, as the operator's editor would.
func (w *world) edit(oldnew ...string) {
	w.t.Helper()
	name := filepath.Join(w.dir, "bootwell.yaml")
	b, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(b)
	for i := 0; i+1 < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			w.t.Fatalf("%s does not hold %q", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	w.write("bootwell.yaml", text, 0o644)
}

func (w *world) write(name, text string, mode fs.FileMode) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), mode); err != nil {
		w.t.Fatal(err)
	}
}

// outcome is how a command of the operator ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// try runs the operator's command in the lab's network.
func (w *world) try(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(deadline(t, patience), filepath.Join(binDir, "bootwell"), args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = w.dir, w.env, &out, &errs
	err := w.net.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("bootwell %s: %v", strings.Join(args, " "), err)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// bootwell runs the operator's command, which must succeed.
func (w *world) bootwell(t *testing.T, args ...string) string {
	t.Helper()
	o := w.try(t, args...)
	if o.code != 0 {
		t.Fatalf("bootwell %s: exit code %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// publish makes a release and holds its name.
func (w *world) publish(t *testing.T, want string) {
	t.Helper()
	if got := strings.TrimSpace(w.bootwell(t, "publish")); got != want {
		t.Fatalf("published %q, want %s", got, want)
	}
}

// report is what the operator sees of a VM: its report in the bucket, or nil.
func (w *world) report(t *testing.T, vm string) *release.Report {
	t.Helper()
	o := w.try(t, "status", vm, "--json")
	if o.code == 5 {
		return nil
	}
	r, err := release.ParseReport([]byte(strings.TrimSpace(o.stdout)))
	if err != nil {
		t.Fatalf("bootwell status %s: exit code %d, %v\n%s%s", vm, o.code, err, o.stdout, o.stderr)
	}
	return r
}

// await waits for a report in the bucket. It looks from outside: the VM is
// not touched.
func (w *world) await(t *testing.T, vm, what string, ok func(*release.Report) bool) *release.Report {
	t.Helper()
	for ctx := deadline(t, patience); ; {
		r := w.report(t, vm)
		if r != nil && ok(r) {
			return r
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatalf("no report that says %s; the last one: %s\nreports in the bucket: %v", what, brief(r), w.reports())
		}
	}
}

// reports are the files of reports in an S3 server's bucket.
func (w *world) reports() []string {
	names, _ := filepath.Glob(filepath.Join(w.data, "data", bucketName, "*", "reports", "*", "*"))
	more, _ := filepath.Glob(filepath.Join(w.data, "data", bucketName, "reports", "*", "*"))
	return append(names, more...)
}

// inOrder reports whether a VM has a release and all is well.
func inOrder(name string) func(*release.Report) bool {
	return func(r *release.Report) bool {
		return r.Release == name && r.LastGood == name && (r.State == release.StateOK || r.State == release.StateChanged)
	}
}

// runOf is the newest run of a report that f wants.
func runOf(r *release.Report, f func(release.RunBrief) bool) *release.RunBrief {
	runs := r.History
	if r.Run != nil {
		runs = append([]release.RunBrief{r.Run.Brief()}, runs...)
	}
	for _, b := range runs {
		if f(b) {
			return &b
		}
	}
	return nil
}

func brief(r *release.Report) string {
	if r == nil {
		return "none"
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// story runs a part of a test that the parts after it need.
func story(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

// webServer serves folders and counts.
type webServer struct {
	mu     sync.Mutex
	mux    http.ServeMux
	counts map[string]int // by the first segment of the path
	status int            // of each answer; 0 is what is right
}

// folder serves dir below /name/, with ETags as the usual servers make them.
func (s *webServer) folder(name, dir string) string {
	files := http.FileServer(http.Dir(dir))
	s.mux.Handle("/"+name+"/", http.StripPrefix("/"+name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err == nil {
			w.Header().Set("Etag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
		}
		files.ServeHTTP(w, r)
	})))
	return "http://" + net.JoinHostPort(serverIP, "80") + "/" + name
}

func (s *webServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	s.counts[first]++
	status := s.status
	s.mu.Unlock()
	if status != 0 {
		http.Error(w, http.StatusText(status), status)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *webServer) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[name]
}

// answer makes every answer one with this status, until it is set to 0.
func (s *webServer) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}
