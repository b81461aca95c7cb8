package s3

import (
	"context"
	"fmt"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Keys sign requests.
type Keys struct {
	AccessKey, SecretKey string
	SessionToken         string    // "" with permanent keys
	Expires              time.Time // zero: never
}

// KeySource is any other place, such as an SDK's chain of credentials. get is
// called when there are no keys, or when the last ones are about to end; its
// error wraps bucket.ErrPermission where another try would be refused as well.
// region returns the region that the place names for buckets on Amazon S3, or
// ""; it may be nil.
func KeySource(name string, get func(ctx context.Context) (Keys, error), region func(ctx context.Context) (string, error)) Source {
	return Source{name: name, region: region, retrieve: func(ctx context.Context) (Keys, error) {
		k, err := get(ctx)
		if err == nil && (k.AccessKey == "" || k.SecretKey == "") {
			err = fmt.Errorf("it gave no keys: %w", wire.ErrNothing)
		}
		return k, err
	}}
}
