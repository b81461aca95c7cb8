package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"
)

// Traffic is what was asked of a bucket and how many bytes of content went each
// way. A List counts one for every thousand objects it begins, as the object
// stores serve and price it.
type Traffic struct {
	Gets, NotModified, Puts, Lists, Deletes int64 // NotModified are among Gets
	Down, Up                                int64 // bytes
}

// Requests is the sum over all methods.
func (t Traffic) Requests() int64 { return t.Gets + t.Puts + t.Lists + t.Deletes }

// Sub returns t - u: what happened since u.
func (t Traffic) Sub(u Traffic) Traffic {
	return Traffic{
		t.Gets - u.Gets, t.NotModified - u.NotModified, t.Puts - u.Puts, t.Lists - u.Lists, t.Deletes - u.Deletes,
		t.Down - u.Down, t.Up - u.Up,
	}
}

// A Counter is a bucket that counts. Below [Retry] it counts attempts, above it
// calls.
type Counter struct {
	Bucket
	gets, notModified, puts, lists, deletes, down, up atomic.Int64
}

// Count returns b with a counter at zero.
func Count(b Bucket) *Counter { return &Counter{Bucket: b} }

// Traffic returns the numbers so far.
func (c *Counter) Traffic() Traffic {
	return Traffic{
		c.gets.Load(), c.notModified.Load(), c.puts.Load(), c.lists.Load(), c.deletes.Load(),
		c.down.Load(), c.up.Load(),
	}
}

// Get implements [Bucket].
func (c *Counter) Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error) {
	c.gets.Add(1)
	r, obj, err := c.Bucket.Get(ctx, key, o)
	if err != nil {
		if errors.Is(err, ErrNotModified) {
			c.notModified.Add(1)
		}
		return nil, obj, err
	}
	return &countedBody{r, &c.down}, obj, nil
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// Put implements [Bucket].
func (c *Counter) Put(ctx context.Context, key string, body io.ReadSeeker, cond Condition) (Object, error) {
	c.puts.Add(1)
	obj, err := c.Bucket.Put(ctx, key, body, cond)
	if err == nil {
		c.up.Add(obj.Size)
	}
	return obj, err
}

// List implements [Bucket].
func (c *Counter) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		c.lists.Add(1)
		n := 0
		for obj, err := range c.Bucket.List(ctx, prefix, after) {
			if n++; n%1000 == 1 && n > 1 {
				c.lists.Add(1)
			}
			if !yield(obj, err) {
				return
			}
		}
	}
}

// Delete implements [Bucket].
func (c *Counter) Delete(ctx context.Context, key string) error {
	c.deletes.Add(1)
	return c.Bucket.Delete(ctx, key)
}

// Unwrap returns the bucket that is counted.
func (c *Counter) Unwrap() Bucket { return c.Bucket }
