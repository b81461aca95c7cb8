package step

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

func slurp(t testing.TB, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	must(t, err)
	return string(b)
}

func modeOf(t testing.TB, p string) fs.FileMode {
	t.Helper()
	fi, err := os.Stat(p)
	must(t, err)
	return fi.Mode()
}

func TestFiles_SecondRunTouchesNothing(t *testing.T) {
	r, _ := fixture(t, map[string]src{
		"web/nginx.conf": {text: "workers {{.workers}};\n"}, "tree/bin/tool": {text: "#!/bin/sh\n", mode: 0o755}, "tree/etc/a": {text: "a\n", mode: 0o600},
		"tree/link": {link: "bin/tool"}, "tree/empty": {dir: true}, "one": {text: "one\n", mode: 0o640},
	})
	r.Vars = release.Vars{"workers": 4}
	d := t.TempDir()
	must(t, os.WriteFile(d+"/stale", nil, 0o600))
	s := filesStep(
		release.FileItem{To: d + "/nginx.conf", From: "web/nginx.conf", Template: true, Mode: "0644", Validate: "grep -q 'workers 4' %s"},
		release.FileItem{To: d + "/motd", Content: text("hello\n"), Mode: "0604"},
		release.FileItem{To: d + "/tree", From: "tree"},
		release.FileItem{To: d + "/one", From: "one"},
		release.FileItem{To: d + "/l", Link: "motd"},
		release.FileItem{To: d + "/dir/deep", State: release.StateDirectory, Mode: "0750"},
		release.FileItem{To: d + "/stale", State: release.StateAbsent},
		release.FileItem{To: d + "/suid", Content: text("x"), Mode: "4755"},
	)
	res := expect(t, r, s, release.ResultChanged, "")
	for p, want := range map[string]string{"nginx.conf": "workers 4;\n", "motd": "hello\n", "tree/bin/tool": "#!/bin/sh\n", "tree/link": "#!/bin/sh\n", "l": "hello\n", "one": "one\n"} {
		if got := slurp(t, filepath.Join(d, p)); got != want {
			t.Errorf("%s holds %q, want %q", p, got, want)
		}
	}
	for p, want := range map[string]fs.FileMode{"nginx.conf": 0o644, "motd": 0o604, "tree/bin/tool": 0o755, "tree/etc/a": 0o600, "one": 0o640,
		"dir/deep": fs.ModeDir | 0o750, "dir": fs.ModeDir | 0o755, "tree/empty": fs.ModeDir | 0o755, "suid": fs.ModeSetuid | 0o755} {
		if got := modeOf(t, filepath.Join(d, p)); got != want {
			t.Errorf("%s has mode %v, want %v", p, got, want)
		}
	}
	if _, err := os.Lstat(d + "/stale"); err == nil {
		t.Error("the absent file is there")
	}
	if res.Changes[0] != d+"/nginx.conf +1 (new)" {
		t.Errorf("changes %q", res.Changes)
	}
	before := snapshot(t, d)
	if res := expect(t, r, s, release.ResultUnchanged, ""); len(res.Changes) > 0 {
		t.Errorf("changes %q", res.Changes)
	}
	if after := snapshot(t, d); after != before {
		t.Errorf("the second run touched something:\n%s\nwas\n%s", after, before)
	}
}

func TestFiles_OnlyAttributes(t *testing.T) {
	r, _ := fixture(t, nil)
	p := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(p, []byte("x\n"), 0o600))
	ino := func() uint64 { fi, _ := os.Stat(p); return fi.Sys().(*syscall.Stat_t).Ino }
	before, mtime := ino(), modTime(t, p)
	res := expect(t, r, filesStep(release.FileItem{To: p, Content: text("x\n"), Mode: "0644"}), release.ResultChanged, "mode 0600 -> 0644")
	if ino() != before || !modTime(t, p).Equal(mtime) || modeOf(t, p) != 0o644 || len(res.Changes) != 1 {
		t.Errorf("a wrong mode alone led to more: %q", res.Changes)
	}
	needs.Root(t)
	s := filesStep(release.FileItem{To: p, Content: text("x\n"), Mode: "0644", Owner: "daemon", Group: "4"})
	expect(t, r, s, release.ResultChanged, "owner root:root -> daemon:adm")
	if ino() != before {
		t.Error("a wrong owner alone led to a new file")
	}
	expect(t, r, s, release.ResultUnchanged, "")
	// Without an owner asked for, a replaced file keeps the one it had.
	expect(t, r, filesStep(release.FileItem{To: p, Content: text("y\n"), Mode: "0644"}), release.ResultChanged, "+1 -1")
	if st := stat(t, p); st.Uid != 1 || st.Gid != 4 {
		t.Errorf("owner %d:%d after a replacement, want 1:4", st.Uid, st.Gid)
	}
	expect(t, r, filesStep(release.FileItem{To: p, Content: text("x"), Owner: "nobody-here"}), release.ResultFailed, `no user "nobody-here"`)
	expect(t, r, filesStep(release.FileItem{To: p, Content: text("x"), Mode: "rw"}), release.ResultFailed, `mode "rw" is not octal`)
}

func modTime(t testing.TB, p string) time.Time {
	fi, err := os.Stat(p)
	must(t, err)
	return fi.ModTime()
}

func stat(t testing.TB, p string) *syscall.Stat_t {
	fi, err := os.Lstat(p)
	must(t, err)
	return fi.Sys().(*syscall.Stat_t)
}

func TestFiles_FolderOwner(t *testing.T) {
	needs.Root(t)
	r, _ := fixture(t, map[string]src{"app/new/f": {text: "f"}, "app/old/g": {text: "g"}})
	d := t.TempDir()
	must(t, os.Mkdir(d+"/old", 0o700))
	expect(t, r, filesStep(release.FileItem{To: d, From: "app", Owner: "daemon", Group: "daemon"}), release.ResultChanged, "")
	for p, uid := range map[string]uint32{"new": 1, "new/f": 1, "old": 0, "old/g": 1, ".": 0} {
		if got := stat(t, filepath.Join(d, p)).Uid; got != uid {
			t.Errorf("%s is owned by %d, want %d", p, got, uid)
		}
	}
	if modeOf(t, d+"/old") != fs.ModeDir|0o700 {
		t.Error("a folder that was there got another mode")
	}
}

func TestFiles_InTheWay(t *testing.T) {
	r, _ := fixture(t, map[string]src{"f": {text: "f"}})
	d := t.TempDir()
	must(t, os.Mkdir(d+"/dir", 0o755))
	must(t, os.WriteFile(d+"/file", []byte("keep"), 0o644))
	must(t, os.WriteFile(d+"/other", []byte("theirs"), 0o644))
	must(t, os.Symlink("other", d+"/link"))
	must(t, os.Symlink("dir", d+"/dirlink"))
	must(t, syscall.Mkfifo(d+"/pipe", 0o644))
	l, err := net.Listen("unix", d+"/sock")
	must(t, err)
	defer l.Close()
	one := func(to string) release.Step { return filesStep(release.FileItem{To: to, Content: text("x")}) }
	expect(t, r, one(d+"/dir"), release.ResultFailed, d+"/dir: a folder is in the way")
	expect(t, r, one(d+"/pipe"), release.ResultFailed, "a pipe is in the way")
	expect(t, r, one(d+"/sock"), release.ResultFailed, "a socket is in the way")
	expect(t, r, one(d+"/file/below"), release.ResultFailed, "not a directory")
	expect(t, r, one("relative"), release.ResultFailed, "no place for a file")
	expect(t, r, one("/"), release.ResultFailed, "no place for a file")
	expect(t, r, filesStep(release.FileItem{To: d + "/file", State: release.StateDirectory}), release.ResultFailed, "a file is in the way")
	expect(t, r, filesStep(release.FileItem{To: d + "/dir", Link: "x"}), release.ResultFailed, "a folder is in the way")
	expect(t, r, filesStep(release.FileItem{To: d + "/dirlink", State: release.StateDirectory}), release.ResultUnchanged, "")
	expect(t, r, one(d+"/link"), release.ResultChanged, "")
	if fi, _ := os.Lstat(d + "/link"); !fi.Mode().IsRegular() || slurp(t, d+"/other") != "theirs" {
		t.Error("a symbolic link was followed rather than replaced")
	}
	expect(t, r, filesStep(release.FileItem{To: d + "/link", Link: "file"}), release.ResultChanged, "")
	expect(t, r, filesStep(release.FileItem{To: d + "/link", Link: "file"}), release.ResultUnchanged, "")
	expect(t, r, filesStep(release.FileItem{To: d + "/x", From: "nope"}), release.ResultFailed, "nope is not in the release")
}

func TestFiles_ValidateKeepsTheOldFile(t *testing.T) {
	r, _ := fixture(t, nil)
	d := t.TempDir()
	p := d + "/it's a.conf"
	must(t, os.WriteFile(p, []byte("good\n"), 0o644))
	before := identity(t, p)
	s := filesStep(release.FileItem{To: p, Content: text("bad\n"), Mode: "0640", Validate: "stat -c %%a %s >seen; grep -q good %s || { echo 'line 1: bad' >&2; exit 7; }"})
	s.Files[0].Validate = strings.ReplaceAll(s.Files[0].Validate, "%%a", "'%a'")
	res := expect(t, r, s, release.ResultFailed, "was not touched: validate: exit 7: line 1: bad")
	if identity(t, p) != before {
		t.Error("the old file was touched")
	}
	if res.Tail != "line 1: bad" {
		t.Errorf("tail %q", res.Tail)
	}
	if got := slurp(t, r.Tree+"/seen"); got != "640\n" {
		t.Errorf("validate saw mode %q, want the final one", got)
	}
	if left, _ := os.ReadDir(d); len(left) != 1 {
		t.Errorf("%d files are left beside it", len(left)-1)
	}
	s.Files[0].Content = text("good, new\n")
	expect(t, r, s, release.ResultChanged, "+1 -1")
}

func TestFiles_SourceChangedOnTheVM(t *testing.T) {
	r, _ := fixture(t, map[string]src{"f": {text: "signed"}, "t": {text: "{{.Role}}"}})
	d := t.TempDir()
	must(t, os.WriteFile(d+"/f", []byte("old"), 0o644))
	must(t, os.WriteFile(r.Tree+"/f", []byte("forged"), 0o644))
	must(t, os.WriteFile(r.Tree+"/t", []byte("forged ++"), 0o644))
	expect(t, r, filesStep(release.FileItem{To: d + "/f", From: "f"}), release.ResultFailed, "does not match the release: it was changed on this VM")
	expect(t, r, filesStep(release.FileItem{To: d + "/t", From: "t", Template: true}), release.ResultFailed, "does not match the release")
	if slurp(t, d+"/f") != "old" {
		t.Error("the old file is gone")
	}
	// Large files are not read for a diff; the copy itself must notice.
	big := strings.Repeat("x", maxDiffSide+1)
	r, _ = fixture(t, map[string]src{"big": {text: big}})
	must(t, os.WriteFile(r.Tree+"/big", []byte(big[1:]+"y"), 0o644))
	expect(t, r, filesStep(release.FileItem{To: d + "/big", From: "big"}), release.ResultFailed, "does not match the release")
	if left, _ := os.ReadDir(d); len(left) != 1 {
		t.Errorf("%d files are left", len(left)-1)
	}
}

// A failure of a later item does not hide what an earlier one did, and the
// notice it asks for is not lost.
func TestFiles_PartialFailureKeepsNotices(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Root = t.TempDir()
	must(t, os.Mkdir(r.Root+"/bad", 0o755))
	s := filesStep(release.FileItem{To: "/a", Content: text("a\n")}, release.FileItem{To: "/bad", Content: text("b")})
	s.Restart = []string{"nginx"}
	res := expect(t, r, s, release.ResultFailed, "a folder is in the way")
	if len(res.Changes) != 1 || res.Changes[0] != "/a +1 (new)" {
		t.Errorf("changes %q", res.Changes)
	}
	must(t, os.Remove(r.Root+"/bad"))
	must(t, os.WriteFile(r.Root+"/bad", []byte("b"), 0o644))
	// Nothing differs now, but the restart is still due (and cannot be done here).
	for range 2 {
		expect(t, r, s, release.ResultFailed, "restart nginx: no service manager")
	}
}

func TestFiles_HardFailuresLeaveTheOldFile(t *testing.T) {
	needs.Root(t)
	if inSandbox(t) {
		return
	}
	r, _ := fixture(t, map[string]src{"big": {text: strings.Repeat("b", 2<<20)}})
	d := t.TempDir()
	mount := func(name, data string) string {
		p := filepath.Join(d, name)
		must(t, os.Mkdir(p, 0o755))
		must(t, unix.Mount("tmpfs", p, "tmpfs", 0, data))
		t.Cleanup(func() { must(t, unix.Unmount(p, 0)) })
		return p
	}
	small := mount("small", "size=1m")
	must(t, os.WriteFile(small+"/f", []byte("old"), 0o644))
	expect(t, r, filesStep(release.FileItem{To: small + "/f", From: "big"}), release.ResultFailed, small+"/f: write: no space left on device")
	if left, _ := os.ReadDir(small); slurp(t, small+"/f") != "old" || len(left) != 1 {
		t.Error("a full disk cost the old file, or left another")
	}
	ro := mount("ro", "")
	must(t, os.WriteFile(ro+"/f", []byte("old"), 0o644))
	must(t, unix.Mount("", ro, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	expect(t, r, filesStep(release.FileItem{To: ro + "/f", Content: text("new")}), release.ResultFailed, ro+"/f: write: read-only file system")
	expect(t, r, filesStep(release.FileItem{To: ro + "/f", Content: text("old"), Mode: "0600"}), release.ResultFailed, "set mode: read-only file system")
	must(t, os.WriteFile(d+"/hosts", []byte("old"), 0o644))
	must(t, unix.Mount("/etc/passwd", d+"/hosts", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(d+"/hosts", 0)) })
	expect(t, r, filesStep(release.FileItem{To: d + "/hosts", Content: text("new")}), release.ResultFailed, "it is a mount point")
	noexec := mount("noexec", "")
	must(t, unix.Mount("", noexec, "", unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	elf, err := os.ReadFile("/bin/true")
	must(t, err)
	r2, _ := fixture(t, map[string]src{"true": {text: string(elf), mode: 0o755}, "ok.sh": {text: "#!/bin/sh\n", mode: 0o755}})
	must(t, os.CopyFS(noexec+"/tree", os.DirFS(r2.Tree)))
	r2.Tree = noexec + "/tree"
	expect(t, r2, script("true"), release.ResultFailed, "true cannot be run: its file system is mounted noexec")
	expect(t, r2, script("ok.sh"), release.ResultChanged, "")
}

func TestFiles_Immutable(t *testing.T) {
	needs.Root(t)
	chattr := needs.Tool(t, "chattr")
	r, _ := fixture(t, nil)
	p := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(p, []byte("old"), 0o644))
	if _, err := r.act(context.Background(), chattr, "+i", p); err != nil {
		needs.Skip(t, "chattr", "the file system has no immutable files")
	}
	defer func() { _, _ = r.act(context.Background(), chattr, "-i", p) }()
	expect(t, r, filesStep(release.FileItem{To: p, Content: text("new")}), release.ResultFailed, "operation not permitted (is it immutable?")
	if slurp(t, p) != "old" {
		t.Error("the old file is gone")
	}
}

func TestFiles_LargeFileStreams(t *testing.T) {
	const size = 64 << 20
	r, _ := fixture(t, map[string]src{"big": {text: strings.Repeat("0123456789abcdef", size/16)}})
	d := t.TempDir()
	s := filesStep(release.FileItem{To: d + "/big", From: "big"})
	for _, want := range []string{release.ResultChanged, release.ResultUnchanged} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		expect(t, r, s, want, "")
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: %d bytes were allocated for a file of %d", want, got, size)
		}
	}
	r.DryRun, r.Diff = true, true
	must(t, os.WriteFile(d+"/big", []byte("small"), 0o644))
	res := expect(t, r, s, release.ResultChanged, "replaced, 5 -> 67108864 bytes")
	if res.Diff != fmt.Sprintf("%s/big: binary or large file differs (%d bytes)\n", d, size) {
		t.Errorf("diff %q", res.Diff)
	}
}

func TestFiles_DiffIsBoundedAndVisible(t *testing.T) {
	r, _ := fixture(t, nil)
	r.DryRun, r.Diff = true, true
	d := t.TempDir()
	var items []release.FileItem
	for i := range 10 {
		items = append(items, release.FileItem{To: fmt.Sprintf("%s/%d", d, i), Content: text(strings.Repeat("a line\x1b[31m\r\n", 5000))})
	}
	res := expect(t, r, filesStep(items...), release.ResultChanged, "")
	if len(res.Diff) > maxDiff+8 || !strings.Contains(res.Diff, "+a line^[[31m^M\n") || strings.Contains(res.Diff, "\x1b") {
		t.Errorf("diff of %d bytes: %.200q", len(res.Diff), res.Diff)
	}
	res = expect(t, r, filesStep(release.FileItem{To: d + "/bin", Content: text("\x00\x01")}), release.ResultChanged, "new, 2 bytes")
	if !strings.Contains(res.Diff, "binary") {
		t.Errorf("diff %q", res.Diff)
	}
}

func TestFiles_StaleTemporaryFilesGo(t *testing.T) {
	r, _ := fixture(t, nil)
	d := t.TempDir()
	stale, other := d+"/.motd.bootwell-0123456789abcdef", d+"/.motd.bootwell-notes"
	must(t, os.WriteFile(stale, []byte("half"), 0o600))
	must(t, os.WriteFile(other, nil, 0o600))
	expect(t, r, filesStep(release.FileItem{To: d + "/motd", Content: text("m")}), release.ResultChanged, "")
	if _, err := os.Lstat(stale); err == nil {
		t.Error("what a killed agent left is still there")
	}
	if _, err := os.Lstat(other); err != nil {
		t.Error("somebody else's file is gone")
	}
}

// A reader never sees anything but a whole old or new file.
func TestFiles_Atomic(t *testing.T) {
	r, _ := fixture(t, nil)
	p := filepath.Join(t.TempDir(), "f")
	a, b := strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20)
	must(t, os.WriteFile(p, []byte(a), 0o644))
	stop, bad := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(bad)
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, err := os.ReadFile(p)
			if err != nil || string(got) != a && string(got) != b {
				bad <- fmt.Sprintf("%d bytes, %v", len(got), err)
				return
			}
		}
	}()
	for i := range 20 {
		expect(t, r, filesStep(release.FileItem{To: p, Content: &[]string{b, a}[i%2]}), release.ResultChanged, "")
	}
	close(stop)
	if s, ok := <-bad; ok {
		t.Errorf("a reader saw %s", s)
	}
}
