package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// FuzzManifestDelta feeds a VM anything in place of a delta: what comes out is
// the signed bytes, or an error.
func FuzzManifestDelta(f *testing.F) {
	from := []byte(strings.Repeat("a manifest with lines\n", 50))
	to := []byte(strings.Repeat("a manifest with lines\n", 40) + "changed" + strings.Repeat("a manifest with lines\n", 9))
	d, err := delta(from, to)
	if err != nil {
		f.Fatal(err)
	}
	c, err := sharedCoders()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d)
	f.Add(c.compress(to))
	f.Add(c.compress(make([]byte, 1<<20)))
	f.Add([]byte{})
	target := trust.Target{Name: "releases/r2.json", Size: int64(len(to)), Digest: release.DigestOf(to)}
	f.Fuzz(func(t *testing.T, packed []byte) {
		b := bucket.NewMem()
		put(t, b, "manifests/x", packed)
		for _, dict := range [][]byte{from, nil} {
			got, err := readPacked(context.Background(), b, "manifests/x", dict, target)
			if err == nil && !bytes.Equal(got, to) {
				t.Fatalf("%q was taken for the signed manifest", got)
			}
		}
	})
}

// FuzzUnpack reads a pack of anything: a blob is the signed one or does not come.
func FuzzUnpack(f *testing.F) {
	c, err := sharedCoders()
	if err != nil {
		f.Fatal(err)
	}
	texts := []string{"first file", strings.Repeat("second ", 100), string(noise(1, 300))}
	m := &release.Manifest{Schema: 1, Project: "p", Number: 1, Packs: []release.Pack{{}}, Roles: map[string]release.Role{}}
	var pack []byte
	for i, s := range texts {
		frame, d := c.compress([]byte(s)), release.DigestOf([]byte(s))
		m.Files = append(m.Files, release.File{Path: fmt.Sprint("f", i), Mode: 0o644, Size: int64(len(s)), Digest: d, Blobs: []release.Blob{
			{Digest: d, Size: int64(len(s)), Offset: int64(len(pack)), Stored: int64(len(frame))}}})
		pack = append(pack, frame...)
	}
	var wants []*want
	for i, file := range m.Files {
		wants = append(wants, &want{Blob: file.Blobs[0], dst: []dest{{file: i}}})
	}
	m.Packs[0] = release.Pack{Digest: release.DigestOf(pack), Size: int64(len(pack))}
	f.Add(pack)
	f.Add(pack[:len(pack)-1])
	f.Add(bytes.Repeat([]byte{0x28, 0xb5, 0x2f, 0xfd}, len(pack)/4))
	for i := 0; i < len(pack); i += 17 {
		bad := bytes.Clone(pack)
		bad[i] ^= 1
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bucket.NewMem()
		put(t, b, packKey(m.Packs[0].Digest), data)
		var mu sync.Mutex
		got := map[int]string{}
		r := &fetcher{bucket: b, coders: c, meter: newMeter(nil), name: func(*want) string { return "" }, sink: func(w *want, data []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got[w.dst[0].file] = string(data)
			return nil
		}}
		err := r.run(context.Background(), plan(m.Packs, wants))
		for i, s := range got {
			if s != texts[i] {
				t.Fatalf("f%d is %q", i, s)
			}
		}
		if err == nil && len(got) != len(texts) {
			t.Fatalf("%d files came and there is no error", len(got))
		}
		if err != nil && !errors.Is(err, trust.ErrUntrusted) && !errors.Is(err, bucket.ErrTruncated) {
			t.Fatalf("an error of another kind: %v", err)
		}
	})
}
