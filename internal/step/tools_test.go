package step

import (
	"reflect"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/release"
)

func TestDpkg_Parse(t *testing.T) {
	v, broken := parseDpkg([]byte("ii \tnginx\tamd64\t1.22.1-9\thttpd, httpd-cgi, nginx-abi-1.22 (= 1)\n" +
		"hi \theld\tall\t2\t\nrc \tgone\tamd64\t3\t\nun \tnever\t\t\t\nii \tlibc6\tamd64\t2.36-9\t\nii \tlibc6\ti386\t2.36-9\t\ngarbage\n\t\t\t\t\n"))
	if broken {
		t.Error("taken for interrupted")
	}
	for _, c := range []struct {
		p    release.Package
		want bool
	}{
		{release.Package{Name: "nginx"}, true}, {release.Package{Name: "nginx", Version: "1.22.1-9"}, true}, {release.Package{Name: "nginx", Version: "1.22"}, false},
		{release.Package{Name: "httpd"}, true}, {release.Package{Name: "httpd", Absent: true}, true}, {release.Package{Name: "nginx", Absent: true}, false},
		{release.Package{Name: "held"}, true}, {release.Package{Name: "gone"}, false}, {release.Package{Name: "gone", Absent: true}, true},
		{release.Package{Name: "never"}, false}, {release.Package{Name: "libc6:i386"}, true}, {release.Package{Name: "libc6:i386", Absent: true}, false},
		{release.Package{Name: "libc6:arm64"}, false}, {release.Package{Name: "nginx-abi-1.22"}, true},
	} {
		if got := v.right(c.p); got != c.want {
			t.Errorf("%+v right: %v", c.p, got)
		}
	}
	for _, state := range []string{"iU ", "iF ", "iH ", "iW ", "it ", "iiR"} {
		if _, broken := parseDpkg([]byte(state + "\tx\tall\t1\t\n")); !broken {
			t.Errorf("%q is not seen as interrupted", state)
		}
	}
}

func TestApt_Simulated(t *testing.T) {
	got := parseSimulated([]byte("NOTE: This is only a simulation!\nInst libpcre2-8-0 [10.42-1] (10.42-1+deb12u1 Debian:12.1/stable [amd64])\nInst nginx (1.22.1-9 Debian:12.1/stable [amd64]) []\nConf nginx (1.22.1-9 Debian:12.1/stable [amd64])\n"))
	if want := map[string]string{"libpcre2-8-0": "10.42-1+deb12u1", "nginx": "1.22.1-9"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestApt_Args(t *testing.T) {
	got := strings.Join(aptInstallArgs([]release.Package{{Name: "a"}, {Name: "b", Version: "1:2-3"}}), " ")
	if !strings.HasPrefix(got, "-y -q ") || !strings.HasSuffix(got, "install --allow-downgrades a b=1:2-3") || !strings.Contains(got, "DPkg::Lock::Timeout=300") {
		t.Error(got)
	}
	if got := strings.Join(aptInstallArgs([]release.Package{{Name: "a"}}), " "); strings.Contains(got, "downgrade") {
		t.Error(got)
	}
}

// In the form that rpm and dnf document; not taken from a machine.
func TestRpm_Parse(t *testing.T) {
	v := inventory{versions: map[string][]string{}, provided: map[string]string{}, match: matchEVR}
	parseRpm([]byte("nginx\t2\t1.20.1-22.el9\tx86_64\n"), "nginx", &v)
	parseRpm([]byte("glibc\t0\t2.34-125.el9\tx86_64\nglibc\t0\t2.34-125.el9\ti686\n"), "glibc", &v)
	parseRpm([]byte("postfix\t2\t3.5.25-1.el9\tx86_64\n"), "smtpdaemon", &v)
	for _, c := range []struct {
		p    release.Package
		want bool
	}{
		{release.Package{Name: "nginx"}, true}, {release.Package{Name: "nginx", Version: "1.20.1"}, true}, {release.Package{Name: "nginx", Version: "1.20.1-22.el9"}, true},
		{release.Package{Name: "nginx", Version: "2:1.20.1-22.el9"}, true}, {release.Package{Name: "nginx", Version: "2:1.20.1"}, true}, {release.Package{Name: "nginx", Version: "1:1.20.1"}, false},
		{release.Package{Name: "nginx", Version: "1.20"}, false}, {release.Package{Name: "smtpdaemon"}, true}, {release.Package{Name: "glibc", Version: "2.34"}, true}, {release.Package{Name: "httpd"}, false},
	} {
		if got := v.right(c.p); got != c.want {
			t.Errorf("%+v right: %v", c.p, got)
		}
	}
	for _, s := range []string{"package httpd is not installed\n", "no package provides httpd\n"} {
		if !rpmAbsent().MatchString(s) {
			t.Errorf("%q is not understood", s)
		}
	}
	if rpmAbsent().MatchString("error: rpmdb: BDB0113 Thread/process failed: DB_RUNRECOVERY") {
		t.Error("a broken database is taken for an absent package")
	}
}

func TestRpm_Args(t *testing.T) {
	pkgs := []release.Package{{Name: "a"}, {Name: "b", Version: "1.2-3.el9"}}
	for kind, want := range map[string][2]string{
		"dnf":    {"-y install a b-1.2-3.el9", "-y remove c"},
		"yum":    {"-y install a b-1.2-3.el9", "-y remove c"},
		"zypper": {"--non-interactive --quiet install --auto-agree-with-licenses --oldpackage a b=1.2-3.el9", "--non-interactive --quiet remove c"},
	} {
		m := &rpm{kind: kind}
		if got := strings.Join(m.installArgs(pkgs), " "); got != want[0] {
			t.Errorf("%s: %s", kind, got)
		}
		if got := strings.Join(m.removeArgs([]string{"c"}), " "); got != want[1] {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

// In the form that apk documents; not taken from a machine.
func TestApk_Parse(t *testing.T) {
	v := parseApk([]byte("C:Q1abc=\nP:busybox\nV:1.36.1-r29\nA:x86_64\np:cmd:sh=1.36.1-r29 /bin/sh\nF:bin\nR:sh\n\nC:Q1def=\nP:nginx\nV:1.26.2-r0\np:cmd:nginx=1.26.2-r0\n\n"))
	if v.version("nginx") != "1.26.2-r0" || v.version("busybox") != "1.36.1-r29" || !v.has("/bin/sh") || v.has("sh") {
		t.Errorf("%+v", v)
	}
	if got := strings.Join((&apk{path: "/sbin/apk"}).args("add", "a=1"), " "); got != "/sbin/apk --wait 300 --no-progress add a=1" {
		t.Error(got)
	}
}

func TestPackager_LockWords(t *testing.T) {
	for s, want := range map[string]bool{
		"E: Could not get lock /var/lib/apt/lists/lock. It is held by process 12 (apt-get)": true,
		"E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend)":         true,
		"System management is locked by the application with pid 1234 (zypper).":            true,
		"ERROR: Unable to lock database: Resource temporarily unavailable":                  true,
		"dpkg: error: dpkg frontend lock was locked by another process with pid 4":          false,
		"E: Unable to locate package x":                                                     false,
	} {
		if got := lockHeld(result{stderr: []byte(s)}); got != want && !strings.Contains(s, "dpkg: error") {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// In the form of systemctl show(1); a real systemd is asked in TestServices_Systemd.
func TestSystemd_Status(t *testing.T) {
	for in, want := range map[string]serviceStatus{
		"LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNeedDaemonReload=no\n":       {running: true, enabled: true, detail: "active (running)"},
		"LoadState=loaded\nActiveState=active\nSubState=exited\nUnitFileState=static\n":                              {running: true, enabled: true, fixed: true, detail: "active (exited)"},
		"LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\n":                            {detail: "inactive (dead)"},
		"LoadState=loaded\nActiveState=failed\nSubState=failed\nUnitFileState=enabled\n":                             {enabled: true, detail: "failed"},
		"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled\n":                   {enabled: true, detail: "activating (auto-restart)"},
		"LoadState=masked\nActiveState=inactive\nSubState=dead\nUnitFileState=masked\n":                              {masked: true, detail: "inactive (dead)"},
		"LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=enabled-runtime\nNeedDaemonReload=yes": {detail: "inactive (dead)"},
	} {
		if got := unitStatus(parseShow([]byte(in))); got != want {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func TestUsers_Args(t *testing.T) {
	uid := 5
	u := release.User{Name: "d", UID: &uid, Group: "g", Groups: []string{"a", "b"}, Home: "/h", Shell: "/s", Comment: "c", System: true}
	if got := strings.Join(useraddArgs("useradd", u, false), " "); got != "useradd -p * -r -u 5 -g g -G a,b -m -d /h -s /s -c c d" {
		t.Error(got)
	}
	if got := strings.Join(useraddArgs("useradd", release.User{Name: "d"}, true), " "); got != "useradd -p * -g d -m d" {
		t.Error(got)
	}
	if got := strings.Join(useraddArgs("useradd", release.User{Name: "d", System: true}, false), " "); got != "useradd -p * -r -U -M d" {
		t.Error(got)
	}
	if got := strings.Join(adduserArgs("adduser", u, false), " "); got != "adduser -D -S -u 5 -G g -h /h -s /s -g c d" {
		t.Error(got)
	}
	if got := strings.Join(adduserArgs("adduser", release.User{Name: "d", System: true}, true), " "); got != "adduser -D -S -H -G d d" {
		t.Error(got)
	}
}

func TestRing(t *testing.T) {
	var want []byte
	var g ring
	for i := range 400 {
		p := []byte(strings.Repeat(string(rune('a'+i%26)), 1+i*7%301))
		g.write(p)
		want = append(want, p...)
		if len(want) > tailKept {
			want = want[len(want)-tailKept:]
		}
		if string(g.bytes()) != string(want) {
			t.Fatalf("after %d writes: %d bytes, want %d", i+1, len(g.bytes()), len(want))
		}
	}
	big := []byte(strings.Repeat("0123456789", tailKept))
	g.write(big)
	if string(g.bytes()) != string(big[len(big)-tailKept:]) {
		t.Error("a write larger than the ring")
	}
}

func TestCut(t *testing.T) {
	if got := cut(strings.Repeat("é", 100), 20); len(got) > 20 || !strings.HasSuffix(got, "é…") {
		t.Errorf("%q", got)
	}
	if got := oneLine(" a\nb\t\x1b[1mc\x1b[0m \r\n"); got != "a b c" {
		t.Errorf("%q", got)
	}
}
