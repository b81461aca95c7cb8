// Command bootwell is the operator's tool: it publishes releases to a bucket
// and shows what VMs made of them.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/sdkauth"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/cli/operator"
)

var version = "dev" // set by the linker

func main() {
	collectLate()
	s := cli.NewSession("bootwell", version, open)
	os.Exit(s.Run(operator.Root(s), os.Args[1:]))
}

// collectLate has the first garbage collection come at 64 MiB of heap instead
// of 4: most commands, and the publish of a few files, end before it.
func collectLate() {
	debug.SetGCPercent(1600)
	runtime.AddCleanup(new([16]byte), func(percent int) { debug.SetGCPercent(percent) }, 100)
}

// open is all that an operator can publish to or read from. No metadata
// service is ever asked: an operator's machine may have a stranger's.
func open(ctx context.Context, url string) (b bucket.Bucket, err error) {
	scheme, _, _ := strings.Cut(url, ":")
	switch scheme {
	case "s3":
		b, err = s3.Open(ctx, url, s3.Options{Sources: append(s3.OperatorSources(), sdkauth.AWS())})
	case "az":
		var from []azblob.Source
		if from, err = sdkauth.Azure(url); err == nil {
			b, err = azblob.Open(ctx, url, azblob.Options{Sources: from})
		}
	case "gs":
		var from []gcs.Source
		if from, err = sdkauth.Google(url); err == nil {
			b, err = gcs.Open(ctx, url, gcs.Options{Sources: from})
		}
	case "swift":
		var from []swift.Source
		if from, err = sdkauth.OpenStack(url); err == nil {
			b, err = swift.Open(ctx, url, swift.Options{Sources: from, Newest: true})
		}
	case "http", "https":
		b, err = web.Open(ctx, url, web.Options{})
	case "file":
		b, err = file.Open(ctx, url, file.Options{})
	default:
		return nil, cli.UnknownScheme(scheme)
	}
	if err != nil {
		return nil, err
	}
	return bucket.Retry(b, bucket.RetryPolicy{}), nil
}
