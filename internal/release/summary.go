package release

import (
	"encoding/json"
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

// ParseSummary returns the [Report.Summary] of a report and reads no more of it
// than that takes: thousands are read at once. What is skipped may be of another
// form. Its other errors are those of [ParseReport].
func ParseSummary(b []byte) (*Summary, error) {
	if err := checkReportSize(b); err != nil {
		return nil, err
	}
	var c claims
	if err := json.Unmarshal(b, &c); err != nil || c.Schema < 1 || c.Schema > SchemaVersion {
		if err := decodeSchema(b, &c, "report"); err != nil {
			return nil, err
		}
	}
	if err := checkReportVM(c.VM); err != nil {
		return nil, err
	}
	r := Report{
		VM: c.VM, Role: c.Role, State: c.State, Release: c.Release, Wanted: c.Wanted, LastGood: c.LastGood, Reason: c.Reason,
		Sequence: c.Sequence, Heartbeat: c.Heartbeat, Warn: c.Warn, Facts: Facts{Platform: c.Facts.Platform, Zone: c.Facts.Zone},
	}
	if c.Run != nil {
		r.Run = c.Run.failed()
	}
	return r.Summary(), nil
}

// claims are the fields of a [Report] that a Summary is made of.
type claims struct {
	Schema    int      `json:"schema"`
	VM        string   `json:"vm"`
	Role      string   `json:"role"`
	State     string   `json:"state"`
	Release   string   `json:"release"`
	Wanted    string   `json:"wanted"`
	LastGood  string   `json:"last_good"`
	Reason    string   `json:"reason"`
	Sequence  int64    `json:"sequence"`
	Heartbeat Duration `json:"heartbeat"`
	Warn      []string `json:"warnings"`
	Facts     struct {
		Platform string `json:"platform"`
		Zone     string `json:"zone"`
	} `json:"facts"`
	Run *claimedRun `json:"run"`
}

type claimedRun struct {
	Seconds float64 `json:"seconds"`
	Steps   []struct {
		Name   string `json:"name"`
		Result string `json:"result"`
		Reason string `json:"reason"`
		Tail   string `json:"tail"`
	} `json:"steps"`
	Checks []struct {
		Name   string `json:"name"`
		Result string `json:"result"`
		Reason string `json:"reason"`
	} `json:"checks"`
}

// failed is the run with those of its steps and checks that failed.
func (c *claimedRun) failed() *Run {
	r := &Run{Seconds: c.Seconds}
	for _, s := range c.Steps {
		if s.Result == ResultFailed {
			r.Steps = append(r.Steps, StepResult{Name: s.Name, Result: s.Result, Reason: s.Reason, Tail: s.Tail})
		}
	}
	for _, s := range c.Checks {
		if s.Result == CheckFailed {
			r.Checks = append(r.Checks, CheckResult{Name: s.Name, Result: s.Result, Reason: s.Reason})
		}
	}
	return r
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
