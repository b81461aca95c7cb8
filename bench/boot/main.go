// Command boot measures the first boot: from the first line of the user-data
// script to the first step starting, with a real project in an S3 bucket 20 ms
// away, the credentials of an instance role, and the Python of this machine.
// It works in throw-away machines of namespaces and needs root.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/internal/lab"
)

// target is what a first boot may take up to its first step, in seconds.
const target = 1.5

// insideEnv tells the process in its own network from the one that made it.
const insideEnv = "BENCH_BOOT_INSIDE"

// options are the flags.
type options struct {
	bin       string
	rtt       time.Duration
	metadata  time.Duration
	systemctl time.Duration
	runs      int
	json      string
	keep      bool
}

func main() {
	lab.Reexec()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with bootwell and the agents, as make build leaves them")
	flag.DurationVar(&o.rtt, "rtt", 20*time.Millisecond, "round trip to the bucket")
	flag.DurationVar(&o.metadata, "metadata", 2*time.Millisecond, "time the metadata service takes to answer")
	flag.DurationVar(&o.systemctl, "systemctl", 300*time.Millisecond, "time systemd takes to read its units anew; the machines have a stand-in")
	flag.IntVar(&o.runs, "runs", 5, "first boots of each kind")
	flag.StringVar(&o.json, "json", "", "also write the results to this file")
	flag.BoolVar(&o.keep, "v", false, "show what the machines print")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "boot:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		fmt.Println("boot: skipped: it needs root, for networks of its own with a metadata service in them")
		return nil
	}
	if os.Getenv(insideEnv) == "" {
		return inside(ctx)
	}
	kinds, err := measure(ctx, o)
	if err != nil {
		return err
	}
	d := document(o, kinds)
	if err := d.Print(os.Stdout); err != nil || o.json == "" {
		return err
	}
	return d.Write(o.json)
}

// inside runs this program again in a network of its own, so that nothing can
// reach this machine's metadata service and the address is free.
func inside(ctx context.Context) error {
	c := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), insideEnv+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return c.Run()
}

// A kind is one way to the bucket and what first boots by it took.
type kind struct {
	name  string
	boots []boot // by seconds
}

// median is the boot in the middle.
func (k kind) median() boot { return k.boots[len(k.boots)/2] }

func measure(ctx context.Context, o options) ([]kind, error) {
	p, err := publish(ctx, o)
	if err != nil {
		return nil, err
	}
	defer p.close()
	kinds := []kind{{name: "http"}, {name: "https"}}
	for range o.runs {
		for i := range kinds {
			b, err := p.boot(ctx, kinds[i].name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kinds[i].name, err)
			}
			kinds[i].boots = append(kinds[i].boots, b)
		}
	}
	for _, k := range kinds {
		slices.SortFunc(k.boots, func(a, b boot) int { return cmp.Compare(a.seconds, b.seconds) })
	}
	return kinds, nil
}

// document is what was found, for people and for the report.
func document(o options, kinds []kind) *result.Document {
	d := result.New("boot", "First boot")
	d.Command = "go run ./bench/boot"
	d.Intro = []string{
		fmt.Sprintf("From the first line of the user-data script to the first step of the example project starting, in a throw-away machine of namespaces with this machine's Python; "+
			"the bucket is %v away, its credentials come from a metadata service (IMDSv2) that answers in %v, and a stand-in for systemctl takes %v to read its units anew. "+
			"Median of %d boots. CPU time is of all that the script did, the steps and the report too. Load average of this machine at the end: %s.",
			o.rtt, o.metadata, o.systemctl, o.runs, load()),
	}
	t := d.Add("First boot", "bucket by", "first step after", "fastest", "slowest", "CPU", "connections", "requests", "user-data")
	for _, k := range kinds {
		m, requests := k.median(), any("encrypted")
		if m.requests > 0 {
			requests = m.requests
		}
		t.Row(k.name, seconds(m.seconds), seconds(k.boots[0].seconds), seconds(k.boots[len(k.boots)-1].seconds), seconds(m.cpu), m.connections, requests, fmt.Sprintf("%d bytes", m.userData))
	}
	for _, k := range kinds {
		t := d.Add("Where it goes, by "+k.name+" (bootwell-agent logs --timing)", "part", "begins at", "takes")
		for _, s := range k.median().spans {
			name := strings.Repeat("· ", s.Depth) + s.Name
			if s.Beside {
				name += " (beside)"
			}
			t.Row(name, seconds(s.Start), seconds(s.Seconds))
		}
	}
	for _, k := range kinds {
		m := k.median().seconds
		d.Target("first boot to the first step, by "+k.name, fmt.Sprintf("≤ %.1f s", target), seconds(m), m <= target)
	}
	return d
}

// load is how many processes wanted to run in the last minute, on average.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func seconds(s float64) string { return fmt.Sprintf("%.3f s", s) }

var errBoot = errors.New("the machine did not boot")
