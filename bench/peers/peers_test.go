package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/bench/workload"
	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/needs"
)

// commands are the two of bootwell, as the tree is now; TestMain removes them.
var commands struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if commands.dir != "" {
		os.RemoveAll(commands.dir)
	}
	os.Exit(code)
}

func buildCommands() {
	if commands.dir, commands.err = os.MkdirTemp("", "bootwell-bench-bin-"); commands.err != nil {
		return
	}
	for name, pkg := range map[string]string{"bootwell": "bootwell", "bootwell-agent-linux-" + arch(): "bootwell-agent"} {
		build := exec.Command("go", "build", "-o", filepath.Join(commands.dir, name), "github.com/bootwell/bootwell/cmd/"+pkg)
		if out, err := build.CombinedOutput(); err != nil {
			commands.err = fmt.Errorf("build %s: %w\n%s", pkg, err, out)
			return
		}
	}
}

// startBuilt starts a bench with the two commands.
func startBuilt(t *testing.T, p plan) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("builds both commands")
	}
	if commands.once.Do(buildCommands); commands.err != nil {
		t.Fatal(commands.err)
	}
	t.Setenv("BOOTWELL_BIN", commands.dir)
	b, err := start(t.Context(), testLog{t})
	if errors.Is(err, world.ErrNoServer) {
		needs.Skip(t, "versitygw", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	b.plan = p
	b.choose(peers())
	return b
}

type testLog struct{ testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = testLog{}

// TestDelivery holds what bootwell asks of a bucket and what it leaves on a VM,
// beside the peers that are here. It says nothing of time.
func TestDelivery(t *testing.T) {
	b := startBuilt(t, plan{sizes: []workload.Size{workload.S}, rtts: []time.Duration{0}, fast: map[string]int{"S": 1},
		only: []string{us, "floor", "curl-pipe", "curl-etag", "git"}})
	if err := b.workload(t.Context(), workload.S); err != nil {
		t.Fatal(err)
	}
	for k, all := range b.samples {
		for _, s := range all {
			if s.err != nil {
				t.Errorf("%s, %s: %v", k.peer, k.op, s.err)
			}
			if s.wall <= 0 || s.cpu <= 0 || s.rss <= 0 {
				t.Errorf("%s, %s cost nothing: %+v", k.peer, k.op, s)
			}
		}
	}
	only := func(o op) sample {
		t.Helper()
		all := b.samples[key{"S", us, o, 0}]
		if len(all) != 1 {
			t.Fatalf("%s was measured %d times", o, len(all))
		}
		t.Logf("%s: %d requests, %d up, %d down of %d changed", o, all[0].requests, all[0].up, all[0].down, all[0].changed)
		return all[0]
	}
	polls := func(who string) []sample {
		t.Helper()
		all := b.samples[key{"S", who, poll, 0}]
		if len(all) != pollRounds {
			t.Errorf("%d polls of %s were measured, want %d", len(all), who, pollRounds)
		}
		return all
	}
	for _, s := range polls(us) {
		if s.requests != 1 || s.down > 600 {
			t.Errorf("a poll is %d requests and %d bytes down, want 1 and at most 600", s.requests, s.down)
		}
	}
	if s := only(one); s.requests > 8 || s.down > s.changed+10_000 {
		t.Errorf("1 file is %d requests and %d bytes down, want at most 8 and %d", s.requests, s.down, s.changed+10_000)
	}
	if s := only(rename); s.down > 15_000 || s.changed < 30_000 {
		t.Errorf("a rename of %d bytes moves %d", s.changed, s.down)
	}
	for _, o := range []op{cold, poll, one, many, rename} {
		if wrong, looked := b.wrong[key{"S", us, o, 0}]; !looked || wrong != "" {
			t.Errorf("%s: looked %v, wrong: %s", o, looked, wrong)
		}
	}
	if find("curl") != "" {
		for _, s := range polls("floor") {
			if s.requests != 1 || s.conns != 1 {
				t.Errorf("the floor's poll: %+v", s)
			}
		}
		if wrong := b.wrong[key{"S", "curl-pipe", rename, 0}]; wrong != "extra files" {
			t.Errorf("curl | tar deletes nothing, but a rename left: %q", wrong)
		}
	}
	b.page(t)
}

// page makes the document of what was measured.
func (b *bench) page(t *testing.T) {
	t.Helper()
	doc := result.New("peers", "test")
	b.fill(t.Context(), doc, nil, nil)
	i := slices.IndexFunc(doc.Tables, func(x result.Table) bool { return x.Title == workload.S.String() })
	if i < 0 || len(doc.Tables[i].Rows) < 7 {
		t.Fatalf("no table of all operations: %+v", doc.Tables)
	}
	for _, target := range doc.Targets {
		if strings.HasPrefix(target.Text, "S, poll") && !target.Met {
			t.Errorf("%+v", target)
		}
	}
}

// TestCorrectness holds that bootwell gets everything right that is looked at,
// and that the judge sees what plain curl | tar gets wrong.
func TestCorrectness(t *testing.T) {
	b := startBuilt(t, plan{only: []string{us, "curl-pipe"}})
	all, err := b.correctness(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		us:          {"yes", "yes", "yes", "yes", "yes", "yes", "refused", "clean"},
		"curl-pipe": {"yes", "yes", "yes", "yes", "NO", "yes", "noticed, leaves a half tree", ""},
	}
	for _, v := range all {
		for i, w := range want[v.peer] {
			if w != "" && v.columns[i] != w {
				t.Errorf("%s, %s: %q, want %q", v.peer, verdictColumns[i], v.columns[i], w)
			}
		}
	}
	if len(all) == 0 || all[0].peer != us {
		t.Errorf("bootwell was not looked at: %+v", all)
	}
}

func TestRatio_IsOfRounds(t *testing.T) {
	b := &bench{plan: standardPlan(), samples: map[key][]sample{}}
	for _, walls := range [][2]int{{1, 2}, {10, 10}, {3, 6}} {
		for peer, w := range map[string]int{us: walls[0], "git": walls[1]} {
			k := key{"M", peer, one, distant}
			b.samples[k] = append(b.samples[k], sample{wall: time.Duration(w) * time.Second})
		}
	}
	doc := new(result.Document)
	b.ratio(doc, "M", one, distant, 0.8, "git")
	b.ratio(doc, "M", cold, distant, 0.8, "git")
	if len(doc.Targets) != 2 || !doc.Targets[0].Met || !strings.HasPrefix(doc.Targets[0].Got, "0.50 ×") {
		t.Errorf("%+v", doc.Targets)
	}
	if doc.Targets[1].Met || doc.Targets[1].Got != "not measured" {
		t.Errorf("what was not measured: %+v", doc.Targets[1])
	}
}

func TestPlan_SlowPeersRunLess(t *testing.T) {
	p := standardPlan()
	fast, slow := bootwellPeer(), awsPeer()
	for _, size := range p.sizes {
		for _, o := range ops {
			for _, rtt := range p.rtts {
				if s, f := p.reps(size, slow, o, rtt), p.reps(size, fast, o, rtt); s > f || f == 0 {
					t.Errorf("%s %s %v: slow %d, fast %d", size.Name, o, rtt, s, f)
				}
			}
		}
	}
}
