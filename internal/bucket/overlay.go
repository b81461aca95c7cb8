package bucket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
)

// Overlay returns b with copies of some of its objects in front: a Get of a
// key in objects is answered from memory, ranges too, unless it asks on a
// condition, since copies have no ETags of the bucket. A Put or Delete of such
// a key drops the copy. The bytes in objects must not change any more.
//
// The copies are no more to be trusted than the bucket.
func Overlay(b Bucket, objects map[string][]byte) Bucket {
	if len(objects) == 0 {
		return b
	}
	o := &overlay{Bucket: b, objects: make(map[string][]byte, len(objects))}
	for key, data := range objects {
		o.objects[key] = data
	}
	return o
}

type overlay struct {
	Bucket
	mu      sync.Mutex
	objects map[string][]byte
}

// Get implements [Bucket].
func (o *overlay) Get(ctx context.Context, key string, opt GetOptions) (io.ReadCloser, Object, error) {
	o.mu.Lock()
	data, ok := o.objects[key]
	o.mu.Unlock()
	if !ok || opt.IfNoneMatch != "" {
		return o.Bucket.Get(ctx, key, opt)
	}
	if err := CheckGet(key, opt); err != nil {
		return nil, Object{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	size := int64(len(data))
	n, err := opt.Within(size)
	if err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	r := bytes.NewReader(data[opt.Offset : opt.Offset+n])
	return NewBody(ctx, io.NopCloser(r), n, nil), Object{Key: key, Size: size}, nil
}

// Put implements [Bucket].
func (o *overlay) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	o.drop(key)
	return o.Bucket.Put(ctx, key, body, c)
}

// Delete implements [Bucket].
func (o *overlay) Delete(ctx context.Context, key string) error {
	o.drop(key)
	return o.Bucket.Delete(ctx, key)
}

func (o *overlay) drop(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.objects, key)
}

// Beneath returns the bucket behind the copies, if b is one that [Overlay] gave,
// and else b.
func Beneath(b Bucket) Bucket {
	if o, ok := b.(*overlay); ok {
		return o.Bucket
	}
	return b
}

// Unwrap returns the bucket behind the copies.
func (o *overlay) Unwrap() Bucket { return o.Bucket }
