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
	quick bool
}

// plainPublisher publishes the large tree for all that store it file by file.
const plainPublisher = "rclone-tuned"

const distant = 20 * time.Millisecond

func standardPlan() plan {
	return plan{
		sizes: []workload.Size{workload.S, workload.M, workload.L}, rtts: []time.Duration{0, distant},
		fast: map[string]int{"S": 5, "M": 5, "L": 3}, slow: map[string]int{"S": 2, "M": 2, "L": 1},
	}
}

// quickPlan is for a look at where bootwell stands.
func quickPlan() plan {
	return plan{
		sizes: []workload.Size{workload.S, workload.M}, rtts: []time.Duration{0, distant}, quick: true,
		fast: map[string]int{"S": 3, "M": 3}, slow: map[string]int{},
		only: []string{"bootwell", "floor", "curl-pipe", "curl-etag", "git"},
	}
}

func (p plan) most() int {
	n := 0
	for _, m := range []map[string]int{p.fast, p.slow} {
		for _, reps := range m {
			n = max(n, reps)
		}
	}
	return n
}

func (p plan) shares(size workload.Size, who *peer) bool {
	return who.plain && size.Name == "L" && who.name != plainPublisher
}

// reps is how often a cell is measured; 0: not at all.
func (p plan) reps(size workload.Size, who *peer, o op, rtt time.Duration) int {
	n := p.fast[size.Name]
	if who.slow {
		n = p.slow[size.Name]
	}
	large := size.Name == "L"
	switch {
	case o == publishCold && large && (who.name == "git" || who.name == "curl-pipe" || who.slow):
		if rtt > 0 { // minutes of compression, whatever the line
			return 0
		}
		return min(n, 1)
	case o == publishCold:
		return min(n, 3-boolInt(who.slow)-boolInt(large))
	case who.slow && (o == many || o == rename) && rtt == 0 && !large:
		return 0
	case who.slow && (o == many || o == rename):
		n = min(n, 1)
	}
	switch {
	case large && who.slow && rtt > 0 && o != cold && o != poll && o != one:
		return 0
	case large && who.name == "rclone" && rtt > 0 && o != cold:
		return 0
	}
	return n
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
