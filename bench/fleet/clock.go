package main

import (
	"context"
	"sync"
	"time"
)

// A clock is the time of all simulated VMs: it runs speed times as fast as the
// machine's, and can be given another speed at any time.
type clock struct {
	mu    sync.Mutex
	real  time.Time
	here  time.Time
	speed float64
}

func newClock(at time.Time) *clock { return &clock{real: time.Now(), here: at, speed: 1} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(time.Now())
}

func (c *clock) at(real time.Time) time.Time {
	return c.here.Add(time.Duration(float64(real.Sub(c.real)) * c.speed))
}

// run sets the speed from now on.
func (c *clock) run(speed float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	real := time.Now()
	c.here, c.real, c.speed = c.at(real), real, speed
}

// jump sets the time, which is no earlier than now.
func (c *clock) jump(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.here, c.real = to, time.Now()
}

// shorten is how long d of this clock takes on the machine's.
func (c *clock) shorten(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(float64(d) / c.speed)
}

// sleep waits until the time has come. It reports whether it has: false when ctx
// is done.
func (c *clock) sleep(ctx context.Context, until time.Time) bool {
	left := c.shorten(until.Sub(c.now()))
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
