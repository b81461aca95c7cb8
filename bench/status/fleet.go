package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/bench/world"
)

// What is measured.
const (
	first   = "first"
	again   = "unchanged"
	changed = "1 % changed"
)

const (
	bucketName = "bench"
	prefix     = "prod"
)

// A sample is what one process cost.
type sample struct {
	wall, cpu      time.Duration
	rss            int64 // bytes
	requests, down int64
}

// A cell is bootwell and the floor, medians of each.
type cell struct{ ours, floor sample }

// A fleet is a project in a bucket with the reports of n VMs.
type fleet struct {
	world      *world.World
	n          int
	generation int
	command    string
	self       string
	home       string
	project    string
}

func newFleet(ctx context.Context, o options, n int) (*fleet, error) {
	command, err := filepath.Abs(o.command)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w, err := world.Start(ctx, world.Options{Buckets: []string{bucketName}})
	if err != nil {
		return nil, err
	}
	f := &fleet{world: w, n: n, command: command, self: self, home: filepath.Join(w.Dir(), "home"), project: filepath.Join(w.Dir(), "acme")}
	if err := f.begin(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) close() { _ = f.world.Close() }

func (f *fleet) begin(ctx context.Context) error {
	for _, dir := range []string{f.home, f.project} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"init", "--no-passphrase", "--bucket", f.world.URL(bucketName, prefix)}, {"publish"}} {
		cmd := exec.CommandContext(ctx, f.command, args...)
		cmd.Dir, cmd.Env = f.project, f.env()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("bootwell %s: %w: %s", args[0], err, out)
		}
	}
	_, err := f.seed(1)
	return err
}

// seed writes a new report of every step-th VM.
func (f *fleet) seed(step int) (int64, error) {
	f.generation++
	n, err := seed(filepath.Join(f.world.DataDir(), bucketName, prefix), f.n, step, f.generation, time.Now())
	if err != nil {
		return 0, fmt.Errorf("seed reports: %w", err)
	}
	return n, nil
}

func (f *fleet) env() []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + f.home, "LC_ALL=C.UTF-8", "no_proxy=*"}, f.world.Env()...)
}

// measure alternates bootwell and the floor.
func (f *fleet) measure(ctx context.Context, read string, runs int) (cell, error) {
	var ours, floors []sample
	for range runs {
		switch read {
		case first:
			if err := os.RemoveAll(filepath.Join(f.home, ".cache")); err != nil {
				return cell{}, err
			}
		case changed:
			if _, err := f.seed(100); err != nil {
				return cell{}, err
			}
		}
		floor := []string{f.self, "floor", f.world.Proxy.Addr(), prefix + "/reports/", read}
		b, err := f.run(ctx, floor...)
		if err != nil {
			return cell{}, err
		}
		a, err := f.run(ctx, f.command, "status", "--json")
		if err != nil {
			return cell{}, err
		}
		ours, floors = append(ours, a), append(floors, b)
	}
	return cell{median(ours), median(floors)}, nil
}

// run measures one process, which a small one starts: a child begins with the
// peak memory of its parent.
func (f *fleet) run(ctx context.Context, argv ...string) (sample, error) {
	cmd := exec.CommandContext(ctx, f.self, append([]string{"meter"}, argv...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = f.project, f.env(), os.Stderr
	f.world.Proxy.Reset()
	out, err := cmd.Output()
	if err != nil {
		return sample{}, fmt.Errorf("%s %s: %w", filepath.Base(argv[0]), argv[1], err)
	}
	time.Sleep(5 * time.Millisecond) // the last bytes of a closing connection
	c := f.world.Proxy.Reset()
	var cost cost
	if err := json.Unmarshal(out, &cost); err != nil {
		return sample{}, err
	}
	if argv[0] == f.command && cost.VMs != f.n {
		return sample{}, fmt.Errorf("status told of %d VMs, want %d", cost.VMs, f.n)
	}
	return sample{time.Duration(cost.Wall), time.Duration(cost.CPU), cost.RSS, c.Requests, c.Down}, nil
}

// A cost is what the small process says of the one that it measured.
type cost struct {
	Wall, CPU, RSS int64
	VMs            int
}

func meter(argv []string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	began := time.Now()
	err := cmd.Run()
	wall := time.Since(began)
	if err != nil {
		return err
	}
	var said struct {
		VMs int `json:"vms"`
	}
	for line := range bytes.Lines(out.Bytes()) {
		_ = json.Unmarshal(line, &said)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return json.NewEncoder(os.Stdout).Encode(cost{
		Wall: int64(wall), CPU: int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()), RSS: u.Maxrss << 10, VMs: said.VMs,
	})
}

// median is that of each figure.
func median(s []sample) sample {
	pick := func(of func(sample) int64) int64 {
		v := slices.SortedFunc(slices.Values(s), func(a, b sample) int { return cmp.Compare(of(a), of(b)) })
		return of(v[len(v)/2])
	}
	return sample{
		wall: time.Duration(pick(func(x sample) int64 { return int64(x.wall) })), cpu: time.Duration(pick(func(x sample) int64 { return int64(x.cpu) })),
		rss: pick(func(x sample) int64 { return x.rss }), requests: pick(func(x sample) int64 { return x.requests }), down: pick(func(x sample) int64 { return x.down }),
	}
}
