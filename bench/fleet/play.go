package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bootwell/bootwell/bench/operator"
	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// A fleet is many VMs in one process, each with its own identity, folder and
// connections, that poll one bucket by their own schedules.
type fleet struct {
	clock   *clock
	meter   *meter
	url     string
	project *operator.Project
	period  time.Duration
	vms     []*vm // in the order of their phases

	base   time.Time // of the period that is played
	at     int       // the VM that is next in it
	turns  chan struct{}
	flight sync.WaitGroup
	busy   []atomic.Bool

	mu      sync.Mutex
	want    string // the release whose spread is watched
	updated map[string]spread
	said    tally
}

// A spread is when a VM began the poll that brought it a release, and when it had it.
type spread struct{ began, done time.Time }

// A tally is what happened since the last one.
type tally struct {
	polls   int
	skipped int             // starts while the poll before was still under way
	late    []time.Duration // how much later than planned the first requests of polls came, in the time of the VMs
	errs    map[string]int
}

// How many polls may be under way on this machine: few, so that those that were
// begun are soon done; more while many of them wait for a next attempt.
const (
	atOnce        = 8
	patientAtOnce = 16
)

// allow sets how many polls may be under way from now on.
func (f *fleet) allow(n int) {
	f.flight.Wait()
	f.turns = make(chan struct{}, n)
}

func newFleet(c *clock, url string, p *operator.Project, period time.Duration, vms []*vm) *fleet {
	slices.SortFunc(vms, func(a, b *vm) int { return int(a.phase - b.phase) })
	return &fleet{
		clock: c, url: url, project: p, period: period, vms: vms,
		turns: make(chan struct{}, atOnce), busy: make([]atomic.Bool, len(vms)),
		updated: map[string]spread{},
	}
}

// watch begins to note when VMs have a release.
func (f *fleet) watch(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.want, f.updated = name, map[string]spread{}
}

// tally returns what happened since the last call, once all polls have ended.
func (f *fleet) tally() tally {
	f.flight.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.said
	f.said = tally{}
	return was
}

// play lets time pass until the given one, and each VM poll at its times. What
// is under way then goes on.
func (f *fleet) play(ctx context.Context, until time.Time) error {
	for {
		due := f.base.Add(f.vms[f.at].phase)
		if !due.Before(until) {
			f.clock.pass(ctx, until)
			return ctx.Err()
		}
		if !f.clock.pass(ctx, due) {
			return ctx.Err()
		}
		select {
		case f.turns <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		turns, n := f.turns, f.at
		if f.at++; f.at == len(f.vms) {
			f.at, f.base = 0, f.base.Add(f.period)
		}
		f.flight.Go(func() {
			defer func() { <-turns }()
			f.start(ctx, n, due)
		})
	}
}

// start is one start of the service of VM n: none while it still runs.
func (f *fleet) start(ctx context.Context, n int, due time.Time) {
	if !f.busy[n].CompareAndSwap(false, true) {
		f.mu.Lock()
		f.said.skipped++
		f.mu.Unlock()
		return
	}
	defer f.busy[n].Store(false)
	began, has, err := f.poll(ctx, f.vms[n])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said.polls++
	f.said.late = append(f.said.late, began.Sub(due))
	if _, before := f.updated[f.vms[n].id]; has != "" && has == f.want && !before {
		f.updated[f.vms[n].id] = spread{began, f.clock.now()}
	}
	if err != nil && ctx.Err() == nil {
		if f.said.errs == nil {
			f.said.errs = map[string]int{}
		}
		f.said.errs[kind(err)]++
	}
}

// poll is what the agent does when its timer starts it. It returns when it sent
// its first request, and the release that the VM has then.
func (f *fleet) poll(ctx context.Context, v *vm) (began time.Time, has string, err error) {
	l := f.meter.line()
	defer l.CloseIdleConnections()
	b, err := s3.Open(ctx, f.url, s3.Options{Sources: []s3.Source{s3.Static(world.Key, world.Secret, "")}, Transport: l})
	if err != nil {
		return began, "", err
	}
	// The agent's own patience, in the time of the VMs.
	patient := bucket.Retry(b, bucket.RetryPolicy{
		Pause: f.clock.shorten(500 * time.Millisecond), Limit: f.clock.shorten(20 * time.Second),
	})
	r, err := v.agent(patient, f.url, f.project.Anchor, f.clock.now).Run(ctx, agent.Options{})
	if r != nil {
		has = r.Release
	}
	return l.began(), has, err
}

func kind(err error) string {
	for _, e := range []error{bucket.ErrUnavailable, agent.ErrBusy, agent.ErrSteps, bucket.ErrPermission, bucket.ErrNotExist} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return err.Error()
}
