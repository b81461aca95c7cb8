package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// ErrNothing is wrapped by a source that has no credentials, and would have none
// if it were asked again now.
var ErrNothing = errors.New("nothing there")

// Found marks the error of a source that has credentials which do not serve:
// no other source is asked instead, and the error keeps its class.
func Found(err error) error { return found{err} }

type found struct{ error }

func (f found) Unwrap() error { return f.error }

// A Source is one place where credentials of the kind T may be.
type Source[T any] struct {
	Name string

	// Get returns credentials and when they end; zero: never, or not known. Its
	// error shows no secret, and wraps [ErrNothing] or [bucket.ErrPermission]
	// where another try would be in vain.
	Get func(ctx context.Context) (value T, ends time.Time, err error)

	// Warn returns what the log should say once of these credentials, such as
	// that they are permanent; "": nothing. It may be nil.
	Warn func(T) string
}

// A Grant is what a source gave. It does not change.
type Grant[T any] struct {
	Value  T
	Source string // its name

	ends, renew time.Time // zero: never
	born        time.Time
}

// A Chain asks its sources in their order and remembers the first answer. It
// asks again five minutes before the credentials end, or after 80 % of a life
// that is short; while that fails, the old ones are used until their end. A
// failure is remembered too, first for a second and at last for half a minute:
// many readers that try again are no storm for a metadata service. It is safe
// for concurrent use; one caller asks while the others wait.
type Chain[T any] struct {
	// Young is how long new credentials are not replaced, whatever a server says
	// of them; a server says the same of what is merely denied.
	Young time.Duration

	sources []Source[T]
	log     *slog.Logger
	last    atomic.Pointer[Grant[T]]

	turn    chan struct{} // has one element while somebody uses the fields below
	failure error
	pause   time.Duration // the failure is remembered for
	again   time.Time     // until then
	warned  bool
}

const (
	earlier    = 5 * time.Minute
	firstPause = time.Second
	lastPause  = 30 * time.Second
	young      = 2 * time.Second
)

// NewChain returns a chain of these sources. log nil: nowhere.
func NewChain[T any](log *slog.Logger, sources ...Source[T]) *Chain[T] {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Chain[T]{Young: young, sources: sources, log: log, turn: make(chan struct{}, 1)}
}

// Last returns what the last call of Get had from a source; nil: nothing.
func (c *Chain[T]) Last() *Grant[T] { return c.last.Load() }

// Get returns credentials for now. Its error is ctx's own when ctx is done, else
// it wraps [bucket.ErrPermission], [bucket.ErrUnavailable], or what a source
// marked with [Found].
func (c *Chain[T]) Get(ctx context.Context) (*Grant[T], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if g := c.last.Load(); g != nil && !g.due() {
		return g, nil
	}
	select {
	case c.turn <- struct{}{}:
	default:
		if g := c.last.Load(); g.alive() {
			return g, nil // somebody else is renewing it
		}
		select {
		case c.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-c.turn }()
	old := c.last.Load()
	if old != nil && !old.due() {
		return old, nil
	}
	if c.failure == nil || passed(c.again, time.Now()) {
		g, err := c.ask(ctx)
		if err == nil {
			c.last.Store(g)
			c.failure, c.pause = nil, 0
			return g, nil
		}
		if done := ctx.Err(); done != nil {
			return nil, done // which says nothing of the sources
		}
		c.pause = min(max(2*c.pause, firstPause), lastPause)
		c.failure, c.again = err, time.Now().Add(c.pause)
	}
	if old.alive() {
		return old, nil
	}
	return nil, c.failure
}

// Forget drops credentials that the server rejected, unless they are young. It
// reports whether the request is worth another try with those of the next Get.
func (c *Chain[T]) Forget(rejected *Grant[T]) bool {
	if c.last.Load() != rejected {
		return true
	}
	if !passed(rejected.born.Add(c.Young), time.Now()) {
		return false
	}
	c.last.CompareAndSwap(rejected, nil)
	return true
}

// ask returns the first credentials found, or what each source said.
func (c *Chain[T]) ask(ctx context.Context) (*Grant[T], error) {
	sentinel := bucket.ErrPermission
	var said []string
	for _, s := range c.sources {
		value, ends, err := s.Get(ctx)
		now := time.Now()
		if err == nil && !ends.IsZero() && passed(ends, now) {
			err = fmt.Errorf("what it gave expired at %s", ends.UTC().Format(time.RFC3339))
		}
		if err == nil {
			c.warn(ctx, s, value)
			return newGrant(value, s.Name, now, ends), nil
		}
		var f found
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &f):
			return nil, fmt.Errorf("credentials of %s: %w", s.Name, err)
		case !errors.Is(err, ErrNothing) && !errors.Is(err, bucket.ErrPermission):
			sentinel = bucket.ErrUnavailable
		}
		text := strings.TrimPrefix(strings.TrimSuffix(err.Error(), ": "+ErrNothing.Error()), ErrNothing.Error()+": ")
		said = append(said, s.Name+": "+text)
	}
	return nil, fmt.Errorf("%w: no credentials found (%s)", sentinel, strings.Join(said, "; "))
}

func (c *Chain[T]) warn(ctx context.Context, s Source[T], value T) {
	if s.Warn == nil || c.warned {
		return
	}
	if text := s.Warn(value); text != "" {
		c.warned = true
		c.log.WarnContext(ctx, text, "source", s.Name)
	}
}

func newGrant[T any](value T, source string, now, ends time.Time) *Grant[T] {
	g := &Grant[T]{Value: value, Source: source, born: now, ends: ends}
	if !ends.IsZero() {
		left := ends.Sub(now)
		g.renew = now.Add(max(left-earlier, left*4/5, time.Second))
	}
	return g
}

func (g *Grant[T]) due() bool { return !g.renew.IsZero() && passed(g.renew, time.Now()) }

func (g *Grant[T]) alive() bool { return g != nil && !passed(g.ends, time.Now()) }

// passed reports whether it is t by either clock: the monotonic one stands still
// while a machine sleeps, and the other one can be set back.
func passed(t, now time.Time) bool {
	return !now.Before(t) || !now.Round(0).Before(t.Round(0))
}
