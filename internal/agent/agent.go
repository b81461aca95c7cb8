package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// How a run can end badly, besides the errors of bucket, trust and store.
var (
	ErrSteps      = errors.New("a step failed")
	ErrChecks     = errors.New("the checks failed")
	ErrUnsuitable = errors.New("release does not suit this VM") // no such role, another platform
	ErrReboot     = errors.New("reboot did not come about")
	ErrStopped    = errors.New("the run was stopped")
)

// An Agent looks after one VM. It is not safe for concurrent use; a second
// process is kept out by the lock.
type Agent struct {
	Config  Config
	Paths   Paths
	Bucket  bucket.Bucket
	Log     *slog.Logger     // nil: silent
	Now     func() time.Time // nil: time.Now
	Version string           // of the agent
	Began   *Beginning       // of the process, for the timing of runs; nil: with the call
	Events  func(Event)      // nil: nobody listens; called from one goroutine at a time

	// Command runs a program of the system (systemctl, shutdown) and returns
	// its output; nil: really.
	Command func(ctx context.Context, name string, args ...string) ([]byte, error)

	// awaitTimer waits for a timer that Install starts beside the run, whose
	// error Install returns; nil: there is none.
	awaitTimer func() error

	// passed is told of each point of a run that was just reached.
	passed func(point string)
}

// Options say what one call of [Agent.Run] does.
type Options struct {
	Now    bool // run the steps although nothing is due
	Force  bool // as Now, and end the quarantine of the release that the channel names
	DryRun bool // change nothing, tell what would change; as Now
	Diff   bool // with DryRun: unified diffs in the steps' results

	impatient bool // a retry does not wait for its backoff
}

// Run is one call of the oneshot: it recovers what an earlier run left, polls,
// and runs the steps if that is due: when the channel names another release,
// the last run failed and its backoff has passed, a reboot was waited for, the
// last run was cut off, or the re-apply interval has passed. When nothing is
// due it costs one conditional GET.
//
// The report tells the state of the VM after the call; it is nil only when
// nothing could be looked at. Where nothing had to be done, the last run and the
// history may be left out of it: [Status] has them. The error tells what went
// wrong, also when the VM went on with what it has: it wraps [ErrSteps],
// [ErrChecks], [ErrUnsuitable], [ErrReboot], [ErrDisk], [ErrBusy], [ErrStopped]
// or an error of the packages bucket, trust and store. A report of the state
// held comes without an error.
func (a *Agent) Run(ctx context.Context, o Options) (*release.Report, error) {
	unlock, err := lock(a.Paths)
	if err != nil {
		return a.cannotStart(ctx, err)
	}
	defer unlock()
	return a.run(ctx, o, newTimeline(a.Began))
}

// run is Run under the lock.
func (a *Agent) run(ctx context.Context, o Options, times *timeline) (*release.Report, error) {
	a.at("Locked")
	from := time.Now()
	s, err := a.open(ctx, o)
	if err != nil {
		return a.cannotStart(ctx, err)
	}
	defer s.close()
	s.times = times
	s.phase("open", from)
	return s.run(ctx)
}

// cannotStart tells the bucket of a VM whose disk does not let it work.
func (a *Agent) cannotStart(ctx context.Context, cause error) (*release.Report, error) {
	if !errors.Is(cause, ErrDisk) {
		return nil, cause
	}
	s := &session{Agent: a, now: a.time(), journal: nil, state: &state{Schema: stateSchema}}
	if st, err := peekState(a.Paths); err == nil {
		s.state = st
	}
	var i instance
	s.facts, i = survey(a.Paths, a.Version)
	s.state.identify(i, s.facts.Hostname)
	s.state.settle(a.Config.Role, a.Config.Channel, s.facts.Platform)
	s.store = &store.Store{Bucket: a.Bucket, Log: a.logger(), Folder: s.state.Folder}
	s.fail(cause)
	r := s.report()
	r.State = release.StateFailed
	if !a.Bucket.Caps().ReadOnly {
		if err := s.store.PutReport(ctx, r); err != nil {
			a.logger().Warn("report not sent", "err", err)
		}
	}
	return &r, cause
}

func (a *Agent) logger() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

func (a *Agent) time() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}

func (a *Agent) at(point string) {
	if a.passed != nil {
		a.passed(point)
	}
}

func (a *Agent) tell(e Event) {
	if a.Events != nil {
		e.Time = a.time().UTC()
		a.Events(e)
	}
}

func (a *Agent) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.logger().Warn(text)
	a.tell(Event{Kind: EventNote, Text: text})
}

func (a *Agent) command(ctx context.Context, name string, args ...string) ([]byte, error) {
	if a.Command != nil {
		return a.Command(ctx, name, args...)
	}
	if a.Paths.Root != "" {
		return nil, fmt.Errorf("%s: the machine below %s is not this one", name, a.Paths.Root)
	}
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = 5 * time.Second
	out, err := c.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", name, err, oneLine(string(out), 300))
	}
	return out, nil
}

// A session is one Run: what it found, and what it has to say.
type session struct {
	*Agent
	Options
	now     time.Time // at the start
	boot    string
	facts   release.Facts
	state   *state
	journal *journal // left by an earlier run; nil: none
	memory  *memory
	clock   *clockBucket
	trust   *trust.Client
	polled  chan polled // of a poll that is under way; nil: none is
	store   *store.Store
	view    *trust.View
	early   *early // got ready while metadata were awaited; nil: nothing
	times   *timeline
	part    string       // of look that is under way
	since   time.Time    // when that began
	ended   *release.Run // the last run of this call that has a result

	problem error // why the bucket's word could not be had or used
	errs    []error
	warn    []string
	dryRun  *release.Run
	said    string // gist of the last report that arrived before this call
	acted   bool   // something happened that is worth a report
}

// open reads what is on the disk, while the bucket is asked what is new. It
// changes nothing but what is broken.
func (a *Agent) open(ctx context.Context, o Options) (*session, error) {
	p := a.Paths
	for _, d := range []string{p.Releases(), p.Runs(), p.Trust()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, diskError(err)
		}
	}
	s := &session{Agent: a, Options: o, now: a.time(), boot: bootID(p)}
	text, err := readState(p)
	s.clock = &clockBucket{Bucket: s.bucketNow(wasAway(text)), now: a.time}
	s.trust = &trust.Client{Bucket: s.clock, Dir: p.Trust(), Anchor: a.Config.Root, Now: a.time, Log: a.logger()}
	s.pollEarly(ctx)
	var note string
	if s.state, note, err = loadState(p, text, err); err != nil {
		return nil, err
	}
	if note != "" {
		s.learnFromLinks()
	}
	s.state.noteDown(note)
	s.said = s.state.Said
	if s.journal, note, err = loadJournal(p); err != nil {
		return nil, err
	}
	s.state.noteDown(note)
	s.memory = loadMemory(p)
	var i instance
	s.facts, i = survey(p, a.Version)
	s.store = &store.Store{Bucket: s.clock, Log: a.logger()}
	err = s.whoAmI(i)
	s.store.Folder = s.state.Folder
	return s, err
}

// learnFromLinks tells a state that was lost what the links on the disk still
// know, so that the VM can go on even while the bucket is away.
func (s *session) learnFromLinks() {
	for link, r := range map[string]*ref{s.Paths.Current(): &s.state.Applied, s.Paths.LastGood(): &s.state.Good} {
		to, err := os.Readlink(link)
		if err != nil {
			continue
		}
		d, err := release.ParseDigest("sha256:" + filepath.Base(to))
		if err != nil {
			continue
		}
		if m := s.kept(d); m != nil {
			*r = ref{Release: m.Name(), Manifest: d}
		}
	}
}

// whoAmI settles the VM's name before anything is said under it.
func (s *session) whoAmI(i instance) error {
	before := *s.state
	if s.state.identify(i, s.facts.Hostname) {
		if err := errors.Join(s.memory.forget(), removeFile(s.Paths.Journal()), removeFile(s.Paths.LastGood())); err != nil {
			return err
		}
		s.journal = nil
	}
	s.state.settle(s.Config.Role, s.Config.Channel, s.facts.Platform)
	for _, n := range s.state.Notes {
		s.warning(n)
	}
	if s.facts.InstanceID == "" {
		s.facts.InstanceID = s.state.VM
	}
	if before.VM == s.state.VM && before.Role == s.state.Role && before.Channel == s.state.Channel && before.Platform == s.state.Platform {
		return nil
	}
	return s.saveSoon()
}

func (s *session) save() error {
	return replaceJSON(s.Paths.StateFile(), s.state, 0o600)
}

// saveSoon is save for what is found out again when a power cut brings the
// state before back.
func (s *session) saveSoon() error {
	return putJSON(s.Paths.StateFile(), s.state, 0o600)
}

func (s *session) close() {
	_ = os.RemoveAll(s.scratch())
}

// fail notes an error that the caller of Run will get.
func (s *session) fail(err error) { s.errs = append(s.errs, err) }

// warning notes what the report is to warn of.
func (s *session) warning(text string) {
	if text != "" {
		s.warn = append(s.warn, text)
		s.logger().Warn(text)
	}
}
