package step

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

const demoUnit = `[Unit]
Description=demo
DefaultDependencies=no
[Service]
ExecStartPre=/bin/sh -c 'test ! -e /tmp/broken || { echo cannot bind; exit 1; }'
ExecStart=/bin/sleep 1000
ExecReload=/bin/touch /tmp/reloaded
[Install]
WantedBy=multi-user.target
`

// TestServices_Systemd works with a real systemd, as process 1 of a throw-away
// copy of this machine.
func TestServices_Systemd(t *testing.T) {
	if inSystemd(t) {
		return
	}
	yes, no := true, false
	r, _ := fixture(t, nil)
	step := func(s release.Service) release.Step {
		return release.Step{Name: "v", Kind: release.KindServices, Services: []release.Service{s}, Timeout: release.Duration(time.Minute)}
	}
	show := func(prop string) string {
		res, err := r.query(context.Background(), "/usr/bin/systemctl", "show", "--value", "-p", prop, "bwdemo.service")
		must(t, err)
		return strings.TrimSpace(string(res.stdout))
	}
	on := step(release.Service{Name: "bwdemo", State: release.ServiceRunning, Enabled: &yes})
	expect(t, r, on, release.ResultFailed, "bwdemo: there is no such service: systemd knows no unit bwdemo")

	// The unit comes by a step, and is found without a hint.
	unit := func(text string) release.Step {
		return filesStep(release.FileItem{To: "/etc/systemd/system/bwdemo.service", Content: &text, Mode: "0644"})
	}
	expect(t, r, unit(demoUnit), release.ResultChanged, "")
	dry := *r
	dry.DryRun = true
	if res := expect(t, &dry, on, release.ResultChanged, ""); strings.Join(res.Changes, "|") != "enable bwdemo|start bwdemo" || show("ActiveState") != "inactive" {
		t.Errorf("dry run: %q", res.Changes)
	}
	if res := expect(t, r, on, release.ResultChanged, ""); strings.Join(res.Changes, "|") != "enabled bwdemo|started bwdemo" || show("UnitFileState") != "enabled" {
		t.Errorf("changes %q", res.Changes)
	}
	pid := show("MainPID")
	expect(t, r, on, release.ResultUnchanged, "")
	if show("MainPID") != pid {
		t.Error("an unchanged service was started again")
	}

	// A changed unit is loaded again before its service is restarted.
	s := unit(strings.Replace(demoUnit, "sleep 1000", "sleep 2000", 1))
	s.Restart = []string{"bwdemo.service"}
	if res := expect(t, r, s, release.ResultChanged, ""); res.Changes[1] != "restarted bwdemo.service" {
		t.Errorf("changes %q", res.Changes)
	}
	if cmdline, _ := os.ReadFile("/proc/" + show("MainPID") + "/cmdline"); !strings.Contains(string(cmdline), "2000") {
		t.Errorf("the service runs %q: its unit was not loaded again", cmdline)
	}
	s = filesStep(release.FileItem{To: filepath.Join(t.TempDir(), "conf"), Content: text("1")})
	s.Reload = []string{"bwdemo"}
	pid = show("MainPID")
	expect(t, r, s, release.ResultChanged, "")
	if _, err := os.Stat("/tmp/reloaded"); err != nil || show("MainPID") != pid {
		t.Error("was not reloaded in place")
	}

	// A start that fails has systemd's words and the service's own.
	expect(t, r, step(release.Service{Name: "bwdemo", State: release.ServiceStopped, Enabled: &no}), release.ResultChanged, "disabled bwdemo")
	must(t, os.WriteFile("/tmp/broken", nil, 0o644))
	if res := expect(t, r, on, release.ResultFailed, "bwdemo: start: systemctl: exit 1"); !strings.Contains(res.Tail, "Active: failed") {
		t.Errorf("tail %s", res.Tail)
	}
	must(t, os.Remove("/tmp/broken"))

	// Services of scripts end with their step's timeout; those of systemd do not.
	expect(t, r, on, release.ResultChanged, "started bwdemo")
	pid = show("MainPID")
	slow := shell("systemctl restart bwdemo; sleep 600")
	slow.Timeout = release.Duration(time.Second)
	expect(t, r, slow, release.ResultFailed, "timed out")
	if show("ActiveState") != "active" || show("MainPID") == pid {
		t.Error("a service of systemd was killed with the step that restarted it")
	}

	must(t, os.WriteFile("/etc/systemd/system/bwbad.service", []byte("[Service]\nType=simple\n"), 0o644))
	expect(t, r, step(release.Service{Name: "bwbad", State: release.ServiceRunning}), release.ResultFailed, "cannot be loaded")
	must(t, os.WriteFile("/etc/systemd/system/bwdies.service", []byte("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/nowhere/daemon\n"), 0o644))
	if res := expect(t, r, step(release.Service{Name: "bwdies", State: release.ServiceRunning}), release.ResultFailed, "bwdies: "); !strings.Contains(res.Tail, "failed") {
		t.Errorf("tail %s", res.Tail)
	}
	must(t, os.Symlink("/dev/null", "/etc/systemd/system/bwmask.service"))
	expect(t, r, step(release.Service{Name: "bwmask", State: release.ServiceRunning}), release.ResultFailed, "bwmask: is masked")
	expect(t, r, step(release.Service{Name: "bwmask", State: release.ServiceStopped, Enabled: &no}), release.ResultUnchanged, "")
	expect(t, r, step(release.Service{Name: "nosuch", State: release.ServiceStopped}), release.ResultUnchanged, "")

	check := func(c release.Check, reason string) {
		t.Helper()
		c.Kind = release.CheckService
		checked(t, r, c, reason)
	}
	check(release.Check{Target: "bwdemo", Enabled: &yes}, "")
	check(release.Check{Target: "bwdemo", Running: &no}, "bwdemo is active (running), expected stopped")
	check(release.Check{Target: "bwmask"}, "bwmask is inactive (dead), expected running")
	check(release.Check{Target: "nosuch"}, "systemd knows no unit nosuch")
	check(release.Check{Target: "nosuch", Running: &no}, "")
}
