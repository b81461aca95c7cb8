package file_test

import (
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
)

func open(t testing.TB) bucket.Bucket {
	b, err := file.OpenDir(t.TempDir(), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) { buckettest.Test(t, open, buckettest.Options{}) }
