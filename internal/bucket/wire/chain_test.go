package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// place is a source whose answers a test chooses.
type place struct {
	asked int
	life  time.Duration
	err   error
	wait  time.Duration
}

func (p *place) get(ctx context.Context) (string, time.Time, error) {
	p.asked++
	if p.wait > 0 {
		select {
		case <-time.After(p.wait):
		case <-ctx.Done():
			return "", time.Time{}, ctx.Err()
		}
	}
	if p.err != nil {
		return "", time.Time{}, p.err
	}
	var ends time.Time
	if p.life != 0 {
		ends = time.Now().Add(p.life)
	}
	return fmt.Sprint("k", p.asked), ends, nil
}

func (p *place) source(name string) Source[string] { return Source[string]{Name: name, Get: p.get} }

func TestChain_Order(t *testing.T) {
	nothing := fmt.Errorf("no file: %w", ErrNothing)
	lost := errors.New("no answer")
	for name, c := range map[string]struct {
		first, second error
		life          time.Duration // of what the second gives
		want          error
		words         string
	}{
		"the first":                {nil, nil, 0, nil, "first"},
		"the second":               {nothing, nil, 0, nil, "second"},
		"the second, one is away":  {lost, nil, 0, nil, "second"},
		"nothing anywhere":         {nothing, fmt.Errorf("%w: no variable", ErrNothing), 0, bucket.ErrPermission, "no credentials found (first: no file; second: no variable)"},
		"one is away":              {lost, nothing, 0, bucket.ErrUnavailable, "(first: no answer; second: no file)"},
		"refused":                  {fmt.Errorf("%w: wrong", bucket.ErrPermission), nothing, 0, bucket.ErrPermission, "wrong"},
		"found, but of no service": {Found(fmt.Errorf("%w: gone", bucket.ErrNoBucket)), nil, 0, bucket.ErrNoBucket, "credentials of first"},
		"expired":                  {nothing, nil, -time.Second, bucket.ErrUnavailable, "expired at"},
	} {
		a, b := &place{err: c.first}, &place{err: c.second, life: c.life}
		g, err := NewChain(nil, a.source("first"), b.source("second")).Get(t.Context())
		switch {
		case !errors.Is(err, c.want):
			t.Errorf("%s: %v", name, err)
		case err == nil && (g.Source != c.words || g.Value != "k1"):
			t.Errorf("%s: %+v", name, g)
		case err != nil && !strings.Contains(err.Error(), c.words):
			t.Errorf("%s: %v, want words %q", name, err, c.words)
		}
	}
}

func TestChain_Renewal(t *testing.T) {
	for life, renewed := range map[time.Duration]time.Duration{time.Hour: 55 * time.Minute, 10 * time.Minute: 8 * time.Minute, 0: -1} {
		synctest.Test(t, func(t *testing.T) {
			p := &place{life: life}
			c := NewChain(nil, p.source("p"))
			step := func(pass time.Duration, want string) {
				t.Helper()
				time.Sleep(pass)
				if g, err := c.Get(t.Context()); (err == nil) != (want != "") || err == nil && g.Value != want {
					t.Errorf("life %s: %+v, %v, want %q", life, g, err, want)
				}
			}
			step(0, "k1")
			if renewed < 0 {
				step(365*24*time.Hour, "k1")
				return
			}
			step(renewed-time.Second, "k1")
			step(time.Second, "k2")
			step(renewed-time.Second, "k2")
			p.err = errors.New("away")
			step(time.Second, "k2") // due, and the source is away: still good
			step(0, "k2")
			if p.asked != 3 {
				t.Errorf("asked %d times at once", p.asked)
			}
			step(time.Second, "k2")
			if p.asked != 4 {
				t.Errorf("not asked again after a second: %d", p.asked)
			}
			step(life-renewed-time.Second, "") // over
			p.err = nil
			step(lastPause, fmt.Sprint("k", p.asked+1))
		})
	}
}

// TestChain_Storm has many readers that try again and again.
func TestChain_Storm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{err: errors.New("away"), wait: 10 * time.Millisecond}
		c := NewChain(nil, p.source("p"))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Get(ctx); ctx.Err() == nil && !errors.Is(err, bucket.ErrUnavailable) {
						t.Error(err)
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		all.Wait()
		// At 0, 1, 3, 7, 15, 31, 61, 91 seconds.
		if p.asked != 8 {
			t.Errorf("asked %d times in two minutes", p.asked)
		}
		p.err = nil
		time.Sleep(lastPause)
		if _, err := c.Get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestChain_OneAsks lets a caller go whose time is over, and the others wait.
func TestChain_OneAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{wait: time.Minute, life: time.Hour}
		c := NewChain(nil, p.source("p"))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if g, err := c.Get(t.Context()); err != nil || g.Value != "k1" {
					t.Errorf("%+v, %v", g, err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Get(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a caller without time: %v after %s", err, time.Since(start))
		}
		all.Wait()
		if p.asked != 1 {
			t.Errorf("asked %d times", p.asked)
		}
		// While one renews, the others use what is still good.
		time.Sleep(56 * time.Minute)
		all.Go(func() {
			if g, err := c.Get(t.Context()); err != nil || g.Value != "k2" {
				t.Errorf("%+v, %v", g, err)
			}
		})
		synctest.Wait()
		start = time.Now()
		if g, err := c.Get(t.Context()); err != nil || g.Value != "k1" || time.Since(start) != 0 {
			t.Errorf("%+v, %v", g, err)
		}
		all.Wait()
	})
}

// TestChain_Cancelled does not take the end of a caller for a failure.
func TestChain_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{wait: time.Minute}
		c := NewChain(nil, p.source("p"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := c.Get(ctx); !errors.Is(err, context.DeadlineExceeded) || p.asked != 1 {
			t.Errorf("%v, asked %d times", err, p.asked)
		}
		if g, err := c.Get(t.Context()); err != nil || g.Value != "k2" {
			t.Errorf("%+v, %v", g, err)
		}
	})
}

func TestChain_Forget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{}
		c := NewChain(nil, p.source("p"))
		get := func(want string) *Grant[string] {
			t.Helper()
			g, err := c.Get(t.Context())
			if err != nil || g.Value != want {
				t.Fatalf("%+v, %v, want %s", g, err, want)
			}
			return g
		}
		first := get("k1")
		if c.Forget(first) {
			t.Error("credentials that are young are asked for again")
		}
		get("k1")
		time.Sleep(young)
		if !c.Forget(first) {
			t.Error("nothing new is expected")
		}
		second := get("k2")
		if !c.Forget(first) { // somebody is late
			t.Error("the second is no other")
		}
		if get("k2") != second || c.Last() != second {
			t.Error("the second was dropped")
		}
	})
}

func TestChain_Warns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		p := &place{life: time.Minute}
		s := p.source("file")
		s.Warn = func(value string) string {
			if value == "k1" {
				return ""
			}
			return "permanent keys"
		}
		c := NewChain(slog.New(slog.NewTextHandler(&log, nil)), s)
		for range 4 {
			if _, err := c.Get(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if n := strings.Count(log.String(), `msg="permanent keys" source=file`); n != 1 || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%s", log.String())
		}
	})
}

// TestPassed goes by both clocks.
func TestPassed(t *testing.T) {
	now := time.Now()
	later := now.Add(time.Hour)
	for name, c := range map[string]struct {
		t, now time.Time
		want   bool
	}{
		"before":                     {later, now, false},
		"then":                       {later, later, true},
		"resumed, by the wall clock": {now.Add(time.Second), later.Round(0), true},
		"no monotonic time":          {later.Round(0), now, false},
	} {
		if passed(c.t, c.now) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}
