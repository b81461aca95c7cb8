//go:build linux

package store

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// oddTree writes one of everything a release can hold.
func oddTree(t testing.TB, dir string) {
	write(t, dir, "plain.txt", []byte("hello\n"), 0o644)
	write(t, dir, "bin/run.sh", []byte("#!/bin/sh\n"), 0o755)
	write(t, dir, "secret/only-me", []byte("x"), 0o600)
	write(t, dir, "secret/readonly", []byte("ro"), 0o444)
	write(t, dir, "empty", nil, 0o640)
	write(t, dir, "line\nbreak/tab\tname \"quoted\" \\ ü 漢", []byte("odd"), 0o644)
	write(t, dir, "same/a", []byte("twice the same"), 0o644)
	write(t, dir, "same/b", []byte("twice the same"), 0o755)
	write(t, dir, "large.bin", noise(1, 3<<20), 0o644)
	write(t, dir, "zeros.img", make([]byte, 5<<20), 0o600)
	write(t, dir, "one-mib", noise(2, smallFile), 0o644)
	write(t, dir, "one-mib-and-one", noise(3, smallFile+1), 0o644)
	for _, d := range []string{"void/deep", "closed"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, l := range [][2]string{{"plain.txt", "link"}, {"../plain.txt", "bin/up"}, {"void", "to-folder"}, {"not/there", "dangling"}} {
		if err := os.Symlink(l[0], filepath.Join(dir, l[1])); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoundTripOddTree(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	oddTree(t, f.dir)
	write(t, f.dir, ".git/config", []byte("left out"), 0o644)
	write(t, f.dir, "sub/.git", []byte("left out"), 0o644)
	write(t, f.dir, ".bootwell/cache", []byte("left out"), 0o644)
	write(t, f.dir, "tmp/a/b.tmp", []byte("left out"), 0o644)
	o := f.options()
	o.Ignore = []string{"tmp/", "**/*.bak"}
	write(t, f.dir, "sub/x.bak", []byte("left out"), 0o644)
	p, err := f.publishTo(f.b, o)
	if err != nil {
		t.Fatal(err)
	}
	if !p.New || p.Release != "r1" || p.Previous != "" {
		t.Errorf("published %+v", p)
	}
	// A umask must not show in modes.
	defer syscall.Umask(syscall.Umask(0o077))
	dir := stageDir(t)
	mustStage(t, f.b, f.manifest(), StageOptions{Dir: dir})
	for _, gone := range []string{".git", ".bootwell", "tmp", "sub"} {
		if err := os.RemoveAll(filepath.Join(f.dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(f.dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(f.dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
	for _, d := range []string{"bin", "line\nbreak"} {
		if fi, err := os.Stat(filepath.Join(dir, d)); err != nil || fi.Mode().Perm() != dirMode {
			t.Errorf("folder %q: %v %v", d, fi.Mode(), err)
		}
	}
}

func TestScanNamesEveryOffender(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("fine.txt", "fine")
	at := func(n string) string { return filepath.Join(f.dir, n) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("bad\xff\xfename"), nil, 0o644))
	must(syscall.Mkfifo(at("pipe"), 0o644))
	must(os.Symlink("/etc/passwd", at("absolute")))
	must(os.Symlink("../outside", at("outside")))
	must(os.Symlink(".", at("here")))
	must(os.Symlink("here/../../x", at("through")))
	l, err := net.Listen("unix", at("sock"))
	must(err)
	defer l.Close()
	if _, err := trust.NewKey(f.dir, "ops", func(string) ([]byte, error) { return []byte("secret"), nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.NewKey(f.dir, "bare", func(string) ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	before := content(t, f.b, "")
	_, err = f.publishTo(f.b, f.options())
	if !errors.Is(err, ErrTree) {
		t.Fatalf("err = %v", err)
	}
	for _, want := range []string{`"bad\xff\xfename"`, `"pipe"`, "named pipe", `"absolute"`, `"outside"`, `"through"`, `"sock"`, "socket", `"ops.key"`, `"bare.key"`, "private"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	for _, not := range []string{"fine.txt", "ops.pub", `"here"`} {
		if strings.Contains(err.Error(), not) {
			t.Errorf("the error names %s:\n%v", not, err)
		}
	}
	sameTree(t, before, content(t, f.b, ""))
}

func TestScanRefusesFileThatChanges(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", strings.Repeat("a", 100))
	f.write("large", string(noise(4, 2<<20)))
	files, err := scan(context.Background(), f.dir, nil, openTreeCache("", f.dir), (&Store{}).log(), newMeter(nil))
	if err != nil {
		t.Fatal(err)
	}
	f.write("a", strings.Repeat("b", 100))
	f.write("large", "short now")
	for _, file := range files {
		pieces, _ := index{}.missing([]release.File{file})
		p := packer{dir: f.dir, meter: newMeter(nil), made: index{}}
		if err := p.pack(context.Background(), pieces); !errors.Is(err, ErrTree) || !strings.Contains(err.Error(), file.Path) {
			t.Errorf("%s: err = %v", file.Path, err)
		}
	}
	var h hasher
	r, err := os.Open(filepath.Join(f.dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := h.file(r, 99, &release.File{}, func([]byte) error { return nil }); !errors.Is(err, errChanged) {
		t.Errorf("a file that grew: %v", err)
	}
}

func TestUnreadableIsNamed(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	write(t, f.dir, "locked", []byte("x"), 0)
	if os.Geteuid() == 0 {
		// Root reads everything, so the publisher is somebody else.
		if err := os.Chown(f.dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		t.Chdir(f.dir)
		f.dir = "."
		defer asNobody(t)()
	}
	s := &scanner{dir: f.dir, bad: map[string]string{}, cache: openTreeCache("", f.dir)}
	_, err := s.read(&hasher{}, &release.File{Path: "locked"}, mark{}, 1)
	if err == nil || !strings.Contains(cause(err), "cannot be read") || !strings.Contains(err.Error(), "ignore:") {
		t.Errorf("err = %v", err)
	}
}

// asNobody takes root's rights over files from the thread of this test.
func asNobody(t *testing.T) (back func()) {
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	}
}

func TestSameTreeIsNoRelease(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	oddTree(t, f.dir)
	f.publish()
	before := content(t, f.b, "")
	p := f.publish()
	if p.New || p.Release != "r1" || p.Uploaded != 0 || p.Bytes != 0 {
		t.Errorf("published %+v", p)
	}
	sameTree(t, before, content(t, f.b, ""))
	if err := os.Chmod(filepath.Join(f.dir, "plain.txt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if p = f.publish(); !p.New || p.Release != "r2" || len(p.Files.Changed) != 1 {
		t.Errorf("a changed mode: %+v", p)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("go.sh", "1")
	f.write("old", "old")
	f.roles["web"].Steps[0].Inputs = []string{"go.sh"}
	f.publish()
	f.write("go.sh", "2")
	f.write("new", "new")
	if err := os.Remove(filepath.Join(f.dir, "old")); err != nil {
		t.Fatal(err)
	}
	before := content(t, f.b, "")
	c := bucket.Count(f.b)
	o := f.options()
	o.Source.Time = time.Now()
	o.DryRun = true
	// Whoever may read can look: there are no keys here.
	p, err := (&Store{Bucket: c}).Publish(t.Context(), &trust.Publisher{Client: f.client(c)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if tr := c.Traffic(); tr.Puts != 0 || tr.Deletes != 0 {
		t.Errorf("a dry run wrote: %+v", tr)
	}
	sameTree(t, before, content(t, f.b, ""))
	if !p.New || p.Release != "r2" || p.Previous != "r1" || p.Uploaded != 3 || p.Bytes == 0 {
		t.Errorf("dry run: %+v", p)
	}
	if got := p.Files; strings.Join(got.Added, ",") != "new" || strings.Join(got.Changed, ",") != "go.sh" || strings.Join(got.Removed, ",") != "old" {
		t.Errorf("files: %+v", got)
	}
	if len(p.Roles) != 1 || p.Roles[0].Change != ChangeChanged || strings.Join(p.Roles[0].Changed, ",") != "go" || p.Roles[0].Delta == 0 {
		t.Errorf("roles: %+v", p.Roles)
	}
	o.DryRun = false
	real, err := f.publishTo(f.b, o)
	if err != nil || real.Bytes != p.Bytes || real.Uploaded != p.Uploaded {
		t.Errorf("the real one: %+v, %v; the dry run said %d bytes", real, err, p.Bytes)
	}
}
