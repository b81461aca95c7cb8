package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/release"
)

// BenchmarkStage measures what a VM does for a project of 1,000 files and
// 11 MB in a folder: the first time, and when one file changed.
func BenchmarkStage(b *testing.B) {
	folder, err := file.OpenDir(b.TempDir(), file.Options{})
	if err != nil {
		b.Fatal(err)
	}
	f := newFixture(b, folder)
	for i := range 1000 {
		text := []byte{}
		for j := 0; len(text) < 5500; j++ {
			text = fmt.Appendf(text, "line %d of file %d says %x\n", j, i, noise(uint64(i*31+j), 8))
		}
		write(b, f.dir, fmt.Sprintf("d%02d/f%03d", i/40, i), append(text, noise(uint64(i), 5500)...), 0o644)
	}
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
