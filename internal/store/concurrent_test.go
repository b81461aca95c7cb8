package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/release"
)

// publishTogether has n publishers publish a different tree each.
func publishTogether(t *testing.T, b bucket.Bucket, n int) {
	f := newFixture(t, b)
	var wg sync.WaitGroup
	got := make([]Published, n)
	errs := make([]error, n)
	for i := range n {
		g := *f
		g.dir = t.TempDir()
		g.write("who", fmt.Sprint(i))
		g.write("common", string(noise(1, 50_000)))
		o := g.options()
		o.Owner = fmt.Sprint("publisher ", i)
		o.Source.Note = fmt.Sprint(i)
		wg.Go(func() { got[i], errs[i] = g.publishTo(b, o) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	v, err := f.client(b).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{Bucket: b}
	list, err := s.Releases(context.Background(), v)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []string
	for _, r := range list {
		numbers = append(numbers, r.Name)
		m, err := s.Manifest(context.Background(), v, r.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		dir := stageDir(t)
		mustStage(t, b, m, StageOptions{Dir: dir})
		if who, err := os.ReadFile(filepath.Join(dir, "who")); err != nil || string(who) != r.Source.Note {
			t.Errorf("%s holds the tree of %s, not %s (%v)", r.Name, who, r.Source.Note, err)
		}
	}
	var want []string
	for i := n; i > 0; i-- {
		want = append(want, release.Name(i))
	}
	if !slices.Equal(numbers, want) {
		t.Errorf("releases %v", numbers)
	}
	c, err := s.Channel(context.Background(), v, "acme", "stable")
	if err != nil || c.Serial != n || c.Release != want[0] || release.Name(c.Floor) != want[0] {
		t.Errorf("channel %+v %v", c, err)
	}
}

func TestConcurrentPublishersLoseNothing(t *testing.T) {
	t.Run("mem", func(t *testing.T) { publishTogether(t, bucket.NewMem(), 8) })
	t.Run("file", func(t *testing.T) {
		b, err := file.OpenDir(t.TempDir(), file.Options{})
		if err != nil {
			t.Fatal(err)
		}
		publishTogether(t, b, 8)
	})
}

// As the operator's command opens it, on each kind of server.
func TestConcurrentPublishersOnS3(t *testing.T) {
	t.Parallel()
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	b, err := s3.Open(t.Context(), srv.URL("fleet", "prod"), s3.Options{Sources: []s3.Source{s3.Static(buckettest.RootKey, buckettest.RootSecret, "")}})
	publishOn(t, b, err)
}

func TestConcurrentPublishersOnAzure(t *testing.T) {
	t.Parallel()
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
	srv.CreateContainer("fleet", "")
	b, err := azblob.Open(t.Context(), srv.URL("fleet", "prod"), azblob.Options{Sources: []azblob.Source{azblob.SharedKey(buckettest.AzureKey)}})
	publishOn(t, b, err)
}

func TestConcurrentPublishersOnGCS(t *testing.T) {
	t.Parallel()
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	b, err := gcs.Open(t.Context(), srv.URL("fleet", "prod"), gcs.Options{Sources: []gcs.Source{gcs.Static(srv.Token())}})
	publishOn(t, b, err)
}

// Swift has no condition that holds under races: publishers take turns.
func TestConcurrentPublishersOnSwift(t *testing.T) {
	t.Parallel()
	srv := buckettest.StartSwift(t, buckettest.SwiftConfig{TokenCache: 5 * time.Minute})
	srv.CreateContainer("fleet")
	id, secret := srv.AppCredential("publisher")
	source := swift.Values("test", map[string]string{"os_application_credential_id": id, "os_application_credential_secret": secret})
	b, err := swift.Open(t.Context(), srv.URL("fleet", "prod"), swift.Options{Sources: []swift.Source{source}, Newest: true})
	publishOn(t, b, err)
}

func publishOn(t *testing.T, b bucket.Bucket, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	publishTogether(t, bucket.Retry(b, bucket.RetryPolicy{}), 8)
}
