package file

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

// List implements [bucket.Bucket]. It reads one folder at a time, and the small
// files for their ETags. Names that cannot be keys are left out, and so are
// links to folders.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		root, err := b.root()
		if err != nil {
			yield(bucket.Object{}, b.fail("list", prefix, err))
			return
		}
		defer root.Close()
		l := &lister{ctx: ctx, root: root, prefix: prefix, after: after, yield: yield}
		start := "."
		if i := strings.LastIndexByte(prefix, '/'); i > 0 && fs.ValidPath(prefix[:i]) {
			start = prefix[:i]
		}
		if err := l.folder(start); err != nil && !errors.Is(err, errStop) {
			yield(bucket.Object{}, b.fail("list", prefix, err))
		}
	}
}

var errStop = errors.New("the caller has enough")

type lister struct {
	ctx           context.Context
	root          *os.Root
	prefix, after string
	yield         func(bucket.Object, error) bool
}

// folder lists what is below dir in the order of the keys: a folder sorts as
// its name and a slash.
func (l *lister) folder(dir string) error {
	f, err := l.root.Open(dir)
	if absent(err) {
		return l.ctx.Err()
	}
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if absent(err) && len(entries) == 0 {
		return l.ctx.Err() // dir is an object, or went away
	}
	if err != nil {
		return err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
		if e.IsDir() {
			names[i] += "/"
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := l.entry(path.Join(dir, name), strings.HasSuffix(name, "/")); err != nil {
			return err
		}
	}
	return l.ctx.Err()
}

func (l *lister) entry(key string, isDir bool) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if isHidden(key) || bucket.CheckKey(key) != nil {
		return nil
	}
	if isDir {
		below := key + "/"
		wanted := strings.HasPrefix(below, l.prefix) || strings.HasPrefix(l.prefix, below)
		if !wanted || below <= l.after && !strings.HasPrefix(l.after, below) {
			return nil
		}
		return l.folder(key)
	}
	if !strings.HasPrefix(key, l.prefix) || key <= l.after {
		return nil
	}
	obj, err := stat(l.root, key)
	if absent(err) || leaves(err) || errors.Is(err, bucket.ErrNotExist) || errors.Is(err, bucket.ErrTruncated) {
		return nil // removed or replaced meanwhile, or no object at all
	}
	if err != nil {
		return err
	}
	obj.Key = key
	if !l.yield(obj, nil) {
		return errStop
	}
	return nil
}

// stat opens only small files.
func stat(root *os.Root, key string) (bucket.Object, error) {
	info, err := root.Stat(key)
	if err != nil {
		return bucket.Object{}, err
	}
	if !info.Mode().IsRegular() {
		return bucket.Object{}, bucket.ErrNotExist
	}
	if info.Size() > small {
		return object(info), nil
	}
	f, obj, _, err := open(root, key)
	if err != nil {
		return bucket.Object{}, err
	}
	return obj, f.Close()
}
