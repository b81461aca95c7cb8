package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // cuts large files when publishing

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// A world is a project in a bucket and a VM in a folder. Time passes only
// when a test says so.
type world struct {
	t      testing.TB
	dir    string
	now    time.Time
	inner  bucket.Bucket
	faults *bucket.Faults
	count  *bucket.Counter
	agent  *Agent
	events []Event
	calls  []string // programs of the system that were asked for
	anchor release.Digest
}

var start = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: start}
	m := bucket.NewMem()
	m.Now = func() time.Time { return w.now }
	w.begin(m)
	w.anchor = w.init()
	w.agent = w.newAgent()
	return w
}

// newFileWorld is a world whose bucket is a folder, for a VM in another process.
func newFileWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: start}
	if err := os.Mkdir(w.path("bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.begin(openFolder(t, w.path("bucket")))
	w.anchor = w.init()
	w.agent = w.newAgent()
	return w
}

func openFolder(t testing.TB, dir string) bucket.Bucket {
	t.Helper()
	b, err := file.OpenDir(dir, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) begin(b bucket.Bucket) {
	w.inner = b
	w.faults = bucket.NewFaults(b)
	w.count = bucket.Count(w.faults)
	root := w.path("vm")
	for name, text := range map[string]string{
		"etc/os-release":                         "ID=debian\nVERSION_ID=\"12\"\n",
		"etc/machine-id":                         strings.Repeat("ab", 16) + "\n",
		"proc/sys/kernel/random/boot_id":         "boot-1\n",
		"run/cloud-init/instance-data.json":      `{"v1":{"instance_id":"i-0abc","cloud_name":"aws","region":"eu-west-1"}}`,
		"var/lib/prometheus/node-exporter/.keep": "",
	} {
		w.write(filepath.Join(root, name), text)
	}
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) vm(name string) string { return w.path("vm", name) }

func key(name string) trust.Key {
	seed := release.DigestOf([]byte(name)).Hex()[:ed25519.SeedSize]
	k := ed25519.NewKeyFromSeed([]byte(seed))
	return trust.Key{Name: name, Private: k, Public: k.Public().(ed25519.PublicKey)}
}

func keys() trust.Keys { return trust.Keys{Ops: key("ops"), Online: key("online")} }

func (w *world) init() release.Digest {
	w.t.Helper()
	d, err := trust.Init(w.t.Context(), w.inner, keys(), w.now, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) newAgent() *Agent {
	return &Agent{
		Config:  Config{Project: "acme", Bucket: "file://" + w.path("bucket"), Role: "web", Channel: "stable", Root: w.anchor},
		Paths:   Paths{Root: w.path("vm")},
		Bucket:  w.count,
		Now:     func() time.Time { return w.now },
		Version: "1.0.0",
		Events:  func(e Event) { w.events = append(w.events, e) },
		Command: func(_ context.Context, name string, args ...string) ([]byte, error) {
			w.calls = append(w.calls, strings.Join(append([]string{name}, args...), " "))
			return nil, nil
		},
	}
}

// run is a step of shell text, done on each run.
func run(name, text string) release.Step {
	return release.Step{
		Name: name, Kind: release.KindRun, Run: text, Rerun: release.RerunAlways,
		Timeout: release.Duration(time.Minute), OnError: release.OnErrorStop, Reboot: release.RebootNever,
	}
}

// put is a step that makes the file name on the VM hold text, and tells
// whether that changed anything.
func (w *world) put(name, text string) release.Step {
	return run("put "+name, fmt.Sprintf(`f=%s
if [ "$(cat $f 2>/dev/null)" != %q ]; then printf %%s %q >$f; echo changed=true >>"$BOOTWELL_OUTPUT"; fi`, w.vm(name), text, text))
}

// log is a step that adds a line to the file name each time it runs.
func (w *world) log(name string) release.Step {
	return run("log "+name, fmt.Sprintf("echo x >>%s", w.vm(name)))
}

func (w *world) lines(name string) int {
	b, _ := os.ReadFile(w.vm(name))
	return bytes.Count(b, []byte("\n"))
}

func (w *world) text(name string) string {
	b, _ := os.ReadFile(w.vm(name))
	return string(b)
}

func check(name, text string) release.Check {
	return release.Check{Name: name, Kind: release.CheckCommand, Target: text, Timeout: release.Duration(10 * time.Second)}
}

func role(steps ...release.Step) release.Role {
	return release.Role{
		Steps: steps, Attempts: 3,
		Schedule: release.Schedule{Poll: release.Duration(5 * time.Minute), Reapply: release.Duration(time.Hour)},
	}
}

// publish makes a release of the roles and one file.
func (w *world) publish(r release.Role) store.Published {
	return w.publishRoles(map[string]release.Role{"web": r})
}

func (w *world) publisher() *trust.Publisher {
	return &trust.Publisher{
		Client: &trust.Client{Bucket: w.inner, Dir: w.path("operator"), Anchor: w.anchor, Now: func() time.Time { return w.now }},
		Keys:   keys(), Now: func() time.Time { return w.now },
	}
}

func (w *world) publishRoles(roles map[string]release.Role) store.Published {
	w.t.Helper()
	w.write(w.path("project", "hello.txt"), "hello\n")
	s := &store.Store{Bucket: w.inner}
	got, err := s.Publish(w.t.Context(), w.publisher(), store.PublishOptions{
		Dir: w.path("project"), Project: "acme", Roles: roles, Owner: "test",
		Source: release.Source{Time: w.now.Truncate(time.Second), Tool: "test"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// unbundle takes the bundles away, so that VMs ask for objects one by one.
func (w *world) unbundle() {
	w.t.Helper()
	for o, err := range w.inner.List(w.t.Context(), "tuf/bundles/", "") {
		if err == nil {
			err = w.inner.Delete(w.t.Context(), o.Key)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// apply is one call of the agent by the timer.
func (w *world) apply() (*release.Report, error) {
	w.t.Helper()
	return w.agent.Run(w.t.Context(), Options{})
}

// good is apply without an error.
func (w *world) good() *release.Report {
	w.t.Helper()
	r, err := w.apply()
	if err != nil {
		w.t.Fatalf("apply: %v\n%s", err, w.lastLog())
	}
	return r
}

func (w *world) lastLog() string {
	b, _ := Logs(w.agent.Paths, "", "")
	return string(b)
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

// reboot gives the VM another boot.
func (w *world) reboot() {
	n := strings.TrimPrefix(strings.TrimSpace(w.text("proc/sys/kernel/random/boot_id")), "boot-")
	var i int
	fmt.Sscan(n, &i)
	w.write(w.vm("proc/sys/kernel/random/boot_id"), fmt.Sprintf("boot-%d\n", i+1))
	_ = os.RemoveAll(w.vm("run/bootwell"))
}

// reported is the report in the bucket.
func (w *world) reported() *release.Report {
	w.t.Helper()
	r, err := (&store.Store{Bucket: w.inner}).Report(w.t.Context(), "i-0abc")
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) state() *state {
	w.t.Helper()
	b, err := os.ReadFile(w.agent.Paths.StateFile())
	if err != nil {
		w.t.Fatal(err)
	}
	st, err := parseState(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// whole fails the test unless both links point to complete trees of what the
// state says.
func (w *world) whole() {
	w.t.Helper()
	st := w.state()
	for link, want := range map[string]ref{w.agent.Paths.Current(): st.Applied, w.agent.Paths.LastGood(): st.Good} {
		to, err := os.Readlink(link)
		if err != nil {
			w.t.Fatal(err)
		}
		if filepath.Base(to) != want.Manifest.Hex() {
			w.t.Errorf("%s points to %s, the state says %s", filepath.Base(link), to, want.Manifest.Hex())
		}
		b, err := os.ReadFile(w.agent.Paths.Manifest(want.Manifest))
		if err != nil {
			w.t.Fatal(err)
		}
		m, err := release.ParseManifest(b)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := store.VerifyStaged(w.t.Context(), store.Staged{Dir: w.agent.Paths.Tree(want.Manifest), Manifest: m}, "web"); err != nil {
			w.t.Errorf("%s: %v", filepath.Base(link), err)
		}
	}
	if _, err := os.Stat(w.agent.Paths.Journal()); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the journal is still there: %v", err)
	}
}

func (w *world) is(r *release.Report, state, rel string) {
	w.t.Helper()
	if r.State != state || r.Release != rel {
		b, _ := json.MarshalIndent(r, "", " ")
		w.t.Fatalf("state %s release %s, want %s %s\n%s", r.State, r.Release, state, rel, b)
	}
}

func results(r *release.Run) string {
	var s []string
	for _, x := range r.Steps {
		s = append(s, x.Result)
	}
	return strings.Join(s, " ")
}
