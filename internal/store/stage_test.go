package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

func TestUpdateOfOneFile(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	for i := range 300 {
		f.write(fmt.Sprintf("d%02d/f%03d", i/20, i), strings.Repeat(fmt.Sprint(i), 200))
	}
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	mustStage(t, f.b, m1, StageOptions{Dir: d1})

	changed := string(noise(7, 5000))
	f.write("d03/f070", changed)
	c := bucket.Count(f.b)
	p, err := f.publishTo(c, f.options())
	if err != nil {
		t.Fatal(err)
	}
	if p.Uploaded != 3 { // a pack, the manifest, its delta
		t.Errorf("uploaded %d objects", p.Uploaded)
	}
	if packs := len(content(t, f.b, "packs/")); packs != 2 {
		t.Errorf("%d packs", packs)
	}
	m2, d2 := f.manifest(), stageDir(t)
	vm := bucket.Count(f.b)
	st := mustStage(t, vm, m2, StageOptions{Dir: d2, Reuse: []Staged{{d1, m1}}})
	tr := vm.Traffic()
	if tr.Requests() != 1 || tr.Down > int64(len(changed))+200 || st.Requests != 1 || st.Fetched != tr.Down || st.Reused != 299 {
		t.Errorf("staging moved %+v, told %+v", tr, st)
	}
	if p.Roles[0].Delta != st.Fetched {
		t.Errorf("the publish foretold %d bytes, it were %d", p.Roles[0].Delta, st.Fetched)
	}
	a, errA := os.Stat(filepath.Join(d1, "d00/f000"))
	b, errB := os.Stat(filepath.Join(d2, "d00/f000"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Error("an unchanged file was not linked")
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, d2))
}

func TestPlanOfRequests(t *testing.T) {
	packs := []release.Pack{{Digest: release.DigestOf([]byte("a")), Size: 10 << 20}, {Digest: release.DigestOf([]byte("b")), Size: 1000}}
	at := func(pack int, off, n int64) *want {
		return &want{Blob: release.Blob{Pack: pack, Offset: off, Stored: n}}
	}
	const mib = 1 << 20
	for _, tc := range []struct {
		name  string
		wants []*want
		spans string
	}{
		{"nothing", nil, ""},
		{"one", []*want{at(0, 5, 10)}, "0:5-15(1)"},
		{"neighbours in any order", []*want{at(0, 15, 5), at(0, 5, 10)}, "0:5-20(2)"},
		{"a small gap is read over", []*want{at(0, 0, 10), at(0, 10+maxGap, 10)}, fmt.Sprintf("0:0-%d(2)", 20+maxGap)},
		{"a large gap is not", []*want{at(0, 0, 10), at(0, 11+maxGap, 10)}, fmt.Sprintf("0:0-10(1) 0:%d-%d(1)", 11+maxGap, 21+maxGap)},
		{"most of a pack", []*want{at(0, 0, 4*mib), at(0, 7*mib, 3*mib)}, fmt.Sprintf("0:0-%d(2)", 10*mib)},
		{"two packs", []*want{at(1, 0, 10), at(0, 0, 10)}, "0:0-10(1) 1:0-10(1)"},
		{"frames that overlap", []*want{at(1, 0, 800), at(1, 400, 600)}, "1:0-800(1) 1:400-1000(1)"},
	} {
		var got []string
		for _, s := range plan(packs, tc.wants) {
			got = append(got, fmt.Sprintf("%d:%d-%d(%d)", slices.Index(packs, s.pack), s.off, s.end, len(s.frames)))
		}
		if strings.Join(got, " ") != tc.spans {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.spans)
		}
	}
}

func TestRenameMovesNoContent(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("old/a.bin", string(noise(1, 3<<20)))
	f.write("old/b.txt", "small")
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	mustStage(t, f.b, m1, StageOptions{Dir: d1})
	if err := os.Rename(filepath.Join(f.dir, "old"), filepath.Join(f.dir, "new")); err != nil {
		t.Fatal(err)
	}
	f.publish()
	if n := len(content(t, f.b, "packs/")); n != 1 {
		t.Errorf("%d packs", n)
	}
	vm := bucket.Count(f.b)
	mustStage(t, vm, f.manifest(), StageOptions{Dir: stageDir(t), Reuse: []Staged{{d1, m1}}})
	if tr := vm.Traffic(); tr.Requests() != 0 {
		t.Errorf("staging moved %+v", tr)
	}
}

func TestByteInsertedInLargeFile(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	data := noise(9, 20<<20)
	f.write("large", string(data))
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	mustStage(t, f.b, m1, StageOptions{Dir: d1})
	f.write("large", string(data[:7<<20])+"!"+string(data[7<<20:]))
	p := f.publish()
	if p.Bytes > 2<<20 {
		t.Errorf("uploaded %d bytes", p.Bytes)
	}
	dir := stageDir(t)
	vm := bucket.Count(f.b)
	mustStage(t, vm, f.manifest(), StageOptions{Dir: dir, Reuse: []Staged{{d1, m1}}})
	if tr := vm.Traffic(); tr.Down > 2<<20 || tr.Requests() > 2 {
		t.Errorf("staging moved %+v", tr)
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}

// Bytes that are wrong at any place are refused, and no tree appears.
func TestTamperedPackIsRefused(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("text", strings.Repeat("some text ", 300))
	f.write("noise", string(noise(3, 2000)))
	f.publish()
	m := f.manifest()
	key := packKey(m.Packs[0].Digest)
	good := []byte(content(t, f.b, key)[key])
	for at := range good {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x41
		put(t, f.b, key, bad)
		dir := stageDir(t)
		_, err := (&Store{Bucket: f.b}).Stage(context.Background(), m, StageOptions{Dir: dir})
		if !errors.Is(err, trust.ErrUntrusted) {
			// A flag of the frame header may change without a change of what comes out.
			if err == nil && VerifyStaged(context.Background(), Staged{dir, m}, "") == nil {
				continue
			}
			t.Fatalf("byte %d: err = %v", at, err)
		}
		if !strings.Contains(err.Error(), key) || !(strings.Contains(err.Error(), `"text"`) || strings.Contains(err.Error(), `"noise"`)) {
			t.Fatalf("byte %d: %v does not name the pack and a file", at, err)
		}
		left, _ := os.ReadDir(filepath.Dir(dir))
		if len(left) != 0 {
			t.Fatalf("byte %d: %v is left", at, left)
		}
	}
	for _, tc := range []struct {
		name string
		data []byte
		want error
	}{
		{"short", good[:len(good)-1], bucket.ErrTruncated},
		{"empty", nil, bucket.ErrTruncated},
		{"long", append(append([]byte(nil), good...), 0), trust.ErrUntrusted},
		{"swapped", append(append([]byte(nil), good[10:]...), good[:10]...), trust.ErrUntrusted},
	} {
		put(t, f.b, key, tc.data)
		dir := stageDir(t)
		_, err := (&Store{Bucket: f.b}).Stage(context.Background(), m, StageOptions{Dir: dir})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: err = %v", tc.name, err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a tree appeared", tc.name)
		}
	}
	if err := f.b.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Store{Bucket: f.b}).Stage(context.Background(), m, StageOptions{Dir: stageDir(t)}); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("a lost pack: %v", err)
	}
}

func TestConnectionThatBreaks(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	f.write("large", string(noise(5, 30<<20)))
	for i := range 50 {
		f.write(fmt.Sprintf("f%d", i), string(noise(uint64(i), 3000)))
	}
	f.publish()
	m := f.manifest()
	for _, at := range []int64{0, 1, 70_000, 3 << 20} {
		faulty := bucket.NewFaults(mem,
			bucket.Fault{Kind: bucket.FaultCut, Method: "Get", Key: "packs/", Times: 3, Bytes: at},
			bucket.Fault{Kind: bucket.FaultCut, Method: "Get", Key: "packs/", Skip: 1, Times: 1, Bytes: at, Err: bucket.ErrUnavailable})
		dir := stageDir(t)
		mustStage(t, faulty, m, StageOptions{Dir: dir})
		if faulty.Hits() < 3 {
			t.Errorf("cut at %d: %d hits", at, faulty.Hits())
		}
		sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
	}
	// One that always breaks ends, and the next call goes on where it was.
	faulty := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultCut, Method: "Get", Key: "packs/", Bytes: 4 << 20, Err: bucket.ErrPermission})
	dir := stageDir(t)
	if _, err := (&Store{Bucket: faulty}).Stage(context.Background(), m, StageOptions{Dir: dir}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("err = %v", err)
	}
	vm := bucket.Count(mem)
	mustStage(t, vm, m, StageOptions{Dir: dir})
	if got := vm.Traffic().Down; got == 0 || got > 27<<20 {
		t.Errorf("the second call fetched %d bytes", got)
	}
	// A flipped byte in flight is never accepted.
	faulty = bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultFlip, Method: "Get", Key: "packs/", Skip: 2, Bytes: 1 << 20})
	if _, err := (&Store{Bucket: faulty}).Stage(context.Background(), m, StageOptions{Dir: stageDir(t)}); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("err = %v", err)
	}
}

// stageUntil runs Stage until before its nth change of the disk, and reports
// whether it got to its end.
func stageUntil(t testing.TB, b bucket.Bucket, m *release.Manifest, o StageOptions, n int) bool {
	t.Helper()
	killed := errors.New("killed")
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	st := &stager{s: &Store{Bucket: b}, m: m, o: o, meter: newMeter(nil)}
	st.step = func() error {
		select {
		case <-left:
			return nil
		default:
			return killed
		}
	}
	err := st.run(context.Background())
	if err != nil && !errors.Is(err, killed) {
		t.Fatalf("killed before change %d: %v", n, err)
	}
	return err == nil
}

func smallOddTree(t testing.TB, dir string) {
	write(t, dir, "a/plain", []byte("one"), 0o644)
	write(t, dir, "a/run", []byte("#!/bin/sh"), 0o755)
	write(t, dir, "empty", nil, 0o600)
	write(t, dir, "large", noise(1, smallFile+300_000), 0o640)
	if err := os.Symlink("a/plain", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "void"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestStageKilledAnywhere(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	mustStage(t, f.b, m1, StageOptions{Dir: d1})
	f.write("b/new", "new")
	f.write("a/plain", "two")
	f.publish()
	m := f.manifest()
	want := snapshot(t, f.dir)
	for _, reuse := range [][]Staged{nil, {{d1, m1}}} {
		for n := 0; ; n++ {
			o := StageOptions{Dir: stageDir(t), Reuse: reuse}
			ended := stageUntil(t, f.b, m, o, n)
			if _, err := os.Lstat(o.Dir); err == nil {
				if err := VerifyStaged(context.Background(), Staged{o.Dir, m}, ""); err != nil {
					t.Fatalf("killed before change %d: a wrong tree has the final name: %v", n, err)
				}
			} else if ended {
				t.Fatal(err)
			}
			mustStage(t, f.b, m, o)
			sameTree(t, want, snapshot(t, o.Dir))
			if left, _ := os.ReadDir(filepath.Dir(o.Dir)); len(left) != 1 {
				t.Fatalf("killed before change %d: %v is left", n, left)
			}
			if ended {
				break
			}
		}
	}
	if err := VerifyStaged(context.Background(), Staged{d1, m1}, ""); err != nil {
		t.Errorf("the tree that was linked from: %v", err)
	}
}

// damages are ways in which a staged tree goes wrong.
var damages = map[string]func(dir string) error{
	"content": func(d string) error { return os.WriteFile(filepath.Join(d, "a/plain"), []byte("ono"), 0o644) },
	"size": func(d string) error {
		return os.WriteFile(filepath.Join(d, "a/run"), []byte("longer than it was"), 0o755)
	},
	"mode":         func(d string) error { return os.Chmod(filepath.Join(d, "a/run"), 0o644) },
	"setuid":       func(d string) error { return os.Chmod(filepath.Join(d, "a/run"), 0o755|fs.ModeSetuid) },
	"folder mode":  func(d string) error { return os.Chmod(filepath.Join(d, "a"), 0o777) },
	"missing":      func(d string) error { return os.Remove(filepath.Join(d, "empty")) },
	"large":        func(d string) error { return os.Truncate(filepath.Join(d, "large"), 5) },
	"folder gone":  func(d string) error { return os.RemoveAll(filepath.Join(d, "a")) },
	"empty folder": func(d string) error { return os.Remove(filepath.Join(d, "void")) },
	"extra":        func(d string) error { return os.WriteFile(filepath.Join(d, "a/extra\xff"), nil, 0o644) },
	"extra folder": func(d string) error { return os.MkdirAll(filepath.Join(d, "x/y/z"), 0o755) },
	"left-over":    func(d string) error { return os.MkdirAll(filepath.Join(d, scratchDir, "7"), 0o755) },
	"link": func(d string) error {
		return errors.Join(os.Remove(filepath.Join(d, "link")), os.Symlink("a/run", filepath.Join(d, "link")))
	},
	"file for link": func(d string) error {
		return errors.Join(os.Remove(filepath.Join(d, "link")), os.WriteFile(filepath.Join(d, "link"), nil, 0o644))
	},
	"link for file": func(d string) error {
		return errors.Join(os.Remove(filepath.Join(d, "empty")), os.Symlink("/etc/passwd", filepath.Join(d, "empty")))
	},
	"link for folder": func(d string) error {
		return errors.Join(os.RemoveAll(filepath.Join(d, "a")), os.Symlink("/etc", filepath.Join(d, "a")))
	},
	"folder for file": func(d string) error {
		return errors.Join(os.Remove(filepath.Join(d, "empty")), os.MkdirAll(filepath.Join(d, "empty/x"), 0o755))
	},
}

func TestStageRepairs(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m, want := f.manifest(), snapshot(t, f.dir)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				o := StageOptions{Dir: stageDir(t)}
				mustStage(t, f.b, m, o)
				if err := damage(o.Dir); err != nil {
					t.Fatal(err)
				}
				if err := VerifyStaged(context.Background(), Staged{o.Dir, m}, ""); !errors.Is(err, ErrStaged) {
					t.Fatalf("VerifyStaged = %v", err)
				}
				ended := stageUntil(t, f.b, m, o, n)
				mustStage(t, f.b, m, o)
				sameTree(t, want, snapshot(t, o.Dir))
				if ended {
					break
				}
			}
		})
	}
	dir := stageDir(t)
	mustStage(t, f.b, m, StageOptions{Dir: dir})
	vm := bucket.Count(f.b)
	if st := mustStage(t, vm, m, StageOptions{Dir: dir}); vm.Traffic().Requests() != 0 || st.Written != 0 || st.Reused != st.Files {
		t.Errorf("a complete tree: %+v", st)
	}
}

// A tree to reuse that was damaged must not spoil the new one.
func TestStageReuseOfDamagedTree(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m := f.manifest()
	for name, damage := range damages {
		old, o := stageDir(t), StageOptions{Dir: stageDir(t)}
		mustStage(t, f.b, m, StageOptions{Dir: old})
		if err := damage(old); err != nil {
			t.Fatal(err)
		}
		was := snapshot(t, old)
		o.Reuse = []Staged{{old, m}, {filepath.Join(old, "not there"), m}}
		mustStage(t, f.b, m, o)
		sameTree(t, was, snapshot(t, old))
		sameTree(t, snapshot(t, f.dir), snapshot(t, o.Dir))
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestStageRefusals(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	m := f.manifest()
	s, ctx := &Store{Bucket: f.b}, context.Background()
	if _, err := s.Stage(ctx, m, StageOptions{Dir: stageDir(t), Role: "db"}); !errors.Is(err, ErrNoRole) {
		t.Errorf("unknown role: %v", err)
	}
	if _, err := s.Stage(ctx, m, StageOptions{Dir: filepath.Join(stageDir(t), "deep")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
	file := stageDir(t)
	write(t, filepath.Dir(file), "tree", nil, 0o644)
	if _, err := s.Stage(ctx, m, StageOptions{Dir: file}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file in the way: %v", err)
	}
	bomb := *m
	bomb.Files = append([]release.File(nil), m.Files...)
	for i := range bomb.Files {
		bomb.Files[i].Blobs = append([]release.Blob(nil), bomb.Files[i].Blobs...)
		for j := range bomb.Files[i].Blobs {
			bomb.Files[i].Blobs[j].Stored = 1 << 40
		}
	}
	if _, err := s.Stage(ctx, &bomb, StageOptions{Dir: stageDir(t)}); !errors.Is(err, release.ErrFormat) {
		t.Errorf("a frame of a terabyte: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Stage(done, m, StageOptions{Dir: stageDir(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStageSweepsOnlyDeadTrees(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.publish()
	dir := stageDir(t)
	dead, alive := filepath.Join(filepath.Dir(dir), ".dead.partial"), filepath.Join(filepath.Dir(dir), ".alive.partial")
	for _, d := range []string{dead, alive} {
		if err := os.MkdirAll(filepath.Join(d, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(alive)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if ok, err := lockDir(held); !ok || err != nil {
		t.Fatal(ok, err)
	}
	mustStage(t, f.b, f.manifest(), StageOptions{Dir: dir})
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the left-over is still there: %v", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("the other process's tree is gone: %v", err)
	}
}

// A readyBucket answers for a pack only when the disk is ready for its content.
type readyBucket struct {
	bucket.Bucket
	ready func() bool
}

func (b readyBucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	for strings.HasPrefix(key, "packs/") && !b.ready() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, bucket.Object{}, ctx.Err()
		}
	}
	return b.Bucket.Get(ctx, key, o)
}

// What content needs is on the disk before the first of it comes; files that
// will hold it are empty until then.
func TestFilesAreMadeWhileContentIsAwaited(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	smallOddTree(t, f.dir)
	f.write("d/one", "1")
	f.write("d/deep/two", "2")
	f.publish()
	m, dir := f.manifest(), stageDir(t)
	made := func() bool {
		for _, p := range []string{"a/plain", "a/run", "d/one", "d/deep/two"} {
			fi, err := os.Lstat(filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".partial", p))
			if err != nil {
				return false
			}
			if fi.Size() != 0 {
				t.Errorf("%s has %d bytes before any came", p, fi.Size())
			}
		}
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := (&Store{Bucket: readyBucket{f.b, made}}).Stage(ctx, m, StageOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}

// A file that was to be linked, and is altered after it was looked at, is
// fetched.
func TestLostLinkIsFetched(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", "content of a")
	f.write("b", "content of b")
	f.publish()
	m1, d1 := f.manifest(), stageDir(t)
	mustStage(t, f.b, m1, StageOptions{Dir: d1})
	f.write("new", "content")
	f.publish()
	m, dir := f.manifest(), stageDir(t)
	// The first change of the disk is the new folder, the second is a link.
	changes := 0
	st := &stager{s: &Store{Bucket: f.b}, m: m, o: StageOptions{Dir: dir, Reuse: []Staged{{d1, m1}}}, meter: newMeter(nil), step: func() error {
		if changes++; changes != 2 {
			return nil
		}
		return os.WriteFile(filepath.Join(d1, "a"), []byte("CONTENT of a"), 0o644)
	}}
	if err := st.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
	if st.stats.Requests != 2 || st.stats.Reused != 1 {
		t.Errorf("%+v", st.stats)
	}
}
