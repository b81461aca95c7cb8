// Package fleet turns the reports of VMs into a view of all of them: counts
// by role and state, failures that are alike in one group, and VMs that have
// gone silent. It does no I/O. What reports say are claims of VMs; text from
// them is cleaned before it is shown.
package fleet

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
)

// Silence after which a VM is stale.
const (
	// StaleGrace is added to the heartbeat that a report announces.
	StaleGrace = time.Hour
	// ApplyingLimit is how long a run may go on before its VM is stale.
	ApplyingLimit = 2 * time.Hour
	// DefaultHeartbeat is taken for a report that announces none, or one of
	// over 30 days.
	DefaultHeartbeat = 24 * time.Hour

	maxHeartbeat = 30 * 24 * time.Hour
)

// A VM is one machine as its last report shows it.
type VM struct {
	Name        string    `json:"vm"`
	Role        string    `json:"role"`
	State       string    `json:"state"`
	Release     string    `json:"release,omitempty"`
	Wanted      string    `json:"wanted,omitempty"`
	LastGood    string    `json:"last_good,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Step        string    `json:"step,omitempty"` // the step or check that failed
	Fingerprint string    `json:"fingerprint,omitempty"`
	Platform    string    `json:"platform,omitempty"`
	Zone        string    `json:"zone,omitempty"`
	Seen        time.Time `json:"seen"` // when the report arrived, by the bucket's clock
	Seconds     float64   `json:"seconds,omitempty"`
	Warnings    []string  `json:"warnings,omitempty"`
}

// A Role counts the VMs of one role.
type Role struct {
	Role     string         `json:"role"`
	VMs      int            `json:"vms"`
	States   map[string]int `json:"states"`
	Releases []Count        `json:"releases"` // most VMs first
	Oldest   time.Time      `json:"seen_oldest"`
}

// A Count is how many VMs have a release.
type Count struct {
	Release string `json:"release"`
	VMs     int    `json:"vms"`
}

// A Failure groups VMs that failed alike.
type Failure struct {
	Fingerprint string   `json:"fingerprint"`
	Count       int      `json:"count"`
	Role        string   `json:"role"`
	Release     string   `json:"release"`
	Step        string   `json:"step"`
	Reason      string   `json:"reason"`
	Example     string   `json:"example_vm"`
	VMs         []string `json:"vms,omitempty"`
}

// Unread is a report that could not be read.
type Unread struct {
	VM    string `json:"vm"`
	Error string `json:"error"`
}

// A Status is the state of a fleet at one moment.
type Status struct {
	Generated time.Time `json:"generated"`
	Total     int       `json:"vms"`
	Roles     []Role    `json:"roles"`
	Failures  []Failure `json:"failures"`
	Stale     []VM      `json:"stale"`
	Unread    []Unread  `json:"unread,omitempty"`
	Warnings  []string  `json:"warnings,omitempty"`
	VMs       []VM      `json:"-"` // by name, if they were kept
}

// Healthy reports whether no VM is failed, stale or unreadable.
func (s *Status) Healthy() bool {
	return len(s.Failures) == 0 && len(s.Stale) == 0 && len(s.Unread) == 0
}

// A Filter selects VMs; empty fields select all.
type Filter struct{ Role, State, Release string }

func (f Filter) match(v VM) bool {
	return (f.Role == "" || f.Role == v.Role) && (f.State == "" || f.State == v.State) && (f.Release == "" || f.Release == v.Release)
}

// A Collector makes a Status from reports added one by one. It keeps only what
// a Status shows: of most VMs no more than that they are there.
type Collector struct {
	Now    time.Time
	Filter Filter
	Keep   bool // every VM, for Status.VMs

	total    int
	vms      []VM
	stale    []VM
	unread   []Unread
	roles    map[string]*roleCount
	failures map[string]*Failure
	warned   map[string]bool
	warnings []string
}

type roleCount struct {
	Role
	releases map[string]int
}

const maxWarnings = 20 // different ones, of all VMs together

// Add takes one entry of the bucket into account.
func (c *Collector) Add(e store.ReportEntry) {
	if e.Err != nil {
		if c.Filter == (Filter{}) {
			c.unread = append(c.unread, Unread{VM: Clean(e.VM, 128), Error: Clean(e.Err.Error(), 300)})
		}
		return
	}
	v := NewVM(e, c.Now)
	if !c.Filter.match(v) {
		return
	}
	c.total++
	c.count(v)
	switch v.State {
	case release.StateStale:
		c.stale = append(c.stale, v)
	case release.StateFailed:
		c.fail(v)
	}
	for _, w := range v.Warnings {
		if len(c.warned) < maxWarnings && !c.warned[w] {
			if c.warned == nil {
				c.warned = map[string]bool{}
			}
			c.warned[w] = true
			c.warnings = append(c.warnings, v.Name+": "+w)
		}
	}
	if c.Keep {
		c.vms = append(c.vms, v)
	}
}

func (c *Collector) count(v VM) {
	r := c.roles[v.Role]
	if r == nil {
		if c.roles == nil {
			c.roles = map[string]*roleCount{}
		}
		r = &roleCount{Role{Role: v.Role, States: map[string]int{}, Oldest: v.Seen}, map[string]int{}}
		c.roles[v.Role] = r
	}
	r.VMs++
	r.States[v.State]++
	r.releases[v.Release]++
	if v.Seen.Before(r.Oldest) {
		r.Oldest = v.Seen
	}
}

func (c *Collector) fail(v VM) {
	rel := cmp.Or(v.Wanted, v.Release)
	key := v.Fingerprint + rel
	f := c.failures[key]
	if f == nil {
		if c.failures == nil {
			c.failures = map[string]*Failure{}
		}
		f = &Failure{Fingerprint: v.Fingerprint, Role: v.Role, Release: rel, Step: v.Step, Reason: v.Reason, Example: v.Name}
		c.failures[key] = f
	}
	if v.Name < f.Example {
		f.Step, f.Reason, f.Example = v.Step, v.Reason, v.Name
	}
	f.Count++
	f.VMs = append(f.VMs, v.Name)
}

// said are the states that a VM can be in by its own word.
var said = []string{
	release.StateOK, release.StateChanged, release.StateApplying, release.StateDrifted, release.StateFailed, release.StateHeld,
}

// NewVM reads one report as of now. A report with a state that no VM can say
// of itself is of a VM that has failed: nothing is known that would make it
// healthy. Silence outweighs everything that was said.
func NewVM(e store.ReportEntry, now time.Time) VM {
	r := e.Summary
	v := VM{
		Name: e.VM, Role: Clean(r.Role, 64), State: r.State, Release: Clean(r.Release, 16), Wanted: Clean(r.Wanted, 16),
		LastGood: Clean(r.LastGood, 16), Reason: Clean(r.Reason, 400), Platform: Clean(r.Platform, 64), Zone: Clean(r.Zone, 64),
		Seen: e.Modified, Seconds: r.Seconds,
	}
	for _, w := range append([]string{e.Warn}, r.Warn...) {
		if w != "" && len(v.Warnings) < 10 {
			v.Warnings = append(v.Warnings, Clean(w, 300))
		}
	}
	known := slices.Contains(said, r.State)
	if !known {
		v.State, v.Reason = release.StateFailed, fmt.Sprintf("unknown state %q", Clean(r.State, 16))
	}
	if silent(r, now.Sub(e.Modified)) {
		v.State = release.StateStale
	}
	if v.State == release.StateFailed {
		if known && r.Failed+r.Why != "" {
			v.Step, v.Reason = Clean(r.Failed, 128), Clean(r.Why, 400)
		}
		v.Fingerprint = fingerprint(v.Role, v.Step, v.Reason)
	}
	return v
}

// silent reports whether a VM that sent r so long ago should have sent more.
func silent(r *release.Summary, ago time.Duration) bool {
	beat := r.Heartbeat
	if beat <= 0 || beat > maxHeartbeat {
		beat = DefaultHeartbeat
	}
	return ago > beat+StaleGrace || r.State == release.StateApplying && ago > ApplyingLimit
}

// volatile is what may differ between failures that are the same. An agent,
// which starts for each poll, never needs it.
var volatile = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`0x[0-9a-f]+|[0-9a-f]{8,}|\d+`) })

// fingerprint is equal for failures that differ only in numbers, addresses
// and digests.
func fingerprint(role, step, reason string) string {
	sum := sha256.Sum256([]byte(role + "\x00" + step + "\x00" + volatile().ReplaceAllString(strings.ToLower(reason), "#")))
	return hex.EncodeToString(sum[:6])
}

// Clean makes text from a VM fit for one line of a terminal: no control
// characters, so that no escape sequence works, no line breaks, no direction
// overrides or invisible characters, valid UTF-8 of at most max bytes.
func Clean(s string, max int) string {
	const more = "…"
	if len(s) <= max && plain(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.In(r, unicode.Zl, unicode.Zp), unicode.IsControl(r) && unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	switch {
	case len(s) <= max:
		return s
	case max < len(more):
		return ""
	}
	return strings.ToValidUTF8(s[:max-len(more)], "") + more
}

// plain reports whether there is nothing in s to be cleaned, as in most text.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s == "" || s[0] != ' ' && s[len(s)-1] != ' '
}

// Status returns the view of everything added so far.
func (c *Collector) Status() *Status {
	byName := func(a, b VM) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(c.vms, byName)
	slices.SortFunc(c.stale, byName)
	s := &Status{
		Generated: c.Now.UTC(), Total: c.total, VMs: c.vms, Unread: c.unread, Warnings: c.warnings,
		Roles: []Role{}, Failures: []Failure{}, Stale: append([]VM{}, c.stale...),
	}
	for _, r := range c.roles {
		role := r.Role
		for rel, n := range r.releases {
			role.Releases = append(role.Releases, Count{rel, n})
		}
		slices.SortFunc(role.Releases, func(a, b Count) int {
			return cmp.Or(cmp.Compare(b.VMs, a.VMs), cmp.Compare(a.Release, b.Release))
		})
		s.Roles = append(s.Roles, role)
	}
	slices.SortFunc(s.Roles, func(a, b Role) int { return cmp.Compare(a.Role, b.Role) })
	for _, f := range c.failures {
		slices.Sort(f.VMs)
		s.Failures = append(s.Failures, *f)
	}
	slices.SortFunc(s.Failures, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Fingerprint, b.Fingerprint), cmp.Compare(a.Release, b.Release))
	})
	return s
}
