package operator

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
)

// maxRows is how long a list of status may be: a screen, whatever the fleet.
const maxRows = 20

func roleCounts(st *fleet.Status) string {
	shown := []string{release.StateOK, release.StateChanged, release.StateApplying, release.StateFailed, release.StateStale}
	for _, extra := range []string{release.StateDrifted, release.StateHeld} {
		for _, r := range st.Roles {
			if r.States[extra] > 0 && !slices.Contains(shown, extra) {
				shown = append(shown, extra)
			}
		}
	}
	head := []string{"ROLE", "VMS"}
	for _, x := range shown {
		head = append(head, strings.ToUpper(x))
	}
	rows := [][]string{append(head, "SEEN LAST", "RELEASES")}
	for _, r := range largest(st.Roles) {
		row := []string{dash(r.Role), strconv.Itoa(r.VMs)}
		for _, x := range shown {
			row = append(row, strconv.Itoa(r.States[x]))
		}
		var rel []string
		for i, c := range r.Releases {
			if i == 3 {
				rel = append(rel, "…")
				break
			}
			rel = append(rel, fmt.Sprintf("%s %d", dash(c.Release), c.VMs))
		}
		rows = append(rows, append(row, age(st.Generated.Sub(r.Oldest)), strings.Join(rel, ", ")))
	}
	return columns(rows) + more(len(st.Roles), "role")
}

// largest are the roles that there is room for, in the order of their names
// where that is all of them.
func largest(roles []fleet.Role) []fleet.Role {
	if len(roles) <= maxRows {
		return roles
	}
	return slices.SortedFunc(slices.Values(roles), func(a, b fleet.Role) int {
		return cmp.Or(cmp.Compare(b.VMs, a.VMs), cmp.Compare(a.Role, b.Role))
	})[:maxRows]
}

// more is the line below a list that was cut off.
func more(n int, what string) string {
	if n <= maxRows {
		return ""
	}
	count, what, _ := strings.Cut(cli.Plural(n-maxRows, what), " ")
	return fmt.Sprintf("  and %s more %s\n", count, what)
}

// columns lines up rows: the first and the last column to the left, figures
// between them to the right.
func columns(rows [][]string) string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			switch i {
			case 0:
				b.WriteString(cell + pad)
			case len(row) - 1:
				b.WriteString("   " + cell)
			default:
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// age is a short form of a length of time: "12 m", "3 h 12 m", "4 d".
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d m", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d m", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

func showTrouble(s *cli.Session, st *fleet.Status) {
	showFailures(s, st.Failures)
	showStale(s, st)
	if len(st.Unread) > 0 {
		s.Printf("\nUNREADABLE: %s\n", cli.Plural(len(st.Unread), "report"))
		for _, u := range st.Unread[:min(len(st.Unread), 5)] {
			s.Printf("  %s  %s\n", u.VM, u.Error)
		}
	}
	for _, w := range st.Warnings {
		s.Say("  %s %s", s.Glyph("warning"), w)
	}
}

func showFailures(s *cli.Session, failures []fleet.Failure) {
	if len(failures) == 0 {
		return
	}
	s.Printf("\nFAILED, grouped\n")
	shown := failures[:min(len(failures), maxRows)]
	count, role, rel := 3, 0, 0
	for _, f := range shown {
		count, role, rel = max(count, len(strconv.Itoa(f.Count))), max(role, wide(f.Role)), max(rel, wide(f.Release))
	}
	for _, f := range shown {
		what := f.Reason
		if f.Step != "" {
			what = f.Step + ": " + f.Reason
		}
		s.Printf("  %*d  %s  %s  %s\n", count, f.Count, padded(f.Role, role), padded(f.Release, rel), what)
	}
	s.Printf("%s", more(len(failures), "group"))
}

// showStale names the VMs, or where they are when they are many: then it is a
// zone or a role that went silent.
func showStale(s *cli.Session, st *fleet.Status) {
	switch {
	case len(st.Stale) == 0:
	case len(st.Stale) <= maxRows:
		s.Printf("\nSTALE: no report for longer than a heartbeat\n")
		for _, v := range st.Stale {
			s.Printf("  %s  %s  %s\n", v.Name, v.Role, age(st.Generated.Sub(v.Seen)))
		}
	default:
		s.Printf("\nSTALE: %s without a report for longer than a heartbeat\n%s", cli.Plural(len(st.Stale), "VM"), silences(st))
		s.Printf("  all of them: bootwell status --vms --state stale\n")
	}
}

// silences counts the stale VMs by role and zone.
func silences(st *fleet.Status) string {
	type place struct{ role, zone string }
	type silence struct {
		place
		vms               int
		shortest, longest time.Duration
	}
	groups := map[place]*silence{}
	for _, v := range st.Stale {
		p, ago := place{v.Role, v.Zone}, st.Generated.Sub(v.Seen)
		g := groups[p]
		if g == nil {
			g = &silence{p, 0, ago, ago}
			groups[p] = g
		}
		g.vms, g.shortest, g.longest = g.vms+1, min(g.shortest, ago), max(g.longest, ago)
	}
	var list []*silence
	role, zone := 0, 0
	for _, g := range groups {
		list = append(list, g)
		role, zone = max(role, wide(dash(g.role))), max(zone, wide(dash(g.zone)))
	}
	slices.SortFunc(list, func(a, b *silence) int {
		return cmp.Or(cmp.Compare(b.vms, a.vms), cmp.Compare(a.role, b.role), cmp.Compare(a.zone, b.zone))
	})
	count := max(3, len(strconv.Itoa(list[0].vms)))
	var b strings.Builder
	for _, g := range list[:min(len(list), maxRows)] {
		fmt.Fprintf(&b, "  %*d  %s  %s  for %s", count, g.vms, padded(dash(g.role), role), padded(dash(g.zone), zone), age(g.shortest))
		if age(g.shortest) != age(g.longest) {
			fmt.Fprintf(&b, " to %s", age(g.longest))
		}
		b.WriteByte('\n')
	}
	return b.String() + more(len(list), "place")
}

func wide(s string) int { return utf8.RuneCountInString(s) }

func padded(s string, width int) string { return s + strings.Repeat(" ", max(0, width-wide(s))) }

// showVMs writes a line for each VM, without holding the text of all of them.
func showVMs(s *cli.Session, st *fleet.Status, plain bool) error {
	if s.JSON {
		for _, v := range st.VMs {
			if err := s.Event(v); err != nil {
				return err
			}
		}
		return nil
	}
	head := []string{"VM", "ROLE", "STATE", "RELEASE", "PLATFORM", "SEEN", "REASON"}
	width := make([]int, len(head))
	measure := func(cells []string) {
		for i, c := range cells {
			width[i] = max(width[i], wide(c))
		}
	}
	var b strings.Builder
	write := func(cells []string) {
		line := strings.Join(cells, "\t")
		if !plain {
			for i := range cells[:len(cells)-1] {
				cells[i] = padded(cells[i], width[i])
			}
			line = strings.TrimRight(strings.Join(cells, "  "), " ")
		}
		b.WriteString(line + "\n")
		if b.Len() > 32<<10 {
			s.Printf("%s", b.String())
			b.Reset()
		}
	}
	if !plain {
		measure(head)
		for _, v := range st.VMs {
			measure(vmCells(v, st.Generated))
		}
		write(head)
	}
	for _, v := range st.VMs {
		write(vmCells(v, st.Generated))
	}
	s.Printf("%s", b.String())
	return nil
}

func vmCells(v fleet.VM, now time.Time) []string {
	why := v.Reason
	if v.Step != "" {
		why = v.Step + ": " + why
	}
	return []string{v.Name, dash(v.Role), v.State, dash(v.Release), dash(v.Platform), age(now.Sub(v.Seen)), why}
}
