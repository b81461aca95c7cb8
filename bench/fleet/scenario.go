package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
)

// Options of a scenario.
type options struct {
	agents int
	poll   time.Duration // of the VMs, in their time
	quiet  int           // periods in which nothing happens
	speed  float64       // how much faster than the machine's their time goes at most
	dir    string        // for the VMs' folders; "": in memory, if there is such a folder
	log    io.Writer
}

// An outcome is what a scenario showed. Times are those of the VMs.
type outcome struct {
	options
	took time.Duration // on this machine, from the first quiet period on

	quietCells  []int // requests in each sixtieth of the quiet periods
	quietEach   []int // requests in each of these periods
	quietAll    int   // requests of all polls in them, whenever they were sent
	quietTally  tally
	quietCPU    usage
	asked, has  []time.Duration // from the release until each VM asked for it, and until it had it
	missing     int             // VMs that have not
	spreadReqs  int
	spreadTally tally
	outage      []int // requests in each sixtieth, from the beginning of the outage
	outageAll   int   // and of all polls from then on
	back        int   // the cell in which the bucket is back
	outageTally tally
	afterTally  tally
}

// outagePeriods is how long the bucket is away, and afterPeriods how long the
// fleet is watched when it is back.
const (
	outagePeriods = 1.5
	afterPeriods  = 1.0
)

// A stage is what the parts of a scenario work on.
type stage struct {
	o     options
	world *world.World
	clock *clock
	fleet *fleet
	out   *outcome
	began time.Time // to play
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(s.o.log, format+"\n", args...) }

// play runs the scenario.
func play(ctx context.Context, o options) (_ *outcome, err error) {
	if o.dir == "" {
		o.dir = memoryFolder()
	}
	if o.dir, err = os.MkdirTemp(o.dir, "bootwell-fleet-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(o.dir)
	w, err := world.Start(ctx, world.Options{Buckets: []string{"fleet"}, Dir: filepath.Join(o.dir, "server")})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	s := &stage{o: o, world: w, clock: newClock(time.Now(), o.speed), out: &outcome{options: o}}
	for _, part := range []func(context.Context) error{s.gather, s.quiet, s.spread, s.outage} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

// memoryFolder keeps thousands of VMs' small durable writes from one disk.
func memoryFolder() string {
	if i, err := os.Stat("/dev/shm"); err == nil && i.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// gather makes the project and its VMs. One of them makes its first contact; the
// others begin with what it has then.
func (s *stage) gather(ctx context.Context) error {
	b, err := s3.Open(ctx, s.world.DirectURL("fleet", "p"), s3.Options{Sources: []s3.Source{s3.Static(world.Key, world.Secret, "")}})
	if err != nil {
		return err
	}
	schedule := release.Schedule{Poll: release.Duration(s.o.poll), Reapply: release.Duration(12 * time.Hour)}
	p, err := newProject(ctx, filepath.Join(s.o.dir, "project"), bucket.Retry(b, bucket.RetryPolicy{}), s.clock.now, schedule)
	if err != nil {
		return err
	}
	vms := make([]*vm, s.o.agents)
	for n := range vms {
		if vms[n], err = newVM(filepath.Join(s.o.dir, "vms"), n, s.o.poll); err != nil {
			return err
		}
	}
	s.fleet = newFleet(s.clock, s.world.URL("fleet", "p"), p, s.o.poll, vms)
	s.fleet.meter = newMeter(s.clock, s.clock.now(), s.o.poll)
	if err := publish(ctx, p); err != nil {
		return err
	}
	if _, _, err := s.fleet.poll(ctx, vms[0]); err != nil {
		return fmt.Errorf("first contact: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, v := range vms[1:] {
		g.Go(func() error { return v.become(vms[0]) })
	}
	s.say("%d VMs", len(vms))
	return g.Wait()
}

// quiet has periods in which nothing happens.
func (s *stage) quiet(ctx context.Context) error {
	begin := s.clock.now().UTC().Truncate(s.o.poll).Add(s.o.poll)
	s.clock.jump(begin.Add(-time.Second))
	s.fleet.base = begin
	s.fleet.meter = newMeter(s.clock, begin, s.o.poll)
	cpu := s.used()
	s.began = time.Now()
	end := begin.Add(time.Duration(s.o.quiet) * s.o.poll)
	if err := s.fleet.play(ctx, end); err != nil {
		return err
	}
	s.out.quietTally = s.fleet.tally()
	s.out.quietCPU = s.used().sub(cpu)
	s.out.quietCells = s.fleet.meter.between(begin, end)
	s.out.quietAll = s.fleet.meter.all()
	for n := range s.o.quiet {
		s.out.quietEach = append(s.out.quietEach, sum(s.out.quietCells[n*cells:(n+1)*cells]))
	}
	s.say("%d quiet periods: %v requests", s.o.quiet, s.out.quietEach)
	return nil
}

// spread publishes a release in the middle of a period.
func (s *stage) spread(ctx context.Context) error {
	begin := s.fleet.base
	if err := s.fleet.play(ctx, begin.Add(s.o.poll*37/100)); err != nil {
		return err
	}
	s.fleet.watch("r2")
	if err := publish(ctx, s.fleet.project); err != nil {
		return err
	}
	visible := s.clock.now()
	if err := s.fleet.play(ctx, visible.Add(s.o.poll)); err != nil {
		return err
	}
	end := begin.Add(2 * s.o.poll)
	if err := s.fleet.play(ctx, end); err != nil {
		return err
	}
	s.out.spreadTally = s.fleet.tally()
	s.out.spreadReqs = sum(s.fleet.meter.between(begin, end))
	for _, at := range s.fleet.updated {
		s.out.asked = append(s.out.asked, max(at.began.Sub(visible), 0))
		s.out.has = append(s.out.has, max(at.done.Sub(visible), 0))
	}
	slices.Sort(s.out.asked)
	slices.Sort(s.out.has)
	s.out.missing = s.o.agents - len(s.out.has)
	s.say("the release: %d of %d VMs have it", len(s.out.has), s.o.agents)
	return nil
}

// outage takes the bucket away for a while.
func (s *stage) outage(ctx context.Context) error {
	begin, before := s.fleet.base, s.fleet.meter.all()
	back := begin.Add(time.Duration(outagePeriods * float64(s.o.poll)))
	end := back.Add(time.Duration(afterPeriods * float64(s.o.poll)))
	s.world.Proxy.SetDown(true)
	// Many wait for their next attempt then.
	s.fleet.allow(patientAtOnce + s.o.agents/40)
	if err := s.fleet.play(ctx, back); err != nil {
		return err
	}
	s.world.Proxy.SetDown(false)
	s.out.back = int(back.Sub(begin) / (s.o.poll / cells))
	// Those that still try belong to the outage.
	s.out.outageTally = s.fleet.tally()
	if err := s.fleet.play(ctx, end); err != nil {
		return err
	}
	s.out.afterTally = s.fleet.tally()
	s.out.took = time.Since(s.began)
	s.out.outage = s.fleet.meter.between(begin, end)
	s.out.outageAll = s.fleet.meter.all() - before
	s.say("the outage: %d requests, %d after it", sum(s.out.outage[:s.out.back]), sum(s.out.outage[s.out.back:]))
	return nil
}
