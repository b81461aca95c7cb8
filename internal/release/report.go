package release

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// States of a VM.
const (
	StateOK       = "ok"       // has its release; nothing needed changing
	StateChanged  = "changed"  // has its release; the last run changed something
	StateApplying = "applying" // a run is under way or waits for its reboot
	StateDrifted  = "drifted"  // a dry run found differences
	StateFailed   = "failed"   // steps or checks of the last run failed
	StateStale    = "stale"    // no report for too long; only readers say this
	StateHeld     = "held"     // an operator stopped it on the VM
)

// Results of a step.
const (
	ResultUnchanged = "unchanged"
	ResultChanged   = "changed"
	ResultFailed    = "failed"
	ResultSkipped   = "skipped" // always with a reason
)

// Results of a check.
const (
	CheckPassed = "passed"
	CheckFailed = "failed"
)

// Bounds of a report.
const (
	MaxReportBytes  = 256 << 10
	MaxTailBytes    = 4 << 10 // of one step's output
	MaxReasonBytes  = 1 << 10
	MaxHistory      = 20
	MaxReportedRuns = 10 // logs kept per VM in the bucket
	MaxBuckets      = 9  // a project's bucket and its mirrors
)

// A Report is what a VM says of itself: who it is, what it has, and its last
// run. It is written to reports/<vm>/report.json and /run/bootwell/status.json.
type Report struct {
	Schema   int       `json:"schema"`
	Project  string    `json:"project"`
	VM       string    `json:"vm"`
	Role     string    `json:"role"`
	Channel  string    `json:"channel"`
	Sequence int64     `json:"sequence"` // grows with each report of this VM
	BootID   string    `json:"boot_id,omitempty"`
	Time     time.Time `json:"time"`

	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"`      // one sentence, when State is not good or something is to be known
	Release     string    `json:"release,omitempty"`     // whose steps ran last
	LastGood    string    `json:"last_good,omitempty"`   // last release that passed its checks here
	Wanted      string    `json:"wanted,omitempty"`      // what the channel says
	Quarantined []string  `json:"quarantined,omitempty"` // releases this VM refuses after failed attempts
	LastSuccess time.Time `json:"last_success,omitzero"`
	NextRun     time.Time `json:"next_run,omitzero"` // about when the next poll is due
	Heartbeat   Duration  `json:"heartbeat"`         // the next report comes within this time even if nothing happens

	// Buckets are those of the project that were of no use to this VM in the
	// call that the report is of; those it did not need to ask are not among them.
	Buckets []BucketTrouble `json:"buckets,omitempty"`

	Facts   Facts      `json:"facts"`
	Run     *Run       `json:"run,omitempty"`     // the last run in full
	History []RunBrief `json:"history,omitempty"` // earlier runs, newest first
	Warn    []string   `json:"warnings,omitempty"`
}

// What is wrong with one of a project's buckets.
const (
	BucketUnreachable = "unreachable" // away, or there is no such bucket
	BucketRefused     = "refused"     // no right to read
	BucketLags        = "lags"        // older than what this VM has seen, expired, or without an object of the release
	BucketUntrusted   = "untrusted"   // what it holds is not what was signed
)

// A BucketTrouble says why a bucket was of no use to a VM.
type BucketTrouble struct {
	URL    string `json:"url"` // without options
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// Facts are what a VM knows of itself, from cloud-init and the system.
type Facts struct {
	InstanceID string `json:"instance_id"`
	Hostname   string `json:"hostname,omitempty"`
	Cloud      string `json:"cloud,omitempty"` // cloud-init's cloud_name
	Region     string `json:"region,omitempty"`
	Zone       string `json:"zone,omitempty"`
	Platform   string `json:"platform"` // such as debian-12, from os-release ID and VERSION_ID
	Arch       string `json:"arch"`     // Go's name: amd64, arm64
	Kernel     string `json:"kernel,omitempty"`
	CPUs       int    `json:"cpus,omitempty"`
	MemoryMB   int    `json:"memory_mb,omitempty"`
	Init       string `json:"init,omitempty"` // systemd, or ""
	Agent      string `json:"agent"`          // version
}

// Why a run began.
const (
	WhyFirst   = "first"   // nothing applied yet
	WhyRelease = "release" // the channel names another release
	WhyRetry   = "retry"   // the last run failed
	WhyReboot  = "reboot"  // resumed after a reboot
	WhyReapply = "reapply" // the re-apply interval passed
	WhyForced  = "forced"  // somebody ran apply
	WhyPower   = "power"   // the last run was cut off
)

// A Run is one pass of the agent over the steps.
type Run struct {
	ID       string        `json:"id"`
	Why      string        `json:"why"`
	Release  string        `json:"release"`
	Fallback bool          `json:"fallback,omitempty"` // Release is the last good one, after a newer one failed
	Started  time.Time     `json:"started"`
	Seconds  float64       `json:"seconds"`
	Result   string        `json:"result"` // unchanged, changed or failed
	Reason   string        `json:"reason,omitempty"`
	Attempt  int           `json:"attempt,omitempty"` // of this release on this VM, from 1
	Steps    []StepResult  `json:"steps"`
	Checks   []CheckResult `json:"checks,omitempty"`
	Log      string        `json:"log,omitempty"` // object name below logs/<vm>/, if uploaded
}

// A RunBrief is one line of a VM's history.
type RunBrief struct {
	ID      string    `json:"id"`
	Why     string    `json:"why"`
	Release string    `json:"release"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Result  string    `json:"result"`
	Reason  string    `json:"reason,omitempty"`
	Log     string    `json:"log,omitempty"`
}

// A StepResult is what became of one step.
type StepResult struct {
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	Result   string   `json:"result"`
	Reason   string   `json:"reason,omitempty"`  // one line: what changed, why skipped, why failed
	Changes  []string `json:"changes,omitempty"` // one line each: "/etc/motd +3 -1", "installed nginx 1.22.1-9"
	Seconds  float64  `json:"seconds"`
	Attempts int      `json:"attempts,omitempty"`
	Tail     string   `json:"tail,omitempty"`   // end of the output of a failed step
	Reboot   bool     `json:"reboot,omitempty"` // a reboot is wanted before the next step
	Again    bool     `json:"again,omitempty"`  // and this step is to be called again after it (exit 194)
	Diff     string   `json:"diff,omitempty"`   // unified diff; filled on a dry run with diffs only, never reported
}

// A CheckResult is what became of one check.
type CheckResult struct {
	Name     string  `json:"name"`
	Kind     string  `json:"kind"`
	Result   string  `json:"result"`
	Reason   string  `json:"reason,omitempty"`
	Seconds  float64 `json:"seconds"`
	Attempts int     `json:"attempts,omitempty"`
}

// Brief returns the line of r that history keeps.
func (r *Run) Brief() RunBrief {
	return RunBrief{ID: r.ID, Why: r.Why, Release: r.Release, Started: r.Started, Seconds: r.Seconds, Result: r.Result, Reason: r.Reason, Log: r.Log}
}

const (
	maxVMName = 128
	minOwner  = 4 // of an identity before a VM's name
)

// ValidVM reports whether s can name a VM: letters, digits, dot, underscore
// and hyphen, at most 128, starting with a letter or digit. A VM's name is a
// segment of object names, so nothing else is let in.
func ValidVM(s string) bool {
	if s == "" || len(s) > maxVMName || !alphanumeric(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

func validOwner(s string) bool {
	return len(s) >= minOwner && !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !alphanumeric(byte(r)) }) && len(s) <= maxVMName
}

// FolderVM returns the name of the VM whose folder below reports/ and logs/
// this is: the VM's name itself or, where the bucket's own rules confine each
// VM to a folder of the identity they know it by, "identity:name" (on AWS the
// policy variable aws:userid). "" if it can be no VM's.
func FolderVM(folder string) string {
	owner, vm, confined := strings.Cut(folder, ":")
	switch {
	case !confined && ValidVM(folder):
		return folder
	case confined && validOwner(owner) && ValidVM(vm):
		return vm
	}
	return ""
}

// Bytes returns the JSON of r, shortened until it is at most [MaxReportBytes]:
// first the tails of steps go, then history.
func (r Report) Bytes() ([]byte, error) {
	for _, cut := range []func(){func() {}, r.cutTails, r.cutHistory, r.cutSteps} {
		cut()
		b, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("encode report: %w", err)
		}
		if len(b) <= MaxReportBytes {
			return b, nil
		}
	}
	return nil, fmt.Errorf("encode report of %s: over %d bytes", r.VM, MaxReportBytes)
}

// cutTails drops the output of all but the first failed step.
func (r *Report) cutTails() {
	if r.Run == nil {
		return
	}
	run, kept := *r.Run, false
	run.Steps = append([]StepResult(nil), run.Steps...)
	for i := range run.Steps {
		s := &run.Steps[i]
		if kept || s.Result != ResultFailed {
			s.Tail = ""
		}
		kept = kept || s.Tail != ""
		if len(s.Changes) > 3 {
			s.Changes = append(append([]string(nil), s.Changes[:3]...), fmt.Sprintf("and %d more", len(s.Changes)-3))
		}
	}
	r.Run = &run
}

func (r *Report) cutHistory() { r.History = nil }

// cutSteps keeps only the steps that failed.
func (r *Report) cutSteps() {
	if r.Run == nil {
		return
	}
	run := *r.Run
	run.Steps = nil
	for _, s := range r.Run.Steps {
		if s.Result == ResultFailed && len(run.Steps) < 20 {
			s.Changes = nil
			run.Steps = append(run.Steps, s)
		}
	}
	run.Checks = nil
	r.Run = &run
}

// ParseReport reads and bounds what a VM wrote. The content is claims of that
// VM, not facts: text in it may be hostile. Its error wraps [ErrFormat] or
// [ErrNewer].
func ParseReport(b []byte) (*Report, error) {
	if err := checkReportSize(b); err != nil {
		return nil, err
	}
	var r Report
	if err := decodeSchema(b, &r, "report"); err != nil {
		return nil, err
	}
	if err := checkReportVM(r.VM); err != nil {
		return nil, err
	}
	if len(r.History) > MaxHistory {
		r.History = r.History[:MaxHistory]
	}
	if len(r.Buckets) > MaxBuckets {
		r.Buckets = r.Buckets[:MaxBuckets]
	}
	return &r, nil
}

func checkReportSize(b []byte) error {
	if len(b) > MaxReportBytes {
		return fmt.Errorf("parse report: %d bytes is over the limit of %d: %w", len(b), MaxReportBytes, ErrFormat)
	}
	return nil
}

func checkReportVM(name string) error {
	if !ValidVM(name) {
		return fmt.Errorf("parse report: VM name %.200q: %w", name, ErrFormat)
	}
	return nil
}
