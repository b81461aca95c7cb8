package e2e

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/release"
)

// provisioned ends a first boot that must go well.
func (m *machine) provisioned(t *testing.T, source string) {
	t.Helper()
	out := m.cloudInit(t)
	if !strings.Contains(out, "status: done") || !strings.Contains(out, source) {
		t.Fatalf("cloud-init says:\n%s", out)
	}
	if r := m.code(t, "bootwell-agent status --wait --timeout 5m"); r.Code != 0 {
		t.Fatalf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("the first boot, in seconds since its kernel started:\n%s", m.timetable(t))
}

// webBucket makes the small project with a folder as bucket, which VMs read
// by HTTP. It returns the URL for them.
func (w *world) webBucket() string {
	dir := filepath.Join(w.t.TempDir(), "bucket")
	w.project("small", "file://"+dir)
	return w.web.folder("bucket", dir)
}

// TestNoCloud is the main job without a cloud: a seed disk gives the
// user-data, and a plain web server has the bucket.
func TestNoCloud(t *testing.T) {
	w := newWorld(t)
	url := w.webBucket()
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	data := w.bootwell(t, "user-data", "node", "--bucket", url, "--cloud", "nocloud", "--format", "script")
	m := w.boot("node-1", lab.QEMU{NoCloud: &lab.NoCloud{InstanceID: "node-1", Hostname: "node-1", UserData: []byte(data)}})
	story(t, "the stock image provisions itself from a web server", func(t *testing.T) {
		m.provisioned(t, "DataSourceNoCloud")
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), "greeting: hello\nto node-1 on nocloud")
		if r := m.local(t); !inOrder("r1")(r) || r.VM != "node-1" {
			t.Errorf("report: %s", brief(r))
		}
		same(t, "timer", m.sh(t, "systemctl is-active bootwell.timer; systemctl is-enabled bootwell.timer"), "active\nenabled")
	})
	t.Run("the VM says that it cannot report", func(t *testing.T) {
		has(t, "the first boot", m.sh(t, "cat /var/log/cloud-init-output.log"), "can only be read", "sends no reports")
		if r := w.report(t, "node-1"); r != nil {
			t.Errorf("a report came out of nowhere: %s", brief(r))
		}
	})
	story(t, "a second publish is taken by the timer alone", func(t *testing.T) {
		w.edit("greeting: hello", "greeting: welcome")
		w.publish(t, "r2")
		m.awaitLocal(t, "r2 in order", inOrder("r2"))
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), "greeting: welcome\nto node-1 on nocloud")
	})
	t.Run("a web server that is away changes nothing", func(t *testing.T) {
		w.web.answer(http.StatusServiceUnavailable)
		if result, status := m.poll(t); result != "success" || status != "10" {
			t.Errorf("the service ended with %s, exit code %s; want success with 10", result, status)
		}
		w.web.answer(0)
		if result, status := m.poll(t); result != "success" || status != "0" {
			t.Errorf("the service ended with %s, %s", result, status)
		}
		if r := m.local(t); !inOrder("r2")(r) || r.Reason != "" {
			t.Errorf("report: %s", brief(r))
		}
	})
}

const (
	server       = "83679162-1378-4288-a2d4-70e13ec132aa"
	serverSecret = "secret-of-the-server"
)

// TestOpenStack is the main job on OpenStack, where servers have no role: a
// part of the user-data gives the VM keys for the private bucket.
func TestOpenStack(t *testing.T) {
	w := newWorld(t)
	srv := w.startStore(t)
	srv.CreateBucket(bucketName)
	srv.CreateUser(server, serverSecret)
	srv.PutBucketPolicy(bucketName, buckettest.VMPolicy(bucketName, "", server))
	w.project("small", srv.URL(bucketName, ""))
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	data := w.bootwell(t, "user-data", "node", "--cloud", "openstack", "--format", "mime")
	svc := metadata.NewOpenStack(metadata.Machine{
		ID: server, Region: "region-one", Zone: "nova", Hostname: "node-2", MAC: lab.DefaultMAC, IP: lab.DefaultIP, Type: "m1.small", Account: "0123456789abcdef0123456789abcdef",
	})
	svc.SetUserData(withFile(t, data, "/etc/bootwell/credentials",
		"[default]\naws_access_key_id = "+server+"\naws_secret_access_key = "+serverSecret+"\n"))
	w.serveMetadata(svc)
	m := w.boot(server, lab.QEMU{Platform: lab.OpenStackPlatform(server)})
	story(t, "the stock image provisions itself with keys from its user-data", func(t *testing.T) {
		m.provisioned(t, "DataSourceOpenStack")
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), "greeting: hello\nto "+server+" on openstack")
		same(t, "mode of the credentials", m.sh(t, "stat -c '%a %U' /etc/bootwell/credentials"), "600 root")
	})
	story(t, "the operator sees the VM", func(t *testing.T) {
		r := w.await(t, server, "r1 in order", inOrder("r1"))
		if r.Facts.Cloud != "openstack" || r.Facts.Hostname != "node-2" || len(r.Warn) != 0 {
			t.Errorf("report: %s", brief(r))
		}
		w.bootwell(t, "status", "--check")
	})
	story(t, "a second publish is taken by the timer alone", func(t *testing.T) {
		w.edit("greeting: hello", "greeting: welcome")
		w.publish(t, "r2")
		w.await(t, server, "r2 in order", inOrder("r2"))
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), "greeting: welcome\nto "+server+" on openstack")
	})
}

// TestFailureIsShown is a first boot whose release cannot work.
func TestFailureIsShown(t *testing.T) {
	w := newWorld(t)
	url := w.webBucket()
	const step = "- { name: database, run: 'echo no such database >&2; exit 7' }"
	w.edit("# more steps", step)
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	data := w.bootwell(t, "user-data", "node", "--bucket", url, "--cloud", "nocloud")
	m := w.boot("node-3", lab.QEMU{NoCloud: &lab.NoCloud{InstanceID: "node-3", Hostname: "node-3", UserData: []byte(data)}})
	story(t, "cloud-init ends with an error", func(t *testing.T) {
		if out := m.cloudInit(t); !strings.Contains(out, "status: error") {
			t.Fatalf("cloud-init says:\n%s", out)
		}
	})
	t.Run("the console tells the step and its words", func(t *testing.T) {
		has(t, "the console", m.Console().String(), "database: FAILED: ", "no such database", "r1 failed after")
	})
	t.Run("the agent tells the same", func(t *testing.T) {
		r := m.code(t, "bootwell-agent status --wait --timeout 5m")
		if r.Code != 1 {
			t.Errorf("exit code %d, want 1: %s", r.Code, r.Stderr)
		}
		has(t, "the status", string(r.Stdout), "failed", "database", "no such database")
		if r := m.local(t); r.State != release.StateFailed || r.LastGood != "" {
			t.Errorf("report: %s", brief(r))
		}
	})
	t.Run("a good release mends the VM", func(t *testing.T) {
		w.edit(step, "# more steps")
		w.publish(t, "r2")
		m.poll(t)
		m.awaitLocal(t, "r2 in order", inOrder("r2"))
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), "greeting: hello\nto node-3 on nocloud")
		same(t, "failed units", m.sh(t, "systemctl list-units --failed --plain --no-legend | grep -v cloud-final || true"), "")
	})
}
