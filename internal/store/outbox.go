package store

import (
	"context"
	"sync"

	"github.com/bootwell/bootwell/internal/bucket"
)

const uploads = 8 // in parallel

// An outbox uploads objects that are named by their content while its owner
// goes on. The first error ends all that is under way.
type outbox struct {
	ctx    context.Context // of all uploads
	cancel context.CancelFunc
	bucket bucket.Bucket // nil: objects are counted, not written
	slots  chan struct{}

	mu    sync.Mutex // guards what follows
	idle  sync.Cond
	going int
	known map[string]bool // keys of all that was sent or noted
	sent  tally
	err   error
}

func newOutbox(ctx context.Context, b bucket.Bucket) *outbox {
	o := &outbox{bucket: b, slots: make(chan struct{}, uploads), known: map[string]bool{}}
	o.ctx, o.cancel = context.WithCancel(ctx)
	o.idle.L = &o.mu
	return o
}

// send uploads data, whose bytes must not change before after was called (nil:
// never), unless that was sent before. It waits while many others are under way.
// Its error is that of an upload before.
func (o *outbox) send(key string, data []byte, after func()) error {
	return o.sendMade(key, func() ([]byte, error) { return data, nil }, after)
}

// sendMade is send for data that are still to be made, by another goroutine;
// nil without an error is not uploaded.
func (o *outbox) sendMade(key string, data func() ([]byte, error), after func()) error {
	if !o.enter(key) {
		return nil
	}
	select {
	case o.slots <- struct{}{}:
	case <-o.ctx.Done():
		o.leave(tally{}, o.ctx.Err())
		return o.wait()
	}
	go func() {
		var t tally
		b, err := data()
		if err == nil && b != nil {
			t, err = putNamed(o.ctx, o.bucket, key, b)
		}
		<-o.slots
		if err == nil && after != nil {
			after()
		}
		o.leave(t, err)
	}()
	return nil
}

func (o *outbox) enter(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[key] {
		return false
	}
	o.known[key] = true
	o.going++
	return true
}

func (o *outbox) leave(t tally, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.going--
	o.sent.add(t)
	if err != nil && o.err == nil {
		o.err = err
		o.cancel()
	}
	o.idle.Broadcast()
}

// note counts an object that the bucket has already.
func (o *outbox) note(key string) {
	if o.enter(key) {
		o.leave(tally{present: 1}, nil)
	}
}

// forget lets objects be sent once more.
func (o *outbox) forget(keys ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		delete(o.known, key)
	}
}

// forgetAll lets all objects be sent once more.
func (o *outbox) forgetAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.known)
}

// wait returns when nothing is under way, with the first error there was.
func (o *outbox) wait() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.going > 0 {
		o.idle.Wait()
	}
	return o.err
}
