package release

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// The quick way and encoding/json agree on any bytes.
func FuzzDecodeManifest(f *testing.F) {
	s := sample()
	for _, p := range []string{`quote"`, `back\slash`, "tab\t", "é\u2028", "\x7f"} {
		s.Files = append(s.Files, File{Path: p, Link: p})
	}
	s.Files = append(s.Files, File{Path: "chunks", Mode: 1, Size: 3, Digest: DigestOf(nil), Blobs: []Blob{{Digest: DigestOf(nil), Size: 1}, {Digest: DigestOf(nil), Size: 2}}})
	b, err := s.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, text := range []string{
		`{"files":[],"number":1,"schema":1}`,
		`{"files":[{"path":"a"}],"number":1,"schema":1,"files":null}`,
		`{"files":[{"path":"a"}],"FILES":[{"path":"b"}],"schema":1}`,
		`{"files":[{"mode":4294967296,"path":"a"}],"schema":1}`,
		`{"files":[{"path":"a","size":01}],"schema":1}`,
		`{"files":[{"path":"a\ud800"}],"schema":1}`,
		"{\"files\":[{\"path\":\"a\xff\"}],\"schema\":1}",
		"{\"files\":[{\"path\":\"a\nb\"}],\"schema\":1}",
		`{"files":[{"path":"a"},],"schema":1}`,
		`{"files":[{"path":"a"}]}`,
		`{"files":[{"path":"a"}],"schema":2}`,
		`{"files":[{"path":"a"}],"schema":1}}`,
		`{"files":[{"blobs":[],"path":"a"}],"schema":1}`,
		`{"files":[{"digest":"","path":"a"}],"schema":1}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var quick, slow Manifest
		qerr, serr := decodeManifest(b, &quick), decodeSchema(b, &slow, "manifest")
		if (qerr == nil) != (serr == nil) || errors.Is(qerr, ErrNewer) != errors.Is(serr, ErrNewer) {
			t.Fatalf("quick: %v, slow: %v", qerr, serr)
		}
		if qerr == nil && !reflect.DeepEqual(quick, slow) {
			t.Errorf("quick: %+v\nslow: %+v", quick, slow)
		}
	})
}

func TestDecodeManyBlobs(t *testing.T) {
	m := large(300)
	for i := range m.Files {
		for j := range i * 7 % 50 {
			m.Files[i].Blobs = append(m.Files[i].Blobs, Blob{Digest: m.Files[i].Digest, Size: int64(i), Offset: int64(j), Stored: 1})
		}
	}
	m.Files[200].Blobs = append(m.Files[200].Blobs, make([]Blob, 2000)...)
	for i := range m.Files[200].Blobs {
		m.Files[200].Blobs[i].Digest = m.Files[i%300].Digest
	}
	b, err := m.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	files, _, ok := decodeFiles(b)
	var want Manifest
	if err := json.Unmarshal(b, &want); err != nil || !ok || !reflect.DeepEqual(files, want.Files) {
		t.Errorf("ok %v, %v; files differ", ok, err)
	}
	for i := range files {
		if len(files[i].Blobs) != cap(files[i].Blobs) {
			t.Fatalf("the blobs of file %d have room for those of another", i)
		}
	}
}
