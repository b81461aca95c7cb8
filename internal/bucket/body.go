package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Size returns the length of body and leaves it at its start. Providers call
// it before each write.
func Size(body io.ReadSeeker) (int64, error) {
	n, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of body: %w", err)
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("rewind body: %w", err)
	}
	return n, nil
}

// NewBody returns a reader of the first n bytes of r, as Get promises it: it
// fails with ErrTruncated when r ends before, with ctx.Err() when ctx is done,
// and with what classify makes of r's other errors (nil: the errors themselves).
// It never reads more than n bytes; n < 0 means all of r.
func NewBody(ctx context.Context, r io.ReadCloser, n int64, classify func(error) error) io.ReadCloser {
	return &body{ctx: ctx, r: r, left: n, whole: n < 0, classify: classify}
}

type body struct {
	ctx      context.Context
	r        io.ReadCloser
	left     int64
	whole    bool // no length is known
	closed   bool
	classify func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	if b.closed {
		return 0, fs.ErrClosed
	}
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if !b.whole {
		if b.left == 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, b.explain(err)
}

func (b *body) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case errors.Is(err, io.EOF) && (b.whole || b.left == 0):
		return io.EOF
	case errors.Is(err, io.EOF) && !b.whole:
		return fmt.Errorf("%d bytes are missing: %w", b.left, ErrTruncated)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ErrTruncated
	case b.classify != nil:
		return b.classify(err)
	}
	return err
}

func (b *body) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	return b.r.Close()
}
