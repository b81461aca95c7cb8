package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/bootwell/bootwell/bench/result"
)

// lateAllowed is how much later than planned polls may begin before a result says
// more of this machine than of a fleet, as a part of the period.
const lateAllowed = 0.01

// document adds what a scenario showed.
func (o *outcome) document(d *result.Document) {
	d.Intro = append(d.Intro, fmt.Sprintf(
		"%d VMs in one process, each with the agent's own code, its own identity, folder and connections, and the schedule that its timer would have, against one versitygw on the loopback address. "+
			"Their time goes up to %.0f times as fast as the machine's and stands still while that cannot follow; the whole play took %s.", o.agents, o.speed, o.took.Round(time.Second)))
	o.quietTables(d)
	o.spreadTables(d)
	o.outageTables(d)

	errs := 0
	for _, t := range []tally{o.quietTally, o.spreadTally, o.afterTally} {
		for _, c := range t.errs {
			errs += c
		}
	}
	d.Target("polls that failed while the bucket was there", "0", fmt.Sprint(errs), errs == 0)
	late := slices.Sorted(slices.Values(slices.Concat(o.quietTally.late, o.spreadTally.late, o.afterTally.late)))
	p99 := quantile(late, 0.99)
	d.Target("the play is true to time: 99 of 100 polls came later than planned by at most", fmt.Sprintf("%.0f %% of the period", 100*lateAllowed),
		fmt.Sprintf("%.2f %%", 100*p99.Seconds()/o.poll.Seconds()), p99.Seconds() <= lateAllowed*o.poll.Seconds())
	polls := float64(o.quietTally.polls)
	t := d.Add("What it costs this machine", "", "CPU per poll")
	t.Row("the VMs' agents, and the counting proxy between them and the server", ms(o.quietCPU.agents.Seconds()/polls))
	t.Row("the server", ms(o.quietCPU.server.Seconds()/polls))
	t.Note = fmt.Sprintf("%.0f polls of quiet periods. An agent on a VM also starts as a process.", polls)
}

func ms(seconds float64) string { return fmt.Sprintf("%.2f ms", 1000*seconds) }

func (o *outcome) quietTables(d *result.Document) {
	t := d.Add("Quiet periods: requests in each sixtieth of a period", "period", "requests", "expected", "least", "mean", "most", "most / mean", "chi-square (59 ± 11 is a fair draw)")
	worst := 0.0
	for i, total := range o.quietEach {
		c := o.quietCells[i*cells : (i+1)*cells]
		mean, chi := float64(total)/cells, chiSquare(c)
		worst = max(worst, chi)
		t.Row(i+1, total, o.agents, slices.Min(c), fmt.Sprintf("%.1f", mean), slices.Max(c), fmt.Sprintf("%.2f", float64(slices.Max(c))/mean), fmt.Sprintf("%.0f", chi))
	}
	want := o.quiet * o.agents
	d.Target("requests of all VMs in quiet periods", fmt.Sprintf("%d: one in each period", want), fmt.Sprint(o.quietAll), o.quietAll == want && o.quietTally.polls == want)
	// Above 102 once in 2,500 fair draws.
	d.Target("polls are spread evenly over the period: chi-square of 60 parts", "≤ 102", fmt.Sprintf("%.0f", worst), worst <= 102)
}

func (o *outcome) spreadTables(d *result.Document) {
	t := d.Add("A release spreads", "share of the VMs", "has asked after", "in polls", "has it after")
	part := func(x time.Duration) string { return fmt.Sprintf("%.2f", x.Seconds()/o.poll.Seconds()) }
	for _, q := range []float64{0.1, 0.25, 0.5, 0.75, 0.9, 1} {
		x := quantile(o.asked, q)
		t.Row(fmt.Sprintf("%.0f %%", 100*q), x.Round(time.Second/10), part(x), quantile(o.has, q).Round(time.Second/10))
	}
	t.Note = fmt.Sprintf("From the commit on; %d requests in the two periods around it, which is %.1f for each VM besides its polls.", o.spreadReqs, float64(o.spreadReqs)/float64(o.agents)-2)
	last := quantile(o.asked, 1)
	d.Target("every VM has asked for a release, and got it, after", "≤ 1.01 polls", fmt.Sprintf("%s polls, %d VMs missing", part(last), o.missing), o.missing == 0 && last.Seconds() <= 1.01*o.poll.Seconds())
	half := quantile(o.asked, 0.5).Seconds() / o.poll.Seconds()
	d.Target("half of the VMs have asked for it after", "0.45 to 0.55 polls", fmt.Sprintf("%.2f polls", half), math.Abs(half-0.5) <= 0.05)
}

func (o *outcome) outageTables(d *result.Document) {
	t := d.Add(fmt.Sprintf("The bucket is away for %.1f periods", outagePeriods), "time", "requests for each VM that polls", "most in a sixtieth / in a quiet one")
	normal := slices.Max(o.quietCells)
	row := func(name string, from, to int) (each, peak float64) {
		c := o.outage[from:to]
		each = float64(sum(c)) / float64(o.agents) * cells / float64(len(c))
		peak = float64(slices.Max(c)) / float64(normal)
		t.Row(name, fmt.Sprintf("%.2f", each), fmt.Sprintf("%.2f", peak))
		return each, peak
	}
	first, _ := row("first period of the outage", 0, cells)
	second, _ := row("after that", cells, o.back)
	each, peak := row("the bucket is back, first period", o.back, o.back+cells)
	_, rush := row("of it the first sixtieth", o.back, o.back+1)
	d.Target("requests of a VM at its first poll in an outage", "≤ 5", fmt.Sprintf("%.2f", first), first <= 5.01)
	d.Target("and at each one after", "≤ 1 (1.2 with those that still try)", fmt.Sprintf("%.2f", second), second <= 1.2)
	d.Target("requests in the period after an outage, to those of a quiet period", "≤ 1.1 ×", fmt.Sprintf("%.2f ×", each), each <= 1.1)
	d.Target("most requests in a sixtieth of it, to the most in quiet times", "≤ 1.5 ×", fmt.Sprintf("%.2f × (%.2f × at once)", peak, rush), peak <= 1.5)
}
