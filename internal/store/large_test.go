//go:build linux

package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/needs"
)

// peakHeap runs f and returns by how many bytes the heap grew at most.
func peakHeap(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	base, peak := read(), uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			peak = max(peak, read())
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak - min(base, peak)
}

func TestLargeFile(t *testing.T) {
	size, content := int64(300<<20), int64(100<<20)
	if os.Getenv("BOOTWELL_TEST_LARGE") == "1" {
		size, content = 2<<30, 256<<20 // of which no bound below has room for all
	} else if testing.Short() {
		t.Skip("writes 400 MB")
	}
	b, err := file.OpenDir(t.TempDir(), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, b)
	w, err := os.Create(filepath.Join(f.dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, buf := rand.NewChaCha8([32]byte{}), make([]byte, 1<<20)
	for at := int64(0); at < content; at += int64(len(buf)) {
		r.Read(buf)
		if _, err := w.WriteAt(buf, at*2); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Truncate(size); err != nil {
		t.Fatal(err)
	}
	// The same bounds for a file of any size.
	const publishing, staging = 256 << 20, 160 << 20
	peak := peakHeap(func() { f.publish() })
	t.Logf("publishing took %s of heap", megabytes(int64(peak)))
	if peak > publishing {
		t.Errorf("that is over %s", megabytes(publishing))
	}
	m, dir := f.manifest(), stageDir(t)
	var st StageStats
	peak = peakHeap(func() { st = mustStage(t, b, m, StageOptions{Dir: dir}) })
	t.Logf("staging took %s of heap", megabytes(int64(peak)))
	if peak > staging {
		t.Errorf("that is over %s", megabytes(staging))
	}
	if st.Fetched > content+content/20 {
		t.Errorf("fetched %d bytes for %d", st.Fetched, content)
	}
	fi, err := os.Stat(filepath.Join(dir, "image"))
	if err != nil || fi.Size() != size {
		t.Fatal(fi, err)
	}
	if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; used > size-(size-2*content)/2 {
		t.Errorf("%d of %d bytes are on the disk: holes were filled", used, size)
	}
}

func TestManyFiles(t *testing.T) {
	const n = 20_000
	b := bucket.NewMem()
	f := newFixture(t, b)
	for d := range 200 {
		dir := filepath.Join(f.dir, fmt.Sprintf("d%03d", d))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n / 200 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendf(nil, "%d %d", d, i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	c := bucket.Count(b)
	if st := mustStage(t, c, m1, StageOptions{Dir: d1}); st.Files != n || c.Traffic().Requests() > 3 {
		t.Errorf("%+v took %+v", st, c.Traffic())
	}
	f.write("d100/50", "changed")
	f.publish()
	m2 := f.manifest()
	c = bucket.Count(b)
	if st := mustStage(t, c, m2, StageOptions{Dir: stageDir(t), Reuse: []Staged{{d1, m1}}}); st.Reused != n-1 || c.Traffic().Requests() != 1 || st.Fetched > 100 {
		t.Errorf("%+v took %+v", st, c.Traffic())
	}
	v, err := f.client(b).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c = bucket.Count(b)
	if _, err := (&Store{Bucket: c}).Manifest(context.Background(), v, "r2", m1); err != nil || c.Traffic().Down > 2000 {
		t.Errorf("the manifest travelled as %+v (%v)", c.Traffic(), err)
	}
}

// tmpfs mounts a file system of so many bytes.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		needs.Skip(t, "root", "cannot mount: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestFullDisk(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("large", string(noise(1, 6<<20)))
	for i := range 100 {
		f.write(fmt.Sprint("f", i), fmt.Sprint(i))
	}
	f.publish()
	m := f.manifest()
	for _, options := range []string{"size=4m", "size=64m,nr_inodes=50"} {
		dir := tmpfs(t, options)
		_, err := (&Store{Bucket: f.b}).Stage(context.Background(), m, StageOptions{Dir: filepath.Join(dir, "tree")})
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "needs") {
			t.Errorf("%s: err = %v", options, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: %v is left", options, left)
		}
	}
	// The disk fills up while it is written to.
	dir := tmpfs(t, "size=8m")
	filler := filepath.Join(dir, "filler")
	faulty := bucket.NewFaults(f.b, bucket.Fault{Kind: bucket.FaultDelay, Method: "Get", Key: "packs/", Before: sync.OnceFunc(func() {
		if err := os.WriteFile(filler, noise(2, 5<<20), 0o600); err != nil {
			t.Error(err)
		}
	})})
	_, err := (&Store{Bucket: faulty}).Stage(context.Background(), m, StageOptions{Dir: filepath.Join(dir, "tree")})
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("err = %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	mustStage(t, f.b, m, StageOptions{Dir: filepath.Join(dir, "tree")})
}

func TestReadOnlyTarget(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", "1")
	f.publish()
	dir := tmpfs(t, "ro")
	_, err := (&Store{Bucket: f.b}).Stage(context.Background(), f.manifest(), StageOptions{Dir: filepath.Join(dir, "tree")})
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("err = %v", err)
	}
}

func TestReuseFromAnotherFileSystem(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m := f.manifest()
	old := filepath.Join(tmpfs(t, "size=16m"), "tree")
	mustStage(t, f.b, m, StageOptions{Dir: old})
	c := bucket.Count(f.b)
	o := StageOptions{Dir: stageDir(t), Reuse: []Staged{{old, m}}}
	mustStage(t, c, m, o)
	if c.Traffic().Requests() != 0 {
		t.Errorf("fetched %+v", c.Traffic())
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, o.Dir))
}
