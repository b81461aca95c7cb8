package step

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// deb builds a tiny package in repo.
func deb(t testing.TB, repo, name, version, control string, scripts map[string]string) {
	t.Helper()
	d := t.TempDir()
	must(t, os.MkdirAll(d+"/DEBIAN", 0o755))
	must(t, os.MkdirAll(d+"/usr/share/"+name, 0o755))
	must(t, os.MkdirAll(d+"/etc", 0o755))
	must(t, os.WriteFile(d+"/usr/share/"+name+"/v", []byte(version), 0o644))
	must(t, os.WriteFile(d+"/etc/"+name+".conf", []byte("from "+version+"\n"), 0o644))
	must(t, os.WriteFile(d+"/DEBIAN/conffiles", []byte("/etc/"+name+".conf\n"), 0o644))
	must(t, os.WriteFile(d+"/DEBIAN/control", []byte(fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <test@bootwell.example>\n%sDescription: test\n", name, version, control)), 0o644))
	for f, text := range scripts {
		must(t, os.WriteFile(d+"/DEBIAN/"+f, []byte(text), 0o755))
	}
	runTool(t, "", "dpkg-deb", "--root-owner-group", "-b", d, fmt.Sprintf("%s/%s_%s_all.deb", repo, name, version))
}

func runTool(t testing.TB, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// index writes the lists of a flat repository.
func index(t testing.TB, repo string) {
	t.Helper()
	var b strings.Builder
	debs, _ := filepath.Glob(repo + "/*.deb")
	for _, p := range debs {
		fi, err := os.Stat(p)
		must(t, err)
		sum, _, _ := strings.Cut(runTool(t, repo, "sha256sum", p), " ")
		fmt.Fprintf(&b, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", runTool(t, repo, "dpkg-deb", "-f", p), filepath.Base(p), fi.Size(), sum)
	}
	must(t, os.WriteFile(repo+"/Packages", []byte(b.String()), 0o644))
}

// spy puts a recorder before a real tool and returns how often it was called.
func spy(t testing.TB, tool string) func() []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "calls")
	must(t, os.Rename(tool, tool+".real"))
	must(t, os.WriteFile(tool, []byte("#!/bin/sh\necho \"$*\" >>"+log+"\nexec "+tool+".real \"$@\"\n"), 0o755))
	return func() []string {
		b, _ := os.ReadFile(log)
		_ = os.Remove(log)
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
}

func packagesStep(pkgs ...release.Package) release.Step {
	return release.Step{Name: "p", Kind: release.KindPackages, Packages: pkgs, Timeout: release.Duration(2 * time.Minute)}
}

// TestPackages_Apt works with the real apt-get and dpkg, on tiny packages in a
// folder repository, in a throw-away copy of this machine without a network.
func TestPackages_Apt(t *testing.T) {
	needs.Tool(t, "dpkg-deb")
	needs.Tool(t, "apt-get")
	if inSandbox(t) {
		return
	}
	repo := "/srv/repo"
	must(t, os.MkdirAll(repo, 0o755))
	must(t, os.RemoveAll("/etc/apt/sources.list.d"))
	must(t, os.RemoveAll("/var/lib/apt/lists"))
	must(t, os.MkdirAll("/etc/apt/sources.list.d", 0o755))
	must(t, os.WriteFile("/etc/apt/sources.list", []byte("deb [trusted=yes] file:"+repo+" ./\n"), 0o644))
	must(t, os.WriteFile("/etc/apt/apt.conf.d/99sandbox", []byte("APT::Sandbox::User \"root\";\n"), 0o644))
	deb(t, repo, "bwlib", "1.0", "Provides: bw-virtual\n", nil)
	deb(t, repo, "bwapp", "1.0", "Depends: bwlib\nRecommends: bwextra\n", nil)
	deb(t, repo, "bwapp", "2.0", "Depends: bwlib\nRecommends: bwextra\n", nil)
	deb(t, repo, "bwextra", "1", "", nil)
	deb(t, repo, "bwask", "1", "", map[string]string{"postinst": "#!/bin/sh\n[ \"$DEBIAN_FRONTEND\" = noninteractive ] && ! read x\n"})
	deb(t, repo, "bwbad", "1", "", map[string]string{"postinst": "#!/bin/sh\ntest -e /tmp/mended || { echo 'postinst says no' >&2; exit 1; }\n"})
	index(t, repo)
	calls := spy(t, "/usr/bin/apt-get")
	updates := func() (n int) {
		for _, c := range calls() {
			if strings.HasSuffix(c, "update") {
				n++
			}
		}
		return n
	}
	r, _ := fixture(t, nil)
	app := release.Package{Name: "bwapp", Version: "1.0"}

	dry := *r
	dry.DryRun = true
	expect(t, &dry, packagesStep(app), release.ResultChanged, "install bwapp 1.0")
	if n := updates(); n != 0 {
		t.Errorf("a dry run updated the lists %d times", n)
	}

	res := expect(t, r, packagesStep(app), release.ResultChanged, "installed bwapp 1.0")
	if res.Changes[1] != "and 2 packages that came along" {
		t.Errorf("changes %q, want the dependency and the recommended package counted", res.Changes)
	}
	if n := updates(); n != 1 {
		t.Errorf("%d updates for unknown packages, want 1", n)
	}

	before := identity(t, "/var/lib/dpkg/status") + identity(t, "/var/lib/dpkg")
	for _, p := range []release.Package{app, {Name: "bwapp"}, {Name: "bwapp:all"}, {Name: "bw-virtual"}, {Name: "nosuch", Absent: true}} {
		expect(t, r, packagesStep(p), release.ResultUnchanged, "")
	}
	if c := calls(); len(c) != 1 || c[0] != "" {
		t.Errorf("apt-get was called for what is installed: %q", c)
	}
	if identity(t, "/var/lib/dpkg/status")+identity(t, "/var/lib/dpkg") != before {
		t.Error("an unchanged step touched dpkg's database")
	}

	// The lists know it: no update.
	expect(t, r, packagesStep(release.Package{Name: "bwask"}), release.ResultChanged, "installed bwask 1")
	if n := updates(); n != 0 {
		t.Errorf("%d updates although the lists know the package", n)
	}

	// A changed configuration file stays, up and down.
	must(t, os.WriteFile("/etc/bwapp.conf", []byte("mine\n"), 0o644))
	expect(t, &dry, packagesStep(release.Package{Name: "bwapp", Version: "2.0"}), release.ResultChanged, "change bwapp 1.0 -> 2.0")
	expect(t, r, packagesStep(release.Package{Name: "bwapp", Version: "2.0"}), release.ResultChanged, "changed bwapp 1.0 -> 2.0")
	expect(t, r, packagesStep(app), release.ResultChanged, "changed bwapp 2.0 -> 1.0")
	if slurp(t, "/etc/bwapp.conf") != "mine\n" {
		t.Error("a changed configuration file was replaced")
	}

	expect(t, r, packagesStep(release.Package{Name: "bwapp", Absent: true}, release.Package{Name: "bwextra", Absent: true}), release.ResultChanged, "removed bwapp")
	expect(t, r, packagesStep(release.Package{Name: "bwapp", Absent: true}), release.ResultUnchanged, "")

	// Unknown names and versions say so, and patterns are not names.
	expect(t, r, packagesStep(release.Package{Name: "bwnone"}), release.ResultFailed, "Unable to locate package bwnone")
	expect(t, r, packagesStep(release.Package{Name: "bwapp", Version: "9"}), release.ResultFailed, "Version '9' for 'bwapp' was not found")
	expect(t, r, packagesStep(release.Package{Name: "bw.pp"}), release.ResultFailed, "no package is called bw.pp")
	expect(t, r, packagesStep(release.Package{Name: "-oDebug=1"}), release.ResultFailed, "is no name of a package")
	expect(t, r, packagesStep(release.Package{Name: "bwapp-"}), release.ResultFailed, "is no name of a package")

	aptLocks(t, r)
	aptStaleLists(t, r, repo, updates)
	aptInterrupted(t, r)
}

// aptLocks: the step waits for whoever holds dpkg's or the lists' lock.
func aptLocks(t *testing.T, r *Runner) {
	for _, lock := range []string{"/var/lib/dpkg/lock-frontend", "/var/lib/apt/lists/lock"} {
		must(t, os.Chtimes(aptLists, time.Unix(1, 0), time.Unix(1, 0))) // makes an update necessary
		holder := exec.Command("python3", "-c", `
import fcntl, sys, time
f = open(sys.argv[1], "w"); fcntl.lockf(f, fcntl.LOCK_EX); print("held", flush=True); sys.stdin.read(); time.sleep(1.5)`, lock)
		in, err := holder.StdinPipe()
		must(t, err)
		out, err := holder.StdoutPipe()
		must(t, err)
		if err := holder.Start(); err != nil {
			needs.Skip(t, "python3", err.Error())
		}
		_, _ = out.Read(make([]byte, 8))
		must(t, in.Close())
		expect(t, r, packagesStep(release.Package{Name: "bwextra"}), release.ResultChanged, "installed bwextra")
		_ = holder.Wait()
		expect(t, r, packagesStep(release.Package{Name: "bwextra", Absent: true}), release.ResultChanged, "removed bwextra")
	}
}

// aptStaleLists: lists that are a day old, or name files that are gone, are
// renewed; a repository that is away does no harm to what the lists know.
func aptStaleLists(t *testing.T, r *Runner, repo string, updates func() int) {
	extra := packagesStep(release.Package{Name: "bwextra"})
	gone := packagesStep(release.Package{Name: "bwextra", Absent: true})
	updates()
	must(t, os.Chtimes(aptLists, time.Unix(1, 0), time.Now().Add(-25*time.Hour)))
	expect(t, r, extra, release.ResultChanged, "")
	if n := updates(); n != 1 {
		t.Errorf("%d updates of lists a day old, want 1", n)
	}
	expect(t, r, gone, release.ResultChanged, "")
	must(t, os.Remove(repo+"/bwextra_1_all.deb"))
	deb(t, repo, "bwextra", "1.1", "", nil)
	index(t, repo)
	expect(t, r, extra, release.ResultChanged, "installed bwextra 1.1")
	if n := updates(); n != 1 {
		t.Errorf("%d updates after a file was gone, want 1", n)
	}
	expect(t, r, gone, release.ResultChanged, "")
	must(t, os.Chtimes(aptLists, time.Unix(1, 0), time.Now().Add(-25*time.Hour)))
	must(t, os.WriteFile("/etc/apt/sources.list.d/away.list", []byte("deb [trusted=yes] http://127.0.0.1:9/ ./\n"), 0o644))
	expect(t, r, extra, release.ResultChanged, "installed bwextra 1.1")
	must(t, os.Remove("/etc/apt/sources.list.d/away.list"))
}

// aptInterrupted: a package that could not be configured is a failure with
// its words, and is finished by the next run.
func aptInterrupted(t *testing.T, r *Runner) {
	res := expect(t, r, packagesStep(release.Package{Name: "bwbad"}), release.ResultFailed, "apt-get: exit 100")
	if !strings.Contains(res.Tail, "postinst says no") {
		t.Errorf("tail lacks the package's own words: %s", res.Tail)
	}
	must(t, os.WriteFile("/tmp/mended", nil, 0o644))
	// Killed in the middle of its database.
	must(t, os.WriteFile("/var/lib/dpkg/updates/0001", []byte("Package: bwbad\nStatus: install ok half-configured\nMaintainer: Test <test@bootwell.example>\nArchitecture: all\nVersion: 1\nConffiles:\n /etc/bwbad.conf 0\nDescription: test\n"), 0o644))
	expect(t, r, packagesStep(release.Package{Name: "bwbad"}), release.ResultChanged, "installed bwbad 1")
	if slurpGlob("/var/lib/dpkg/updates/*") != 0 {
		t.Error("dpkg's journal is left")
	}
}

func slurpGlob(p string) int { m, _ := filepath.Glob(p); return len(m) }

// A step that is cut off in the middle of an install is finished by the next.
func TestPackages_AptKilled(t *testing.T) {
	needs.Tool(t, "dpkg-deb")
	if inSandbox(t) {
		return
	}
	repo := "/srv/repo"
	must(t, os.MkdirAll(repo, 0o755))
	must(t, os.RemoveAll("/etc/apt/sources.list.d"))
	must(t, os.WriteFile("/etc/apt/sources.list", []byte("deb [trusted=yes] file:"+repo+" ./\n"), 0o644))
	deb(t, repo, "bwslow", "1", "", map[string]string{"postinst": "#!/bin/sh\ntrap '' TERM\ntouch /tmp/inside\ntest -e /tmp/quick || sleep 600\n"})
	index(t, repo)
	r, _ := fixture(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for unix.Access("/tmp/inside", unix.F_OK) != nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	s := packagesStep(release.Package{Name: "bwslow"})
	if res := r.Run(ctx, s); res.Result != release.ResultFailed || !strings.Contains(res.Reason, "cancelled") {
		t.Fatalf("%+v", res)
	}
	must(t, os.WriteFile("/tmp/quick", nil, 0o644))
	expect(t, r, s, release.ResultChanged, "installed bwslow 1")
	expect(t, r, s, release.ResultUnchanged, "")
}
