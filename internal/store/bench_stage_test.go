//go:build linux

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
)

// A workload is a project of a size, as docs/performance.md has them.
type workload struct {
	name            string
	files, bytes    int // small files, and how large each is on average
	large, perLarge int // large files
}

var workloads = []workload{
	{"S", 40, 5_000, 0, 0},
	{"M", 1_000, 11_000, 0, 0},
	{"L", 10_000, 11_000, 5, 20 << 20},
}

func (w workload) path(i int) string {
	return fmt.Sprintf("app/part%02d/d%03d/file%05d.conf", i/1000, i/50, i)
}

// text is content that a compressor halves.
func (w workload) text(i int) []byte {
	n := w.bytes/2 + i*7919%w.bytes
	b := make([]byte, 0, n+200)
	for j := 0; len(b) < n; j++ {
		b = fmt.Appendf(b, "setting_%d = value %x of file %d\n", j, noise(uint64(i*31+j), 14), i)
	}
	return b
}

func (w workload) write(b *testing.B, dir string) {
	for i := range w.files {
		write(b, dir, w.path(i), w.text(i), []fs.FileMode{0o644, 0o644, 0o644, 0o755}[i%4])
	}
	for i := range w.large {
		write(b, dir, fmt.Sprintf("bin/large%d", i), noise(uint64(1000+i), w.perLarge), 0o755)
	}
}

// changes are the releases after the first, each made from it.
var changes = []struct {
	name  string
	apply func(b *testing.B, w workload, dir string)
}{
	{"1 file", func(b *testing.B, w workload, dir string) {
		write(b, dir, w.path(7), []byte("changed\n"), 0o644)
	}},
	{"50 files", func(b *testing.B, w workload, dir string) {
		for i := range min(50, w.files) {
			k := i * (w.files / min(50, w.files))
			write(b, dir, w.path(k), append(w.text(k), "changed\n"...), 0o644)
		}
	}},
	{"rename", func(b *testing.B, w workload, dir string) {
		if err := os.Rename(filepath.Join(dir, "app/part00"), filepath.Join(dir, "app/renamed")); err != nil {
			b.Fatal(err)
		}
	}},
	{"1 byte", func(b *testing.B, w workload, dir string) {
		if w.large == 0 {
			return
		}
		data := noise(1000, w.perLarge)
		data[w.perLarge/2] ^= 1
		write(b, dir, "bin/large0", data, 0o755)
	}},
}

// A benchWorld is a bucket with the first release of a workload and those of
// all changes.
type benchWorld struct {
	bucket    bucket.Bucket
	manifests [][]byte
}

// benchDir is where worlds stay from one call to the next, so that a profile
// or a trace shows nothing of their making; "": a temporary folder.
const benchDir = "BOOTWELL_BENCH_DIR"

func (w workload) world(b *testing.B, kind string) *benchWorld {
	dir := filepath.Join(b.TempDir(), "world")
	if d := os.Getenv(benchDir); d != "" {
		dir = filepath.Join(d, w.name+"-"+kind)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	bw := &benchWorld{}
	var err error
	switch kind {
	case "file":
		bw.bucket, err = file.OpenDir(dir, file.Options{})
	case "s3":
		srv := buckettest.StartVersityGW(b, buckettest.ServerConfig{Dir: dir})
		if _, serr := os.Stat(filepath.Join(dir, "data/fleet")); errors.Is(serr, fs.ErrNotExist) {
			srv.CreateBucket("fleet")
		}
		bw.bucket, err = s3.Open(context.Background(), srv.URL("fleet", "p"), s3.Options{Sources: []s3.Source{s3.Static(buckettest.RootKey, buckettest.RootSecret, "")}})
	}
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		w.publish(b, bw.bucket, dir)
	}
	for i := range len(changes) + 1 {
		m, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			b.Fatal(err)
		}
		bw.manifests = append(bw.manifests, m)
	}
	return bw
}

func (w workload) publish(b *testing.B, to bucket.Bucket, dir string) {
	f := newFixture(b, to)
	keep := func(i int) {
		f.publish()
		m, err := f.manifest().Bytes()
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), m, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	w.write(b, f.dir)
	keep(0)
	for i, c := range changes {
		c.apply(b, w, f.dir)
		keep(i + 1)
		if err := os.RemoveAll(f.dir); err != nil {
			b.Fatal(err)
		}
		w.write(b, f.dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "made"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
}

// benchTree returns the name of a new folder in a parent that is removed at the
// end, not before: ext4 leaves inodes alone that were freed a short while ago,
// so that to make files after many were removed costs ten times as much. With
// benchDir it stays, to be made away with together with its file system.
func benchTree(b *testing.B) string {
	if os.Getenv(benchDir) == "" {
		return b.TempDir()
	}
	d, err := os.MkdirTemp("", "")
	if err != nil {
		b.Fatal(err)
	}
	return d
}

func (w *benchWorld) manifest(b *testing.B, i int) *release.Manifest {
	m, err := release.ParseManifest(w.manifests[i])
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func cpuMillis() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// peakRSS is the most memory this process ever had, in MB.
func peakRSS() float64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, _ := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kb) / 1000
}

// BenchmarkStageTree measures Stage alone: the first time, and each change
// with the tree before it and an older one on the disk.
func BenchmarkStageTree(b *testing.B) {
	for _, w := range workloads {
		for _, kind := range []string{"file", "s3"} {
			b.Run(w.name+"/"+kind, func(b *testing.B) {
				bw := w.world(b, kind)
				b.Run("cold", func(b *testing.B) {
					m := bw.manifest(b, 0)
					bw.measure(b, func() (*release.Manifest, StageOptions) {
						return m, StageOptions{Dir: filepath.Join(benchTree(b), "tree")}
					})
				})
				for i, c := range changes {
					m := bw.manifest(b, i+1)
					b.Run(c.name+"/links", func(b *testing.B) {
						bw.measure(b, func() (*release.Manifest, StageOptions) { return m, bw.before(b, false) })
					})
					b.Run(c.name+"/spare", func(b *testing.B) {
						bw.measure(b, func() (*release.Manifest, StageOptions) { return m, bw.before(b, true) })
					})
				}
			})
		}
	}
}

// before makes the trees that a VM has before an update, with an older one or
// without.
func (w *benchWorld) before(b *testing.B, spare bool) StageOptions {
	parent := benchTree(b)
	m0 := w.manifest(b, 0)
	now, old := filepath.Join(parent, "now"), filepath.Join(parent, "old")
	o := StageOptions{Dir: filepath.Join(parent, "new"), Reuse: []Staged{{Dir: now}}, Remember: true}
	mustStage(b, w.bucket, m0, StageOptions{Dir: now, Remember: true})
	if spare {
		o.Spare = Staged{Dir: old}
		mustStage(b, w.bucket, m0, StageOptions{Dir: old, Reuse: o.Reuse, Remember: true})
	}
	return o
}

func (w *benchWorld) measure(b *testing.B, prepare func() (*release.Manifest, StageOptions)) {
	c := bucket.Count(w.bucket)
	s := &Store{Bucket: c}
	var cpu float64
	for b.Loop() {
		b.StopTimer()
		m, o := prepare()
		syscall.Sync()
		c0 := cpuMillis()
		b.StartTimer()
		if _, err := s.Stage(context.Background(), m, o); err != nil {
			b.Fatal(err)
		}
		cpu += cpuMillis() - c0
	}
	n := float64(b.N)
	b.ReportMetric(float64(c.Traffic().Requests())/n, "requests/op")
	b.ReportMetric(float64(c.Traffic().Down)/n, "down-B/op")
	b.ReportMetric(cpu/n, "cpu-ms/op")
	b.ReportMetric(peakRSS(), "peak-MB")
}
