package main

import (
	"time"

	"github.com/bootwell/bootwell/bench/workload"
)

// A plan says what is run how often. Slow peers are run less often on the
// larger trees: what they are compared with is a matter of ten times, not of
// per cents.
type plan struct {
	sizes []workload.Size
	rtts  []time.Duration
	fast  map[string]int // rounds for each workload
	slow  map[string]int
	only  []string // names of peers; nil: all

	// budget is the time after which slow peers are left out and every cell is
	// measured once only; 0: none.
	budget time.Duration
}

// plainPublisher publishes the large tree for all that store it file by file.
const plainPublisher = "rclone-tuned"

const distant = 20 * time.Millisecond

func standardPlan() plan {
	return plan{
		sizes: []workload.Size{workload.S, workload.M, workload.L}, rtts: []time.Duration{0, distant},
		fast: map[string]int{"S": 3, "M": 5, "L": 3}, slow: map[string]int{"S": 1, "M": 1, "L": 1}, budget: 26 * time.Minute,
	}
}

// quickPlan is for a look at where bootwell stands.
func quickPlan() plan {
	return plan{
		sizes: []workload.Size{workload.S, workload.M}, rtts: []time.Duration{0, distant},
		fast: map[string]int{"S": 3, "M": 3}, slow: map[string]int{},
		only: []string{"bootwell", "floor", "curl-pipe", "curl-etag", "git"},
	}
}

func (p plan) most() int {
	n := 0
	for _, m := range []map[string]int{p.fast, p.slow} {
		for _, reps := range m {
			n = max(n, reps*pollRounds)
		}
	}
	return n
}

// pollRounds is how often bootwell and the floor poll in each round that the
// others have: they differ by a millisecond or less, as much as one of their
// polls does from the next.
const pollRounds = 5

func (p plan) shares(size workload.Size, who *peer) bool {
	return who.plain && size.Name == "L" && who.name != plainPublisher
}

// reps is how often a cell is measured; 0: not at all.
func (p plan) reps(size workload.Size, who *peer, o op, rtt time.Duration) int {
	n := p.fast[size.Name]
	if who.slow {
		n = p.slow[size.Name]
	}
	switch {
	case o == poll && (who.name == us || who.name == "floor"):
		return n * pollRounds
	case size.Name == "L":
		return min(n, largeReps(who, o, rtt))
	case o == publishCold:
		return min(n, 3)
	case who.slow && (o == many || o == rename) && rtt == 0:
		return 0
	case who.slow && o == cold:
		return 2 * n
	}
	return n
}

// largeReps bounds what takes minutes on the large tree.
func largeReps(who *peer, o op, rtt time.Duration) int {
	further := o == many || o == oneByte || o == rename
	switch {
	case o == publishCold && (who.name == "git" || who.name == "curl-pipe" || who.slow):
		if rtt > 0 { // mostly compression, whatever the line
			return 0
		}
		return 1
	case o == publishCold:
		return 2
	case who.name == "rclone" && (rtt > 0 || further): // one request for each file, each time
		return 0
	case who.slow && (further || rtt == 0) && who.name != "rclone":
		return 0
	case further && (who.archive() || who.name == "restic"): // they take all of the tree each time
		return 1
	}
	return 3
}

// archive tells that the peer fetches the one archive of the tree.
func (p *peer) archive() bool { return p.name == "curl-pipe" || p.from == "curl-pipe" }
