// Package file is a bucket in a folder: one file for each object, at the path
// of its key. Everything of its own is in the hidden folder .bootwell.
//
// Put writes a temporary file, makes it durable and renames it, so that a
// reader sees the old or the new content and a power failure neither loses nor
// tears it. Writers take a lock (flock(2)) for the moment of check and rename;
// readers take none. Symbolic links that leave the folder are refused.
//
// # ETags
//
// The ETag of an object up to 64 KiB is a digest of its content: all that ever
// changes in a bucket is that small, and reading it costs less than a look at a
// database. The ETag of a larger one is its size, its time of modification in
// nanoseconds, which Put sets from the real-time clock since the kernel's own
// stamp ticks in milliseconds, and its inode number, which differs between an
// object and the one that replaces it even where the file system keeps whole
// seconds, since both exist for a moment.
package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	hidden   = ".bootwell"
	tempDir  = hidden + "/tmp"
	lockFile = hidden + "/lock"

	small = 64 << 10 // objects up to this size have an ETag of their content
)

// Options say how to open a folder.
type Options struct {
	Base   string // of relative URLs; "": they are refused
	Create bool   // make the folder, and those above it, if it is not there
}

// A Bucket is a folder of files. It keeps no file open between calls.
type Bucket struct {
	dir   string
	sem   chan struct{} // held with the lock file, so that our own writers queue instead of polling
	sweep sync.Once
}

// Open returns the bucket in the folder that a file: URL names (see [Parse]),
// or bucket.ErrNoBucket.
func Open(_ context.Context, rawURL string, o Options) (*Bucket, error) {
	dir, err := Parse(rawURL, o.Base)
	if err != nil {
		return nil, err
	}
	return OpenDir(dir, o)
}

// OpenDir is Open for a path.
func OpenDir(dir string, o Options) (*Bucket, error) {
	b := &Bucket{dir: dir, sem: make(chan struct{}, 1)}
	if o.Create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, b.fail("open", "bucket", err)
		}
	}
	root, err := b.root()
	if err != nil {
		return nil, b.fail("open", "bucket", err)
	}
	return b, root.Close()
}

// Dir returns the path of the folder.
func (b *Bucket) Dir() string { return b.dir }

// Caps promises atomic conditions.
func (b *Bucket) Caps() bucket.Caps { return bucket.Caps{IfAbsent: true, IfMatch: true} }

func (b *Bucket) root() (*os.Root, error) {
	root, err := os.OpenRoot(b.dir)
	if err == nil {
		return root, nil
	}
	// Of what is no folder OpenRoot says so in words only.
	if info, statErr := os.Stat(b.dir); absent(err) || statErr == nil && !info.IsDir() {
		return nil, fmt.Errorf("%w: %w", bucket.ErrNoBucket, err)
	}
	return nil, err
}

// Get implements [bucket.Bucket].
func (b *Bucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := bucket.CheckGet(key, o); err != nil {
		return nil, bucket.Object{}, err
	}
	r, obj, err := b.get(ctx, key, o)
	if err != nil {
		return nil, obj, b.fail("get", key, err)
	}
	return r, obj, nil
}

func (b *Bucket) get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, bucket.Object{}, err
	}
	root, err := b.root()
	if err != nil {
		return nil, bucket.Object{}, err
	}
	defer root.Close()
	if isHidden(key) {
		return nil, bucket.Object{}, bucket.ErrNotExist
	}
	f, obj, data, err := open(root, key)
	if err != nil {
		return nil, bucket.Object{}, err
	}
	obj.Key = key
	r, n, err := section(f, obj, data, o)
	if err != nil {
		f.Close()
		return nil, obj, err
	}
	classify := func(err error) error { return b.fail("read", key, err) }
	return bucket.NewBody(ctx, r, n, classify), obj, nil
}

// section positions f, or the content already read from it, at the range.
func section(f *os.File, obj bucket.Object, data []byte, o bucket.GetOptions) (io.ReadCloser, int64, error) {
	if o.IfNoneMatch != "" && o.IfNoneMatch == obj.ETag {
		return nil, 0, bucket.ErrNotModified
	}
	n, err := o.Within(obj.Size)
	if err != nil {
		return nil, 0, err
	}
	if data != nil {
		f.Close()
		return io.NopCloser(bytes.NewReader(data[o.Offset : o.Offset+n])), n, nil
	}
	if _, err := f.Seek(o.Offset, io.SeekStart); err != nil {
		return nil, 0, err
	}
	return f, n, nil
}

// open returns the file with what is known of it, all from one descriptor, and
// the content of a small one. What is no regular file is no object.
func open(root *os.Root, name string) (*os.File, bucket.Object, []byte, error) {
	// O_NONBLOCK: somebody's FIFO in the folder must not hang us.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, bucket.Object{}, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = bucket.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, bucket.Object{}, nil, err
	}
	obj := object(info)
	if obj.Size > small {
		return f, obj, nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, small))
	if err == nil && int64(len(data)) != obj.Size {
		err = bucket.ErrTruncated
	}
	if err != nil {
		f.Close()
		return nil, bucket.Object{}, nil, err
	}
	obj.ETag = contentETag(sha256.Sum256(data))
	return f, obj, data, nil
}

// object is what stat(2) tells; the ETag is that of a large object.
func object(info fs.FileInfo) bucket.Object {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	etag := fmt.Sprintf("f%x-%x-%x", info.Size(), info.ModTime().UnixNano(), inode)
	return bucket.Object{Size: info.Size(), ETag: etag, Modified: info.ModTime()}
}

func contentETag(sum [sha256.Size]byte) string { return "c" + hex.EncodeToString(sum[:16]) }

func isHidden(key string) bool { return key == hidden || strings.HasPrefix(key, hidden+"/") }

// fail words an error with its operation and finds its place in the vocabulary.
func (b *Bucket) fail(op, key string, err error) error {
	where := fmt.Sprintf("%s %s in %s", op, key, b.dir)
	if sentinel := b.classify(op, err); sentinel != nil && !errors.Is(err, sentinel) {
		return fmt.Errorf("%s: %w: %w", where, sentinel, err)
	}
	return fmt.Errorf("%s: %w", where, err)
}

func (b *Bucket) classify(op string, err error) error {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(bucket.ErrNoBucket, bucket.ErrNotExist, bucket.ErrExists, bucket.ErrPrecondition, bucket.ErrNotModified,
		bucket.ErrUnsupported, bucket.ErrTruncated, context.Canceled, context.DeadlineExceeded):
		return nil
	case is(syscall.ENAMETOOLONG, syscall.ENOTDIR, syscall.EISDIR) && op == "put":
		return bucket.ErrUnsupported
	case is(fs.ErrNotExist, syscall.ENAMETOOLONG, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP):
		return bucket.ErrNotExist
	case is(syscall.EACCES, syscall.EPERM, syscall.EROFS), leaves(err):
		return bucket.ErrPermission
	case is(syscall.ESTALE, syscall.ETIMEDOUT, syscall.EHOSTDOWN):
		return bucket.ErrUnavailable
	}
	return nil
}

// leaves reports whether os.Root refused to follow a path out of the folder.
// The error it returns has no name.
func leaves(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && strings.HasSuffix(pe.Err.Error(), "escapes from parent")
}

// Delete implements [bucket.Bucket]. Folders that become empty go too.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := bucket.CheckKey(key); err != nil {
		return err
	}
	if err := b.delete(ctx, key); err != nil {
		return b.fail("delete", key, err)
	}
	return nil
}

func (b *Bucket) delete(ctx context.Context, key string) error {
	if isHidden(key) {
		return fmt.Errorf("%s is kept for the bucket itself: %w", hidden, bucket.ErrUnsupported)
	}
	root, err := b.root()
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(key)
	if absent(err) || err == nil && info.IsDir() {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	unlock, err := b.lock(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := root.Remove(key); err != nil && !absent(err) {
		return err
	}
	dir := path.Dir(key)
	for dir != "." && root.Remove(dir) == nil {
		dir = path.Dir(dir)
	}
	return syncDir(root, dir)
}

// absent reports whether err means that there is no such object.
func absent(err error) bool {
	for _, e := range []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.ELOOP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
