package release

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What is written here and what a general encoder of RFC 8785 writes is the
// same, for manifests that make sense and for those that do not.
func FuzzManifestIsCanonical(f *testing.F) {
	f.Add("a", "", "acme", int64(7), int64(5), int64(16), uint32(0o644), byte(0))
	f.Add("é\u2028<&>\U0001f600", "../\x7f", "a\"b\\c", int64(1<<53), int64(0), int64(1), uint32(0), byte(0xff))
	f.Add("\x00\b\t\n\f\r\x1f", "\xff\xfe\xed\xa0\x80", "", int64(1<<53+1), int64(-1), int64(1<<62), uint32(1<<31), byte(0x55))
	f.Fuzz(func(t *testing.T, p, link, project string, size, offset, stored int64, mode uint32, bits byte) {
		on := func(n int) bool { return bits>>n&1 == 1 }
		d := DigestOf([]byte(p))
		m := &Manifest{Schema: int(bits), Project: project, Number: int(size), Source: Source{By: p, Note: link, Dirty: on(0)}}
		blob := Blob{Digest: d, Size: size, Pack: int(stored), Offset: offset, Stored: stored}
		if on(1) {
			m.Files = []File{{Path: p, Mode: mode, Size: size, Digest: d, Dir: on(2)}, {Path: link, Link: p}, {Link: link, Blobs: []Blob{blob, {}}}}
			m.Packs = []Pack{{Digest: d, Size: offset}, {}}
		}
		if on(3) {
			m.Files, m.Packs, m.Roles = append(m.Files, File{Blobs: []Blob{blob}}), []Pack{}, map[string]Role{project: {Description: link}}
		}
		got, err := m.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.encodeSlowly(true)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("wrote %s\nwant  %s (%v)", got, want, err)
		}
	})
}

func TestSealedIsWhatReadersTake(t *testing.T) {
	want, _ := sample().Bytes()
	if got, err := sample().Sealed(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a good manifest: %v", err)
	}
	for name, change := range map[string]func(*Manifest){
		"path":   func(m *Manifest) { m.Files[0].Path = "../x" },
		"blob":   func(m *Manifest) { m.Files[0].Blobs[0].Stored = 100 },
		"number": func(m *Manifest) { m.Number = 0 },
		"schema": func(m *Manifest) { m.Schema = 0 },
		"long":   func(m *Manifest) { m.Source.Note = strings.Repeat("x", MaxManifestBytes) },
	} {
		m := sample()
		change(m)
		if _, err := m.Sealed(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := sample()
	m.Schema = SchemaVersion + 1
	if _, err := m.Sealed(); !errors.Is(err, ErrNewer) {
		t.Errorf("newer: %v", err)
	}
}

func large(n int) *Manifest {
	m := &Manifest{Schema: 1, Project: "acme", Number: 1, Roles: map[string]Role{}, Packs: []Pack{{Digest: DigestOf(nil), Size: 1 << 40}}}
	for i := range n {
		p := fmt.Sprintf("folder%03d/file%06d.txt", i/100, i)
		d := DigestOf([]byte(p))
		m.Files = append(m.Files, File{Path: p, Mode: 0o644, Size: int64(i + 1), Digest: d, Blobs: []Blob{{Digest: d, Size: int64(i + 1), Offset: int64(i) * 1000, Stored: 999}}})
	}
	return m
}

func BenchmarkManifestBytes(b *testing.B) {
	m := large(10_000)
	for b.Loop() {
		if _, err := m.Bytes(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseManifest(b *testing.B) {
	body, err := large(10_000).Bytes()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := ParseManifest(body); err != nil {
			b.Fatal(err)
		}
	}
}
