package release

import (
	"strings"
	"time"
)

// Bounds of a Summary. A fleet has one of each VM in memory.
const (
	maxSummaryName  = 256 // bytes of a name
	maxSummaryText  = 512 // bytes of a sentence
	MaxSummaryWarns = 10
)

// A Summary is what a view of many VMs needs of one VM's report. Like the report
// it is claims of that VM: its text is cut, not cleaned, and may be hostile.
type Summary struct {
	VM, Role, State           string
	Release, Wanted, LastGood string
	Reason                    string
	Platform, Zone            string
	Sequence                  int64
	Heartbeat                 time.Duration
	Seconds                   float64 // of the last run
	Failed                    string  // the first step that failed, or "check " and the first check; "": none did
	Why                       string  // why that failed, with the last line of its output
	Warn                      []string
}

// Summary returns what a view of many VMs needs of r.
func (r *Report) Summary() *Summary {
	s := &Summary{
		VM: r.VM, Role: cut(r.Role, maxSummaryName), State: cut(r.State, maxSummaryName),
		Release: cut(r.Release, maxSummaryName), Wanted: cut(r.Wanted, maxSummaryName), LastGood: cut(r.LastGood, maxSummaryName),
		Reason: cut(r.Reason, maxSummaryText), Platform: cut(r.Facts.Platform, maxSummaryName), Zone: cut(r.Facts.Zone, maxSummaryName),
		Sequence: r.Sequence, Heartbeat: r.Heartbeat.Std(),
	}
	for _, w := range r.Warn {
		if w != "" && len(s.Warn) < MaxSummaryWarns {
			s.Warn = append(s.Warn, cut(w, maxSummaryText))
		}
	}
	if r.Run != nil {
		s.Seconds = r.Run.Seconds
		name, why := r.Run.failure()
		s.Failed, s.Why = cut(name, maxSummaryName), cut(why, maxSummaryText)
	}
	return s
}

// failure names the first step or check that failed, and why.
func (r *Run) failure() (name, why string) {
	for _, s := range r.Steps {
		if s.Result == ResultFailed {
			why := s.Reason
			if l := lastLine(s.Tail); l != "" {
				why += ": " + l
			}
			return s.Name, why
		}
	}
	for _, c := range r.Checks {
		if c.Result == CheckFailed {
			return "check " + c.Name, c.Reason
		}
	}
	return "", ""
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// cut returns a copy of at most max bytes of s, so that it does not keep the
// rest in memory.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.Clone(s[:max])
}
