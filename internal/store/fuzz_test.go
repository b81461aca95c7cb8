package store

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
			got, err := (&Store{Bucket: b}).packed(context.Background(), "manifests/x", dict, target)
			if err == nil && !bytes.Equal(got, to) {
				t.Fatalf("%q was taken for the signed manifest", got)
			}
		}
	})
}

// FuzzUnpack stages from a pack of anything: the tree is right or is not there.
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
	m.Packs[0] = release.Pack{Digest: release.DigestOf(pack), Size: int64(len(pack))}
	f.Add(pack)
	f.Add(pack[:len(pack)-1])
	f.Add(bytes.Repeat([]byte{0x28, 0xb5, 0x2f, 0xfd}, len(pack)/4))
	for i := 0; i < len(pack); i += 17 {
		bad := bytes.Clone(pack)
		bad[i] ^= 1
		f.Add(bad)
	}
	parent := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bucket.NewMem()
		put(t, b, packKey(m.Packs[0].Digest), data)
		dir := filepath.Join(parent, fmt.Sprint(os.Getpid()))
		_, err := (&Store{Bucket: b}).Stage(context.Background(), m, StageOptions{Dir: dir})
		defer os.RemoveAll(dir)
		if err != nil {
			if _, err := os.Lstat(dir); err == nil {
				t.Fatal("a tree appeared although staging failed")
			}
			return
		}
		for i, s := range texts {
			if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("f", i))); err != nil || string(got) != s {
				t.Fatalf("f%d is %q (%v)", i, got, err)
			}
		}
	})
}
