package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/bench/result"
)

func TestRun_WritesThePage(t *testing.T) {
	dir := t.TempDir()
	fleet := result.New("fleet", "Many VMs")
	fleet.Command = "go run ./bench/fleet"
	fleet.Date = "2020-01-02T00:00:00Z"
	fleet.Add("Polls", "VMs").Row(10_000)
	peers := result.New("peers", "Beside others")
	peers.Intro = []string{"How it is done."}
	table := peers.Add("M", "peer", "wall")
	table.Row("a|b", "12 ms")
	table.Row("c", "3 s")
	table.Note = "A note."
	peers.Target("cold", "≤ 1.0 ×", "2.0 ×", false)
	peers.Target("poll", "≤ 1", "1", true)
	for _, d := range []*result.Document{fleet, peers} {
		if err := d.Write(filepath.Join(dir, "results", d.Name+".json")); err != nil {
			t.Fatal(err)
		}
	}
	costs, to := filepath.Join(dir, "costs.md"), filepath.Join(dir, "page.md")
	if err := os.WriteFile(costs, []byte("## Hot\n\nBy hand.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(filepath.Join(dir, "results"), costs, to); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, want := range []string{"# Performance", "1 of 2 are met. There are no results of boot, status, releases,", "**NOT met**", "| all that bench/boot measures |  | not measured | **no results** |", "By hand.", "## Beside others", "- How it is done.", "| peer | wall |\n|---|--:|\n| a\\|b | 12 ms |", "A note.",
		"## Many VMs", "Measured 2020-01-02", "go run ./bench/fleet", "go run ./bench/status -json bench/results/status.json"} {
		i := strings.Index(string(text), want)
		if i <= at {
			t.Errorf("%q is not there, or not in order, in:\n%s", want, text)
		}
		at = max(at, i)
	}
}

func TestRun_NothingMeasured(t *testing.T) {
	if err := run(t.TempDir(), "", filepath.Join(t.TempDir(), "page.md")); err == nil {
		t.Error("a page without results was written")
	}
}

// TestPrograms_AreAllThatLeaveResults keeps the page from passing over one.
func TestPrograms_AreAllThatLeaveResults(t *testing.T) {
	mains, err := filepath.Glob("../*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, main := range mains {
		text, err := os.ReadFile(main)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(filepath.Dir(main)); strings.Contains(string(text), "result.New(\""+name+"\"") {
			found = append(found, name)
		}
	}
	want := slices.Sorted(slices.Values(programs))
	if slices.Sort(found); !slices.Equal(found, want) {
		t.Errorf("results come from %v, the page knows of %v", found, want)
	}
}
