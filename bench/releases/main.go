// Command releases shows that what a VM and a publisher ask for does not grow
// with the number of releases, and that `bootwell gc` keeps the bucket bounded.
// It publishes to a real S3 server on the loopback address.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
)

type options struct {
	json            string
	releases, round int
}

func main() {
	var o options
	flag.StringVar(&o.json, "json", "", "also write the results to this `file`")
	flag.IntVar(&o.releases, "releases", 1000, "how many `releases` are published without gc")
	flag.IntVar(&o.round, "round", 100, "`releases` between two gc, of three")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "releases:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.releases <= 100 || o.round < 10 {
		return errors.New("-releases is over 100, -round at least 10")
	}
	w, err := world.Start(ctx, world.Options{Buckets: []string{"bench"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	doc := result.New("releases", "Many releases later")
	doc.Command = "go run ./bench/releases"
	doc.Intro = []string{fmt.Sprintf("A project of %d files and %d KB, of which each release changes one, against versitygw. One VM follows it. Requests and bytes are all of HTTP, heads included, "+
		"as a proxy between them counts; what one costs is the median of the last five releases. An update ends with the verified tree: a run's report and log are two PUTs more.", files, files*fileSize>>10)}
	if err := grow(ctx, w, o, doc); err != nil {
		return err
	}
	if err := rounds(ctx, w, o, doc); err != nil {
		return err
	}
	if err := doc.Print(os.Stdout); err != nil {
		return err
	}
	if o.json != "" {
		return doc.Write(o.json)
	}
	return nil
}

// A cost is what one operation asked of the server.
type cost struct{ requests, up, down int64 }

func (c cost) String() string { return fmt.Sprintf("%d / %d B / %d B", c.requests, c.up, c.down) }

// A point is what was measured after so many releases.
type point struct {
	releases              int
	poll, update, publish cost
	wall                  time.Duration
	size
}

func begin(ctx context.Context, w *world.World, prefix string) (*project, error) {
	open := s3.Options{Sources: []s3.Source{s3.Static(world.Key, world.Secret, "")}}
	b, err := s3.Open(ctx, w.URL("bench", prefix), open)
	if err != nil {
		return nil, err
	}
	return newProject(ctx, bucket.Retry(b, bucket.RetryPolicy{}), filepath.Join(w.Dir(), prefix))
}

// measured returns what f asked for.
func measured(p *world.Proxy, f func() error) (cost, error) {
	before := p.Snapshot()
	err := f()
	after := p.Snapshot()
	return cost{after.Requests - before.Requests, after.Up - before.Up, after.Down - before.Down}, err
}

// samples is how many releases a point stands for: now and then a publish packs
// small packs anew, which costs it and the next update more.
const samples = 5

// at publishes up to the release n and measures the last publishes, and what the
// VM, which had the release before, makes of them: medians.
func at(ctx context.Context, w *world.World, p *project, n int) (pt point, err error) {
	var polls, updates, publishes []cost
	var walls []time.Duration
	for p.Releases < n {
		if p.Releases < n-samples {
			if err := p.publish(ctx); err != nil {
				return pt, fmt.Errorf("release %d: %w", p.Releases, err)
			}
			continue
		}
		if err := p.update(ctx); err != nil {
			return pt, err
		}
		poll, err := measured(w.Proxy, func() error {
			changed, err := p.poll(ctx)
			if changed && err == nil {
				err = errors.New("a poll found something new where nothing was")
			}
			return err
		})
		if err != nil {
			return pt, err
		}
		start := time.Now()
		publish, err := measured(w.Proxy, func() error { return p.publish(ctx) })
		if err != nil {
			return pt, err
		}
		walls = append(walls, time.Since(start))
		update, err := measured(w.Proxy, func() error { return p.update(ctx) })
		if err != nil {
			return pt, err
		}
		polls, publishes, updates = append(polls, poll), append(publishes, publish), append(updates, update)
	}
	slices.Sort(walls)
	pt = point{releases: p.Releases, poll: median(polls), update: median(updates), publish: median(publishes), wall: walls[len(walls)/2]}
	pt.size, err = p.size(ctx)
	return pt, err
}

func median(list []cost) cost {
	of := func(get func(cost) int64) int64 {
		ns := make([]int64, len(list))
		for i, c := range list {
			ns[i] = get(c)
		}
		slices.Sort(ns)
		return ns[len(ns)/2]
	}
	return cost{of(func(c cost) int64 { return c.requests }), of(func(c cost) int64 { return c.up }), of(func(c cost) int64 { return c.down })}
}

// grow publishes without gc, and collects at the end.
func grow(ctx context.Context, w *world.World, o options, doc *result.Document) error {
	p, err := begin(ctx, w, "grow")
	if err != nil {
		return err
	}
	var points []point
	if err := p.publish(ctx); err != nil {
		return err
	}
	for _, n := range []int{2, 10, 50, 100, o.releases} {
		pt, err := at(ctx, w, p, n)
		if err != nil {
			return err
		}
		points = append(points, pt)
		fmt.Fprintf(os.Stderr, "%d releases\n", p.Releases)
	}
	t := doc.Add("Without gc: requests / bytes up / bytes down", "releases", "poll", "update, one release behind", "publish", "wall of a publish", "objects in the bucket", "MB")
	for _, pt := range points {
		t.Row(pt.releases, pt.poll, pt.update, pt.publish, pt.wall.Round(time.Millisecond), pt.objects, mb(pt.bytes))
	}
	fifty, hundred, last := points[2], points[3], points[len(points)-1]
	start := time.Now()
	gc, err := measured(w.Proxy, func() error { return p.Collect(ctx) })
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	took := time.Since(start)
	after, err := p.size(ctx)
	if err != nil {
		return err
	}
	t = doc.Add("Then `bootwell gc --grace 0`", "", "objects", "MB")
	t.Row("before", last.objects, mb(last.bytes))
	t.Row("after", after.objects, mb(after.bytes))
	t.Note = fmt.Sprintf("It took %.1f s and %d requests, of which %d were deletes.", took.Seconds(), gc.requests, last.objects-after.objects)
	p.vm = vm{client: p.Client(filepath.Join(p.dir, "new-vm"))}
	if err := os.RemoveAll(filepath.Join(p.dir, "trees", release.Name(p.Releases))); err != nil {
		return err
	}
	if err := p.update(ctx); err != nil {
		return fmt.Errorf("a new VM after gc: %w", err)
	}
	growTargets(doc, fifty, hundred, last, after)
	return nil
}

func growTargets(doc *result.Document, fifty, hundred, last point, after size) {
	doc.Target(fmt.Sprintf("poll: requests after %d releases", last.releases), "1", fmt.Sprint(last.poll.requests), last.poll.requests == 1)
	doc.Target("poll: bytes up and down", "≤ 1.02 × of 100 releases", ratio(last.poll.up+last.poll.down, hundred.poll.up+hundred.poll.down),
		float64(last.poll.up+last.poll.down) <= 1.02*float64(hundred.poll.up+hundred.poll.down))
	doc.Target("update: requests", "as after 100 releases", fmt.Sprintf("%d, %d", last.update.requests, hundred.update.requests), last.update.requests <= hundred.update.requests)
	doc.Target("update: bytes down", "≤ 1.1 × of 100 releases", ratio(last.update.down, hundred.update.down), float64(last.update.down) <= 1.1*float64(hundred.update.down))
	doc.Target("publish: requests", "≤ 1 more than after 100 releases (a page of a list for each 1,000 packs)", fmt.Sprintf("%d, %d", last.publish.requests, hundred.publish.requests),
		last.publish.requests <= hundred.publish.requests+1)
	doc.Target("publish: bytes up", "≤ 1.1 × of 100 releases", ratio(last.publish.up, hundred.publish.up), float64(last.publish.up) <= 1.1*float64(hundred.publish.up))
	doc.Target(fmt.Sprintf("gc: objects left of %d releases", last.releases), "≤ those after the first 50, all of them listed", fmt.Sprintf("%d, %d", after.objects, fifty.objects), after.objects <= fifty.objects)
}

// rounds publishes with a gc now and then.
func rounds(ctx context.Context, w *world.World, o options, doc *result.Document) error {
	p, err := begin(ctx, w, "rounds")
	if err != nil {
		return err
	}
	t := doc.Add(fmt.Sprintf("With gc each %d releases", o.round), "releases", "objects before gc", "MB", "objects after gc", "MB")
	var tops []size
	for range 3 {
		for range o.round {
			if err := p.publish(ctx); err != nil {
				return fmt.Errorf("release %d: %w", p.Releases, err)
			}
		}
		top, err := p.size(ctx)
		if err != nil {
			return err
		}
		if err := p.Collect(ctx); err != nil {
			return fmt.Errorf("gc after %d releases: %w", p.Releases, err)
		}
		left, err := p.size(ctx)
		if err != nil {
			return err
		}
		tops = append(tops, top)
		t.Row(p.Releases, top.objects, mb(top.bytes), left.objects, mb(left.bytes))
		fmt.Fprintf(os.Stderr, "%d releases with gc\n", p.Releases)
	}
	doc.Target("the most objects that the bucket ever holds with gc, third round beside the second", "≤ 1.02 ×", ratio(int64(tops[2].objects), int64(tops[1].objects)),
		float64(tops[2].objects) <= 1.02*float64(tops[1].objects))
	return nil
}

func mb(n int64) string { return fmt.Sprintf("%.2f", float64(n)/1e6) }

func ratio(a, b int64) string {
	return fmt.Sprintf("%.2f × (%d / %d)", float64(a)/float64(max(b, 1)), a, b)
}
