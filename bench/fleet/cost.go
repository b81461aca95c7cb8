package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// List prices of Amazon S3, us-east-1, in dollars for a request. Transfer within
// a region and DELETE are free.
const (
	priceGet = 0.0004 / 1000
	pricePut = 0.005 / 1000 // PUT, POST and LIST
)

func price(t bucket.Traffic) float64 {
	return float64(t.Gets)*priceGet + float64(t.Puts+t.Lists)*pricePut
}

// A bill is what one VM asked of its bucket in a week of its life.
type bill struct {
	poll  time.Duration
	polls int
	kinds []billed
}

// billed is what came beside the conditional GET of each poll, for one reason.
type billed struct {
	what string
	n    int
	bucket.Traffic
}

func (b bill) total() (t bucket.Traffic) {
	for _, k := range b.kinds {
		t.Gets, t.Puts, t.Lists, t.Deletes = t.Gets+k.Gets, t.Puts+k.Puts, t.Lists+k.Lists, t.Deletes+k.Deletes
	}
	return t
}

// ratio is the bill to that of polls alone.
func (b bill) ratio() float64 { return price(b.total()) / (float64(b.polls) * priceGet) }

// cost lives through a week of one VM, without waiting for it: a poll at each time
// of its schedule, a release at the beginning, and all that the agent does beside.
func cost(ctx context.Context, poll time.Duration) (_ bill, err error) {
	dir, err := os.MkdirTemp(memoryFolder(), "bootwell-cost-")
	if err != nil {
		return bill{}, err
	}
	defer os.RemoveAll(dir)
	now := time.Date(2027, 3, 1, 9, 0, 0, 0, time.UTC)
	mem := bucket.NewMem()
	mem.Now = func() time.Time { return now }
	schedule := release.Schedule{Poll: release.Duration(poll), Reapply: release.Duration(time.Hour)}
	p, err := newProject(ctx, filepath.Join(dir, "project"), mem, func() time.Time { return now }, schedule)
	if err != nil {
		return bill{}, err
	}
	v, err := newVM(dir, 1, poll)
	if err != nil {
		return bill{}, err
	}
	count := bucket.Count(mem)
	a := v.agent(count, "file:///none", p.Anchor, func() time.Time { return now })
	times := agent.ScheduleOf(poll, v.id)
	b := bill{poll: poll}
	// The first day is that of a VM which is new, and is left out.
	for day := range 8 {
		if day < 2 {
			p.Role.Steps = []release.Step{changing(filepath.Join(dir, "has"), day)}
			if err := publish(ctx, p); err != nil {
				return b, err
			}
		}
		if day == 1 {
			b = bill{poll: poll}
		}
		for end := now.Add(24 * time.Hour); now.Before(end); {
			now = times.Next(now)
			before := count.Traffic()
			if _, err := a.Run(ctx, agent.Options{}); err != nil {
				return b, fmt.Errorf("poll at %s: %w", now, err)
			}
			b.add(count.Traffic().Sub(before))
		}
	}
	return b, nil
}

// changing is a step that changes something the first time it runs in release n,
// as steps do.
func changing(file string, n int) release.Step {
	return release.Step{
		Name: "mark", Kind: release.KindRun, Rerun: release.RerunAlways, OnError: release.OnErrorStop, Reboot: release.RebootNever,
		Timeout: release.Duration(time.Minute),
		Run:     fmt.Sprintf(`[ "$(cat %[1]s 2>/dev/null)" = %[2]d ] || { echo %[2]d >%[1]s; echo changed=true >>"$BOOTWELL_OUTPUT"; }`, file, n),
	}
}

// add puts the requests of one call to those of its kind.
func (b *bill) add(t bucket.Traffic) {
	b.polls++
	what := "with a look at the signed state"
	switch {
	case t.Requests() == 1 && t.NotModified == 1:
		what = "nothing new"
	case t.Puts > 1:
		what = "with a release: its content, a log and a report"
	case t.Puts == 1:
		what = "with a report"
	}
	for i := range b.kinds {
		if k := &b.kinds[i]; k.what == what {
			k.n++
			k.Gets, k.Puts, k.Lists = k.Gets+t.Gets, k.Puts+t.Puts, k.Lists+t.Lists
			return
		}
	}
	b.kinds = append(b.kinds, billed{what, 1, t})
}

func (b bill) document(d *result.Document) {
	const vms, month = 1000, 30.0 / 7
	dollars := func(p float64) string { return fmt.Sprintf("$%.2f", vms*month*p) }
	t := d.Add(fmt.Sprintf("Requests of one VM in a week that begins with a release, one poll in %s", b.poll),
		"calls of the agent", "how many", "GET", "PUT", "LIST", "price of 30 days, 1,000 VMs")
	for _, k := range b.kinds {
		t.Row(k.what, k.n, k.Gets, k.Puts, k.Lists, dollars(price(k.Traffic)))
	}
	all := b.total()
	t.Row("all", b.polls, all.Gets, all.Puts, all.Lists, dollars(price(all)))
	t.Row("the floor: one GET for each poll", b.polls, b.polls, 0, 0, dollars(float64(b.polls)*priceGet))
	t.Note = "At the list prices of Amazon S3: $0.0004 for 1,000 GET, $0.005 for 1,000 PUT or LIST. The release is applied again each hour, which asks the bucket nothing."
	d.Target(fmt.Sprintf("price of all requests of 1,000 VMs that poll each %s, to the floor", b.poll), "≤ 1.05 ×",
		fmt.Sprintf("%.3f × (%s / %s in 30 days)", b.ratio(), dollars(price(all)), dollars(float64(b.polls)*priceGet)), b.ratio() <= 1.05)
}
