package file

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	leftOver = 24 * time.Hour       // a temporary file older than this has lost its writer
	poll     = 2 * time.Millisecond // between tries for a lock another process holds
)

// Put implements [bucket.Bucket]. A full disk is an error that wraps
// syscall.ENOSPC (or EDQUOT) and leaves nothing behind.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if err := bucket.CheckPut(key, c); err != nil {
		return bucket.Object{}, err
	}
	obj, err := b.put(ctx, key, body, c)
	if err != nil {
		return bucket.Object{}, b.fail("put", key, err)
	}
	obj.Key = key
	return obj, nil
}

func (b *Bucket) put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if isHidden(key) {
		return bucket.Object{}, fmt.Errorf("%s is kept for the bucket itself: %w", hidden, bucket.ErrUnsupported)
	}
	if _, err := bucket.Size(body); err != nil {
		return bucket.Object{}, err
	}
	root, err := b.root()
	if err != nil {
		return bucket.Object{}, err
	}
	defer root.Close()
	if err := root.MkdirAll(tempDir, 0o755); err != nil {
		return bucket.Object{}, err
	}
	b.sweep.Do(func() { removeLeftOvers(root) })

	temp := tempDir + "/" + rand.Text()
	defer root.Remove(temp) // after the rename there is none
	obj, err := writeTemp(ctx, root, temp, body)
	if err != nil {
		return bucket.Object{}, err
	}
	made, err := b.publish(ctx, root, temp, key, c)
	if err != nil {
		return bucket.Object{}, err
	}
	return obj, syncUp(root, key, made)
}

// writeTemp makes a durable file of body.
func writeTemp(ctx context.Context, root *os.Root, temp string, body io.Reader) (bucket.Object, error) {
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return bucket.Object{}, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, &firstBytes{sum, small}), &ctxReader{ctx, body}); err != nil {
		return bucket.Object{}, err
	}
	now := time.Now()
	if err := root.Chtimes(temp, now, now); err != nil {
		return bucket.Object{}, err
	}
	if err := f.Sync(); err != nil {
		return bucket.Object{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return bucket.Object{}, err
	}
	obj := object(info)
	if obj.Size <= small {
		obj.ETag = contentETag([sha256.Size]byte(sum.Sum(nil)))
	}
	return obj, f.Close()
}

// firstBytes hashes no more than a small object has: the digest of a large one
// is not asked for.
type firstBytes struct {
	hash.Hash
	left int
}

func (w *firstBytes) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.Hash.Write(p[:n])
	return len(p), nil
}

type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// publish gives the temporary file its name if the condition holds, under the
// lock. It reports whether it had to make folders.
func (b *Bucket) publish(ctx context.Context, root *os.Root, temp, key string, c bucket.Condition) (made bool, err error) {
	unlock, err := b.lock(ctx, root)
	if err != nil {
		return false, err
	}
	defer unlock()
	bind, err := check(root, key, c)
	if err != nil {
		return false, err
	}
	err = bind(temp, key)
	if errors.Is(err, fs.ErrNotExist) && path.Dir(key) != "." {
		made = true
		if err = root.MkdirAll(path.Dir(key), 0o755); err == nil {
			err = bind(temp, key)
		}
	}
	return made, err
}

// check holds the condition against what is there and returns the call that
// gives a file its name: rename(2), or link(2) for a new object, which holds
// even against a writer that knows nothing of our lock.
func check(root *os.Root, key string, c bucket.Condition) (bind func(temp, key string) error, err error) {
	info, err := root.Lstat(key)
	exists := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return nil, err
	case exists && info.IsDir():
		return nil, fmt.Errorf("there are objects below %s/, and a folder cannot have both: %w", key, bucket.ErrUnsupported)
	case c.IfAbsent && exists:
		return nil, bucket.ErrExists
	case c.IfAbsent:
		return func(temp, key string) error { return linkNew(root, temp, key) }, nil
	case c.IfMatch != "":
		f, obj, _, err := open(root, key)
		if err != nil {
			return nil, err
		}
		f.Close()
		if obj.ETag != c.IfMatch {
			return nil, bucket.ErrPrecondition
		}
	}
	return root.Rename, nil
}

func linkNew(root *os.Root, temp, key string) error {
	err := root.Link(temp, key)
	switch {
	case errors.Is(err, fs.ErrExist):
		return bucket.ErrExists
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOSYS):
		return root.Rename(temp, key) // a file system without links; check and lock have to do
	}
	return err
}

// lock excludes all other writers, of this and of other processes.
func (b *Bucket) lock(ctx context.Context, root *os.Root) (unlock func(), err error) {
	select {
	case b.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := root.OpenFile(lockFile, os.O_RDONLY|os.O_CREATE, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err = root.MkdirAll(hidden, 0o755); err == nil {
			f, err = root.OpenFile(lockFile, os.O_RDONLY|os.O_CREATE, 0o644)
		}
	}
	if err == nil {
		if err = flock(ctx, f); err != nil {
			f.Close()
		}
	}
	if err != nil {
		<-b.sem
		return nil, err
	}
	return func() { f.Close(); <-b.sem }, nil
}

func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return ctx.Err()
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return fmt.Errorf("lock %s: %w", lockFile, err)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("lock %s: another writer holds it: %w", lockFile, ctx.Err())
		}
	}
}

// removeLeftOvers deletes temporary files whose writers died.
func removeLeftOvers(root *os.Root) {
	entries, err := fs.ReadDir(root.FS(), tempDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftOver {
			root.Remove(tempDir + "/" + e.Name())
		}
	}
}

// syncUp makes the name of key durable, and those of the folders made for it.
func syncUp(root *os.Root, key string, made bool) error {
	for dir := path.Dir(key); ; dir = path.Dir(dir) {
		if err := syncDir(root, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !made || dir == "." {
			return nil
		}
	}
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: the file system cannot
		return err
	}
	return nil
}
