package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

const (
	stateSchema   = 1
	maxStateBytes = 8 << 20

	defaultPoll    = 5 * time.Minute
	defaultReapply = time.Hour
	maxBackoff     = time.Hour
	refusedRetry   = time.Hour      // at most, before a report that was refused is sent again
	heartbeat      = 30 * time.Hour // of silence; a report costs as much as a dozen polls
)

// A ref names a release by its number and its manifest.
type ref struct {
	Release  string         `json:"release"`
	Manifest release.Digest `json:"manifest"`
}

// A quarantined release is refused on this VM.
type quarantined struct {
	ref
	Ran    bool      `json:"ran,omitempty"` // its steps ran here
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// A state is what the VM has and remembers between runs.
type state struct {
	Schema int `json:"schema"`

	VM       string   `json:"vm"`
	Instance instance `json:"instance,omitzero"` // that VM was named for
	Role     string   `json:"role,omitempty"`
	Channel  string   `json:"channel,omitempty"`
	Platform string   `json:"platform,omitempty"`

	Wanted   ref      `json:"wanted,omitzero"`    // what the channel says, as last verified
	Floor    int      `json:"floor,omitempty"`    // of that channel
	Metadata int64    `json:"metadata,omitempty"` // timestamp version in which Wanted was read
	Expiry   []string `json:"expiry,omitempty"`   // what the metadata say of their own end

	Applied     ref                       `json:"applied,omitzero"` // whose steps ran last
	Failed      bool                      `json:"failed,omitempty"` // how that ended
	Changed     bool                      `json:"changed,omitempty"`
	Good        ref                       `json:"good,omitzero"` // last that passed its checks
	Attempts    map[string]int            `json:"attempts,omitempty"`
	Quarantine  []quarantined             `json:"quarantine,omitempty"`
	Failures    int                       `json:"failures,omitempty"`  // runs that failed one after the other
	NextRetry   time.Time                 `json:"next_retry,omitzero"` // after a failure
	NextReapply time.Time                 `json:"next_reapply,omitzero"`
	Poll        release.Duration          `json:"poll,omitempty"`
	Reapply     release.Duration          `json:"reapply,omitempty"`
	LastSuccess time.Time                 `json:"last_success,omitzero"`
	Last        *lazy[release.Run]        `json:"last,omitempty"`
	Runs        int64                     `json:"runs,omitempty"` // counts uploaded logs
	History     *lazy[[]release.RunBrief] `json:"history,omitempty"`

	Away    bool                    `json:"away,omitempty"`    // nobody answered at the last poll
	Buckets []release.BucketTrouble `json:"buckets,omitempty"` // of no use in the last call

	Folder   string    `json:"folder,omitempty"` // below reports/ and logs/, where the bucket confines this VM to one; "": its name
	Sequence int64     `json:"sequence,omitempty"`
	Reported time.Time `json:"reported,omitzero"`  // the last report that arrived
	Said     string    `json:"said,omitempty"`     // the gist of it
	Pending  bool      `json:"pending,omitempty"`  // a report has not arrived
	Refused  time.Time `json:"refused,omitzero"`   // the bucket let this VM not write its report; zero: it did since
	Refusals int       `json:"refusals,omitempty"` // in a row
	Unsaid   string    `json:"unsaid,omitempty"`   // the gist of that report
	Notes    []string  `json:"notes,omitempty"`    // for the next report's warnings
	Shown    string    `json:"shown,omitempty"`    // what [Paths.Status] tells but for times, as a digest
}

// readState reads the text of the state.
func readState(p Paths) ([]byte, error) { return readBounded(p.StateFile(), maxStateBytes) }

// peekState reads the state as it lies there. It changes nothing, not even one
// that is broken.
func peekState(p Paths) (*state, error) {
	b, err := readState(p)
	if err != nil {
		return nil, err
	}
	return parseState(b)
}

// wasAway tells what the text of a state says of Away, before it is parsed.
func wasAway(b []byte) bool { return bytes.Contains(b, []byte(`"away":true`)) }

// loadState makes the state of what readState has returned. A state that cannot
// be read is set aside and begins anew: everything in it can be learned again,
// so a torn file must not stop a VM. The note then says so.
func loadState(p Paths, b []byte, err error) (st *state, note string, _ error) {
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Schema: stateSchema}, "", nil
	}
	if err == nil {
		st, err = parseState(b)
	}
	if errors.Is(err, release.ErrNewer) {
		return nil, "", fmt.Errorf("%s: %w", p.StateFile(), err)
	}
	if err != nil {
		setAside(p.StateFile())
		return &state{Schema: stateSchema}, fmt.Sprintf("the state of this VM could not be read and was begun anew (%s)", oneLine(err.Error(), 200)), nil
	}
	return st, "", nil
}

// Folder returns the name of the folder below reports/ and logs/ to which this
// VM writes; "" before its first run.
func Folder(p Paths) string {
	st, err := peekState(p)
	if err != nil {
		return ""
	}
	return cmp.Or(st.Folder, st.VM)
}

// parseState reads and bounds the text of a state.
func parseState(b []byte) (*state, error) {
	st := &state{}
	if err := json.Unmarshal(b, st); err != nil {
		return nil, fmt.Errorf("parse state: %w", err)
	}
	if st.Schema > stateSchema {
		return nil, fmt.Errorf("parse state: schema %d: %w", st.Schema, release.ErrNewer)
	}
	if st.Schema < 1 || st.VM != "" && !release.ValidVM(st.VM) {
		return nil, fmt.Errorf("parse state: %w", release.ErrFormat)
	}
	if release.FolderVM(st.Folder) != st.VM {
		st.Folder = ""
	}
	if len(st.Buckets) > release.MaxBuckets {
		st.Buckets = st.Buckets[:release.MaxBuckets]
	}
	if len(st.Notes) > 20 {
		st.Notes = st.Notes[:20]
	}
	return st, nil
}

// last is the last run; nil: there was none.
func (st *state) last() *release.Run { return st.Last.get() }

// history are the runs before the last one, newest first.
func (st *state) history() []release.RunBrief {
	h := st.History.get()
	if h == nil {
		return nil
	}
	return (*h)[:min(len(*h), release.MaxHistory)]
}

func (st *state) poll() time.Duration    { return orDefault(st.Poll, defaultPoll) }
func (st *state) reapply() time.Duration { return orDefault(st.Reapply, defaultReapply) }

func orDefault(d release.Duration, v time.Duration) time.Duration {
	if d <= 0 {
		return v
	}
	return d.Std()
}

// identify gives the VM its name, once. It returns true when the disk has
// become another VM's. The copy is a new VM: it keeps the staged trees and
// nothing that was said or counted.
func (st *state) identify(now instance, hostname string) (cloned bool) {
	if st.VM != "" && now.differs(st.Instance) {
		cloned = true
		*st = state{
			Schema: st.Schema, Wanted: st.Wanted, Floor: st.Floor, Metadata: st.Metadata, Expiry: st.Expiry,
			Poll: st.Poll, Reapply: st.Reapply,
			Notes: []string{fmt.Sprintf("this disk is a copy of %s: it begins anew under its own name", st.VM)},
		}
	}
	if st.VM == "" {
		st.VM, st.Instance = vmName(now, hostname), now
	}
	return cloned
}

// noteDown keeps a warning until a report with it has arrived.
func (st *state) noteDown(text string) {
	if text != "" && len(st.Notes) < 20 && !slices.Contains(st.Notes, text) {
		st.Notes = append(st.Notes, text)
	}
}

// settle forgets what no longer holds when the VM got another role, channel
// or operating system.
func (st *state) settle(role, channel, platform string) {
	if st.Channel != "" && st.Channel != channel {
		st.Wanted, st.Floor, st.Metadata = ref{}, 0, 0
	}
	if st.Role != "" && st.Role != role {
		st.Applied, st.Good = ref{}, ref{}
	}
	if st.Role != role || st.Channel != channel || st.Platform != platform {
		st.Quarantine, st.Attempts = nil, nil
	}
	st.Role, st.Channel, st.Platform = role, channel, platform
}

// want records what the channel says. Another release ends the quarantine of
// those before it.
func (st *state) want(r ref, floor int, metadata int64) {
	st.Metadata, st.Floor = metadata, floor
	if st.Wanted == r {
		return
	}
	st.Wanted = r
	st.release(func(d release.Digest) bool { return d == r.Manifest })
}

// release ends the quarantine, and forgets the attempts, of all manifests but
// those to keep.
func (st *state) release(keep func(release.Digest) bool) {
	st.Quarantine = slices.DeleteFunc(st.Quarantine, func(q quarantined) bool { return !keep(q.Manifest) })
	maps.DeleteFunc(st.Attempts, func(k string, _ int) bool {
		d, err := release.ParseDigest(k)
		return err != nil || !keep(d)
	})
}

func (st *state) quarantineOf(d release.Digest) (quarantined, bool) {
	for _, q := range st.Quarantine {
		if q.Manifest == d {
			return q, true
		}
	}
	return quarantined{}, false
}

func (st *state) refuse(r ref, ran bool, reason string, now time.Time) {
	if _, ok := st.quarantineOf(r.Manifest); !ok {
		st.Quarantine = append(st.Quarantine, quarantined{ref: r, Ran: ran, Reason: cut(reason, release.MaxReasonBytes), Since: now})
	}
}

func (st *state) attempts(d release.Digest) int { return st.Attempts[d.String()] }

func (st *state) attempt(d release.Digest) int {
	if st.Attempts == nil {
		st.Attempts = map[string]int{}
	}
	st.Attempts[d.String()]++
	return st.Attempts[d.String()]
}

// backoff is how long to wait after the nth failure in a row: 1, 2, 4 … polls
// up to an hour, and a tenth more that differs from VM to VM.
func backoff(poll time.Duration, n int, vm string) time.Duration {
	d := max(poll, time.Second)
	for i := 1; i < n && d < maxBackoff; i++ {
		d *= 2
	}
	d = max(min(d, maxBackoff), poll)
	return d + time.Duration(float64(d)/10*share(fmt.Sprintf("%s %d", vm, n)))
}

// share is a number from 0 to 1 that is always the same for the same key.
func share(key string) float64 {
	d := release.DigestOf([]byte(key)).Hex()
	var n uint32
	fmt.Sscanf(d[:8], "%x", &n)
	return float64(n) / float64(1<<32)
}

// due reports whether at has come. A moment too far ahead was written by a
// clock that was wrong then, and counts as come, so that a clock set back
// cannot stop a VM for years.
func due(at, now time.Time, interval time.Duration) bool {
	return !now.Before(at) || at.Sub(now) > interval+interval/4+time.Hour
}
