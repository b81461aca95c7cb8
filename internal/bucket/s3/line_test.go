package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

func openVia(t testing.TB, url string, via buckettest.Via, source s3.Source) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), url, s3.Options{Sources: []s3.Source{source}, Transport: via(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLine(t *testing.T) {
	srv := buckettest.VersityGW(t)
	var n atomic.Int64
	buckettest.TestLine(t, func(t testing.TB, via buckettest.Via) (bucket.Bucket, bucket.Bucket) {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateBucket(name)
		return openVia(t, srv.URL(name, "p"), via, root()), open(t, srv.URL(name, "p"), root())
	})
}

func TestClock(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	buckettest.Put(t, open(t, srv.URL("fleet", ""), root()), "k", nil)
	buckettest.TestClock(t, buckettest.Clock{Words: "clock of this machine is wrong", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
		return openVia(t, srv.URL("fleet", ""), via, root())
	}})
}

func TestRefused(t *testing.T) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	buckettest.Put(t, open(t, srv.URL("fleet", ""), root()), "k", nil)
	with := func(name string, source s3.Source) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return openVia(t, srv.URL(name, ""), via, source)
		}
	}
	secrets := []string{"wrong/secret+key", "a/session+token"}
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "wrong access key", Open: with("fleet", s3.Static("nobody", secrets[0], "")), Want: bucket.ErrCredentials, Words: "InvalidAccessKeyId", Secrets: secrets},
		{Name: "wrong secret", Open: with("fleet", s3.Static(buckettest.RootKey, secrets[0], "")), Want: bucket.ErrCredentials, Words: "SignatureDoesNotMatch", Secrets: secrets},
		{Name: "wrong session token", Open: with("fleet", s3.Static(buckettest.RootKey, secrets[0], secrets[1])), Want: bucket.ErrCredentials, Words: "InvalidToken", Secrets: secrets},
		{Name: "unsigned", Words: "AccessDenied", Open: func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return openVia(t, srv.URL("fleet", "")+"&anonymous=true", via, root())
		}},
		{Name: "missing bucket", Open: with("nothere", root()), Want: bucket.ErrNoBucket, Words: "NoSuchBucket"},
	})
}
