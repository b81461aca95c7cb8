// Package bucket is bootwell's view of object storage: five operations, one
// vocabulary of errors, and decorators over both. Providers live in the
// packages below it and are named only by the commands' wiring.
//
//   - A key is a slash-separated, relative, clean name below the bucket's prefix.
//   - An ETag is opaque text that changes whenever an object's content does.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"
)

// The errors of all providers. A provider wraps exactly one of them with the
// operation and key, and keeps the cause readable.
var (
	ErrNotExist     = errors.New("object does not exist")
	ErrExists       = errors.New("object exists already")          // PutIfAbsent
	ErrPrecondition = errors.New("object was changed by another")  // PutIfMatch
	ErrNotModified  = errors.New("object is not modified")         // Get with IfNoneMatch
	ErrPermission   = errors.New("not allowed")                    // refused, also for wrong or expired credentials
	ErrNoBucket     = errors.New("bucket does not exist")          // also a folder that is not there
	ErrUnavailable  = errors.New("bucket cannot be reached")       // network, timeout, 429, 5xx: worth another try
	ErrUnsupported  = errors.New("not supported by this bucket")   // e.g. writing to https://
	ErrTooLarge     = errors.New("object is larger than expected") // [ReadAll]
	ErrTruncated    = errors.New("object ended before its end")    // body shorter than announced
)

// An Object is what a bucket knows of one object. Modified is the server's
// time. List fills all fields; a provider whose List lacks ETags says so in
// [Caps].
type Object struct {
	Key      string
	Size     int64
	ETag     string
	Modified time.Time
}

// GetOptions select what Get returns. The zero value is the whole object.
type GetOptions struct {
	Offset      int64  // first byte
	Length      int64  // 0: to the end
	IfNoneMatch string // ETag: Get returns ErrNotModified if the object still has it
}

// A Condition says when Put may write.
type Condition struct {
	IfAbsent bool   // only if there is no such object, else ErrExists
	IfMatch  string // only if the object has this ETag, else ErrPrecondition (or ErrNotExist)
}

// Caps say which promises a bucket keeps.
type Caps struct {
	IfAbsent bool // Condition.IfAbsent is atomic under races
	IfMatch  bool // Condition.IfMatch is atomic under races
	ReadOnly bool // Put and Delete answer ErrUnsupported
	NoList   bool // List answers ErrUnsupported
}

// A Bucket is a folder of objects. It is safe for concurrent use. All its
// methods return when ctx is done. Errors wrap the sentinels above.
type Bucket interface {
	// Get opens the object. The caller closes the reader, which fails with
	// ErrTruncated when the body ends early. Object.Size is the whole object's
	// size, also for a range. Errors: ErrNotExist, ErrNotModified.
	Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error)

	// Put writes the object, all or nothing: a reader sees the old or the new
	// content. It reads body from its start and may do so more than once.
	// The returned Object has the new ETag.
	Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error)

	// List yields the objects whose key starts with prefix and is greater
	// than after, in the byte order of their keys. It ends at the first error.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]

	// Delete removes the object; that there is none is no error.
	Delete(ctx context.Context, key string) error

	// Caps returns the promises of this bucket.
	Caps() Caps
}

// An Opener makes a Bucket from a URL of the project file. The commands'
// wiring provides it; everything else only passes it on.
type Opener func(ctx context.Context, url string) (Bucket, error)

// CheckKey reports why key cannot name an object.
func CheckKey(key string) error {
	if !fs.ValidPath(key) || key == "." || len(key) > 1024 {
		return fmt.Errorf("object name %.200q is not valid", key)
	}
	return nil
}

// ReadAll returns the whole object, at most max bytes, else ErrTooLarge.
func ReadAll(ctx context.Context, b Bucket, key string, o GetOptions, max int64) ([]byte, Object, error) {
	r, obj, err := b.Get(ctx, key, o)
	if err != nil {
		return nil, obj, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, obj, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(data)) > max {
		return nil, obj, fmt.Errorf("read %s: over %d bytes: %w", key, max, ErrTooLarge)
	}
	return data, obj, nil
}
