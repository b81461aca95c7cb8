package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/lab"
)

// Where a machine notes its times, and the certificate that it trusts.
const (
	firstLine = "/var/tmp/first-line"
	firstStep = "/var/tmp/first-step"
	lastLine  = "/var/tmp/cpu"
	authority = "/etc/bench-ca.pem"
)

// A place is a published project and the ways to its bucket.
type place struct {
	o       options
	world   *world.World
	project string
	ways    map[string]*world.Proxy
	stops   []func()
}

func publish(ctx context.Context, o options) (p *place, err error) {
	p = &place{o: o}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	stop, err := serveMetadata(ctx, o.metadata)
	if err != nil {
		return p, err
	}
	p.stops = append(p.stops, stop)
	if p.world, err = world.Start(ctx, world.Options{RTT: o.rtt, Buckets: []string{"fleet"}}); err != nil {
		return p, err
	}
	p.stops = append(p.stops, func() { _ = p.world.Close() })
	secure, stop, err := serveTLS(strings.TrimPrefix(p.world.Direct(), "http://"), filepath.Join(p.world.Dir(), "ca.pem"))
	if err != nil {
		return p, err
	}
	p.stops = append(p.stops, stop)
	https, err := world.NewProxy(ctx, secure, o.rtt)
	if err != nil {
		return p, err
	}
	p.stops = append(p.stops, func() { _ = https.Close() })
	p.ways = map[string]*world.Proxy{"http": p.world.Proxy, "https": https}
	p.project = filepath.Join(p.world.Dir(), "project")
	if err := os.MkdirAll(p.project, 0o755); err != nil {
		return p, err
	}
	if err := p.bootwell(ctx, nil, "init", "--example", "web", "--bucket", p.world.DirectURL("fleet", "prod"), "--no-passphrase"); err != nil {
		return p, err
	}
	if err := p.noteFirstStep(); err != nil {
		return p, err
	}
	return p, p.bootwell(ctx, nil, "publish", "-m", "first")
}

// noteFirstStep puts a step before the others that notes when it began.
func (p *place) noteFirstStep() error {
	name := filepath.Join(p.project, "bootwell.yaml")
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	const steps = "    steps:"
	before, after, ok := strings.Cut(string(b), steps)
	if !ok {
		return errors.New("the example project has no steps")
	}
	comment, after, _ := strings.Cut(after, "\n")
	return os.WriteFile(name, []byte(before+steps+comment+"\n      - name: first\n        run: date +%s.%N >"+firstStep+"\n"+after), 0o644)
}

func (p *place) bootwell(ctx context.Context, out *bytes.Buffer, args ...string) error {
	bin, err := filepath.Abs(p.o.bin)
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, filepath.Join(bin, "bootwell"), args...)
	c.Dir = p.project
	c.Env = append(p.world.Env(), "HOME="+p.world.Dir(), "PATH="+os.Getenv("PATH"), "BOOTWELL_AGENTS="+bin)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if out != nil {
		c.Stdout = out
	}
	if err := c.Run(); err != nil {
		return fmt.Errorf("bootwell %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return nil
}

func (p *place) close() {
	for i := len(p.stops) - 1; i >= 0; i-- {
		p.stops[i]()
	}
}

// A boot is what one first boot took.
type boot struct {
	seconds     float64 // first line of the script to first step
	cpu         float64 // of the whole script
	userData    int     // bytes
	connections int64
	requests    int64 // 0: not seen, they are encrypted
	spans       []agent.Span
}

// script is the user-data for a way to the bucket, noting its times.
func (p *place) script(ctx context.Context, way string) (text []byte, size int, err error) {
	url := "s3://fleet/prod?region=" + world.Region + "&endpoint=" + way + "://" + p.ways[way].Addr()
	if way == "https" {
		url += "&ca=" + authority
	}
	var out bytes.Buffer
	if err := p.bootwell(ctx, &out, "user-data", "web", "--format", "script", "--encode", "none", "--bucket", url); err != nil {
		return nil, 0, err
	}
	head, rest, _ := bytes.Cut(out.Bytes(), []byte("\n"))
	text = slices.Concat(head, []byte("\ndate +%s.%N >"+firstLine+"\ntrap 'times >"+lastLine+"' EXIT\n"), rest)
	return text, out.Len(), nil
}

func (p *place) boot(ctx context.Context, way string) (b boot, err error) {
	text, size, err := p.script(ctx, way)
	if err != nil {
		return b, err
	}
	b.userData = size
	before := p.ways[way].Snapshot()
	m, err := lab.Sandbox{Hostname: "web-1", HostNetwork: true}.Create(ctx)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, m.Destroy()) }()
	ca, err := os.ReadFile(filepath.Join(p.world.Dir(), "ca.pem"))
	if err != nil {
		return b, err
	}
	sleep := fmt.Sprintf("#!/bin/sh\ncase $1 in enable|daemon-reload) sleep %.3f ;; *) sleep 0.02 ;; esac\n", p.o.systemctl.Seconds())
	err = errors.Join(
		lab.Put(ctx, m, authority, 0o644, ca),
		lab.Put(ctx, m, "/usr/local/sbin/systemctl", 0o755, []byte(sleep)),
	)
	if err != nil {
		return b, err
	}
	if _, err := lab.Run(ctx, m, "mkdir", "-p", "/run/systemd/system"); err != nil {
		return b, err
	}
	r, err := lab.RunUserData(ctx, m, text, lab.Identity{InstanceID: "i-0123456789abcdef0", Cloud: "aws", Region: "us-east-1", Zone: "us-east-1a"})
	if err != nil {
		return b, err
	}
	if p.o.keep || len(r.Failures) > 0 {
		fmt.Printf("%s", r.Output)
	}
	if len(r.Failures) > 0 {
		return b, fmt.Errorf("%w: %s", errBoot, strings.Join(r.Failures, "; "))
	}
	after := p.ways[way].Snapshot()
	b.connections, b.requests = after.Connections-before.Connections, after.Requests-before.Requests
	return b, b.read(ctx, m)
}

// read takes over what the machine noted.
func (b *boot) read(ctx context.Context, m lab.Instance) error {
	var at [2]float64
	for i, name := range []string{firstLine, firstStep} {
		text, err := lab.Run(ctx, m, "cat", name)
		if err != nil {
			return err
		}
		if at[i], err = strconv.ParseFloat(text, 64); err != nil {
			return err
		}
	}
	b.seconds = at[1] - at[0]
	text, err := lab.Run(ctx, m, "cat", lastLine)
	if err != nil {
		return err
	}
	for _, f := range strings.Fields(text) {
		if d, err := time.ParseDuration(f); err == nil {
			b.cpu += d.Seconds()
		}
	}
	text, err = lab.Run(ctx, m, "bootwell-agent", "logs", "--timing", "--json")
	if err != nil {
		return err
	}
	var t agent.Timing
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	b.spans = t.Spans
	return nil
}
