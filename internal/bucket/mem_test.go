package bucket_test

import (
	"bytes"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func TestMem(t *testing.T) {
	buckettest.Test(t, func(testing.TB) bucket.Bucket { return bucket.NewMem() }, buckettest.Options{Objects: 2600})
}

func TestMem_WithoutPromises(t *testing.T) {
	buckettest.Test(t, func(testing.TB) bucket.Bucket { return bucket.NewMemWith(bucket.Caps{}) }, buckettest.Options{Objects: 2600})
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a/b", "", ".", "..", "a//b", "/a", "a\x00", "ü/…", "a\\b", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if bucket.CheckKey(key) != nil {
			return
		}
		b := bucket.NewMem()
		if _, err := b.Put(t.Context(), key, bytes.NewReader([]byte("x")), bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
		if got := buckettest.Keys(t, b, "", ""); len(got) != 1 || got[0] != key {
			t.Fatalf("%q lists as %q", key, got)
		}
	})
}
