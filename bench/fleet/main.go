// Command fleet plays a fleet of many VMs against one S3 server: the agent's own
// code, each VM with its own identity, folder, schedule and connections. It shows
// what a bucket sees of them: in quiet times, while a release spreads, and in and
// after an outage; and what their requests cost.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/bench/result"
)

func main() {
	var o options
	var file string
	var onlyCost bool
	flag.IntVar(&o.agents, "agents", 10_000, "how many VMs")
	flag.DurationVar(&o.poll, "poll", 5*time.Minute, "how often each of them polls, in their time")
	flag.IntVar(&o.quiet, "quiet", 3, "periods in which nothing happens")
	flag.Float64Var(&o.speed, "speed", 15, "how many times as fast as life, at most")
	flag.StringVar(&o.dir, "dir", "", "for the VMs' folders; none: in memory")
	flag.BoolVar(&onlyCost, "cost", false, "only what the requests of a week cost")
	flag.StringVar(&file, "json", "", "file for the results")
	flag.Parse()
	o.log = os.Stderr
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	if err := run(ctx, o, onlyCost, file); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, onlyCost bool, file string) error {
	d := result.New("fleet", "A fleet and its bucket")
	d.Command = fmt.Sprintf("go run ./bench/fleet -agents %d", o.agents)
	if !onlyCost {
		out, err := play(ctx, o)
		if err != nil {
			return err
		}
		out.document(d)
	}
	b, err := cost(ctx, o.poll)
	if err != nil {
		return err
	}
	b.document(d)
	if err := d.Print(os.Stdout); err != nil || file == "" {
		return err
	}
	return d.Write(file)
}
