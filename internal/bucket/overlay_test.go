package bucket_test

import (
	"errors"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func TestOverlay_AnswersHeldKeysFromMemory(t *testing.T) {
	count := bucket.Count(bucket.NewMem())
	buckettest.Put(t, count, "held", []byte("of the bucket"))
	other := buckettest.Put(t, count, "other", []byte("other"))
	o := bucket.Overlay(count, map[string][]byte{"held": []byte("0123456789"), "empty": nil})
	for _, c := range []struct {
		key      string
		opt      bucket.GetOptions
		want     string
		size     int64
		err      error
		requests int64
	}{
		{"held", bucket.GetOptions{}, "0123456789", 10, nil, 0},
		{"held", bucket.GetOptions{Offset: 2, Length: 3}, "234", 10, nil, 0},
		{"held", bucket.GetOptions{Offset: 8, Length: 30}, "89", 10, nil, 0},
		{"held", bucket.GetOptions{Offset: 10}, "", 0, bucket.ErrTruncated, 0},
		{"empty", bucket.GetOptions{}, "", 0, nil, 0},
		{"held", bucket.GetOptions{IfNoneMatch: "x"}, "of the bucket", 13, nil, 1},
		{"other", bucket.GetOptions{}, "other", 5, nil, 1},
		{"other", bucket.GetOptions{IfNoneMatch: other.ETag}, "", 0, bucket.ErrNotModified, 1},
		{"neither", bucket.GetOptions{}, "", 0, bucket.ErrNotExist, 1},
	} {
		before := count.Traffic()
		data, obj, err := bucket.ReadAll(t.Context(), o, c.key, c.opt, 100)
		if !errors.Is(err, c.err) || err == nil && (string(data) != c.want || obj.Size != c.size || obj.Key != c.key) {
			t.Errorf("%s %+v: %q of %d, %v", c.key, c.opt, data, obj.Size, err)
		}
		if n := count.Traffic().Sub(before).Requests(); n != c.requests {
			t.Errorf("%s %+v: %d requests, want %d", c.key, c.opt, n, c.requests)
		}
	}
	if found, ok := bucket.As[*bucket.Counter](o); !ok || found != count {
		t.Error("the bucket behind the copies is not found")
	}
}

func TestOverlay_WritesDropTheCopy(t *testing.T) {
	mem := bucket.NewMem()
	o := bucket.Overlay(mem, map[string][]byte{"a": []byte("copy"), "b": []byte("copy")})
	buckettest.Put(t, o, "a", []byte("new"))
	if data, _ := buckettest.Get(t, o, "a"); string(data) != "new" {
		t.Errorf("after a put: %q", data)
	}
	if err := o.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := o.Get(t.Context(), "b", bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("after a delete: %v", err)
	}
}
