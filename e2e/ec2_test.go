package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	instance   = "i-0123456789abcdef0"
	vmSecret   = "secret-of-the-instance-role"
	bucketName = "fleet"
	prefix     = "prod"
)

// ec2World is a VM on EC2 with what is around it.
type ec2World struct {
	*world
	*machine
	imds     *metadata.Service
	userData []byte
}

// TestEC2 is the main job, then a VM's life, on one VM in the order of the
// parts: stock image, instance role, private bucket, a real package.
func TestEC2(t *testing.T) {
	w := &ec2World{world: newWorld(t)}
	story(t, "the operator makes a project, publishes and prints user-data", w.prepare)
	w.imds.SetUserData(w.userData)
	w.machine = w.boot(instance, lab.QEMU{Platform: lab.EC2Platform("ec2e1916-9099-7caf-fd21-012345abcdef")})
	story(t, "the stock image provisions itself at its first boot", w.firstBoot)
	t.Run("user-data was taken byte for byte, with session tokens only", w.onlyTokens)
	t.Run("package, configuration, service and script of it are there", w.provisioned)
	t.Run("the agent's service and timer are set up", w.scheduled)
	story(t, "the operator sees the VM", w.seen)
	t.Run("the VM's identity can do nothing but its part", w.identity)
	story(t, "a second publish is taken by the timer alone", w.secondPublish)
	t.Run("a second apply says unchanged for each step and asks no package server", w.unchanged)
	story(t, "a release that fails its check falls back and is set aside", w.broken)
	story(t, "the next good release heals the VM", w.healed)
	story(t, "the VM goes on without its bucket and takes the next release after it", w.bucketAway)
	story(t, "power lost in the middle of an apply is made good at the next boot", w.powerLost)
	story(t, "a step that asks for a reboot is called again after it", w.rebooted)
}

// prepare is what an operator does before the first VM.
func (w *ec2World) prepare(t *testing.T) {
	repository, err := lab.AptRepository(deadline(t, patience), w.image, "lighttpd")
	if errors.Is(err, lab.ErrMissing) {
		needs.Skip(w.t, "apt", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	srv := w.startStore(w.t)
	srv.CreateBucket(bucketName)
	srv.CreateUser(instance, vmSecret)
	srv.PutBucketPolicy(bucketName, buckettest.VMPolicy(bucketName, prefix, instance))
	w.project("web", srv.URL(bucketName, prefix), "@APT@", w.web.folder("apt", repository))
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	w.userData = []byte(w.bootwell(t, "user-data", "web"))
	if !bytes.HasPrefix(w.userData, []byte("#cloud-config\n")) || len(w.userData) > 4096 {
		t.Errorf("user-data has %d bytes: %s", len(w.userData), w.userData)
	}
	for _, secret := range []string{buckettest.RootSecret, vmSecret} {
		if bytes.Contains(w.userData, []byte(secret)) {
			t.Errorf("user-data holds %q", secret)
		}
	}
	w.imds = metadata.NewEC2(metadata.Machine{
		ID: instance, Region: "eu-west-1", Zone: "eu-west-1b", Hostname: "ip-10-0-2-15", MAC: lab.DefaultMAC, IP: lab.DefaultIP,
		Type: "t3.micro", Account: "123456789012", Role: "vm",
	})
	// No session token: to this S3 server a user's own keys have none.
	w.imds.SetCredentials(metadata.Credentials{AccessKeyID: instance, SecretAccessKey: vmSecret, Expires: time.Now().Add(6 * time.Hour)})
	w.serveMetadata(w.imds)
}

func (w *ec2World) firstBoot(t *testing.T) {
	out := w.cloudInit(t)
	if !strings.Contains(out, "status: done") || !strings.Contains(out, "DataSourceEc2") {
		t.Fatalf("cloud-init says:\n%s", out)
	}
	if r := w.code(t, "bootwell-agent status --wait --timeout 5m"); r.Code != 0 {
		t.Fatalf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("the first boot, in seconds since its kernel started:\n%s", w.timetable(t))
}

func (w *ec2World) onlyTokens(t *testing.T) {
	want := fmt.Sprintf("%x", sha256.Sum256(w.userData))
	got, _, _ := strings.Cut(w.sh(t, "sha256sum /var/lib/cloud/instance/user-data.txt"), " ")
	same(t, "digest of the user-data on the VM", got, want)
	agents := map[string]bool{}
	for _, r := range w.imds.Requests() {
		if r.Method == "PUT" && r.Status == 200 {
			name, _, _ := strings.Cut(r.UserAgent, "/")
			agents[name] = true
		}
	}
	if len(agents) < 3 || !agents["Cloud-Init"] || !agents["Python-urllib"] {
		t.Errorf("session tokens were taken by %v; want cloud-init, the bootstrap and the agent", agents)
	}
	if n := w.imds.Count("", "", 401); n != 0 {
		t.Errorf("%d requests came without a token", n)
	}
	if w.imds.Count("GET", "iam/security-credentials/vm", 200) < 2 {
		t.Error("the bootstrap and the agent did not both ask for the role's credentials")
	}
	// That is worth something only if the service insists.
	res, err := w.net.Client().Get("http://" + lab.MetadataAddress + "/latest/user-data")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 401 {
		t.Errorf("without a token: status %d, want 401", res.StatusCode)
	}
}

func (w *ec2World) provisioned(t *testing.T) {
	same(t, "package", w.sh(t, "dpkg-query -W -f '${Status}' lighttpd"), "install ok installed")
	same(t, "service", w.sh(t, "systemctl is-active lighttpd; systemctl is-enabled lighttpd"), "active\nenabled")
	has(t, "configuration", w.sh(t, "cat /etc/lighttpd/lighttpd.conf"), "server.port = 8080")
	same(t, "page", w.page(t), "greeting: hello\nfrom "+instance+" in eu-west-1 on aws")
	same(t, "notes", w.sh(t, "cat /var/lib/notes"), "r1 says hello")
}

// page is what the web server on the VM serves.
func (w *ec2World) page(t *testing.T) string {
	t.Helper()
	return w.sh(t, `python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8080/").read().decode().strip())'`)
}

func (w *ec2World) scheduled(t *testing.T) {
	same(t, "timer", w.sh(t, "systemctl is-active bootwell.timer; systemctl is-enabled bootwell.timer"), "active\nenabled")
	has(t, "timer", w.sh(t, "systemctl show bootwell.timer"), "OnBootUSec=", "OnUnitInactiveUSec=", "OnCalendar=*-*-* *:*:", "RandomizedDelayUSec=1s", "FixedRandomDelay=yes", "Unit=bootwell.service")
	has(t, "service", w.sh(t, "systemctl show bootwell.service"), "Type=oneshot", "SuccessExitStatus=10 13", "KillMode=process", "TimeoutStartUSec=infinity", "/usr/local/bin/bootwell-agent apply --timer")
	w.sh(t, "systemd-analyze verify /etc/systemd/system/bootwell.service /etc/systemd/system/bootwell.timer")
	// Whoever polls by hand, again and again, is not refused, nor is the timer then.
	w.sh(t, "for i in 1 2 3 4 5 6 7 8; do systemctl start bootwell.service || exit; done")
	same(t, "failed units", w.sh(t, "systemctl list-units --failed --plain --no-legend"), "")
}

func (w *ec2World) seen(t *testing.T) {
	r := w.await(t, instance, "r1 in order", inOrder("r1"))
	if r.Project != "shop" || r.Role != "web" || r.Facts.Cloud != "aws" || r.Facts.Region != "eu-west-1" || r.Facts.Platform != "debian-12" || len(r.Warn) != 0 {
		t.Errorf("report: %s", brief(r))
	}
	first := runOf(r, func(b release.RunBrief) bool { return b.Why == release.WhyFirst })
	if first == nil || first.Result != release.ResultChanged {
		t.Errorf("first run: %+v", first)
	}
	if _, err := os.Stat(filepath.Join(w.data, "data", bucketName, prefix, "reports", instance, "report.json")); err != nil {
		t.Error(err)
	}
	var doc struct {
		VMs   int `json:"vms"`
		Roles []struct {
			Role   string         `json:"role"`
			States map[string]int `json:"states"`
		} `json:"roles"`
		Failures, Stale []any
	}
	if err := json.Unmarshal([]byte(w.bootwell(t, "status", "--check", "--json")), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.VMs != 1 || len(doc.Roles) != 1 || doc.Roles[0].Role != "web" || doc.Roles[0].States["ok"]+doc.Roles[0].States["changed"] != 1 || len(doc.Failures)+len(doc.Stale) != 0 {
		t.Errorf("status: %+v", doc)
	}
	t.Logf("bootwell status:\n%s", w.bootwell(t, "status"))
	has(t, "log", w.bootwell(t, "logs", instance), "web server", "site", "lighttpd")
}

// identity uses the VM's credentials from outside: what they may do is the
// bucket's decision, whatever runs on the VM.
func (w *ec2World) identity(t *testing.T) {
	b, err := s3.Open(t.Context(), w.bucket, s3.Options{Sources: []s3.Source{s3.Static(instance, vmSecret, "")}, Transport: w.net.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error {
		_, err := b.Put(t.Context(), key, strings.NewReader("{}"), bucket.Condition{})
		return err
	}
	for _, key := range []string{"reports/" + instance + "/probe", "logs/" + instance + "/probe"} {
		if err := put(key); err != nil {
			t.Errorf("it may not write what is its own: %v", err)
		}
	}
	for _, key := range []string{
		"tuf/metadata/timestamp.json", "tuf/metadata/2.root.json", "tuf/targets/releases/x", "packs/x", "manifests/x", "agents/x", "locks/publish",
		"reports/i-0fedcba9876543210/report.json", "reports/" + instance + "x/report.json", "report.json",
		"logs/i-0fedcba9876543210/0.zst",
	} {
		if err := put(key); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("write %s: %v, want not allowed", key, err)
		}
	}
	for _, key := range []string{"tuf/metadata/timestamp.json", "reports/" + instance + "/report.json", "reports/" + instance + "/probe", "logs/" + instance + "/probe"} {
		if err := b.Delete(t.Context(), key); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("delete %s: %v, want not allowed", key, err)
		}
	}
	for _, at := range []string{"", "reports/", "logs/", "tuf/"} {
		for o, err := range b.List(t.Context(), at, "") {
			if !errors.Is(err, bucket.ErrPermission) {
				t.Errorf("list %q: %+v, %v, want not allowed", at, o, err)
			}
			break
		}
	}
	if _, _, err := b.Get(t.Context(), "reports/"+instance+"/report.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("read a report: %v, want not allowed", err)
	}
	nobody, err := s3.Open(t.Context(), w.bucket+"&anonymous=true", s3.Options{Transport: w.net.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := nobody.Get(t.Context(), "tuf/metadata/timestamp.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("read without credentials: %v, want not allowed: the bucket is private", err)
	}
}

func (w *ec2World) secondPublish(t *testing.T) {
	w.edit("greeting: hello", "greeting: welcome")
	w.publish(t, "r2")
	start := time.Now()
	r := w.await(t, instance, "r2 in order", inOrder("r2"))
	t.Logf("the report of r2 came %.0f s after its publish", time.Since(start).Seconds())
	run := runOf(r, func(b release.RunBrief) bool { return b.Release == "r2" && b.Why == release.WhyRelease })
	if run == nil || run.Result != release.ResultChanged {
		t.Errorf("run of r2: %+v", run)
	}
	same(t, "page", w.page(t), "greeting: welcome\nfrom "+instance+" in eu-west-1 on aws")
	has(t, "the service's journal", w.sh(t, "journalctl -b -u bootwell.service --no-pager"), "r2 for role web (has r1)", "site: changed", "web server: unchanged")
	same(t, "user-data after another publish", w.bootwell(t, "user-data", "web"), string(w.userData))
}

func (w *ec2World) unchanged(t *testing.T) {
	before := w.web.count("apt")
	r := w.apply(t, "--json")
	if r.Code != 0 {
		t.Fatalf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	last := w.local(t)
	if last.Run == nil || last.Run.Result != release.ResultUnchanged || len(last.Run.Steps) != 5 {
		t.Fatalf("report: %s", brief(last))
	}
	for _, s := range last.Run.Steps {
		if s.Result != release.ResultUnchanged || len(s.Changes) != 0 {
			t.Errorf("step %s: %+v", s.Name, s)
		}
	}
	if n := w.web.count("apt"); n != before || before == 0 {
		t.Errorf("%d requests to the package server before, %d after", before, n)
	}
	same(t, "notes", w.sh(t, "cat /var/lib/notes"), "r1 says hello\nr2 says welcome")
}

func (w *ec2World) broken(t *testing.T) {
	w.edit("greeting: welcome", "greeting: broken")
	w.publish(t, "r3")
	w.poll(t)
	r := w.await(t, instance, "r3 failed and r2 applied again", func(r *release.Report) bool {
		return r.State == release.StateFailed && r.Release == "r2" && r.LastGood == "r2" && r.Wanted == "r3"
	})
	if len(r.Quarantined) != 1 || r.Quarantined[0] != "r3" {
		t.Errorf("set aside: %v", r.Quarantined)
	}
	has(t, "reason", r.Reason, "http", "r2 was applied again", "r3")
	if run := runOf(r, func(b release.RunBrief) bool { return b.Release == "r3" }); run == nil || run.Result != release.ResultFailed {
		t.Errorf("run of r3: %+v", run)
	}
	same(t, "page", w.page(t), "greeting: welcome\nfrom "+instance+" in eu-west-1 on aws")
	if o := w.try(t, "status", "--check"); o.code != 3 {
		t.Errorf("bootwell status --check: exit code %d, want 3\n%s", o.code, o.stdout)
	}
	// It is not tried again.
	w.poll(t)
	attempts := w.sh(t, "bootwell-agent logs --list | grep -c ' r3 '")
	same(t, "runs of r3", attempts, "1")
	has(t, "why", w.sh(t, "bootwell-agent why"), "r3 is refused here")
}

func (w *ec2World) healed(t *testing.T) {
	w.edit("greeting: broken", "greeting: good evening")
	w.publish(t, "r4")
	if result, status := w.poll(t); result != "success" || status != "0" {
		t.Errorf("the service ended with %s, %s", result, status)
	}
	r := w.await(t, instance, "r4 in order", inOrder("r4"))
	if r.Reason != "" {
		t.Errorf("reason: %s", r.Reason)
	}
	same(t, "page", w.page(t), "greeting: good evening\nfrom "+instance+" in eu-west-1 on aws")
	w.bootwell(t, "status", "--check")
}

func (w *ec2World) bucketAway(t *testing.T) {
	w.stopStore(t)
	if result, status := w.poll(t); result != "success" || status != "10" {
		t.Errorf("the service ended with %s, exit code %s; want success with 10", result, status)
	}
	same(t, "failed units", w.sh(t, "systemctl list-units --failed --plain --no-legend"), "")
	r := w.local(t)
	if !inOrder("r4")(r) || r.Reason == "" {
		t.Errorf("report without a bucket: %s", brief(r))
	}
	// The clock is moved to where the next apply is due; drift is mended from
	// what the VM has.
	w.sh(t, "echo drift >/srv/www/index.html")
	if err := w.SetClock(deadline(t, patience), time.Now().Add(7*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, status := w.poll(t); status != "10" {
		t.Errorf("the service ended with exit code %s, want 10", status)
	}
	same(t, "page", w.page(t), "greeting: good evening\nfrom "+instance+" in eu-west-1 on aws")
	r = w.local(t)
	if run := runOf(r, func(b release.RunBrief) bool { return b.Why == release.WhyReapply && b.Result == release.ResultChanged }); run == nil {
		t.Errorf("no run made the drift good: %s", brief(r))
	}
	if err := w.SetClock(deadline(t, patience), time.Now()); err != nil {
		t.Fatal(err)
	}

	w.startStore(w.t)
	w.edit("greeting: good evening", "greeting: back again")
	w.publish(t, "r5")
	if result, status := w.poll(t); result != "success" || status != "0" {
		t.Errorf("the service ended with %s, %s", result, status)
	}
	w.await(t, instance, "r5 in order", inOrder("r5"))
	same(t, "page", w.page(t), "greeting: back again\nfrom "+instance+" in eu-west-1 on aws")
}

// longWork takes for ever when it is called for the first time.
const longWork = `#!/bin/sh -eu
test ! -e /var/lib/long-work || exit 0
echo begun >/var/lib/long-work
sync
sleep 3600
`

func (w *ec2World) powerLost(t *testing.T) {
	w.write("scripts/long-work.sh", longWork, 0o755)
	w.edit("# more steps", "- { name: long work, script: scripts/long-work.sh, timeout: 2h }\n      # more steps")
	w.publish(t, "r6")
	w.sh(t, "systemctl start --no-block bootwell.service; until test -e /var/lib/long-work; do sleep 0.2; done")
	same(t, "state in the middle", w.local(t).State, release.StateApplying)
	w.PowerOff()
	if err := w.PowerOn(deadline(t, patience)); err != nil {
		t.Fatal(err)
	}
	r := w.await(t, instance, "r6 in order", inOrder("r6"))
	run := runOf(r, func(b release.RunBrief) bool { return b.Why == release.WhyPower && b.Release == "r6" })
	if run == nil || run.Result != release.ResultChanged {
		t.Errorf("the run after the power cut: %+v in %s", run, brief(r))
	}
	same(t, "page", w.page(t), "greeting: back again\nfrom "+instance+" in eu-west-1 on aws")
	same(t, "web server after the boot", w.sh(t, "systemctl is-active lighttpd"), "active")
}

// newKernel asks for a reboot when it is called for the first time.
const newKernel = `#!/bin/sh -eu
cat /proc/sys/kernel/random/boot_id >>/var/lib/new-kernel
test $(wc -l </var/lib/new-kernel) -ge 2 || exit 194
`

func (w *ec2World) rebooted(t *testing.T) {
	before := w.sh(t, "cat /proc/sys/kernel/random/boot_id")
	w.write("scripts/new-kernel.sh", newKernel, 0o755)
	w.edit("# more steps", "- { name: new kernel, script: scripts/new-kernel.sh }\n      # more steps")
	w.publish(t, "r7")
	w.sh(t, "systemctl start --no-block bootwell.service")
	r := w.await(t, instance, "r7 in order", inOrder("r7"))
	calls := strings.Fields(w.sh(t, "cat /var/lib/new-kernel"))
	if len(calls) != 2 || calls[0] != before || calls[1] == before {
		t.Errorf("the step was called in boots %v; want once in %s and once in the next", calls, before)
	}
	if r.BootID == before {
		t.Errorf("the report is from before the reboot: %s", brief(r))
	}
	if run := runOf(r, func(b release.RunBrief) bool { return b.Release == "r7" }); run == nil || run.Result != release.ResultChanged {
		t.Errorf("run of r7: %+v", run)
	}
}
