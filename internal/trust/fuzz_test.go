package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// FuzzRefresh puts any bytes in the place of any metadata in the bucket. A
// client never panics, and takes no other state than the one that was signed.
func FuzzRefresh(f *testing.F) {
	w := newBareWorld(f)
	w.publish()
	objects := copyBucket(f, w.bucket)
	names := []string{"1.root.json", "2.root.json", timestampFile, "2.snapshot.json", "1.targets.json", "2.releases.json", "2.channels.json"}
	for i, name := range names {
		for _, other := range names {
			f.Add(uint8(i), objects[metadataPrefix+other])
		}
		b := objects[metadataPrefix+name]
		f.Add(uint8(i), b[:len(b)/2])
		f.Add(uint8(i), bytes.Replace(b, []byte(`{`), []byte(`null`), 1))
		f.Add(uint8(i), bytes.Replace(b, []byte(`"version":`), []byte(`"version":-`), 1))
	}
	f.Add(uint8(2), []byte(`{"signed":{"_type":"timestamp","meta":{"snapshot.json":null}},"signatures":[]}`))
	f.Add(uint8(0), []byte(`{"signed":{"_type":"root","roles":{"root":null},"keys":{"":null}},"signatures":[null]}`))
	want := w.current()
	template := w.client()
	mustRefresh(f, template)
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		mem := bucket.NewMem()
		for key, data := range objects {
			put(t, mem, key, data)
		}
		name := names[int(which)%len(names)]
		put(t, mem, metadataPrefix+name, b)
		for _, dir := range []string{t.TempDir(), template.Dir} {
			v, err := (&Client{Bucket: mem, Dir: dir, Anchor: w.anchor, Now: w.clock}).Refresh(t.Context())
			if err != nil {
				continue
			}
			if !reflect.DeepEqual(v.set.versions(), want.versions()) || len(v.targets) != 2 || v.set.root.Signed.Version != 1 {
				t.Fatalf("%s: another state was accepted: %v", name, v.set.versions())
			}
			if !sameSigned(v.set.files[timestampFile], want.files[timestampFile]) {
				t.Fatalf("another timestamp was accepted:\n%s", b)
			}
		}
	})
}

// FuzzVerify is the same for what a machine finds on its own disk, without
// the disk.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	w.publish()
	good := w.current().files
	names := append([]string{rootFile(1), rootFile(2)}, nonRoot()...)
	for i, name := range names {
		f.Add(uint8(i), good[name])
		f.Add(uint8(i), good[timestampFile])
		f.Add(uint8(i), bytes.Replace(good[name], []byte(`{"`), []byte(`{"x":null,"`), -1))
	}
	want, err := verify(w.anchor, good, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		files := maps.Clone(good)
		name := names[int(which)%len(names)]
		files[name] = b
		s, err := verify(w.anchor, files, start)
		if err != nil {
			if !errors.Is(err, ErrUntrusted) && !errors.Is(err, ErrRollback) && !errors.Is(err, ErrExpired) {
				t.Fatalf("not one of the refusals: %v", err)
			}
			return
		}
		if !reflect.DeepEqual(s.versions(), want.versions()) || s.root.Signed.Version != 1 || !sameSigned(s.files[timestampFile], good[timestampFile]) {
			t.Fatalf("%s: another state was accepted", name)
		}
	})
}

// sameSigned reports whether two files say the same above their signatures.
func sameSigned(a, b []byte) bool {
	signed := func(b []byte) (v struct{ Signed any }) { json.Unmarshal(b, &v); return v }
	return reflect.DeepEqual(signed(a), signed(b))
}

func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"owner":"a","expires":"2031-03-01T12:30:00Z","token":"t"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"expires":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := parseLease(b, start)
		if !json.Valid(b) && (l.Token == "" || !l.Expires.Equal(start.Add(unreadableTTL))) {
			t.Fatalf("unreadable lease is %+v", l)
		}
	})
}

// FuzzUnpackBundle reads any bytes as a bundle, packed or not: what comes out is
// within bounds and of the kinds that may travel.
func FuzzUnpackBundle(f *testing.F) {
	w := newWorld(f)
	w.publish()
	b := w.read(fullBundle)
	plain, err := unpackBundle(b, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add(b[:len(b)/2], false)
	f.Add(joinObjects(plain), true)
	f.Add(append(joinObjects(plain), "manifests/x 1\n"...), true)
	f.Fuzz(func(t *testing.T, b []byte, bare bool) {
		read := func(b []byte) (map[string][]byte, error) { return unpackBundle(b, nil) }
		if bare {
			read = parseBundle
		}
		objects, err := read(b)
		if err != nil && !errors.Is(err, errBundle) {
			t.Fatalf("not one of the refusals: %v", err)
		}
		total := 0
		for key, data := range objects {
			if total += len(data); !carriable(key, data) {
				t.Fatalf("%s may not travel", key)
			}
		}
		if total > maxBundleUnpacked && !bare || err != nil && len(objects) > 0 {
			t.Fatalf("%d bytes, %v", total, err)
		}
		if err != nil {
			return
		}
		again, err := parseBundle(joinObjects(objects))
		if err != nil || len(again) != len(objects) {
			t.Fatalf("%d of %d objects after another turn: %v", len(again), len(objects), err)
		}
	})
}
