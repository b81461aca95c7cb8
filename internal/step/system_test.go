package step

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

func usersStep(us ...release.User) release.Step {
	return release.Step{Name: "u", Kind: release.KindUsers, Users: us, Timeout: release.Duration(time.Minute)}
}

// TestUsers works with the real useradd in a throw-away copy of this machine.
func TestUsers(t *testing.T) {
	needs.Tool(t, "useradd")
	if inSandbox(t) {
		return
	}
	r, _ := fixture(t, nil)
	uid, uid2 := 4321, 4322
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHelloHelloHelloHelloHelloHelloHelloHello deploy@example"
	deploy := release.User{Name: "deploy", UID: &uid, Groups: []string{"adm", "made"}, Shell: "/bin/bash", Comment: "Deploy user", SSHKeys: []string{key, key + "2"}}
	daemon := release.User{Name: "bwd", System: true, Home: "/var/lib/bwd", Shell: "/usr/sbin/nologin"}
	bare := release.User{Name: "bare", System: true, Group: "daemon"}
	s := usersStep(deploy, daemon, bare)

	dry := *r
	dry.DryRun = true
	etc := func() string {
		return identity(t, "/etc/passwd") + identity(t, "/etc/group") + identity(t, "/etc/shadow")
	}
	before := etc()
	res := expect(t, &dry, s, release.ResultChanged, "create group made")
	if etc() != before || len(res.Changes) != 5 {
		t.Errorf("dry run: changes %q", res.Changes)
	}

	res = expect(t, r, s, release.ResultChanged, "created group made")
	if want := "created group made|created user deploy|changed ssh keys of deploy (2 keys)|created user bwd|created user bare"; strings.Join(res.Changes, "|") != want {
		t.Errorf("changes %q", res.Changes)
	}
	passwd, group, shadow := slurp(t, "/etc/passwd"), slurp(t, "/etc/group"), slurp(t, "/etc/shadow")
	for _, want := range []string{"deploy:x:4321:4321:Deploy user:/home/deploy:/bin/bash\n", ":/var/lib/bwd:/usr/sbin/nologin\n"} {
		if !strings.Contains(passwd, want) {
			t.Errorf("passwd lacks %q", want)
		}
	}
	if !strings.Contains(shadow, "\ndeploy:*:") || !strings.Contains(group, ":deploy\n") {
		t.Error("password or groups are wrong")
	}
	for p, want := range map[string]string{"/home/deploy/.ssh": "drwx------", "/home/deploy/.ssh/authorized_keys": "-rw-------"} {
		if got := modeOf(t, p).String(); got != want || stat(t, p).Uid != 4321 || stat(t, p).Gid != 4321 {
			t.Errorf("%s is %s, owned by %d", p, got, stat(t, p).Uid)
		}
	}
	if slurp(t, "/home/deploy/.ssh/authorized_keys") != key+"\n"+key+"2\n" {
		t.Error("authorized_keys holds something else")
	}

	before = etc() + snapshot(t, "/home/deploy")
	expect(t, r, s, release.ResultUnchanged, "")
	if etc()+snapshot(t, "/home/deploy") != before {
		t.Error("the second run touched something")
	}

	deploy.Shell, deploy.UID, deploy.Comment, deploy.Groups, deploy.SSHKeys = "/bin/sh", &uid2, "New", []string{"adm", "daemon"}, []string{key}
	res = expect(t, r, usersStep(deploy), release.ResultChanged, "changed user deploy uid 4321 -> 4322, shell -> /bin/sh, comment -> New, groups +daemon")
	if len(res.Changes) != 2 {
		t.Errorf("changes %q", res.Changes)
	}
	expect(t, r, usersStep(deploy), release.ResultUnchanged, "")
	if u, err := r.user("deploy"); err != nil || len(u.groups) != 3 {
		t.Errorf("groups %v %v: one the user was in is gone", u, err)
	}

	// Modes that sshd refuses are mended.
	must(t, os.Chmod("/home/deploy/.ssh", 0o777))
	expect(t, r, usersStep(deploy), release.ResultChanged, "ssh keys")
	if modeOf(t, "/home/deploy/.ssh").Perm() != 0o700 {
		t.Error("the mode of .ssh is still wrong")
	}
	usersHostileHome(t, r, deploy, key)

	expect(t, r, usersStep(release.User{Name: "deploy", Absent: true}), release.ResultChanged, "removed user deploy")
	expect(t, r, usersStep(release.User{Name: "deploy", Absent: true}), release.ResultUnchanged, "")
	if _, err := os.Stat("/home/deploy"); err != nil {
		t.Error("the home of a removed user is gone")
	}
	for _, bad := range []release.User{{Name: "-r"}, {Name: "a b"}, {Name: "x", Groups: []string{"a,b"}}, {Name: "x", Home: "/a:/b"}, {Name: "x", Comment: "a\nb:x:0:0"}} {
		expect(t, r, usersStep(bad), release.ResultFailed, "")
	}
	expect(t, r, usersStep(release.User{Name: "other", UID: &uid2}, release.User{Name: "third", UID: &uid2}), release.ResultFailed, "UID 4322 is not unique")
}

// usersHostileHome: a user cannot lead root out of the home by links.
func usersHostileHome(t *testing.T, r *Runner, u release.User, key string) {
	must(t, os.MkdirAll("/root/.ssh", 0o700))
	must(t, os.WriteFile("/root/.ssh/authorized_keys", []byte("root's\n"), 0o600))
	must(t, os.RemoveAll("/home/deploy/.ssh"))
	must(t, os.Symlink("/root/.ssh", "/home/deploy/.ssh"))
	expect(t, r, usersStep(u), release.ResultFailed, "ssh keys")
	if slurp(t, "/root/.ssh/authorized_keys") != "root's\n" || stat(t, "/root/.ssh").Uid != 0 {
		t.Error("a link in a home led to root's keys")
	}
	must(t, os.Remove("/home/deploy/.ssh"))
	must(t, os.Mkdir("/home/deploy/.ssh", 0o700))
	must(t, os.Symlink("/root/.ssh/authorized_keys", "/home/deploy/.ssh/authorized_keys"))
	expect(t, r, usersStep(u), release.ResultChanged, "ssh keys")
	if slurp(t, "/root/.ssh/authorized_keys") != "root's\n" || slurp(t, "/home/deploy/.ssh/authorized_keys") != key+"\n" {
		t.Error("a link at authorized_keys was followed")
	}
}

func TestUsers_NoTools(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Root = t.TempDir()
	expect(t, r, usersStep(release.User{Name: "deploy"}), release.ResultFailed, "are not installed")
}

const initScript = `#!/bin/sh
### BEGIN INIT INFO
# Provides:          bwdemo
# Required-Start:
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
### END INIT INFO
echo "$1" >>/tmp/calls
case $1 in
start|restart) test ! -e /tmp/broken || { echo "cannot bind" >&2; exit 1; }; touch /tmp/up ;;
stop) rm -f /tmp/up ;;
status) test -e /tmp/up || exit 3 ;;
reload) ;;
*) exit 2 ;;
esac
`

// TestServices_SysV works with service and update-rc.d in a throw-away copy of
// this machine, where no systemd runs.
func TestServices_SysV(t *testing.T) {
	needs.Tool(t, "service")
	needs.Tool(t, "update-rc.d")
	if inSandbox(t) {
		return
	}
	yes, no := true, false
	r, _ := fixture(t, nil)
	must(t, os.WriteFile("/etc/init.d/bwdemo", []byte(initScript), 0o755))
	calls := func() string {
		b, _ := os.ReadFile("/tmp/calls")
		_ = os.Remove("/tmp/calls")
		return strings.ReplaceAll(string(b), "status\n", "")
	}
	step := func(s release.Service) release.Step {
		return release.Step{Name: "v", Kind: release.KindServices, Services: []release.Service{s}, Timeout: release.Duration(time.Minute)}
	}
	on := step(release.Service{Name: "bwdemo", State: release.ServiceRunning, Enabled: &yes})
	dry := *r
	dry.DryRun = true
	if res := expect(t, &dry, on, release.ResultChanged, ""); strings.Join(res.Changes, "|") != "enable bwdemo|start bwdemo" || calls() != "" {
		t.Errorf("dry run: %q", res.Changes)
	}
	if res := expect(t, r, on, release.ResultChanged, ""); strings.Join(res.Changes, "|") != "enabled bwdemo|started bwdemo" || calls() != "start\n" {
		t.Errorf("changes %q", res.Changes)
	}
	before := snapshot(t, "/etc/rc2.d")
	expect(t, r, on, release.ResultUnchanged, "")
	if c := calls(); c != "" || snapshot(t, "/etc/rc2.d") != before {
		t.Errorf("the second run called %q", c)
	}
	expect(t, r, step(release.Service{Name: "bwdemo", State: release.ServiceStopped, Enabled: &no}), release.ResultChanged, "disabled bwdemo")
	expect(t, r, step(release.Service{Name: "bwdemo", State: release.ServiceStopped, Enabled: &no}), release.ResultUnchanged, "")
	expect(t, r, step(release.Service{Name: "nosuch", State: release.ServiceRunning}), release.ResultFailed, "nosuch: there is no such service: there is no /etc/init.d/nosuch")
	expect(t, r, step(release.Service{Name: "nosuch", State: release.ServiceStopped}), release.ResultUnchanged, "")
	expect(t, r, step(release.Service{Name: "../x"}), release.ResultFailed, "is no name of a service")
	calls()

	// Notices: each once, after a change only, and not lost by a failure.
	f := filepath.Join(t.TempDir(), "conf")
	conf := func(c string) release.Step {
		s := filesStep(release.FileItem{To: f, Content: &c})
		s.Restart, s.Reload = []string{"bwdemo", "bwdemo"}, []string{"bwdemo"}
		return s
	}
	if res := expect(t, r, conf("1"), release.ResultChanged, ""); res.Changes[1] != "restarted bwdemo" || len(res.Changes) != 2 || calls() != "restart\n" {
		t.Errorf("changes %q", res.Changes)
	}
	expect(t, r, conf("1"), release.ResultUnchanged, "")
	if c := calls(); c != "" {
		t.Errorf("an unchanged step led to %q", c)
	}
	must(t, os.WriteFile("/tmp/broken", nil, 0o644))
	expect(t, r, conf("2"), release.ResultFailed, "restart bwdemo: service: exit 1")
	must(t, os.Remove("/tmp/broken"))
	calls()
	expect(t, r, conf("2"), release.ResultChanged, "still due from an earlier run")
	expect(t, r, conf("2"), release.ResultUnchanged, "")
	if c := calls(); c != "restart\n" {
		t.Errorf("called %q, want one late restart", c)
	}
	s := conf("3")
	s.Restart, s.Reload = nil, []string{"bwdemo"}
	if expect(t, r, s, release.ResultChanged, ""); calls() != "reload\n" {
		t.Error("not reloaded")
	}
	s = conf("4")
	s.Restart = []string{"nosuch"}
	expect(t, r, s, release.ResultFailed, "restart nosuch: there is no such service")

	ok := r.Check(context.Background(), release.Check{Kind: release.CheckService, Target: "bwdemo", Enabled: &no})
	if ok.Result != release.CheckPassed {
		t.Errorf("check: %+v", ok)
	}
	bad := r.Check(context.Background(), release.Check{Kind: release.CheckService, Target: "bwdemo", Enabled: &yes})
	if bad.Result != release.CheckFailed || bad.Reason != "bwdemo is disabled, expected enabled" {
		t.Errorf("check: %+v", bad)
	}
}

func TestServices_NoManager(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Root = t.TempDir()
	s := release.Step{Name: "v", Kind: release.KindServices, Services: []release.Service{{Name: "nginx", State: release.ServiceRunning}}}
	expect(t, r, s, release.ResultFailed, "no service manager: systemd does not run")
}
