// Command status measures `bootwell status` of many VMs against a real S3 server
// on the loopback address: the first read of all reports, later ones of what
// changed, beside a plain program that asks for the same and makes nothing of it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/result"
)

func main() {
	if len(os.Args) > 1 {
		if run, ok := map[string]func([]string) error{"floor": floor, "meter": meter}[os.Args[1]]; ok {
			finish(run(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	finish(bench(ctx))
}

func finish(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "status:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type options struct {
	json, command string
	fleets        []int
	runs          int
	rtt           time.Duration
	budget        time.Duration
}

func parse() (options, error) {
	var o options
	var fleets string
	flag.StringVar(&o.json, "json", "", "also write the results to this `file`")
	flag.StringVar(&o.command, "bootwell", "bin/bootwell", "the `command` to measure")
	flag.StringVar(&fleets, "vms", "10000,100000", "`sizes` of the fleets")
	flag.IntVar(&o.runs, "runs", 3, "runs of each cell; 1 for fleets over 20,000")
	flag.DurationVar(&o.rtt, "rtt", 20*time.Millisecond, "round-trip time of the second line of each fleet up to 20,000")
	flag.DurationVar(&o.budget, "budget", 6*time.Minute, "`time` after which no more is measured")
	flag.Parse()
	for word := range strings.SplitSeq(fleets, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 100 || n > 100_000 {
			return o, fmt.Errorf("-vms %s: want 100 to 100000", word)
		}
		o.fleets = append(o.fleets, n)
	}
	return o, nil
}

// releaseRequests are those for the release that the VMs should have: signed
// metadata and its bundle.
const releaseRequests = 4

const large = 20_000 // a fleet over this is measured once, on the loopback address alone

func bench(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	doc := result.New("status", "Status of many VMs")
	doc.Command = "go run ./bench/status"
	doc.Intro = []string{
		"`bootwell status` as a whole process, and beside it a program (\"floor\") that makes the same requests with minio-go and throws the answers away: " +
			"LIST page after page, then 48 GETs at a time for a first read; LIST page after page for a later one. Medians; requests are all of HTTP, those for the release among them. " +
			"The server lists a folder of 100,000 from its start for each page, so that what it takes for a page grows with the fleet: object stores do not.",
		"At 0 ms the server shares this machine's cores with who asks it: what bootwell does beyond the floor, which is to parse each report and to keep what a view of " +
			"them needs, then takes time from the server. With a bucket elsewhere it is done while the next answers are on their way.",
	}
	t := doc.Add("Status", "VMs", "RTT", "read", "wall", "floor wall", "CPU", "floor CPU", "peak RSS", "requests", "MB down")
	limited, cancel := context.WithTimeout(ctx, o.budget)
	defer cancel()
	for _, n := range o.fleets {
		err := measureFleet(limited, o, n, doc, t)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			doc.Target(fmt.Sprintf("status of %d VMs", n), "measured", "not measured to its end within "+o.budget.String(), false)
		} else if err != nil {
			return err
		}
	}
	if o.json != "" {
		if err := doc.Write(o.json); err != nil {
			return err
		}
	}
	return doc.Print(os.Stdout)
}

func measureFleet(ctx context.Context, o options, n int, doc *result.Document, t *result.Table) error {
	f, err := newFleet(ctx, o, n)
	if err != nil {
		return err
	}
	defer f.close()
	lines, runs := []time.Duration{0, o.rtt}, o.runs
	if n > large {
		lines, runs = lines[:1], 1
	}
	for _, rtt := range lines {
		f.world.Proxy.SetRTT(rtt)
		cells := map[string]cell{}
		for _, read := range []string{first, again, changed} {
			c, err := f.measure(ctx, read, runs)
			if err != nil {
				return fmt.Errorf("%s read of %d VMs: %w", read, n, err)
			}
			cells[read] = c
			t.Row(n, rtt, read, seconds(c.ours.wall), seconds(c.floor.wall), seconds(c.ours.cpu), seconds(c.floor.cpu), fmt.Sprintf("%d MB", c.ours.rss>>20),
				c.ours.requests, fmt.Sprintf("%.1f", float64(c.ours.down)/1e6))
			fmt.Fprintf(os.Stderr, "%d VMs, %v, %s: %.2f s, floor %.2f s\n", n, rtt, read, c.ours.wall.Seconds(), c.floor.wall.Seconds())
		}
		target(doc, n, rtt, cells)
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// target compares the cells of one fleet on one line with what must be true.
func target(doc *result.Document, n int, rtt time.Duration, cells map[string]cell) {
	head := fmt.Sprintf("status of %d VMs at %v: ", n, rtt)
	ratio := func(c cell) (float64, string) {
		x := c.ours.wall.Seconds() / c.floor.wall.Seconds()
		return x, fmt.Sprintf("%.2f × (%.2f s / %.2f s)", x, c.ours.wall.Seconds(), c.floor.wall.Seconds())
	}
	ours, least := cells[first].ours.requests, cells[first].floor.requests
	doc.Target(head+"first read: requests, as many as LIST and a GET for each report", fmt.Sprintf("≤ %d", least+releaseRequests), fmt.Sprint(ours), ours <= least+releaseRequests)
	x, got := ratio(cells[first])
	doc.Target(head+"first read beside LIST and then parallel GETs", "≤ 1.0 ×", got, x <= 1)
	diff := cells[changed].ours.requests - cells[again].ours.requests
	doc.Target(head+"requests more where 1 % changed", fmt.Sprint(n/100), fmt.Sprint(diff), diff == int64(n/100))
	for _, read := range []string{again, changed} {
		if n <= 10_000 {
			w := cells[read].ours.wall
			doc.Target(head+"read "+read, "≤ 1.5 s", seconds(w), w <= 1500*time.Millisecond)
		} else {
			x, got := ratio(cells[read])
			doc.Target(head+"read "+read+" beside LIST alone", "≤ 1.0 ×", got, x <= 1)
		}
	}
	rss := max(cells[first].ours.rss, cells[changed].ours.rss)
	most := int64(n)*2048 + 64<<20
	doc.Target(head+"peak RSS", fmt.Sprintf("≤ %d MB", most>>20), fmt.Sprintf("%d MB", rss>>20), rss <= most)
}
