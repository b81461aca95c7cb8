package trust

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// loose is a bucket as OpenStack Swift is one: what a request finds is looked
// at when it arrives, what it writes counts some time later, unless a request
// that arrived after it has written meanwhile. Several writers can so find that
// there is no object, and all be told that theirs is in.
type loose struct {
	*bucket.Mem
	delay func() time.Duration

	mu      sync.Mutex
	arrived int
	written map[string]int // by key, when the write in force arrived
}

func (l *loose) Caps() bucket.Caps { return bucket.Caps{} }

func (l *loose) pass(ctx context.Context) error {
	select {
	case <-time.After(l.delay()):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *loose) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := l.pass(ctx); err != nil {
		return nil, bucket.Object{}, err
	}
	r, obj, err := l.Mem.Get(ctx, key, o)
	if late := l.pass(ctx); late != nil && err == nil {
		r.Close()
		return nil, bucket.Object{}, late
	}
	return r, obj, err
}

func (l *loose) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return l.Mem.List(ctx, prefix, after)
}

// change does a write in the order in which the server takes it. Once it is on
// its way, the caller's giving up does not stop it.
func (l *loose) change(ctx context.Context, key string, c bucket.Condition, write func()) error {
	done := make(chan error, 1)
	go func() { done <- l.take(key, c, write) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *loose) take(key string, c bucket.Condition, write func()) error {
	time.Sleep(l.delay())
	l.mu.Lock()
	l.arrived++
	mine := l.arrived
	_, obj, err := l.Mem.Get(context.Background(), key, bucket.GetOptions{})
	l.mu.Unlock()
	switch {
	case c.IfAbsent && err == nil:
		return bucket.ErrExists
	case c.IfMatch != "" && err != nil:
		return bucket.ErrNotExist
	case c.IfMatch != "" && obj.ETag != c.IfMatch:
		return bucket.ErrPrecondition
	}
	time.Sleep(l.delay())
	if key == lockKey || strings.HasSuffix(key, timestampFile) {
		time.Sleep(2 * l.delay()) // where it matters most
	}
	l.mu.Lock()
	superseded := l.written[key] > mine
	if !superseded {
		l.written[key] = mine
		write()
	}
	l.mu.Unlock()
	time.Sleep(l.delay())
	if superseded && c.IfAbsent {
		return bucket.ErrExists
	}
	if superseded && c.IfMatch != "" {
		return bucket.ErrPrecondition
	}
	return nil
}

func (l *loose) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return bucket.Object{}, err
	}
	var obj bucket.Object
	put := func() { obj, _ = l.Mem.Put(context.Background(), key, bytes.NewReader(data), bucket.Condition{}) }
	err = l.change(ctx, key, c, put)
	l.mu.Lock()
	defer l.mu.Unlock()
	return obj, err
}

func (l *loose) Delete(ctx context.Context, key string) error {
	return l.change(ctx, key, bucket.Condition{}, func() { l.Mem.Delete(context.Background(), key) })
}

// TestTurns_OnALooseBucket has eight publishers on such a bucket, where some
// requests take as long as the time to settle, and some far longer.
func TestTurns_OnALooseBucket(t *testing.T) {
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("BOOTWELL_TEST_TURNS")); err == nil {
		rounds = n
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { takeTurns(t, seed) })
		})
	}
}

func takeTurns(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	delay := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		d := time.Duration(rng.Int64N(int64(settleTime) / 3))
		if seed%4 > 1 && rng.IntN(40) == 0 {
			d = time.Duration(rng.Int64N(int64(3 * settleTime)))
		}
		return d
	}
	l := &loose{Mem: bucket.NewMem(), delay: delay, written: map[string]int{}}
	w := newWorldIn(t, l)
	zero := time.Now()
	now := func() time.Time { return start.Add(time.Since(zero)) }
	newPublisher := func() *Publisher {
		c := w.client()
		c.Now = now
		return &Publisher{Client: c, Keys: w.keys, Now: now}
	}
	race(t, 1, newPublisher, seed%8 != 7)
}
