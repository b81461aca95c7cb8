package bucket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// A RetryPolicy says how patient [Retry] is. Zero fields take the default named
// beside them.
type RetryPolicy struct {
	Tries int           // attempts of one call, or since a body last made progress; 5
	Pause time.Duration // upper limit of the first pause, doubled for each next one; 500 ms
	Limit time.Duration // upper limit of any pause; 20 s

	// Wait is how long an attempt may take until it is answered, and how long
	// a body may take for each Progress bytes; 30 s. Time the caller spends
	// between two reads does not count.
	Wait     time.Duration
	Progress int64 // 4,096

	Log *slog.Logger // each attempt that failed, at debug level; nil: nowhere
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&p.Pause, 500*time.Millisecond)
	def(&p.Limit, 20*time.Second)
	def(&p.Wait, 30*time.Second)
	if p.Tries <= 0 {
		p.Tries = 5
	}
	if p.Progress <= 0 {
		p.Progress = 4096
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	return p
}

// Retry returns b with patience: a call that ends in ErrUnavailable, or is not
// answered in time, is made again after a random pause that grows. A body that
// breaks off or stalls is read on from where it was, as long as the object has
// the same ETag. A listing goes on after the last object it gave.
//
// The answer to a write can be lost after the write was done. When the attempt
// after a lost one finds the condition broken, Put reads the object: if it
// holds what Put was to write, the write was ours and succeeds. Two writers that
// race with the same content can therefore both win; content that must have one
// winner, such as a lock, names its writer.
//
// A pause that the server asks for (see [Later]) comes before the random one. A
// call for which it asks more than three times Limit ends.
func Retry(b Bucket, p RetryPolicy) Bucket {
	return &retrier{b: b, p: p.withDefaults(), unsure: new(atomic.Bool)}
}

// Cautious returns b, whose [Retry] makes each call once until one was answered:
// for callers of whom there are many, who found the bucket away before and ask
// again soon anyway. Each bucket of a [Mirrored] is asked once until it answered
// itself; what is found out about them is found out for b as well. A bucket
// without a Retry around it stays as it is.
func Cautious(b Bucket) Bucket {
	unsure := new(atomic.Bool)
	unsure.Store(true)
	switch b := b.(type) {
	case *retrier:
		return &retrier{b: b.b, p: b.p, unsure: unsure}
	case *Mirrored:
		return b.cautious()
	}
	return b
}

// Later returns err, word for word, of a server that asked for this pause before
// the next attempt; zero: it did not.
func Later(err error, pause time.Duration) error {
	if err == nil || pause <= 0 {
		return err
	}
	return &later{err, pause}
}

type later struct {
	error
	pause time.Duration
}

func (l *later) Unwrap() error { return l.error }

type retrier struct {
	b      Bucket
	p      RetryPolicy
	unsure *atomic.Bool // nothing was answered yet, and one attempt has to do
}

// heard notes how an attempt ended.
func (r *retrier) heard(err error) {
	if !transient(err) {
		r.unsure.Store(false)
	}
}

func (r *retrier) Caps() Caps { return r.b.Caps() }

// errWait is the cause of an attempt that was given up.
var errWait = errors.New("no answer in time")

// attempt is the context of one try and the clock that ends it.
type attempt struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	wait   time.Duration
}

func (r *retrier) begin(ctx context.Context) *attempt {
	actx, cancel := context.WithCancelCause(ctx)
	a := &attempt{ctx: actx, cancel: cancel, wait: r.p.Wait}
	a.timer = time.AfterFunc(a.wait, func() { cancel(errWait) })
	return a
}

// explain turns the cancellation that the clock caused into ErrUnavailable.
func (a *attempt) explain(what string, err error) error {
	if err != nil && context.Cause(a.ctx) == errWait && !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("%s: %w: %w for %s", what, ErrUnavailable, errWait, a.wait)
	}
	return err
}

func (a *attempt) end() {
	a.timer.Stop()
	a.cancel(nil)
}

// tries counts the attempts of one call and draws the pauses between them.
type tries struct {
	p    RetryPolicy
	left int
	back *backoff.ExponentialBackOff
}

func (r *retrier) tries() *tries {
	t := &tries{p: r.p}
	if r.unsure.Load() {
		t.p.Tries = 1
	}
	t.renew()
	return t
}

// renew begins to count again. The factor 1 makes each pause any time from
// zero to twice the interval: full jitter.
func (t *tries) renew() {
	t.left = t.p.Tries - 1
	t.back = &backoff.ExponentialBackOff{
		InitialInterval: t.p.Pause / 2, RandomizationFactor: 1, Multiplier: 2, MaxInterval: t.p.Limit / 2,
	}
	t.back.Reset()
}

// again reports whether err is worth another attempt, after the pause before it.
func (t *tries) again(ctx context.Context, err error) bool {
	if !transient(err) || t.left <= 0 || ctx.Err() != nil {
		return false
	}
	pause := t.back.NextBackOff()
	var asked *later
	if errors.As(err, &asked) {
		if asked.pause > 3*t.p.Limit {
			return false
		}
		pause += asked.pause
	}
	t.left--
	t.p.Log.DebugContext(ctx, "bucket call failed, trying again", "err", err, "pause", pause, "left", t.left)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// final is err as the caller gets to see it.
func (t *tries) final(ctx context.Context, err error) error {
	if n := t.p.Tries - t.left; n > 1 && transient(err) {
		err = fmt.Errorf("%w (attempt %d)", err, n)
	}
	if done := ctx.Err(); done != nil && !errors.Is(err, done) {
		return fmt.Errorf("%w; before that: %w", done, err)
	}
	return err
}

// transient reports whether time can heal err. A certificate that does not
// verify stays as it is.
func transient(err error) bool {
	var cert *tls.CertificateVerificationError
	return errors.Is(err, ErrUnavailable) && !errors.As(err, &cert)
}

func (r *retrier) Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error) {
	t := r.tries()
	for {
		a := r.begin(ctx)
		body, obj, err := r.b.Get(a.ctx, key, o)
		a.timer.Stop()
		err = a.explain("get "+key, err)
		r.heard(err)
		if err == nil {
			return r.resume(ctx, t, a, body, obj, o), obj, nil
		}
		a.end()
		if !t.again(ctx, err) {
			return nil, obj, t.final(ctx, err)
		}
	}
}

func (r *retrier) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	t := r.tries()
	var lost error
	for {
		a := r.begin(ctx)
		obj, err := r.b.Put(a.ctx, key, &watchedBody{ReadSeeker: body, a: a, step: r.p.Progress}, c)
		err = a.explain("put "+key, err)
		a.end()
		r.heard(err)
		if err == nil {
			return obj, nil
		}
		if lost != nil && (errors.Is(err, ErrExists) || errors.Is(err, ErrPrecondition)) {
			if mine, ok := r.holds(ctx, key, body); ok {
				return mine, nil
			}
			return obj, err
		}
		if !t.again(ctx, err) {
			return obj, t.final(ctx, err)
		}
		lost = err
	}
}

// watchedBody winds up the attempt's clock as the upload moves on.
type watchedBody struct {
	io.ReadSeeker
	a         *attempt
	step, got int64
}

func (w *watchedBody) Read(p []byte) (int, error) {
	n, err := w.ReadSeeker.Read(p)
	if w.got += int64(n); w.got >= w.step && w.a.ctx.Err() == nil {
		w.got = 0
		w.a.timer.Reset(w.a.wait)
	}
	return n, err
}

// holds reports whether the object is byte for byte what body is.
func (r *retrier) holds(ctx context.Context, key string, body io.ReadSeeker) (Object, bool) {
	size, err := Size(body)
	if err != nil {
		return Object{}, false
	}
	stored, obj, err := r.Get(ctx, key, GetOptions{})
	if err != nil {
		return Object{}, false
	}
	defer stored.Close()
	if obj.Size >= 0 && obj.Size != size {
		return Object{}, false
	}
	ours, theirs := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err1 := io.ReadFull(body, ours)
		m, err2 := io.ReadFull(stored, theirs)
		switch {
		case !bytes.Equal(ours[:n], theirs[:m]):
			return Object{}, false
		case err1 == nil && err2 == nil:
		default:
			return obj, ended(err1) && ended(err2)
		}
	}
}

func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

func (r *retrier) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		t := r.tries()
		for {
			err, more := r.list(ctx, prefix, &after, t, yield)
			if err == nil || !more {
				return
			}
			if !t.again(ctx, err) {
				yield(Object{}, t.final(ctx, err))
				return
			}
		}
	}
}

// list is one attempt. It moves after on, and reports whether the caller wants
// to hear more.
func (r *retrier) list(ctx context.Context, prefix string, after *string, t *tries, yield func(Object, error) bool) (err error, more bool) {
	a := r.begin(ctx)
	defer a.end()
	for obj, err := range r.b.List(a.ctx, prefix, *after) {
		if err != nil {
			return a.explain("list "+prefix, err), true
		}
		a.timer.Stop()
		r.heard(nil)
		*after = obj.Key
		t.renew()
		if !yield(obj, nil) {
			return nil, false
		}
		a.timer.Reset(a.wait)
	}
	r.heard(nil)
	return nil, true
}

func (r *retrier) Delete(ctx context.Context, key string) error {
	t := r.tries()
	for {
		a := r.begin(ctx)
		err := a.explain("delete "+key, r.b.Delete(a.ctx, key))
		a.end()
		r.heard(err)
		if err == nil {
			return nil
		}
		if !t.again(ctx, err) {
			return t.final(ctx, err)
		}
	}
}

// Unwrap returns the bucket without patience.
func (r *retrier) Unwrap() Bucket { return r.b }
