package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/needs"
)

func openDir(t testing.TB, dir string) *file.Bucket {
	t.Helper()
	b, err := file.OpenDir(dir, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	buckettest.Test(t, func(t testing.TB) bucket.Bucket { return openDir(t, folder(t)) }, buckettest.Options{})
}

// TestMain makes this binary a writer for TestProcesses.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BOOTWELL_TEST_WRITER"); dir != "" {
		os.Exit(writer(dir))
	}
	os.Exit(m.Run())
}

// writer adds 1 to the counter 20 times.
func writer(dir string) int {
	ctx := context.Background()
	b, err := file.OpenDir(dir, file.Options{})
	for n := 0; err == nil && n < 20; {
		var data []byte
		var obj bucket.Object
		if data, obj, err = bucket.ReadAll(ctx, b, "counter", bucket.GetOptions{}, 100); err != nil {
			break
		}
		v, _ := strconv.Atoi(string(data))
		_, err = b.Put(ctx, "counter", strings.NewReader(strconv.Itoa(v+1)), bucket.Condition{IfMatch: obj.ETag})
		if err == nil {
			n++
		} else if errors.Is(err, bucket.ErrPrecondition) {
			err = nil
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestProcesses_LoseNoIncrement(t *testing.T) {
	b := openDir(t, folder(t))
	buckettest.Put(t, b, "counter", []byte("0"))
	var cmds []*exec.Cmd
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BOOTWELL_TEST_WRITER="+b.Dir())
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if got, _ := buckettest.Get(t, b, "counter"); string(got) != "80" {
		t.Errorf("4 processes counted to 20 each: %s", got)
	}
}

func TestKilledWriter(t *testing.T) {
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "k", []byte("old"))
	temp := filepath.Join(b.Dir(), ".bootwell", "tmp")
	for name, age := range map[string]time.Duration{"young": time.Hour, "old": 25 * time.Hour} {
		p := filepath.Join(temp, name)
		if err := os.WriteFile(p, []byte("half a fi"), 0o644); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if got := buckettest.Keys(t, b, "", ""); !slices.Equal(got, []string{"k"}) {
		t.Errorf("list shows %q", got)
	}
	if got := buckettest.Keys(t, b, ".bootwell/", ""); len(got) != 0 {
		t.Errorf("list shows %q", got)
	}
	again := openDir(t, b.Dir())
	buckettest.Put(t, again, "k", []byte("new"))
	left, err := os.ReadDir(temp)
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("temporary files %v, %v", left, err)
	}
}

func TestHiddenFolder(t *testing.T) {
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "k", nil)
	for _, key := range []string{".bootwell", ".bootwell/lock", ".bootwell/x/y"} {
		if _, err := b.Put(t.Context(), key, strings.NewReader("x"), bucket.Condition{}); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("put %s: %v", key, err)
		}
		if _, _, err := b.Get(t.Context(), key, bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("get %s: %v", key, err)
		}
		if err := b.Delete(t.Context(), key); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	buckettest.Put(t, b, ".bootwell.txt", nil)
	if got := buckettest.Keys(t, b, "", ""); !slices.Equal(got, []string{".bootwell.txt", "k"}) {
		t.Errorf("list shows %q", got)
	}
}

func TestLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "d/inside", []byte("inside"))
	for name, target := range map[string]string{
		"out": outside, "file": filepath.Join(outside, "secret"), "up": "../..", "within": "d/inside", "loop": "loop", "dangling": "nothing", "folder": "d",
	} {
		if err := os.Symlink(target, filepath.Join(b.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"out/secret", "file", "up/etc/passwd", "loop"} {
		if data, _, err := bucket.ReadAll(t.Context(), b, key, bucket.GetOptions{}, 100); err == nil {
			t.Errorf("get %s: %q", key, data)
		}
	}
	if _, _, err := b.Get(t.Context(), "file", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("a link out of the bucket: %v", err)
	}
	for _, key := range []string{"out/secret", "out/new", "up/new"} {
		if _, err := b.Put(t.Context(), key, strings.NewReader("evil"), bucket.Condition{}); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("put %s: %v", key, err)
		}
		if err := b.Delete(t.Context(), key); err == nil && key == "out/secret" {
			t.Errorf("delete %s was done", key)
		}
	}
	buckettest.Put(t, b, "file", []byte("replaces the link, not its target"))
	if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "secret" {
		t.Errorf("outside: %q, %v", data, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if got, _ := buckettest.Get(t, b, "within"); string(got) != "inside" {
		t.Errorf("a link that stays inside: %q", got)
	}
	if got := buckettest.Keys(t, b, "", ""); !slices.Equal(got, []string{"d/inside", "file", "within"}) {
		t.Errorf("list shows %q", got)
	}
}

func TestForeignFiles(t *testing.T) {
	b := openDir(t, t.TempDir())
	if err := unix.Mkfifo(filepath.Join(b.Dir(), "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Get(t.Context(), "fifo", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("get a FIFO: %v", err)
	}
	for _, name := range []string{"not\xffutf8", "new\nline"} {
		if err := os.WriteFile(filepath.Join(b.Dir(), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(b.Dir(), "copied"), []byte("by hand"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := buckettest.Keys(t, b, "", ""); !slices.Equal(got, []string{"copied"}) {
		t.Errorf("list shows %q", got)
	}
}

// An edit in place keeps inode, size and, on this file system, maybe the time.
func TestETag_SeesEditsInPlace(t *testing.T) {
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "k", []byte("one"))
	_, before := buckettest.Get(t, b, "k")
	p := filepath.Join(b.Dir(), "k")
	info, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if _, now := buckettest.Get(t, b, "k"); now.ETag == before.ETag {
		t.Error("the ETag is the same")
	}
}

func TestMissingFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := file.OpenDir(dir, file.Options{}); !errors.Is(err, bucket.ErrNoBucket) || !strings.Contains(err.Error(), dir) {
		t.Errorf("open: %v", err)
	}
	b, err := file.OpenDir(dir, file.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, b, "k", nil)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
	errs := map[string]error{"get": err, "delete": b.Delete(t.Context(), "k")}
	_, errs["put"] = b.Put(t.Context(), "k", strings.NewReader("x"), bucket.Condition{})
	for _, errs["list"] = range b.List(t.Context(), "", "") {
	}
	for op, err := range errs {
		if !errors.Is(err, bucket.ErrNoBucket) {
			t.Errorf("%s after the folder went: %v", op, err)
		}
	}
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.OpenDir(notDir, file.Options{}); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("open a file: %v", err)
	}
}

// mount mounts a tmpfs and unmounts it after the test.
func mount(t *testing.T, options string) string {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		needs.Skip(t, "mount", err.Error())
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDisk(t *testing.T) {
	b := openDir(t, mount(t, "size=1m"))
	old := buckettest.Put(t, b, "k", []byte("old"))
	_, err := b.Put(t.Context(), "k", bytes.NewReader(make([]byte, 2<<20)), bucket.Condition{})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left") || errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	if got, now := buckettest.Get(t, b, "k"); string(got) != "old" || now.ETag != old.ETag {
		t.Errorf("the object holds %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(b.Dir(), ".bootwell", "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	buckettest.Put(t, b, "small", make([]byte, 100_000))
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := mount(t, "")
	b := openDir(t, dir)
	buckettest.Put(t, b, "k", []byte("x"))
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := b.Put(t.Context(), "k", strings.NewReader("y"), bucket.Condition{})
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("put: %v", err)
	}
	if err := b.Delete(t.Context(), "k"); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("delete: %v", err)
	}
	if got, _ := buckettest.Get(t, b, "k"); string(got) != "x" {
		t.Errorf("get: %q", got)
	}
}

func TestNoPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may do everything")
	}
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "d/k", []byte("x"))
	if err := os.Chmod(filepath.Join(b.Dir(), "d"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(b.Dir(), "d"), 0o755) })
	if _, _, err := b.Get(t.Context(), "d/k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("get: %v", err)
	}
}

func TestModes(t *testing.T) {
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "d/k", []byte("x"))
	for name, want := range map[string]fs.FileMode{"d": 0o755, "d/k": 0o644} {
		info, err := os.Stat(filepath.Join(b.Dir(), name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestLockedByAnother(t *testing.T) {
	b := openDir(t, t.TempDir())
	buckettest.Put(t, b, "k", []byte("x"))
	f, err := os.Open(filepath.Join(b.Dir(), ".bootwell", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = b.Put(ctx, "k", strings.NewReader("y"), bucket.Condition{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another writer") {
		t.Errorf("put: %v", err)
	}
	if got, _ := buckettest.Get(t, b, "k"); string(got) != "x" {
		t.Errorf("readers wait for no lock: %q", got)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ url, base, want, words string }{
		{"file:///srv/b", "", "/srv/b", ""},
		{"file:///srv/b/", "/x", "/srv/b", ""},
		{"file://localhost/srv/b", "", "/srv/b", ""},
		{"file:///srv/a%20b", "", "/srv/a b", ""},
		{"file://./b", "/project", "/project/b", ""},
		{"file://../b/c", "/srv/project", "/srv/b/c", ""},
		{"file://.", "/project", "/project", ""},
		{"file://./b", "", "", "relative"},
		{"file://server/b", "", "", "another machine"},
		{"file:///", "", "", "no folder"},
		{"file://", "", "", "no folder"},
		{"file:b", "", "", "file:///path"},
		{"file:///b?x=1", "", "", "no more"},
		{"file:///b#x", "", "", "no more"},
		{"s3://b", "", "", "scheme"},
		{"file:///%zz", "", "", "invalid"},
	} {
		got, err := file.Parse(c.url, c.base)
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s: %v, want words %q", c.url, err, c.words)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.url, got, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///a", "file://./a", "file://../a/..", "file:///%2e%2e", "file://x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dir, err := file.Parse(s, "/base")
		if err == nil && (!filepath.IsAbs(dir) || dir != filepath.Clean(dir)) {
			t.Errorf("%q: %q", s, dir)
		}
	})
}

// FuzzKey tries to leave the folder or to reach its hidden files.
func FuzzKey(f *testing.F) {
	for _, s := range []string{"a/b", "../x", ".bootwell/lock", "a/../../b", "/etc/passwd", ".bootwell", "x\x00y"} {
		f.Add(s)
	}
	top := f.TempDir()
	b, err := file.OpenDir(filepath.Join(top, "bucket"), file.Options{Create: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key string) {
		_, err := b.Put(t.Context(), key, strings.NewReader("x"), bucket.Condition{})
		if entries, _ := os.ReadDir(top); len(entries) != 1 {
			t.Fatalf("%q wrote outside: %v", key, entries)
		}
		if err != nil {
			return
		}
		if got := buckettest.Keys(t, b, "", ""); len(got) != 1 || got[0] != key {
			t.Fatalf("put %q, list shows %q", key, got)
		}
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	})
}
