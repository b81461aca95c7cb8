package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
)

// StepLine is how one step's result looks in a list: number, name, sign,
// result and what is to be known of it.
func StepLine(s *Session, n int, r release.StepResult) string { return stepLine(s.Glyph, n, r) }

func stepLine(sign func(string) string, n int, r release.StepResult) string {
	what := r.Result
	switch {
	case len(r.Changes) == 1:
		what = r.Changes[0]
	case len(r.Changes) > 1:
		what = fmt.Sprintf("%s, and %d more", r.Changes[0], len(r.Changes)-1)
	case r.Reason != "":
		what += ": " + r.Reason
	}
	if r.Result == release.ResultFailed {
		what = r.Reason
	}
	return fmt.Sprintf("  %2d  %-20s %s %s  %s", n, fleet.Clean(r.Name, 60), sign(r.Result), fleet.Clean(what, 160), Seconds(r.Seconds))
}

// CheckLine is how one check's result looks in a list.
func CheckLine(s *Session, c release.CheckResult) string { return checkLine(s.Glyph, c) }

func checkLine(sign func(string) string, c release.CheckResult) string {
	result := "ok"
	if c.Result != release.CheckPassed {
		result = "failed"
	}
	line := fmt.Sprintf("      check %-14s %s", fleet.Clean(c.Name, 60), sign(result))
	if c.Reason != "" {
		line += " " + fleet.Clean(c.Reason, 160)
	}
	return line
}

// Seconds formats a length of time as people read it in a list.
func Seconds(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.1f s", x)
	case x < 120:
		return fmt.Sprintf("%.0f s", x)
	}
	return fmt.Sprintf("%.0f m", x/60)
}

// ShowReport prints one VM's report: what it has, its last run step by step,
// and the runs before.
func ShowReport(s *Session, r *release.Report, now time.Time) {
	clean := func(t string) string { return fleet.Clean(t, 400) }
	s.Printf("%s · role %s · %s · %s\n", r.VM, clean(r.Role), clean(r.State), clean(r.Release))
	if r.Reason != "" {
		s.Printf("  %s\n", clean(r.Reason))
	}
	if r.Wanted != "" && r.Wanted != r.Release {
		s.Printf("  the channel says %s, last good is %s\n", clean(r.Wanted), clean(dash(r.LastGood)))
	}
	f := r.Facts
	where := strings.Trim(strings.Join([]string{clean(f.Cloud), clean(f.Region), clean(f.Zone)}, " "), " ")
	s.Printf("  %s %s, kernel %s, agent %s %s\n", clean(f.Platform), clean(f.Arch), clean(dash(f.Kernel)), clean(dash(f.Agent)), where)
	s.Printf("  reported %s ago", ageOf(now.Sub(r.Time)))
	if !r.NextRun.IsZero() {
		s.Printf(", next poll about %s", r.NextRun.UTC().Format("15:04 MST"))
	}
	s.Printf("\n")
	for _, w := range r.Warn {
		s.Printf("  %s %s\n", s.Sign("warning"), clean(w))
	}
	if r.Run != nil {
		showRun(s, r.Run)
	}
	if len(r.History) > 0 {
		s.Printf("\nEARLIER RUNS\n")
		for _, b := range r.History {
			s.Printf("  %s  %-4s %-9s %-8s %s  %s %s\n", b.Started.UTC().Format("2006-01-02 15:04:05"), clean(b.Release), clean(b.Result), clean(b.Why), Seconds(b.Seconds), clean(b.ID), clean(b.Reason))
		}
	}
}

func showRun(s *Session, run *release.Run) {
	s.Printf("\nLAST RUN %s: %s, %s after %s (%s)\n", fleet.Clean(run.ID, 40), fleet.Clean(run.Release, 16), fleet.Clean(run.Result, 16), Seconds(run.Seconds), fleet.Clean(run.Why, 16))
	for i, st := range run.Steps {
		s.Printf("%s\n", stepLine(s.Sign, i+1, st))
		if st.Tail != "" {
			for _, line := range strings.Split(strings.TrimRight(CleanText([]byte(st.Tail)), "\n"), "\n") {
				s.Printf("        %s\n", line)
			}
		}
	}
	for _, c := range run.Checks {
		s.Printf("%s\n", checkLine(s.Sign, c))
	}
}

func ageOf(d time.Duration) string { return d.Truncate(time.Second).String() }

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// CleanText makes text from a VM safe to show on a terminal: newlines and
// tabs stay, every other control character and escape goes.
func CleanText(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
}
