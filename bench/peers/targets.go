package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/bootwell/bootwell/bench/result"
)

const us = "bootwell"

// targets holds what was measured against what must be true.
func (b *bench) targets(doc *result.Document) {
	for _, t := range []struct {
		workload string
		op       op
		rtt      time.Duration
		most     float64
		peer     string
	}{
		{"M", cold, distant, 1, "curl-pipe"}, {"M", cold, distant, 1, "curl-etag"}, {"M", cold, distant, 0.1, "aws-sync"},
		{"L", cold, distant, 1, "curl-pipe"}, {"L", cold, distant, 1, "curl-etag"},
		{"L", cold, 0, 1, "curl-pipe"}, {"L", cold, 0, 1, "curl-etag"},
		{"M", poll, distant, 1.2, "floor"}, {"M", poll, 0, 1.2, "floor"},
		{"M", one, distant, 0.8, "git"},
		{"L", publishOne, distant, 0.2, "restic"}, {"L", publishOne, 0, 0.2, "restic"},
		{"L", publishCold, distant, 1, "restic"}, {"L", publishCold, 0, 1, "restic"},
	} {
		b.ratio(doc, t.workload, t.op, t.rtt, t.most, t.peer)
	}
	for _, size := range b.plan.sizes {
		w := size.Name
		b.least(doc, w)
		b.most(doc, w, poll, "requests", 1, func(s sample) float64 { return float64(s.requests) }, count)
		b.most(doc, w, poll, "bytes down", 600, func(s sample) float64 { return float64(s.down) }, bytesText)
		b.most(doc, w, poll, "peak RSS", 20e6, func(s sample) float64 { return float64(s.rss) }, bytesText)
	}
	b.most(doc, "M", one, "requests", 8, func(s sample) float64 { return float64(s.requests) }, count)
	b.most(doc, "M", one, "bytes down beyond the file", 10e3, func(s sample) float64 { return float64(s.down - s.changed) }, bytesText)
	for _, size := range b.plan.sizes {
		b.most(doc, size.Name, rename, "bytes down: metadata only", 30e3, func(s sample) float64 { return float64(s.down) }, bytesText)
	}
	b.most(doc, "L", oneByte, "bytes down", 200e3, func(s sample) float64 { return float64(s.down) }, bytesText)
	b.sameRequests(doc)
	b.most(doc, "L", cold, "peak RSS", 64e6, func(s sample) float64 { return float64(s.rss) }, bytesText)
	b.most(doc, oneGB, cold, "peak RSS", 64e6, func(s sample) float64 { return float64(s.rss) }, bytesText)
	b.allRight(doc)
}

func count(n float64) string { return fmt.Sprintf("%.0f", n) }

func (b *bench) planned(workload string) bool {
	if workload == oneGB {
		workload = "L"
	}
	for _, s := range b.plan.sizes {
		if s.Name == workload {
			return true
		}
	}
	return false
}

// ratio compares wall times, round by round.
func (b *bench) ratio(doc *result.Document, workload string, o op, rtt time.Duration, most float64, peer string) {
	if !b.planned(workload) || b.plan.only != nil && !slices.Contains(b.plan.only, peer) {
		return
	}
	text := fmt.Sprintf("%s, %s at %d ms: wall beside %s", workload, o, rtt.Milliseconds(), peer)
	want := fmt.Sprintf("≤ %.2g ×", most)
	ours, theirs := good(b.samples[key{workload, us, o, rtt}]), good(b.samples[key{workload, peer, o, rtt}])
	n := min(len(ours), len(theirs))
	if n == 0 {
		doc.Target(text, want, "not measured", false)
		return
	}
	ratios := make([]float64, n)
	for i := range n {
		ratios[i] = wall(ours[i]) / wall(theirs[i])
	}
	r := middle(ratios)
	got := fmt.Sprintf("%.2f × (%s / %s, %d rounds)", r, duration(median(ours, wall)), duration(median(theirs, wall)), n)
	if ours[0].ready > 0 {
		whole := make([]float64, n)
		for i := range n {
			whole[i] = float64(ours[i].wall) / wall(theirs[i])
		}
		got += fmt.Sprintf("; %.2f × with its report", middle(whole))
	}
	doc.Target(text, want, got, r <= most && b.unfailing(workload, o, rtt))
}

// unfailing reports whether none of our runs of a cell failed.
func (b *bench) unfailing(workload string, o op, rtt time.Duration) bool {
	all := b.samples[key{workload, us, o, rtt}]
	return len(good(all)) == len(all)
}

// least holds that each poll asks at all.
func (b *bench) least(doc *result.Document, workload string) {
	for _, rtt := range b.plan.rtts {
		for _, s := range b.samples[key{workload, us, poll, rtt}] {
			if s.requests == 0 || s.err != nil {
				doc.Target(workload+", poll: each asks the bucket", "all", "one did not", false)
				return
			}
		}
	}
}

func good(all []sample) []sample {
	var out []sample
	for _, s := range all {
		if s.err == nil {
			out = append(out, s)
		}
	}
	return out
}

// most holds the worst of our cells against a bound.
func (b *bench) most(doc *result.Document, workload string, o op, what string, bound float64, of func(sample) float64, show func(float64) string) {
	if !b.planned(workload) {
		return
	}
	text, want := fmt.Sprintf("%s, %s: %s", workload, o, what), "≤ "+show(bound)
	worst, n := 0.0, 0
	for _, rtt := range b.plan.rtts {
		for _, s := range good(b.samples[key{workload, us, o, rtt}]) {
			worst = max(worst, of(s))
			n++
		}
	}
	if n == 0 {
		doc.Target(text, want, "not measured", false)
		return
	}
	doc.Target(text, want, show(worst), worst <= bound && b.unfailing(workload, o, 0) && b.unfailing(workload, o, distant))
}

// sameRequests: what a publish asks grows with what changed, not with the tree.
func (b *bench) sameRequests(doc *result.Document) {
	if !b.planned("S") || !b.planned("L") {
		return
	}
	small, large := good(b.samples[key{"S", us, publishOne, 0}]), good(b.samples[key{"L", us, publishOne, 0}])
	requests := func(s sample) float64 { return float64(s.requests) }
	x, y := median(small, requests), median(large, requests)
	met := len(small) > 0 && len(large) > 0 && y <= x+2
	doc.Target("L, publish 1 file: requests as many as on S", "≤ S + 2", fmt.Sprintf("%.0f (S: %.0f)", y, x), met)
}

func (b *bench) allRight(doc *result.Document) {
	looked, wrong := 0, ""
	for k, text := range b.wrong {
		if k.peer != us {
			continue
		}
		looked++
		if text != "" {
			wrong = fmt.Sprintf("%s, %s: %s", k.workload, k.op, text)
		}
	}
	switch {
	case wrong != "":
		doc.Target("every tree is right", "all", wrong, false)
	case looked > 0:
		doc.Target("every tree is right", "all", fmt.Sprintf("all %d looked at", looked), true)
	}
}
