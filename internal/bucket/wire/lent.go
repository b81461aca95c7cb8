package wire

import (
	"context"
	"errors"
	"io"
	"sync"
)

// A Lent body is a caller's body while the transport may read it. A transport
// can go on reading for a moment after its answer; Back ends that. It is safe
// for concurrent use.
type Lent struct {
	ctx  context.Context
	mu   sync.Mutex
	body io.ReadSeeker // nil: given back
}

// Lend lends body until Back or until ctx is done.
func Lend(ctx context.Context, body io.ReadSeeker) *Lent { return &Lent{ctx: ctx, body: body} }

var errReturned = errors.New("the body is read after the call")

// Read reads from the caller's body, unless it has been given back.
func (l *Lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		return 0, errReturned
	}
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	return l.body.Read(p)
}

// Seek seeks in the caller's body, unless it has been given back.
func (l *Lent) Seek(offset int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		return 0, errReturned
	}
	return l.body.Seek(offset, whence)
}

// Close does nothing: the body is the caller's.
func (l *Lent) Close() error { return nil }

// Back gives the body back: a read under way is waited for, and later ones fail.
func (l *Lent) Back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.body = nil
}
