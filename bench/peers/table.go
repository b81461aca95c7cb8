package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/result"
	"github.com/bootwell/bootwell/bench/workload"
)

// fill writes the tables and targets of what was measured.
func (b *bench) fill(ctx context.Context, doc *result.Document, right []verdict, absent []string) {
	doc.Intro = b.method(absent)
	b.versions(ctx, doc)
	if len(right) > 0 {
		t := doc.Add("What each gets right", append([]string{"peer"}, verdictColumns...)...)
		for _, v := range right {
			t.Rows = append(t.Rows, append([]string{v.peer}, v.columns...))
		}
		t.Note = "On the small tree. Corrupted: a byte in the middle of each stored object that holds content was turned on the server's disk, then a new VM fetched. The reader opens two files that belong together, again and again, while an update replaces both."
	}
	if len(b.samples) == 0 {
		return
	}
	for _, size := range b.plan.sizes {
		b.summary(doc, size)
	}
	for _, size := range b.plan.sizes {
		b.detail(doc, size)
	}
	b.targets(doc)
}

func (b *bench) method(absent []string) []string {
	var sizes []string
	for _, s := range b.plan.sizes {
		sizes = append(sizes, s.String())
	}
	text := []string{
		"Trees: " + strings.Join(sizes, "; ") + ". Three quarters of the files are text, the rest and the binaries do not compress; modes 0600, 0644 and 0755, symbolic links to files and folders, an empty folder. The same bytes each time.",
		"One versitygw on the loopback address, signatures enforced, behind a proxy of ours that delays each direction by half of the round-trip time (a new connection costs one more round trip) and counts requests and bytes. git and casync have a web server behind the same kind of proxy. The server and the proxies share the machine with what is measured; none of them is counted.",
		"Each cell is a whole process as an operator or a VM would start it, with all its children: wall time, user and system time and the largest resident set by wait4(2). Each peer has its own home, cache and bucket.",
		"Rounds: all peers do the same operation in turn, each round begins with another one, at 0 ms and at 20 ms alternately; cells are medians, ratios are medians of the ratios of each round. Trees are written to a new ext4 file system (a loop device), and none is deleted before the end, since a file system full of inodes just freed is slower for whoever comes next; it is synced before each measurement. What machines have in /run is in memory, as on VMs. The programs that this project builds are copied into place before, since a linker leaves them in the page cache in smaller pieces than a download does. Peers marked * are slow and run once or twice.",
		"cold: a VM that has nothing. poll: nothing is new. 1 file, 50 files (20 of S), 1 byte in the middle of a 20 MB file, rename of a folder: publish, then fetch on a VM that has the state before. bootwell runs a role without steps: its times end where the first step would begin, the tree being verified, whole and current, as those of the others end with the last file. The line \"bootwell, its report\" is the whole process, with the report and the log that it then writes to the bucket; CPU, memory, requests and bytes are always of the whole process.",
		"publish cold: the first publish, of the whole tree. bootwell's uploads the agents for both kinds of CPU as well, 6 to 7 MB that new VMs start from and that later publishes do not upload again; they are in its times and bytes.",
		"CPU, memory, requests and bytes are those at 0 ms where it was measured. \"Tree\" tells what differs from the source after the operation.",
	}
	for _, size := range b.plan.sizes {
		var through []string
		for _, p := range b.peers {
			if b.plan.shares(size, p) {
				through = append(through, p.name)
			}
		}
		if len(through) > 0 {
			text = append(text, fmt.Sprintf("On %s, %s fetch what %s published.", size.Name, strings.Join(through, ", "), plainPublisher))
		}
	}
	if len(absent) > 0 {
		text = append(text, "Not measured: "+strings.Join(absent, "; ")+".")
	}
	return text
}

func (b *bench) versions(ctx context.Context, doc *result.Document) {
	t := doc.Add("Peers", "peer", "publishes; fetches", "versions")
	for _, p := range b.peers {
		var used []string
		for _, name := range p.tools {
			used = append(used, name+" "+version(ctx, name, find(name)))
		}
		name := p.name
		if p.slow {
			name += " *"
		}
		t.Row(name, p.what, strings.Join(used, ", "))
	}
	t.Row("(server)", "S3 for all but git, ansible-pull and casync", "versitygw "+version(ctx, "versitygw", find("versitygw")))
}

// summary has one line for each peer, the median wall time at a distance.
func (b *bench) summary(doc *result.Document, size workload.Size) {
	used := b.opsOf(size)
	columns := []string{"peer"}
	for _, o := range used {
		columns = append(columns, string(o))
	}
	t := doc.Add(fmt.Sprintf("%s at %d ms: median wall time", size.Name, distant.Milliseconds()), columns...)
	for _, p := range b.peers {
		row, some := []string{p.name}, false
		for _, o := range used {
			text := "–"
			if s := b.samples[key{size.Name, p.name, o, distant}]; len(s) > 0 {
				text, some = wallText(s), true
			}
			row = append(row, text)
		}
		if some {
			t.Rows = append(t.Rows, row)
		}
		if p.name == us {
			t.Rows = append(t.Rows, b.whole(size, used))
		}
	}
}

// whole is the line of our whole process, its report included.
func (b *bench) whole(size workload.Size, used []op) []string {
	row := []string{us + ", its report"}
	for _, o := range used {
		text := "–"
		if s := b.samples[key{size.Name, us, o, distant}]; len(s) > 0 && s[0].ready > 0 {
			text = duration(median(s, func(s sample) float64 { return float64(s.wall) }))
		}
		row = append(row, text)
	}
	return row
}

func (b *bench) opsOf(size workload.Size) []op {
	return slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o == oneByte && size.Binaries == 0 })
}

// detail has one line for each peer and operation.
func (b *bench) detail(doc *result.Document, size workload.Size) {
	t := doc.Add(size.String(), "peer", "operation", "wall 0 ms", "wall 20 ms", "CPU", "RSS", "requests", "up", "down", "tree", "runs")
	for _, o := range b.opsOf(size) {
		for _, p := range b.peers {
			near, far := b.samples[key{size.Name, p.name, o, 0}], b.samples[key{size.Name, p.name, o, distant}]
			s := near
			if len(s) == 0 {
				s = far
			}
			if len(s) == 0 {
				continue
			}
			t.Row(p.name, o, wallText(near), wallText(far), duration(median(s, func(s sample) float64 { return float64(s.cpu) })),
				bytesText(median(s, func(s sample) float64 { return float64(s.rss) })),
				fmt.Sprintf("%.0f", median(s, func(s sample) float64 { return float64(s.requests) })),
				bytesText(median(s, func(s sample) float64 { return float64(s.up) })),
				bytesText(median(s, func(s sample) float64 { return float64(s.down) })),
				b.treeText(size, p, o), fmt.Sprintf("%d+%d", len(near), len(far)))
		}
	}
}

func (b *bench) treeText(size workload.Size, p *peer, o op) string {
	if o == publishCold || o == publishOne {
		return ""
	}
	wrong, looked := b.wrong[key{size.Name, p.name, o, 0}]
	switch {
	case !looked:
		return "–"
	case wrong == "":
		return "right"
	}
	return "wrong: " + wrong
}

func wallText(s []sample) string {
	if len(s) == 0 {
		return "–"
	}
	for _, one := range s {
		if one.err != nil {
			return "failed"
		}
	}
	return duration(median(s, wall))
}

// wall is how long somebody waits for what was asked for.
func wall(s sample) float64 {
	if s.ready > 0 {
		return float64(s.ready)
	}
	return float64(s.wall)
}

func median(s []sample, of func(sample) float64) float64 {
	values := make([]float64, len(s))
	for i, one := range s {
		values[i] = of(one)
	}
	return middle(values)
}

func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func duration(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", ns/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", ns/1e6)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func bytesText(n float64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%.0f B", n)
	case n < 10_000:
		return fmt.Sprintf("%.1f KB", n/1e3)
	case n < 1e6:
		return fmt.Sprintf("%.0f KB", n/1e3)
	case n < 10e6:
		return fmt.Sprintf("%.1f MB", n/1e6)
	}
	return fmt.Sprintf("%.0f MB", n/1e6)
}
