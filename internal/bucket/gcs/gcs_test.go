package gcs_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
)

func open(t testing.TB, url string, sources ...gcs.Source) *gcs.Bucket {
	t.Helper()
	return openVia(t, url, func(*http.Transport) http.RoundTripper { return nil }, sources...)
}

func openVia(t testing.TB, url string, via buckettest.Via, sources ...gcs.Source) *gcs.Bucket {
	t.Helper()
	b, err := gcs.Open(t.Context(), url, gcs.Options{Sources: sources, Transport: via(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	root := gcs.Static(srv.Token())
	var n atomic.Int64
	whole := func(t testing.TB) bucket.Bucket {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateBucket(name)
		return open(t, srv.URL(name, ""), root)
	}
	prefixed := func(t testing.TB) bucket.Bucket {
		return open(t, srv.URL("shared", fmt.Sprintf("a team/prod %d", n.Add(1))), root)
	}
	srv.CreateBucket("shared")
	t.Run("whole", func(t *testing.T) { buckettest.Test(t, whole, buckettest.Options{}) })
	t.Run("prefix", func(t *testing.T) { buckettest.Test(t, prefixed, buckettest.Options{Objects: 50}) })
}
