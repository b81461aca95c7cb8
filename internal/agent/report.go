package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// uploadTime bounds how long a run waits for the bucket to take its log or
// report: both can come with the next poll.
const uploadTime = time.Minute

// report tells the state of the VM as it is now.
func (s *session) report() release.Report {
	r := s.summary()
	if s.dryRun == nil {
		r.Run = s.state.last()
	}
	r.History = s.state.history()
	return r
}

// summary is report without the history and, but for a dry run, the last run.
func (s *session) summary() release.Report {
	st := s.state
	r := release.Report{
		Schema: release.SchemaVersion, Project: s.Config.Project, VM: st.VM, Role: s.Config.Role, Channel: s.Config.Channel,
		Sequence: st.Sequence, BootID: s.boot, Time: s.time().UTC(),
		Release: st.Applied.Release, LastGood: st.Good.Release, Wanted: st.Wanted.Release,
		LastSuccess: st.LastSuccess, NextRun: s.nextPoll(),
		Heartbeat: release.Duration(heartbeat + 2*st.poll()),
		Facts:     s.facts,
		Warn:      s.warn, Buckets: s.bucketTroubles(),
	}
	r.Warn = append(r.Warn[:len(r.Warn):len(r.Warn)], bucketSentences(r.Buckets)...)
	for _, q := range st.Quarantine {
		r.Quarantined = append(r.Quarantined, q.Release)
	}
	if r.Wanted == "" {
		r.Wanted = r.Release
	}
	var reasons []string
	r.State, reasons = s.verdict()
	if s.dryRun != nil {
		r.Run = s.dryRun
		if s.dryRun.Result == release.ResultChanged && s.dryRun.Release == st.Applied.Release {
			r.State = release.StateDrifted
		}
	}
	r.Reason = cut(oneLine(strings.Join(reasons, "; "), release.MaxReasonBytes), release.MaxReasonBytes)
	return r
}

// nextPoll is about when the schedule starts the agent next.
func (s *session) nextPoll() time.Time {
	if s.facts.Init == ScheduleSystemd {
		return s.state.schedule().Next(s.time())
	}
	return s.state.schedule().nextByCron(s.time()).UTC()
}

// verdict is the VM's state and the sentences that explain it.
func (s *session) verdict() (state string, why []string) {
	st := s.state
	if held := s.held(); held != "" {
		return release.StateHeld, []string{held}
	}
	state = release.StateOK
	if st.Changed {
		state = release.StateChanged
	}
	bad := func(format string, a ...any) {
		state, why = release.StateFailed, append(why, fmt.Sprintf(format, a...))
	}
	disk := s.diskTrouble()
	if disk != nil {
		bad("%s", disk)
	}
	q, refused := st.quarantineOf(st.Wanted.Manifest)
	if refused {
		bad("%s", q.sentence(st))
	}
	if st.Failed && !(refused && st.Applied == st.Wanted) {
		bad("%s failed: %s", st.Applied.Release, s.lastReason())
	}
	if s.problem != nil && !errors.Is(s.problem, ErrUnsuitable) {
		switch {
		case st.Applied == ref{}, !away(s.problem) && st.Wanted != st.Applied && !refused:
			bad("%s", s.problem)
		default:
			why = append(why, fmt.Sprintf("%s; %s stays in force", s.problem, st.Applied.Release))
		}
	}
	if s.journal != nil && disk == nil {
		state = release.StateApplying
		why = append([]string{s.journal.sentence()}, why...)
	}
	return state, why
}

// sentence says what a quarantine means for this VM.
func (q quarantined) sentence(st *state) string {
	switch {
	case st.Good == ref{}:
		return q.Reason + "; there is no release here that was ever good"
	case !q.Ran:
		return q.Reason + "; " + st.Good.Release + " stays in force"
	case st.Applied != st.Good:
		return q.Reason + "; " + st.Good.Release + " is to be applied again"
	}
	return fmt.Sprintf("%s; %s was applied again; that does not undo what scripts of %s did", q.Reason, st.Good.Release, q.Release)
}

func (j *journal) sentence() string {
	switch {
	case j.Point == pointRebooting:
		return j.Target.Release + " waits for a reboot"
	case j.Stopped:
		return j.Target.Release + " was stopped and goes on at the next run"
	}
	return j.Target.Release + " is being applied"
}

func (s *session) lastReason() string {
	last := s.state.last()
	if last == nil {
		return "its last run"
	}
	return last.Reason
}

// diskTrouble returns the error that only the machine's owner can mend, if
// there was one.
func (s *session) diskTrouble() error {
	for _, err := range s.errs {
		if errors.Is(err, ErrDisk) || errors.Is(err, store.ErrNoSpace) {
			return err
		}
	}
	return nil
}

// conclude writes the status, sends the report if there is something to say,
// and returns it.
func (s *session) conclude(ctx context.Context, how int) *release.Report {
	if s.DryRun {
		r := s.report()
		return &r
	}
	s.noteBuckets()
	if note := s.clock.warning(); note != "" && !slices.Contains(s.warn, note) {
		s.warning(note)
	}
	r := s.summary()
	shown := s.shows(r)
	switch {
	case how == stopped:
	case s.worthSaying(&r):
		s.upload(ctx)
		shown = ""
	case s.refused():
		s.warning("the bucket does not let this VM write its report: give it the right to write below reports/" + s.folder() + "/")
		shown = ""
	case shown != "" && shown == s.state.Shown && s.restamp(&r):
		return &r
	}
	r = s.report()
	from := time.Now()
	s.publishStatus(r)
	s.writeMetrics(&r)
	s.noteShown(shown)
	s.phase("status", from)
	s.keepResult()
	return &r
}

// refused reports whether the last report was, so that only news is worth
// another request before its time.
func (s *session) refused() bool {
	at, pause := s.state.Refused, refusedPause(s.state.Refusals)
	return !at.IsZero() && !due(at.Add(pause), s.now, pause)
}

// refusedPause is how long a VM waits after n refused reports in a row. It
// begins small because the rights of a new machine take minutes to spread.
func refusedPause(n int) time.Duration {
	return min(time.Minute<<min(max(n-1, 0), 6), refusedRetry)
}

// worthSaying reports whether the fleet should hear of r now.
func (s *session) worthSaying(r *release.Report) bool {
	st := s.state
	if s.refused() {
		return s.acted || s.gist(r) != st.Unsaid
	}
	return s.acted || st.Pending || s.gist(r) != st.Said || due(st.Reported.Add(heartbeat-st.poll()/2), s.now, heartbeat)
}

// gist is what makes two reports tell the same. That nothing needed changing any
// more is no news: the run that changed something was told of.
func (s *session) gist(r *release.Report) string {
	state := r.State
	if state == release.StateOK {
		state = release.StateChanged
	}
	g := fmt.Sprintf("%s %s %s %s %s %v %s %s %s", state, r.Role, r.Channel, r.Release, r.Wanted, r.Quarantined, kindOf(s.problem), r.Facts.Agent, r.Facts.Platform) + bucketGist(r.Buckets)
	return release.DigestOf([]byte(g)).Short()
}

var problemKinds = []error{
	bucket.ErrUnavailable, bucket.ErrPermission, bucket.ErrNoBucket, bucket.ErrNotExist,
	trust.ErrUntrusted, trust.ErrRollback, trust.ErrExpired, trust.ErrNoRelease, trust.ErrNotInit, release.ErrWrongFleet, release.ErrNewer,
}

// kindOf names the kind of a problem without its details, which differ from
// poll to poll. That a release does not suit is told by its quarantine.
func kindOf(err error) string {
	if err == nil || errors.Is(err, ErrUnsuitable) {
		return ""
	}
	for _, k := range problemKinds {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	return "other"
}

// upload sends the log of the last run and the report. What does not arrive
// is sent again at the next poll.
func (s *session) upload(ctx context.Context) {
	st := s.state
	was := *st
	ctx, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	defer s.phase("report", time.Now())
	st.Sequence = max(st.Sequence+1, s.time().Unix())
	switch err := s.send(ctx); {
	case err == nil:
		st.Reported, st.Pending, st.Notes = s.time().UTC(), false, nil
		st.Refused, st.Refusals, st.Unsaid = time.Time{}, 0, ""
		r := s.report()
		st.Said = s.gist(&r)
		if note := s.clock.warning(); note != "" {
			st.noteDown(note)
		}
	default:
		// What is still news at the next poll is told then. That the bucket was
		// away will be none: thousands of VMs would tell it at once.
		st.Pending = st.Pending || s.acted
		s.warning(fmt.Sprintf("the report has not reached the bucket and is sent again: %s", err))
		if errors.Is(err, bucket.ErrPermission) {
			r := s.report()
			st.Refused, st.Refusals, st.Unsaid = s.time().UTC(), st.Refusals+1, s.gist(&r)
		} else if !s.acted {
			st.Sequence = was.Sequence
			return
		}
	}
	s.at("Reported_Leave")
	if err := s.saveSoon(); err != nil {
		s.logger().Warn("state not written", "err", err)
	}
}

func (s *session) send(ctx context.Context) error {
	if s.clock.Caps().ReadOnly {
		return nil
	}
	if !s.reachable() {
		return s.problem
	}
	logErr, err := s.sendBoth(ctx)
	without := logErr != nil
	moved := errors.Is(logErr, bucket.ErrPermission) && s.otherwise(ctx)
	if moved {
		logErr = s.sendLog(ctx)
	}
	switch {
	case errors.Is(logErr, bucket.ErrPermission):
		// Better seen without a log than not seen at all.
		s.warning("the bucket does not let this VM write its log: give it the right to write below logs/" + s.folder() + "/")
	case logErr != nil:
		return logErr
	}
	if without && (moved || err == nil) {
		err = s.store.PutReport(ctx, s.report())
	}
	if errors.Is(err, bucket.ErrPermission) && s.otherwise(ctx) {
		err = s.store.PutReport(ctx, s.report())
	}
	return err
}

// sendBoth uploads the log of the last run, if there is one to upload, and the
// report, side by side: a report whose log does not arrive has to be sent again.
// With mirrors one comes after the other, and without the log there is no report.
func (s *session) sendBoth(ctx context.Context) (logErr, err error) {
	log, err := s.unsentLog()
	if err != nil {
		return err, nil
	}
	if log == nil || s.several() {
		if err := s.sendLog(ctx); err != nil {
			return err, nil
		}
		s.at("Reported_Enter")
		return nil, s.store.PutReport(ctx, s.report())
	}
	s.at("Reported_Enter")
	last := s.state.last()
	last.Log = store.LogName(s.state.Runs)
	r := s.report()
	var wg sync.WaitGroup
	wg.Go(func() { _, logErr = s.store.PutLog(ctx, s.state.VM, s.state.Runs, log) })
	err = s.store.PutReport(ctx, r)
	wg.Wait()
	if logErr != nil {
		last.Log = ""
		return logErr, err
	}
	s.state.Runs++
	return nil, err
}

// folder is where this VM writes below reports/ and logs/.
func (s *session) folder() string { return cmp.Or(s.state.Folder, s.state.VM) }

// confine learns to which folder the bucket's rules confine this VM, when it
// was refused, and reports whether that is another than the one it tried.
func (s *session) confine(ctx context.Context) bool {
	b, ok := bucket.As[bucket.Caller](s.clock)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, callerTime)
	defer cancel()
	id, err := b.CallerID(ctx)
	if err != nil {
		s.logger().Debug("the name by which the bucket knows this VM is not known", "err", err)
		return false
	}
	if id == s.folder() || release.FolderVM(id) != s.state.VM {
		return false
	}
	s.state.Folder, s.store.Folder = id, id
	return true
}

// callerTime bounds the question who this VM is for the bucket.
const callerTime = 10 * time.Second

// sendLog uploads the log of the last run, if there is one to upload.
func (s *session) sendLog(ctx context.Context) error {
	log, err := s.unsentLog()
	if err != nil || log == nil {
		return err
	}
	name, err := s.store.PutLog(ctx, s.state.VM, s.state.Runs, log)
	if err != nil {
		return err
	}
	s.state.Runs++
	s.state.last().Log = name
	return nil
}

// unsentLog returns the log of the last run, nil when it is in the bucket
// already or nothing in it is worth reading.
func (s *session) unsentLog() ([]byte, error) {
	last := s.state.last()
	if last == nil || last.Log != "" || quiet(last) || s.clock.Caps().ReadOnly {
		return nil, nil
	}
	b, err := readBounded(s.Paths.RunLog(last.ID), maxLogHead+maxLogTail+4096)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// tryLog uploads the log of a failed run before another run takes its place.
func (s *session) tryLog(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	if !s.reachable() {
		return
	}
	if err := s.sendLog(ctx); err != nil {
		s.logger().Warn("log not sent", "err", err)
	}
}

// publishStatus writes r for programs on this VM: for all users without the
// output of steps, which may hold secrets, and for root in full. A disk that is
// full is no reason to stop.
func (s *session) publishStatus(r release.Report) {
	if s.DryRun {
		return
	}
	b, err := withoutOutput(r).Bytes()
	if err == nil {
		err = os.MkdirAll(s.Paths.Run(), 0o755)
	}
	if err == nil {
		err = placeFile(s.Paths.Status(), b, 0o644)
	}
	if err == nil && (s.acted || s.journal != nil || s.gist(&r) != s.said) {
		if b, err = r.Bytes(); err == nil {
			err = placeFile(s.Paths.StatusCopy(), b, 0o600)
		}
	}
	if err != nil {
		s.logger().Warn("status not written", "err", err)
	}
}

// withoutOutput is r without what steps wrote and what files hold.
func withoutOutput(r release.Report) release.Report {
	if r.Run == nil {
		return r
	}
	run := *r.Run
	run.Steps = slices.Clone(run.Steps)
	for i := range run.Steps {
		run.Steps[i].Tail, run.Steps[i].Diff = "", ""
	}
	r.Run = &run
	return r
}
