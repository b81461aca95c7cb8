// Package bucket is bootwell's view of object storage: five operations, one
// vocabulary of errors, and decorators over both. Providers live in the
// packages below it and are named only by the commands' wiring.
//
//   - A key is a slash-separated, relative, clean name below the bucket's prefix.
//   - An ETag is opaque text that changes whenever an object's content does.
package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// The errors of all providers. A provider wraps one of them with the operation
// and key, and keeps the cause readable. An error outside of this vocabulary
// (a bad request, syscall.ENOSPC of a folder) wraps none; when ctx is done, the
// error wraps ctx.Err().
var (
	ErrNotExist     = errors.New("object does not exist")
	ErrExists       = errors.New("object exists already")          // PutIfAbsent
	ErrPrecondition = errors.New("object was changed by another")  // PutIfMatch
	ErrNotModified  = errors.New("object is not modified")         // Get with IfNoneMatch
	ErrPermission   = errors.New("not allowed")                    // refused; [ErrCredentials] and its like say why
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

// GetOptions select what Get returns. The zero value is the whole object. A
// range that begins at or after the object's end is ErrTruncated; one that
// reaches over the end gives what there is.
type GetOptions struct {
	Offset      int64  // first byte
	Length      int64  // 0: to the end
	IfNoneMatch string // ETag: Get returns ErrNotModified if the object still has it
}

// A Condition says when Put may write: the zero value always. At most one of
// its fields is set. A bucket without the promise in its [Caps] looks before it
// writes, so that only a race can break the condition.
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
	ListFrom bool // List begins after any key at once, and takes one request for each thousand objects
}

// A Bucket is a folder of objects. It is safe for concurrent use. All its
// methods return when ctx is done. Errors wrap the sentinels above. A bucket
// may be unable to hold both the keys "a" and "a/b", or a key of its own hidden
// files: Put answers ErrUnsupported then.
type Bucket interface {
	// Get opens the object. The caller closes the reader, which fails with
	// ErrTruncated when the body ends early, and when ctx is done. It is one
	// request. Object.Size is the whole object's size, also for a range.
	// Errors: ErrNotExist, ErrNotModified.
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

// MaxKey is the length of the longest key, in bytes.
const MaxKey = 1024

// CheckKey reports why key cannot name an object. A key is a valid [fs.ValidPath]
// without control characters and backslashes.
func CheckKey(key string) error {
	if !fs.ValidPath(key) || key == "." || len(key) > MaxKey || strings.ContainsFunc(key, badKeyRune) {
		return fmt.Errorf("object name %.200q is not valid", key)
	}
	return nil
}

func badKeyRune(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' || r == utf8.RuneError }

// CheckGet reports why Get cannot answer: a bad key or a negative range.
// Providers call it first.
func CheckGet(key string, o GetOptions) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if o.Offset < 0 || o.Length < 0 || o.Offset+o.Length < 0 {
		return fmt.Errorf("get %s: range %d+%d is not valid", key, o.Offset, o.Length)
	}
	return nil
}

// CheckPut reports why Put cannot write: a bad key or two conditions at once.
// Providers call it first.
func CheckPut(key string, c Condition) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if c.IfAbsent && c.IfMatch != "" {
		return fmt.Errorf("put %s: both IfAbsent and IfMatch are set", key)
	}
	return nil
}

// Within returns how many bytes Get with o yields of an object of this size,
// or ErrTruncated when the range begins after its end.
func (o GetOptions) Within(size int64) (int64, error) {
	if o.Offset >= size && o.ranged() {
		return 0, fmt.Errorf("range at %d of %d bytes: %w", o.Offset, size, ErrTruncated)
	}
	n := size - o.Offset
	if o.Length > 0 && o.Length < n {
		n = o.Length
	}
	return n, nil
}

func (o GetOptions) ranged() bool { return o.Offset > 0 || o.Length > 0 }

// ReadAll returns the whole object (or range), at most max bytes, else ErrTooLarge.
func ReadAll(ctx context.Context, b Bucket, key string, o GetOptions, max int64) ([]byte, Object, error) {
	r, obj, err := b.Get(ctx, key, o)
	if err != nil {
		return nil, obj, err
	}
	defer r.Close()
	// Room for what the server announces, as far as one would believe it.
	const believed = 1 << 20
	room, err := o.Within(obj.Size)
	if err != nil || room < 0 {
		room = 0
	}
	data := bytes.NewBuffer(make([]byte, 0, min(room, max, believed)+bytes.MinRead))
	if _, err := data.ReadFrom(io.LimitReader(r, max+1)); err != nil {
		return nil, obj, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(data.Len()) > max {
		return nil, obj, fmt.Errorf("read %s: over %d bytes: %w", key, max, ErrTooLarge)
	}
	return data.Bytes(), obj, nil
}
