package bucket_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func TestCount(t *testing.T) {
	c := bucket.Count(bucket.NewMem())
	obj := buckettest.Put(t, c, "a", make([]byte, 100))
	buckettest.Put(t, c, "b", nil)
	before := c.Traffic()
	buckettest.Get(t, c, "a")
	if _, _, err := c.Get(t.Context(), "a", bucket.GetOptions{IfNoneMatch: obj.ETag}); !errors.Is(err, bucket.ErrNotModified) {
		t.Fatal(err)
	}
	buckettest.Keys(t, c, "", "")
	if err := c.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	want := bucket.Traffic{Gets: 2, NotModified: 1, Puts: 2, Lists: 1, Deletes: 1, Down: 100, Up: 100}
	if got := c.Traffic(); got != want || got.Requests() != 6 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want.Puts, want.Up = 0, 0
	if got := c.Traffic().Sub(before); got != want {
		t.Errorf("since the puts: %+v, want %+v", got, want)
	}
	for range 2001 {
		buckettest.Put(t, c, "n/"+strings.Repeat("x", int(c.Traffic().Puts%997)+1), nil)
	}
	start := c.Traffic()
	n := len(buckettest.Keys(t, c, "n/", ""))
	if lists := c.Traffic().Sub(start).Lists; lists != int64(n+999)/1000 {
		t.Errorf("a list of %d objects counts as %d", n, lists)
	}
}

func TestDryRun(t *testing.T) {
	mem := bucket.NewMem()
	obj := buckettest.Put(t, mem, "k", []byte("old"))
	d := bucket.DryRun(mem)
	for _, c := range []struct {
		key  string
		cond bucket.Condition
		want error
	}{
		{"k", bucket.Condition{}, nil},
		{"k", bucket.Condition{IfMatch: obj.ETag}, nil},
		{"k", bucket.Condition{IfMatch: "x"}, bucket.ErrPrecondition},
		{"k", bucket.Condition{IfAbsent: true}, bucket.ErrExists},
		{"new", bucket.Condition{IfAbsent: true}, nil},
		{"new", bucket.Condition{IfMatch: "x"}, bucket.ErrNotExist},
	} {
		got, err := d.Put(t.Context(), c.key, strings.NewReader("new one"), c.cond)
		if !errors.Is(err, c.want) {
			t.Errorf("put %s %+v: %v, want %v", c.key, c.cond, err, c.want)
		}
		if err == nil && got.Size != 7 {
			t.Errorf("put %s: size %d", c.key, got.Size)
		}
	}
	if err := d.Delete(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	if got := buckettest.Keys(t, d, "", ""); !slices.Equal(got, []string{"k"}) {
		t.Errorf("the bucket holds %q", got)
	}
	if got, _ := buckettest.Get(t, d, "k"); string(got) != "old" {
		t.Errorf("k holds %q", got)
	}
	ro := bucket.DryRun(bucket.NewMemWith(bucket.Caps{ReadOnly: true}))
	if _, err := ro.Put(t.Context(), "k", strings.NewReader(""), bucket.Condition{}); !errors.Is(err, bucket.ErrUnsupported) {
		t.Errorf("put to a read-only bucket: %v", err)
	}
}

func TestFaults(t *testing.T) {
	mem := bucket.NewMem()
	f := bucket.NewFaults(mem)
	buckettest.Put(t, f, "tuf/a", []byte("first"))
	get := func(key string) (string, error) {
		data, _, err := bucket.ReadAll(t.Context(), f, key, bucket.GetOptions{}, 100)
		return string(data), err
	}

	f.Set(bucket.Fault{Method: "Get", Key: "tuf/", Skip: 1, Times: 2, Err: bucket.ErrPermission})
	var got []bool
	for range 5 {
		_, err := get("tuf/a")
		got = append(got, errors.Is(err, bucket.ErrPermission))
	}
	if want := []bool{false, true, true, false, false}; !slices.Equal(got, want) || f.Hits() != 2 {
		t.Errorf("went wrong: %v, want %v; %d hits", got, want, f.Hits())
	}

	f.Set(bucket.Fault{Kind: bucket.FaultCut, Bytes: 2})
	if _, err := get("tuf/a"); !errors.Is(err, bucket.ErrTruncated) {
		t.Errorf("cut: %v", err)
	}
	f.Set(bucket.Fault{Kind: bucket.FaultFlip, Bytes: 3})
	if data, err := get("tuf/a"); err != nil || data != "fir"+string([]byte{'s' ^ 0xff})+"t" {
		t.Errorf("flip: %q, %v", data, err)
	}

	f.Set(bucket.Fault{Kind: bucket.FaultStale})
	buckettest.Put(t, f, "tuf/a", []byte("second"))
	buckettest.Put(t, f, "tuf/b", []byte("new"))
	if data, err := get("tuf/a"); err != nil || data != "first" {
		t.Errorf("stale: %q, %v", data, err)
	}
	if _, err := get("tuf/b"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("stale get of a new object: %v", err)
	}
	if keys := buckettest.Keys(t, f, "", ""); !slices.Equal(keys, []string{"tuf/a"}) {
		t.Errorf("stale list: %q", keys)
	}

	f.Set(bucket.Fault{Kind: bucket.FaultLost})
	if _, err := f.Put(t.Context(), "lost", bytes.NewReader([]byte("x")), bucket.Condition{}); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("lost: %v", err)
	}
	if data, _ := buckettest.Get(t, mem, "lost"); string(data) != "x" {
		t.Errorf("lost: the object holds %q", data)
	}
	if err := f.Delete(t.Context(), "lost"); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("lost delete: %v", err)
	}
	f.Set()
	if _, err := get("lost"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("after a lost delete: %v", err)
	}
}

func TestReadAll_Bound(t *testing.T) {
	mem := bucket.NewMem()
	buckettest.Put(t, mem, "k", make([]byte, 101))
	if _, _, err := bucket.ReadAll(t.Context(), mem, "k", bucket.GetOptions{}, 100); !errors.Is(err, bucket.ErrTooLarge) {
		t.Errorf("101 bytes of at most 100: %v", err)
	}
	if data, _, err := bucket.ReadAll(t.Context(), mem, "k", bucket.GetOptions{}, 101); err != nil || len(data) != 101 {
		t.Errorf("101 bytes of at most 101: %d, %v", len(data), err)
	}
}

func TestNewBody_ShortAndLong(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int64
		want string
		err  error
	}{
		{"12345", 5, "12345", nil},
		{"12345", 3, "123", nil},
		{"12345", 6, "12345", bucket.ErrTruncated},
		{"", 1, "", bucket.ErrTruncated},
		{"12345", -1, "12345", nil},
	} {
		r := bucket.NewBody(t.Context(), io.NopCloser(strings.NewReader(c.text)), c.n, nil)
		got, err := io.ReadAll(r)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%d of %q: %q, %v", c.n, c.text, got, err)
		}
	}
}
