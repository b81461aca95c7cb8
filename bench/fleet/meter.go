package main

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// cells is into how many parts a period is cut to see how even it is.
const cells = 60

// A meter counts requests by the time at which the VMs sent them.
type meter struct {
	clock *clock
	begin time.Time
	cell  time.Duration

	mu       sync.Mutex
	attempts []int // by cell since begin; also those that nobody answered
}

func newMeter(c *clock, begin time.Time, period time.Duration) *meter {
	return &meter{clock: c, begin: begin, cell: period / cells}
}

// count counts one request, and returns when it was sent.
func (m *meter) count() time.Time {
	now := m.clock.now()
	n := int(now.Sub(m.begin) / m.cell)
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 0 {
		return now
	}
	if more := n + 1 - len(m.attempts); more > 0 {
		m.attempts = append(m.attempts, make([]int, more)...)
	}
	m.attempts[n]++
	return now
}

// between returns the counts of the cells from one time to another.
func (m *meter) between(from, to time.Time) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]int, to.Sub(from)/m.cell)
	first := int(from.Sub(m.begin) / m.cell)
	for i := range out {
		if n := first + i; n >= 0 && n < len(m.attempts) {
			out[i] = m.attempts[n]
		}
	}
	return out
}

// all is the count of all cells.
func (m *meter) all() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sum(m.attempts)
}

// A line is the transport of one poll: as on a VM, whose agent ends after it,
// nothing of it is left for the next one.
type line struct {
	meter *meter
	*http.Transport
	first atomic.Pointer[time.Time] // request
}

func (m *meter) line() *line {
	return &line{meter: m, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8, ResponseHeaderTimeout: 30 * time.Second}}
}

// began is when the first request was sent, or now.
func (l *line) began() time.Time {
	if t := l.first.Load(); t != nil {
		return *t
	}
	return l.meter.clock.now()
}

func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	now := l.meter.count()
	l.first.CompareAndSwap(nil, &now)
	return l.Transport.RoundTrip(r)
}

func sum(n []int) (s int) {
	for _, x := range n {
		s += x
	}
	return s
}

// chiSquare is how much counts differ from equal ones; their number is what a
// fair draw comes to.
func chiSquare(n []int) float64 {
	mean, chi := float64(sum(n))/float64(len(n)), 0.0
	if mean == 0 {
		return 0
	}
	for _, x := range n {
		chi += (float64(x) - mean) * (float64(x) - mean) / mean
	}
	return chi
}

// quantile is the element below which the share q of a sorted list lies.
func quantile[T any](sorted []T, q float64) (zero T) {
	if len(sorted) == 0 {
		return zero
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
