// Command bootwell-agent keeps one VM as its project's bucket says.
package main

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/cli/vm"
)

var version = "dev" // set by the linker

func main() {
	collectLate()
	growStack()
	var s *cli.Session
	s = cli.NewSession("bootwell-agent", version, func(ctx context.Context, url string) (bucket.Bucket, error) {
		return open(ctx, url, s.Logger())
	})
	os.Exit(s.Run(vm.Root(s), os.Args[1:]))
}

// collectLate has the first garbage collection come at 16 MiB of heap instead
// of 4: a poll ends before it, and so do most updates.
func collectLate() {
	debug.SetGCPercent(400)
	runtime.AddCleanup(new([16]byte), func(percent int) { debug.SetGCPercent(percent) }, 100)
}

// growStack has the stack of main be large enough at once, while there is little
// on it. It would double five times, and be searched for pointers each time.
//
//go:noinline
func growStack() byte {
	var room [64 << 10]byte
	return room[len(os.Args)]
}

// open is all that an agent can read releases from. The instance's own
// identity comes first; keys in a file are for where there is none.
func open(ctx context.Context, url string, log *slog.Logger) (b bucket.Bucket, err error) {
	scheme, _, _ := strings.Cut(url, ":")
	switch scheme {
	case "s3":
		b, err = s3.Open(ctx, url, s3.Options{Sources: s3.VMSources("/etc/bootwell/credentials"), Logger: log})
	case "az":
		b, err = azblob.Open(ctx, url, azblob.Options{Sources: azblob.VMSources("/etc/bootwell/credentials"), Logger: log})
	case "gs":
		b, err = gcs.Open(ctx, url, gcs.Options{Sources: gcs.VMSources("/etc/bootwell/credentials"), Logger: log})
	case "swift":
		b, err = swift.Open(ctx, url, swift.Options{Sources: swift.VMSources("/etc/bootwell/credentials"), Logger: log})
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
