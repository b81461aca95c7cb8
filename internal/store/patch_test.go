package store

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/bootwell/bootwell/internal/release"
)

func manifestOf(t testing.TB, n int, change func(i int, f *release.File)) []byte {
	t.Helper()
	m := &release.Manifest{Schema: 1, Project: "acme", Number: 1, Packs: []release.Pack{{Digest: release.DigestOf(nil), Size: 1 << 40}}}
	for i := range n {
		d := release.DigestOf(noise(uint64(i), 40))
		f := release.File{Path: fmt.Sprintf("folder%03d/file%06d.txt", i/100, i), Mode: 0o644, Size: int64(i*37%9000 + 1), Digest: d}
		change(i, &f)
		f.Blobs = []release.Blob{{Digest: f.Digest, Size: f.Size, Offset: int64(i) * 4567, Stored: f.Size/2 + 9}}
		m.Files = append(m.Files, f)
	}
	b, err := m.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A delta holds little but what is new.
func TestPatchIsSmall(t *testing.T) {
	from := manifestOf(t, 2000, func(int, *release.File) {})
	for name, c := range map[string]struct {
		change func(i int, f *release.File)
		max    int
	}{
		"nothing":  {func(int, *release.File) {}, 20},
		"one file": {func(i int, f *release.File) { touch(f, i == 1000) }, 250},
		"fifty":    {func(i int, f *release.File) { touch(f, i%40 == 7) }, 50 * 100},
		"a folder is renamed": {func(i int, f *release.File) {
			if i/100 == 7 {
				f.Path = fmt.Sprintf("folder007-new/file%06d.txt", i)
			}
		}, 100 * 15},
		"modes": {func(i int, f *release.File) { f.Mode = 0o755 }, 2000 * 5},
	} {
		to := manifestOf(t, 2000, c.change)
		z, err := delta(from, to)
		if err != nil {
			t.Fatal(err)
		}
		if len(z) > c.max {
			t.Errorf("%s: %d bytes, want %d at most", name, len(z), c.max)
		}
		if got, err := patched(z, from, int64(len(to))); err != nil || !bytes.Equal(got, to) {
			t.Errorf("%s: another text (%v)", name, err)
		}
		if _, err := patched(z, from, int64(len(to))-1); err == nil {
			t.Errorf("%s: more came than was signed", name)
		}
	}
}

func touch(f *release.File, yes bool) {
	if yes {
		f.Digest, f.Size = release.DigestOf([]byte(f.Path)), 7
	}
}

// FuzzDiff restores any text from any other.
func FuzzDiff(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("the same text, and then some more of it"), []byte("the same text, or then some more of it"))
	f.Add(bytes.Repeat([]byte("ab"), 100), bytes.Repeat([]byte("ba"), 90))
	f.Fuzz(func(t *testing.T, from, to []byte) {
		z, err := delta(from, to)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := patched(z, from, int64(len(to))); err != nil || !bytes.Equal(got, to) {
			t.Fatalf("restored %q, %v", got, err)
		}
	})
}

// FuzzPatched feeds any steps: what comes out is bounded, and nothing breaks.
func FuzzPatched(f *testing.F) {
	from := []byte("what was there before")
	f.Add(diff(from, []byte("what was here before")))
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	c, err := sharedCoders()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		const size = 30
		if out, err := patched(c.compress(steps), from, size); err == nil && len(out) > size {
			t.Errorf("%d bytes came where %d were signed", len(out), size)
		}
	})
}

func BenchmarkDelta(b *testing.B) {
	from := manifestOf(b, 10_000, func(int, *release.File) {})
	to := manifestOf(b, 10_000, func(i int, f *release.File) { touch(f, i == 5000) })
	n := 0
	for b.Loop() {
		z, err := delta(from, to)
		if err != nil {
			b.Fatal(err)
		}
		n = len(z)
	}
	b.ReportMetric(float64(n), "bytes")
}
