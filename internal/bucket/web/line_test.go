package web_test

import (
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/needs"
)

func TestLine(t *testing.T) {
	nginx := needs.Tool(t, "nginx")
	buckettest.TestLine(t, func(t testing.TB, via buckettest.Via) (bucket.Bucket, bucket.Bucket) {
		dir := folder(t)
		b, err := web.Open(t.Context(), startNginx(t, nginx, dir.Dir())+"/prod/x", web.Options{Transport: via(nil)})
		if err != nil {
			t.Fatal(err)
		}
		return b, dir
	})
}

func TestRefused(t *testing.T) {
	base := startNginx(t, needs.Tool(t, "nginx"), folder(t).Dir())
	buckettest.TestRefused(t, []buckettest.Refusal{{Name: "denied folder", Words: "403", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
		b, err := web.Open(t.Context(), base+"/denied", web.Options{Transport: via(nil)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}}})
}
