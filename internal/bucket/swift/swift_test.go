package swift_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/swift"
)

// cloud is a server with one application credential that may do all.
type cloud struct {
	*buckettest.Swift
	op swift.Source
}

func (c *cloud) open(t testing.TB, url string, sources ...swift.Source) *swift.Bucket {
	t.Helper()
	if len(sources) == 0 {
		sources = []swift.Source{c.op}
	}
	b, err := swift.Open(t.Context(), url, swift.Options{Sources: sources})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func appCredential(id, secret string) swift.Source {
	return swift.Values("test", map[string]string{"os_application_credential_id": id, "os_application_credential_secret": secret})
}

// TestSwift has all that needs the servers, which start once.
func TestSwift(t *testing.T) {
	c := &cloud{Swift: buckettest.StartSwift(t, buckettest.SwiftConfig{})}
	c.op = appCredential(c.AppCredential("op"))
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cloud)
	}{
		{"suite", testSuite},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func testSuite(t *testing.T, c *cloud) {
	var n atomic.Int64
	whole := func(t testing.TB) bucket.Bucket {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		c.CreateContainer(name)
		return c.open(t, c.URL(name, ""))
	}
	prefixed := func(t testing.TB) bucket.Bucket {
		return c.open(t, c.URL("shared", fmt.Sprintf("a%%20team/prod %d", n.Add(1))))
	}
	c.CreateContainer("shared")
	t.Run("whole", func(t *testing.T) { buckettest.Test(t, whole, buckettest.Options{}) })
	t.Run("prefix", func(t *testing.T) { buckettest.Test(t, prefixed, buckettest.Options{Objects: 50}) })
}
