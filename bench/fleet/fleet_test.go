package main

import (
	"errors"
	"testing"
	"time"

	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/needs"
)

// TestPlay has a small fleet that lives fast. Only counts are looked at: a busy
// machine makes polls late.
func TestPlay(t *testing.T) {
	const vms = 50
	out, err := play(t.Context(), options{agents: vms, poll: 5 * time.Minute, quiet: 2, speed: 300, log: t.Output()})
	if errors.Is(err, world.ErrNoServer) {
		needs.Skip(t, "versitygw", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	if q := out.quietTally; q.polls+q.skipped != 2*vms || out.quietAll != q.polls || len(q.errs) != 0 {
		t.Errorf("quiet periods: %d polls and %d requests, %v", q.polls, out.quietAll, q.errs)
	}
	if out.missing != 0 || len(out.has) != vms || len(out.spreadTally.errs) != 0 {
		t.Errorf("%d VMs have the release, %d have not: %v", len(out.has), out.missing, out.spreadTally.errs)
	}
	o, a := out.outageTally, out.afterTally
	if most := 5*vms + vms/2 + a.polls + 10; out.outageAll > most || out.outageAll < o.polls+a.polls {
		t.Errorf("%d requests from the outage on, at most %d", out.outageAll, most)
	}
	if o.errs["bucket cannot be reached"] < vms-10 || len(o.errs) != 1 || len(a.errs) != 0 {
		t.Errorf("in the outage %v, after it %v", o.errs, a.errs)
	}
}

func TestCost(t *testing.T) {
	b, err := cost(t.Context(), 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	all := b.total()
	if b.polls != 7*288 || all.Gets < int64(b.polls) || all.Puts < 6 || all.Lists+all.Deletes != 0 {
		t.Errorf("%d polls: %+v", b.polls, all)
	}
	if r := b.ratio(); r > 1.05 {
		t.Errorf("the requests cost %.3f times those of the polls alone: %+v", r, b.kinds)
	}
}

func TestClock(t *testing.T) {
	at := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	c := newClock(at, 1e6)
	if now := c.now(); now != at {
		t.Errorf("it begins at %v", now)
	}
	for n := range 3 {
		until := at.Add(time.Duration(n) * time.Hour)
		if !c.pass(t.Context(), until) || c.now() != until {
			t.Errorf("awake at %v instead of %v", c.now(), until)
		}
	}
	if d := c.shorten(time.Minute); d != 60*time.Microsecond {
		t.Errorf("a minute takes %v", d)
	}
}
