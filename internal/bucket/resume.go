package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// resume wraps the body of a Get that a began.
func (r *retrier) resume(ctx context.Context, t *tries, a *attempt, body io.ReadCloser, obj Object, o GetOptions) io.ReadCloser {
	b := &resumer{r: r, ctx: ctx, t: t, a: a, body: body, obj: obj, o: o, left: a.wait, total: -1}
	if n, err := o.Within(obj.Size); err == nil {
		b.total = n
	}
	return b
}

// A resumer is a body that outlives its connection.
type resumer struct {
	r      *retrier
	ctx    context.Context // of the caller
	t      *tries
	a      *attempt
	body   io.ReadCloser
	obj    Object
	o      GetOptions
	done   int64         // bytes handed out
	recent int64         // bytes since the clock was last wound up
	left   time.Duration // that may still be spent waiting for Progress bytes
	total  int64         // bytes the whole body has; negative: not known
	broken error         // met after bytes that were handed out first
	err    error         // the last word
}

func (b *resumer) Read(p []byte) (int, error) {
	for b.err == nil {
		n, err := 0, b.broken
		if err == nil {
			n, err = b.read(p)
		}
		b.broken = nil
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, io.EOF):
			b.err = io.EOF
			return n, io.EOF
		case n > 0:
			b.broken = err
			return n, nil
		}
		b.reopen(err)
	}
	return 0, b.err
}

// read is one read against the clock.
func (b *resumer) read(p []byte) (int, error) {
	start := time.Now()
	b.a.timer.Reset(max(b.left, 0))
	n, err := b.body.Read(p)
	b.a.timer.Stop()
	b.left -= time.Since(start)
	b.done += int64(n)
	if b.recent += int64(n); b.recent >= b.r.p.Progress {
		b.recent, b.left = 0, b.a.wait
		b.t.renew()
	}
	return n, b.a.explain("read "+b.obj.Key, err)
}

// reopen goes on after err where the body was, or sets the last word. Without
// an ETag nobody can tell whether it is still the same object.
func (b *resumer) reopen(err error) {
	if b.done == b.total {
		b.err = io.EOF
		return
	}
	for {
		broken := transient(err) || errors.Is(err, ErrTruncated)
		if !broken || b.obj.ETag == "" || b.ctx.Err() != nil || !b.t.again(b.ctx, fmt.Errorf("%w: %w", ErrUnavailable, err)) {
			b.err = b.t.final(b.ctx, err)
			return
		}
		if err = b.open(); err == nil {
			return
		}
	}
}

func (b *resumer) open() error {
	b.body.Close()
	b.a.end()
	b.a = b.r.begin(b.ctx)
	b.left, b.recent = b.a.wait, 0
	o := GetOptions{Offset: b.o.Offset + b.done}
	if b.o.Length > 0 {
		o.Length = b.o.Length - b.done
	}
	body, obj, err := b.r.b.Get(b.a.ctx, b.obj.Key, o)
	b.a.timer.Stop()
	if err != nil {
		b.body = io.NopCloser(nil)
		return b.a.explain("get "+b.obj.Key, err)
	}
	b.body = body
	if obj.ETag != b.obj.ETag || obj.Size != b.obj.Size {
		return fmt.Errorf("read %s: the object was replaced meanwhile: %w", b.obj.Key, ErrPrecondition)
	}
	return nil
}

func (b *resumer) Close() error {
	if b.err == nil || !errors.Is(b.err, fs.ErrClosed) {
		b.err = fs.ErrClosed
	}
	err := b.body.Close()
	b.a.end()
	return err
}
