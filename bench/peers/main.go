// Command peers measures bootwell beside what one would use instead: each
// brings three trees to a machine, takes changes of them and polls for none,
// against one S3 server (or git or web server) at no and at 20 ms of distance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/bench/workload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		stop()
		os.Exit(1)
	}
}

type flags struct {
	quick       bool
	json        string
	only, sizes string
	reps        int
	correctness bool
	measure     bool
	budget      time.Duration
}

func run(ctx context.Context) (err error) {
	var f flags
	flag.BoolVar(&f.quick, "quick", false, "the small and the middle tree, the fast peers only")
	flag.StringVar(&f.json, "json", "", "write the results to this `file`")
	flag.StringVar(&f.only, "peers", "", "these peers only (comma-separated `names`)")
	flag.StringVar(&f.sizes, "sizes", "", "these trees only (comma-separated: S,M,L)")
	flag.IntVar(&f.reps, "reps", 0, "measure fast peers this often (default: 5, L 3)")
	flag.BoolVar(&f.correctness, "correctness", true, "also look at what each peer gets right")
	flag.BoolVar(&f.measure, "measure", true, "measure")
	flag.DurationVar(&f.budget, "budget", 0, "the `time` after which slow peers are left out and cells are measured once (default 26m)")
	flag.Parse()
	b, err := start(ctx, os.Stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	b.plan = planOf(f)
	absent := b.choose(peers())
	doc := result.New("peers", "Delivery beside today's tools")
	if f.quick {
		doc.Command = "make bench BENCH=quick"
	} else {
		doc.Command = "make bench"
	}
	right, err := b.all(ctx, f)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	b.fill(ctx, doc, right, absent)
	fmt.Fprintf(os.Stderr, "peers: all done after %s\n", time.Since(b.began).Round(time.Second))
	if printed := doc.Print(os.Stdout); printed != nil {
		return printed
	}
	if err != nil || f.json == "" { // what was interrupted is shown, but not kept
		return err
	}
	return doc.Write(f.json)
}

func (b *bench) all(ctx context.Context, f flags) ([]verdict, error) {
	if f.measure {
		for _, size := range b.plan.sizes {
			if err := b.workload(ctx, size); err != nil {
				return nil, err
			}
		}
		if b.planned(oneGB) {
			if err := b.largeFile(ctx); err != nil {
				return nil, err
			}
		}
	}
	if !f.correctness {
		return nil, nil
	}
	return b.correctness(ctx)
}

func planOf(f flags) plan {
	p := standardPlan()
	if f.quick {
		p = quickPlan()
	}
	if f.only != "" {
		p.only = strings.Split(f.only, ",")
	}
	if f.sizes != "" {
		p.sizes = slices.DeleteFunc(p.sizes, func(s workload.Size) bool { return !slices.Contains(strings.Split(f.sizes, ","), s.Name) })
	}
	if f.budget > 0 {
		p.budget = f.budget
	}
	if f.reps > 0 {
		for name := range p.fast {
			p.fast[name] = f.reps
		}
	}
	return p
}

// choose takes the peers of the plan that are installed, and tells which are not.
func (b *bench) choose(all []*peer) (absent []string) {
	wanted := func(p *peer) bool { return b.plan.only == nil || slices.Contains(b.plan.only, p.name) }
	needed := map[string]bool{}
	for _, p := range all {
		if wanted(p) {
			needed[p.name], needed[p.from] = true, true
		}
	}
	for _, p := range all {
		if !needed[p.name] {
			continue
		}
		var without []string
		for _, t := range p.tools {
			if find(t) == "" {
				without = append(without, t)
			}
		}
		if len(without) > 0 {
			absent = append(absent, fmt.Sprintf("%s (no %s here)", p.name, strings.Join(without, ", ")))
			continue
		}
		b.peers = append(b.peers, p)
	}
	b.peers = slices.DeleteFunc(b.peers, func(p *peer) bool {
		publisher := slices.ContainsFunc(b.peers, func(other *peer) bool { return other.name == p.from })
		if p.from != "" && !publisher {
			absent = append(absent, fmt.Sprintf("%s (nobody publishes for it)", p.name))
		}
		return p.from != "" && !publisher
	})
	for _, a := range absent {
		fmt.Fprintf(b.story, "peers: without %s; contrib/ci/bench-tools installs what it can\n", a)
	}
	return absent
}
