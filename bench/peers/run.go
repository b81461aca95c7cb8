package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bootwell/bootwell/bench/workload"
	"github.com/bootwell/bootwell/bench/world"
)

// An op is one thing that is done with a tree.
type op string

const (
	cold        op = "cold"
	poll        op = "poll"
	one         op = "1 file"
	many        op = "50 files"
	oneByte     op = "1 byte in 20 MB"
	rename      op = "rename"
	publishCold op = "publish cold"
	publishOne  op = "publish 1 file"
)

var ops = []op{cold, poll, one, many, oneByte, rename, publishCold, publishOne}

// A key names a cell of the table.
type key struct {
	workload, peer string
	op             op
	rtt            time.Duration
}

// A bench is one run of everything.
type bench struct {
	world           *world.World
	webLine         *world.Proxy   // before git and files
	lines           []*world.Proxy // all
	dir, bin, tmp   string
	web             string // what the web server serves
	memory          string // a folder in memory; "": there is none
	operator, agent string // commands of bootwell
	limit           time.Duration
	plan            plan
	story           io.Writer
	peers           []*peer
	began           time.Time
	away            int // folders put away
	samples         map[key][]sample
	wrong           map[key]string // how a tree differs from its source after an operation
}

// start makes the world of a run.
func start(ctx context.Context, story io.Writer) (*bench, error) {
	b := &bench{story: story, limit: 3 * time.Minute, samples: map[key][]sample{}, wrong: map[key]string{}, began: time.Now()}
	var err error
	if b.operator, b.agent, err = ours(); err != nil {
		return nil, err
	}
	if b.world, err = world.Start(ctx, world.Options{}); err != nil {
		return nil, err
	}
	if err := b.furnish(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) close() error {
	err := b.world.Close()
	if b.memory != "" {
		err = errors.Join(err, os.RemoveAll(b.memory))
	}
	return err
}

func (b *bench) furnish(ctx context.Context) error {
	b.dir = filepath.Join(b.world.Dir(), "peers")
	b.bin, b.tmp, b.web = filepath.Join(b.dir, "bin"), filepath.Join(b.dir, "tmp"), filepath.Join(b.dir, "web")
	b.memory = memoryFolder(b.story)
	for _, dir := range []string{b.bin, b.tmp, b.web} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := b.install(ctx); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(b.web))))
	if git, err := world.GitHandler(ctx, b.web); err == nil {
		mux.Handle("/git/", http.StripPrefix("/git", git))
	}
	var err error
	b.webLine, err = b.world.Serve(mux)
	b.lines = []*world.Proxy{b.world.Proxy, b.webLine}
	return err
}

// install puts what was built where it runs from, written as a download or a
// package is. A linker writes through a memory map, which leaves a program in
// the page cache in the smallest pieces, and each start pays for that.
func (b *bench) install(ctx context.Context) error {
	built := filepath.Join(b.dir, "built")
	if err := os.Mkdir(built, 0o755); err != nil {
		return err
	}
	if err := build(ctx, built); err != nil {
		return err
	}
	ours, err := filepath.Glob(filepath.Join(filepath.Dir(b.operator), "bootwell*")) // with the agents that a publish uploads
	if err != nil {
		return err
	}
	for _, program := range append(ours, filepath.Join(built, "floor"), filepath.Join(built, "meter")) {
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.bin, filepath.Base(program)), content, 0o755); err != nil {
			return err
		}
	}
	b.operator, b.agent = filepath.Join(b.bin, filepath.Base(b.operator)), filepath.Join(b.bin, filepath.Base(b.agent))
	return nil
}

// A scene is one workload and the peers that take part.
type scene struct {
	*bench
	size  workload.Size
	tree  *workload.Tree
	sites map[*peer]*site
	all   []*peer
	turn  int
}

// workload runs all operations on one tree, and forgets the tree.
func (b *bench) workload(ctx context.Context, size workload.Size) error {
	s := &scene{bench: b, size: size, sites: map[*peer]*site{}}
	base := filepath.Join(b.dir, size.Name)
	clean, err := b.freshDisk(ctx, base)
	if err != nil {
		return err
	}
	defer clean()
	defer func() {
		for _, site := range s.sites {
			os.RemoveAll(site.folder())
			os.RemoveAll(site.shelf())
		}
	}()
	source := filepath.Join(base, "source")
	if s.tree, err = workload.Generate(source, size); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(source, "local.yml"), []byte(playbook), 0o644); err != nil {
		return err
	}
	for _, p := range b.peers {
		s.sites[p] = b.newSite(p, size.Name, source)
		s.all = append(s.all, p)
	}
	for p, site := range s.sites {
		site.bucket = bucketName(size.Name, s.publisher(p).name)
	}
	if err := s.setUp(ctx); err != nil {
		return err
	}
	for _, phase := range []func(context.Context) error{s.publishes, s.colds, s.polls} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	for _, o := range []op{one, many, oneByte, rename} {
		if err := s.updates(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// publisher is who publishes what p fetches.
func (s *scene) publisher(p *peer) *peer {
	from := p.from
	if s.plan.shares(s.size, p) {
		from = plainPublisher
	}
	for _, other := range s.peers {
		if from != "" && other.name == from {
			return other
		}
	}
	return p
}

func (s *scene) setUp(ctx context.Context) error {
	for _, p := range s.all {
		if s.publisher(p) != p {
			continue
		}
		if err := s.sites[p].resetOperator(ctx); err != nil {
			return err
		}
	}
	return nil
}

// rounds runs one operation of all peers again and again: each in turn, each
// round beginning with another, as often as the plan says.
func (s *scene) rounds(ctx context.Context, o op, round func(time.Duration, []*peer) error) error {
	for rep := range s.plan.most() {
		for _, rtt := range s.plan.rtts {
			var in []*peer
			for _, p := range s.all {
				if rep < s.reps(p, o, rtt) && (p.only == nil || p.only(&s.size, o)) {
					in = append(in, p)
				}
			}
			if len(in) == 0 {
				continue
			}
			s.turn++
			n := s.turn % len(in)
			s.world.SetRTT(rtt)
			if err := round(rtt, slices.Concat(in[n:], in[:n])); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(s.story, "peers: %s %s done after %s\n", s.size.Name, o, time.Since(s.began).Round(time.Second))
	return nil
}

// reps is what the plan says, or less when its time is up.
func (s *scene) reps(p *peer, o op, rtt time.Duration) int {
	n := s.plan.reps(s.size, p, o, rtt)
	if s.plan.budget == 0 || time.Since(s.began) < s.plan.budget {
		return n
	}
	if p.slow {
		return 0
	}
	return min(n, 1)
}

func (s *scene) record(p *peer, o op, rtt time.Duration, one sample) {
	k := key{s.size.Name, p.name, o, rtt}
	s.samples[k] = append(s.samples[k], one)
	if one.err != nil {
		fmt.Fprintf(s.story, "peers: %s, %s, %s: %v\n", s.size.Name, p.name, o, one.err)
	}
}

// publishes measures a first publish to an empty bucket. What the last one
// left is what the phases after it fetch.
func (s *scene) publishes(ctx context.Context) error {
	err := s.rounds(ctx, publishCold, func(rtt time.Duration, in []*peer) error {
		for _, p := range in {
			if p.publish == nil || s.publisher(p) != p {
				continue
			}
			if err := s.sites[p].resetOperator(ctx); err != nil {
				return err
			}
			got, err := s.measure(ctx, p.publish(s.sites[p]))
			if err != nil {
				return err
			}
			s.record(p, publishCold, rtt, got)
		}
		return nil
	})
	return err
}

func (s *scene) colds(ctx context.Context) error {
	return s.rounds(ctx, cold, func(rtt time.Duration, in []*peer) error {
		for _, p := range in {
			if err := s.sites[p].resetVM(); err != nil {
				return err
			}
			if err := s.fetch(ctx, p, cold, rtt, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *scene) polls(ctx context.Context) error {
	return s.rounds(ctx, poll, func(rtt time.Duration, in []*peer) error {
		for _, p := range in {
			if err := s.fetch(ctx, p, poll, rtt, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// fetch measures one fetch, and looks once for each operation at what it left.
func (s *scene) fetch(ctx context.Context, p *peer, o op, rtt time.Duration, changed int64) error {
	got, err := s.measure(ctx, p.fetch(s.sites[p]))
	if err != nil {
		return err
	}
	got.changed = changed
	if p.ready != nil && o != poll && got.err == nil {
		at, err := p.ready(ctx, s.sites[p])
		if err != nil {
			return err
		}
		got.ready = at - got.began
	}
	k := key{s.size.Name, p.name, o, 0}
	if _, looked := s.wrong[k]; !looked && got.err == nil {
		d, err := s.sites[p].check()
		if err != nil {
			return err
		}
		s.wrong[k] = short(d)
	}
	s.record(p, o, rtt, got)
	return nil
}

// updates changes the tree, has it published, and measures who takes it.
func (s *scene) updates(ctx context.Context, o op) error {
	change := map[op]func() (workload.Change, error){one: s.tree.ChangeOne, many: s.tree.ChangeMany, oneByte: s.tree.ChangeByte, rename: s.tree.Rename}[o]
	if o == oneByte && s.size.Binaries == 0 {
		return nil
	}
	return s.rounds(ctx, o, func(rtt time.Duration, in []*peer) error {
		c, err := change()
		if err != nil {
			return err
		}
		done := map[*peer]bool{}
		for _, p := range in {
			p := s.publisher(p)
			if done[p] {
				continue
			}
			done[p] = true
			got, err := s.measure(ctx, p.publish(s.sites[p]))
			if err != nil {
				return err
			}
			if o == one {
				s.record(p, publishOne, rtt, got)
			} else if got.err != nil {
				fmt.Fprintf(s.story, "peers: %s, %s, publish of %s: %v\n", s.size.Name, p.name, o, got.err)
			}
		}
		for _, p := range in {
			if err := s.fetch(ctx, p, o, rtt, c.Bytes); err != nil {
				return err
			}
		}
		return nil
	})
}

// short names the kinds of difference only.
func short(d workload.Difference) string {
	text := ""
	for _, part := range []struct {
		name  string
		paths []string
	}{{"content", d.Content}, {"modes", d.Modes}, {"links", d.Links}, {"empty folder", d.Empty}, {"extra files", d.Extra}} {
		if len(part.paths) == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += part.name
	}
	return text
}
