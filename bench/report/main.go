// Command report writes docs/performance.md from what the benchmarks left in
// bench/results, and from the text that people keep in bench/report/costs.md.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/bench/result"
)

func main() {
	results := flag.String("results", "bench/results", "`folder` of the results")
	costs := flag.String("costs", "bench/report/costs.md", "`file` with the text written by hand")
	to := flag.String("o", "docs/performance.md", "`file` to write")
	flag.Parse()
	if err := run(*results, *costs, *to); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(results, costs, to string) error {
	docs, err := read(results)
	if err != nil {
		return err
	}
	byHand, err := os.ReadFile(costs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(to, page(docs, string(byHand)), 0o644)
}

// programs are those that leave results, in the order of the sections; what
// is not named comes after.
var programs = []string{"peers", "boot", "fleet", "status", "releases"}

// missing are the programs that left nothing.
func missing(docs []*result.Document) []string {
	return slices.DeleteFunc(slices.Clone(programs), func(name string) bool {
		return slices.ContainsFunc(docs, func(d *result.Document) bool { return d.Name == name })
	})
}

func read(dir string) ([]*result.Document, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var docs []*result.Document
	for _, f := range files {
		d, err := result.Read(f)
		if err != nil {
			return nil, err
		}
		if d.Name == "" || len(d.Tables) == 0 {
			fmt.Fprintf(os.Stderr, "report: %s is not what bench/result writes: left out\n", f)
			continue
		}
		docs = append(docs, d)
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("no results in %s: run make bench", dir)
	}
	place := func(d *result.Document) int {
		if i := slices.Index(programs, d.Name); i >= 0 {
			return i
		}
		return len(programs)
	}
	slices.SortStableFunc(docs, func(a, b *result.Document) int { return place(a) - place(b) })
	return docs, nil
}

// page is the whole of docs/performance.md.
func page(docs []*result.Document, byHand string) []byte {
	var w bytes.Buffer
	fmt.Fprint(&w, "# Performance\n\n<!-- Written by bench/report from bench/results; the text on costs is bench/report/costs.md. Do not edit. -->\n\n")
	fmt.Fprint(&w, "What delivery by bootwell costs, beside what one would use instead, measured side by side in the same run.\n"+
		"Only the ratios carry over to another machine.\n\n")
	first := docs[0]
	machine(&w, first)
	targets(&w, docs)
	if text := strings.TrimSpace(byHand); text != "" {
		fmt.Fprintf(&w, "%s\n\n", text)
	}
	for _, d := range docs {
		section(&w, d, first)
	}
	again(&w, docs)
	return w.Bytes()
}

func machine(w *bytes.Buffer, d *result.Document) {
	m := d.Machine
	table(w, []string{"machine", ""}, [][]string{
		{"CPU", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)}, {"memory", m.Memory}, {"system", m.OS + ", kernel " + m.Kernel},
		{"disk", m.Disk}, {"Go", m.Go}, {"date", day(d)}, {"commit", d.Commit},
	})
}

func day(d *result.Document) string { date, _, _ := strings.Cut(d.Date, "T"); return date }

func targets(w *bytes.Buffer, docs []*result.Document) {
	var rows [][]string
	met, all := 0, 0
	for _, d := range docs {
		for _, t := range d.Targets {
			verdict := "met"
			if !t.Met {
				verdict = "**NOT met**"
			} else {
				met++
			}
			all++
			rows = append(rows, []string{t.Text, t.Want, t.Got, verdict})
		}
	}
	lacking := missing(docs)
	for _, name := range lacking {
		rows = append(rows, []string{"all that bench/" + name + " measures", "", "not measured", "**no results**"})
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "## Targets\n\n%d of %d are met.", met, all)
	if len(lacking) > 0 {
		fmt.Fprintf(w, " There are no results of %s, whose targets are not counted.", strings.Join(lacking, ", "))
	}
	fmt.Fprint(w, "\n\n")
	table(w, []string{"what", "wanted", "measured", ""}, rows)
}

func section(w *bytes.Buffer, d, first *result.Document) {
	fmt.Fprintf(w, "## %s\n\n", d.Title)
	if day(d) != day(first) || d.Commit != first.Commit || d.Machine != first.Machine {
		fmt.Fprintf(w, "Measured %s at %s on %s, %d cores, %s.\n\n", day(d), d.Commit, d.Machine.CPU, d.Machine.Cores, d.Machine.Disk)
	}
	for _, text := range d.Intro {
		fmt.Fprintf(w, "- %s\n", text)
	}
	if len(d.Intro) > 0 {
		fmt.Fprintln(w)
	}
	for _, t := range d.Tables {
		fmt.Fprintf(w, "### %s\n\n", t.Title)
		table(w, t.Columns, t.Rows)
		if t.Note != "" {
			fmt.Fprintf(w, "%s\n\n", t.Note)
		}
	}
}

func again(w *bytes.Buffer, docs []*result.Document) {
	fmt.Fprint(w, "## Make it again\n\n```\n")
	fmt.Fprintln(w, "make bench                # the peers; installs them on Debian as root")
	fmt.Fprintln(w, "make bench BENCH=quick    # bootwell, curl, git and the floor on the small trees; writes nothing")
	fmt.Fprintln(w, "make bench BENCH=all      # the peers and all that is below")
	for _, d := range docs {
		if d.Command != "" && !strings.HasPrefix(d.Command, "make bench") {
			fmt.Fprintln(w, d.Command)
		}
	}
	for _, name := range missing(docs) {
		fmt.Fprintf(w, "go run ./bench/%s -json bench/results/%s.json # no results yet\n", name, name)
	}
	fmt.Fprint(w, "go run ./bench/report     # this page from bench/results\n```\n")
}

func table(w *bytes.Buffer, columns []string, rows [][]string) {
	line(w, columns)
	for i := range columns {
		w.WriteString("|")
		w.WriteString(rule(rows, i))
	}
	w.WriteString("|\n")
	for _, row := range rows {
		line(w, row)
	}
	w.WriteString("\n")
}

func line(w *bytes.Buffer, cells []string) {
	for _, c := range cells {
		fmt.Fprintf(w, "| %s ", strings.NewReplacer("|", `\|`, "\n", " ").Replace(c))
	}
	w.WriteString("|\n")
}

// rule sets columns of figures to the right.
func rule(rows [][]string, column int) string {
	figures := 0
	for _, row := range rows {
		if column < len(row) && (row[column] == "–" || len(row[column]) > 0 && row[column][0] >= '0' && row[column][0] <= '9') {
			figures++
		}
	}
	if column > 0 && figures > len(rows)/2 {
		return "--:"
	}
	return "---"
}
