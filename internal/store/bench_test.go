package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// thousand writes a project of 1,000 files and 11 MB, half of which compresses,
// and returns its size.
func thousand(b *testing.B, dir string) (size int64) {
	b.Helper()
	for i := range 1000 {
		text := []byte{}
		for j := 0; len(text) < 5500; j++ {
			text = fmt.Appendf(text, "line %d of file %d says %x\n", j, i, noise(uint64(i*31+j), 8))
		}
		text = append(text, noise(uint64(i), 5500)...)
		write(b, dir, fmt.Sprintf("d%02d/f%03d", i/40, i), text, 0o644)
		size += int64(len(text))
	}
	return size
}

// BenchmarkStage measures what a VM does for a project of 1,000 files and
// 11 MB in a folder: the first time, and when one file changed.
func BenchmarkStage(b *testing.B) {
	folder, err := file.OpenDir(b.TempDir(), file.Options{})
	if err != nil {
		b.Fatal(err)
	}
	f := newFixture(b, folder)
	thousand(b, f.dir)
	f.publish()
	m1, d1 := f.manifest(), stageDir(b)
	mustStage(b, folder, m1, StageOptions{Dir: d1})
	f.write("d03/f130", "changed")
	f.publish()
	v, err := f.client(folder).Refresh(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		have *release.Manifest
		o    StageOptions
	}{{"cold", nil, StageOptions{}}, {"one file", m1, StageOptions{Reuse: []Staged{{d1, m1}}}}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			c := bucket.Count(folder)
			s := &Store{Bucket: c}
			for b.Loop() {
				b.StopTimer()
				bench.o.Dir = stageDir(b)
				b.StartTimer()
				m, err := s.Manifest(context.Background(), v, "r2", bench.have)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Stage(context.Background(), m, bench.o); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(c.Traffic().Requests())/float64(b.N), "requests/op")
			b.ReportMetric(float64(c.Traffic().Down)/float64(b.N), "down-B/op")
		})
	}
}

// BenchmarkPublish measures what a publisher does for 1,000 files and 11 MB: the
// first time, and when one file changed.
func BenchmarkPublish(b *testing.B) {
	for _, bench := range []struct {
		name string
		cold bool
	}{{"cold", true}, {"one file", false}} {
		b.Run(bench.name, func(b *testing.B) {
			f := newFixture(b, bucket.NewMem())
			size := thousand(b, f.dir)
			if !bench.cold {
				f.publish()
				size = 1
			}
			b.SetBytes(size)
			b.ReportAllocs()
			p, n := f.publisher(f.b), 0
			for b.Loop() {
				b.StopTimer()
				n++
				f.write("d03/f130", fmt.Sprint("changed ", n))
				if bench.cold {
					mem := bucket.NewMem()
					anchor, err := trust.Init(context.Background(), mem, f.keys, f.now(), trust.DefaultLifetime)
					if err != nil {
						b.Fatal(err)
					}
					f.b, f.anchor = mem, anchor
					p = f.publisher(mem)
				}
				b.StartTimer()
				if _, err := (&Store{Bucket: f.b}).Publish(context.Background(), p, f.options()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkChunk measures how fast files are read, cut and hashed.
func BenchmarkChunk(b *testing.B) {
	for _, bench := range []struct {
		name string
		size int
	}{{"4KB", 4 << 10}, {"1MB", 1 << 20}, {"20MB", 20 << 20}} {
		b.Run(bench.name, func(b *testing.B) {
			dir := b.TempDir()
			write(b, dir, "file", noise(7, bench.size), 0o644)
			r, err := os.Open(filepath.Join(dir, "file"))
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			var h hasher
			for b.Loop() {
				if _, err := r.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				var got release.File
				if err := h.file(r, int64(bench.size), &got, func([]byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPack measures how fast content becomes packs in memory.
func BenchmarkPack(b *testing.B) {
	dir := b.TempDir()
	size := thousand(b, dir)
	files, err := scan(context.Background(), dir, nil, openTreeCache("", dir), slog.New(slog.DiscardHandler), newMeter(nil))
	if err != nil {
		b.Fatal(err)
	}
	pieces, _ := index{}.missing(files)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		out := newOutbox(context.Background(), bucket.NewMem())
		p := packer{out: out, dir: dir, meter: newMeter(nil), made: index{}}
		if err := p.pack(context.Background(), pieces); err != nil {
			b.Fatal(err)
		}
		if err := out.wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify measures how fast a staged tree is hashed and compared.
func BenchmarkVerify(b *testing.B) {
	f := newFixture(b, bucket.NewMem())
	size := thousand(b, f.dir)
	f.publish()
	tree := Staged{stageDir(b), f.manifest()}
	mustStage(b, f.b, tree.Manifest, StageOptions{Dir: tree.Dir})
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if err := VerifyStaged(context.Background(), tree, ""); err != nil {
			b.Fatal(err)
		}
	}
}
