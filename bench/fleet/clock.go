package main

import (
	"context"
	"sync"
	"time"
)

// A clock is the time of all simulated VMs. It runs up to speed times as fast as
// the machine's, and never past the next moment at which something is to be
// done: when the machine is late, so is the time.
type clock struct {
	speed float64

	mu   sync.Mutex
	here time.Time // the time at real
	real time.Time
	end  time.Time // it stands still there
}

// newClock returns a clock that stands still.
func newClock(at time.Time, speed float64) *clock {
	return &clock{here: at, end: at, real: time.Now(), speed: speed}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(time.Now())
}

func (c *clock) at(real time.Time) time.Time {
	now := c.here.Add(time.Duration(float64(real.Sub(c.real)) * c.speed))
	if now.After(c.end) {
		return c.end
	}
	return now
}

// jump sets the time to one that is no earlier.
func (c *clock) jump(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.here, c.end, c.real = to, to, time.Now()
}

// shorten is how long d of this clock takes on the machine's at least.
func (c *clock) shorten(d time.Duration) time.Duration {
	return time.Duration(float64(d) / c.speed)
}

// pass lets time pass until the given one. It reports whether it has come: false
// when ctx is done.
func (c *clock) pass(ctx context.Context, until time.Time) bool {
	c.mu.Lock()
	now := time.Now()
	c.here, c.real, c.end = c.at(now), now, until
	left := c.shorten(until.Sub(c.here))
	c.mu.Unlock()
	if left <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
