package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// run is one call of the agent, from what an earlier one left to the report.
func (s *session) run(ctx context.Context) (*release.Report, error) {
	how := ended
	var err error
	switch {
	case s.held() != "":
	case s.journal != nil && s.journal.Point == pointRebooting && !s.DryRun:
		how, err = s.resume(ctx)
	default:
		how, err = s.converge(ctx)
	}
	if err != nil {
		s.fail(err)
		s.logger().Info("run not finished", "err", err)
	}
	r := s.conclude(ctx, how)
	if how == rebooting {
		s.reboot(ctx)
	}
	s.tell(Event{Kind: EventEnd, Report: r})
	return r, errors.Join(s.errs...)
}

// held returns the reason for which an operator stopped this VM, or "".
func (s *session) held() string {
	b, err := readBounded(s.Paths.Hold(), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if text := oneLine(strings.TrimSpace(string(b)), 500); text != "" {
		return "held: " + text
	}
	return "held by " + s.Paths.Hold()
}

// converge polls, and brings the VM to what it should have if that is due.
func (s *session) converge(ctx context.Context) (int, error) {
	s.look(ctx)
	if ctx.Err() != nil {
		s.problem, s.errs = nil, nil
		return stopped, ErrStopped
	}
	if err := s.breakLoop(); err != nil {
		return ended, err
	}
	if s.Force && !s.DryRun {
		s.state.release(func(d release.Digest) bool { return d != s.state.Wanted.Manifest })
	}
	d := decide(s.state, s.journal, s.Options, s.now)
	if !d.run {
		return ended, nil
	}
	clearLeftovers(s.Paths.State(), "state.json", "journal.json", "steps.json", "status.json", "current", "last-good")
	clearLeftovers(s.Paths.Runs(), "")
	t, err := s.acquire(ctx, d.target)
	if err != nil {
		return s.goOn(ctx, d, err)
	}
	return s.perform(ctx, t, d)
}

// goOn keeps the VM in shape with what it has, when the release of d cannot be
// had.
func (s *session) goOn(ctx context.Context, d decision, cause error) (int, error) {
	if ctx.Err() != nil {
		return stopped, fmt.Errorf("get %s: %w", d.target.Release, ErrStopped)
	}
	if errors.Is(cause, ErrDisk) {
		return ended, cause
	}
	s.trouble(fmt.Errorf("get %s: %w", d.target.Release, cause))
	if errors.Is(cause, ErrUnsuitable) && !s.DryRun {
		s.state.refuse(d.target, false, cause.Error(), s.now)
		s.acted = true
		if err := s.save(); err != nil {
			return ended, err
		}
	}
	for _, alt := range []decision{
		decideHave(s.state, s.journal, s.Options, s.now),
		{run: true, why: d.why, target: s.state.Good, fallback: true},
	} {
		if alt.target == d.target || alt.target == (ref{}) {
			continue
		}
		if !alt.run {
			return ended, nil
		}
		alt.fallback = alt.target != s.state.Applied
		t, err := s.acquire(ctx, alt.target)
		if err == nil {
			return s.perform(ctx, t, alt)
		}
		s.trouble(fmt.Errorf("get %s: %w", alt.target.Release, err))
	}
	return ended, nil
}

// perform runs t, and the last good release after t's last failed attempt.
func (s *session) perform(ctx context.Context, t *target, d decision) (int, error) {
	if s.problem != nil {
		s.note("%s; going on with %s, which is here", s.problem, t.Release)
	}
	p := s.newPass(t, d)
	how, err := p.do(ctx)
	if how != ended || err != nil || s.DryRun {
		return s.interrupted(p, how, err)
	}
	if err := s.commit(ctx, p); err != nil {
		return ended, err
	}
	return s.fallBack(ctx, p)
}

// interrupted deals with a pass that has no result to commit.
func (s *session) interrupted(p *pass, how int, err error) (int, error) {
	switch {
	case s.DryRun && err == nil:
		s.dry(p)
	case how == stopped && err == nil:
		err = fmt.Errorf("%s: %w", p.t.Release, ErrStopped)
	}
	return how, err
}

// dry keeps the result of a dry run for the report, and nowhere else.
func (s *session) dry(p *pass) {
	s.dryRun = p.run
	dropRun(s.Paths, p.run.ID)
	s.tellResult(p)
}

// commit makes a run's result the VM's state. The order matters: what a kill
// between two lines leaves behind is either a run that is done again, or one
// that the state knows by its id to be over.
func (s *session) commit(ctx context.Context, p *pass) error {
	defer s.phase("commit", time.Now())
	now, good := s.time(), p.run.Result != release.ResultFailed
	if good {
		if err := putLink(filepath.Join("releases", p.t.Manifest.Hex()), s.Paths.LastGood()); err != nil {
			return err
		}
		s.at("LastGood")
	}
	if last := s.state.last(); last != nil && last.ID != p.run.ID {
		s.archive(last)
	}
	s.state.record(p.t.ref, p.t.role, p.run, now)
	if !quiet(p.run) {
		s.acted, s.state.Pending = true, true
	}
	if !good {
		s.giveUp(p, now)
	}
	s.ended = p.run
	s.keepResult()
	if err := s.save(); err != nil {
		return err
	}
	s.at("Committed")
	// One that a power cut brings back is known to be over.
	if err := removeIfThere(s.Paths.Journal()); err != nil {
		return diskError(err)
	}
	s.journal = nil
	s.at("Cleaned")
	s.collect(p.t.Manifest)
	pruneRuns(s.Paths)
	s.tellResult(p)
	s.followSchedule(ctx)
	return nil
}

// tellResult tells whoever listens how a run ended.
func (s *session) tellResult(p *pass) {
	r := p.run
	s.logger().Info("run ended", "run", r.ID, "release", r.Release, "result", r.Result, "reason", r.Reason, "seconds", r.Seconds)
	s.tell(Event{Kind: EventResult, Run: r})
	if p.kind != nil {
		s.fail(fmt.Errorf("%s: %s: %w", p.t.Release, r.Reason, p.kind))
	}
}

// A runFile is the result of a run as it is kept on the VM.
type runFile struct {
	release.Run
	Timing *Timing `json:"timing,omitempty"` // of the call up to the writing of this file
}

// keepResult writes the result of the run that just ended, for [Runs] and
// [ReadTiming]. The state has what matters of it.
func (s *session) keepResult() {
	if s.ended == nil {
		return
	}
	b, err := json.Marshal(runFile{Run: *s.ended, Timing: s.times.timing(s.ended.ID)})
	if err == nil {
		err = placeFile(s.Paths.RunResult(s.ended.ID), append(b, '\n'), 0o600)
	}
	if err != nil {
		s.logger().Warn("result of the run not written", "err", err)
	}
}

// quiet reports whether nobody need hear of a run: it re-applied what was
// there and changed nothing.
func quiet(r *release.Run) bool {
	return r.Result == release.ResultUnchanged && r.Why == release.WhyReapply
}

// archive moves the run before into the history; the log of a quiet one goes,
// so that logs and history tell of what happened.
func (s *session) archive(last *release.Run) {
	if quiet(last) {
		dropRun(s.Paths, last.ID)
		return
	}
	h := append([]release.RunBrief{last.Brief()}, s.state.history()...)
	h = h[:min(len(h), release.MaxHistory)]
	s.state.History = lazyOf(&h)
}

// record takes over what a finished run tells.
func (st *state) record(r ref, role release.Role, run *release.Run, now time.Time) {
	st.Last, st.Applied = lazyOf(run), r
	st.Failed = run.Result == release.ResultFailed
	st.Changed = run.Result == release.ResultChanged
	st.Poll, st.Reapply = role.Schedule.Poll, role.Schedule.Reapply
	st.NextReapply = now.Add(st.reapply() - st.ahead(run.Why))
	if st.Failed {
		st.attempt(r.Manifest)
		st.Failures++
		st.NextRetry = now.Add(backoff(st.poll(), st.Failures, st.VM))
		return
	}
	st.Good, st.LastSuccess = r, now.UTC()
	st.Failures, st.NextRetry = 0, time.Time{}
	delete(st.Attempts, r.Manifest.String())
}

// giveUp quarantines a release after its last attempt, if there is another one
// to go back to.
func (s *session) giveUp(p *pass, now time.Time) {
	n := s.state.attempts(p.t.Manifest)
	if n < max(p.t.role.Attempts, 1) || p.t.ref == s.state.Good || s.state.Good == (ref{}) {
		return
	}
	what := "failed"
	if p.kind == ErrChecks {
		what = "failed its checks"
	}
	s.state.refuse(p.t.ref, true, fmt.Sprintf("%s %s %s (%s)", p.t.Release, what, times(n), p.run.Reason), now)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// fallBack applies the last good release again, if p's was just quarantined.
func (s *session) fallBack(ctx context.Context, p *pass) (int, error) {
	if _, refused := s.state.quarantineOf(p.t.Manifest); !refused || s.state.Good == (ref{}) {
		return ended, nil
	}
	s.at("RollingBack")
	s.tryLog(ctx)
	d := decision{run: true, why: release.WhyRetry, target: s.state.Good, fallback: true}
	s.note("%s is quarantined on this VM; %s is applied again", p.t.Release, d.target.Release)
	t, err := s.acquire(ctx, d.target)
	if err != nil {
		return ended, fmt.Errorf("go back to %s: %w", d.target.Release, err)
	}
	next := s.newPass(t, d)
	how, err := next.do(ctx)
	if how != ended || err != nil {
		return s.interrupted(next, how, err)
	}
	return ended, s.commit(ctx, next)
}

// breakLoop ends a run that was cut off again and again, by a power cut, a
// crash, or a step that brings the machine down: it counts as failed for good.
func (s *session) breakLoop() error {
	j := s.journal
	if j == nil || s.DryRun {
		return nil
	}
	if last := s.state.last(); last != nil && j.Run == last.ID {
		s.journal = nil
		return removeFile(s.Paths.Journal())
	}
	c := j.cutOff(s.boot)
	if !c.endless() || j.Target == (ref{}) {
		return nil
	}
	reason := fmt.Sprintf("%s was cut off %d times, the last time %s", j.Target.Release, c.Total, j.where())
	return s.abandon(reason, true)
}

func (j *journal) where() string {
	switch j.Point {
	case pointApplying:
		return fmt.Sprintf("in step %d", j.Step+1)
	case pointChecking:
		return "in its checks"
	}
	return "at a reboot"
}

// abandon gives the journal's run the result failed and, with refuse, puts its
// release into quarantine.
func (s *session) abandon(reason string, refuse bool) error {
	j := s.journal
	run := &release.Run{
		ID: j.Run, Why: j.Why, Release: j.Target.Release, Fallback: j.Fallback, Attempt: j.Attempt, Started: j.Started,
		Result: release.ResultFailed, Reason: reason, Steps: j.Steps,
	}
	if last := s.state.last(); last != nil {
		s.archive(last)
	}
	st, now := s.state, s.time()
	st.record(j.Target, release.Role{Schedule: release.Schedule{Poll: st.Poll, Reapply: st.Reapply}}, run, now)
	if refuse && j.Target != st.Good {
		st.refuse(j.Target, true, reason, now)
	}
	st.Pending, s.acted = true, true
	s.fail(fmt.Errorf("%s: %w", reason, ErrSteps))
	if err := s.save(); err != nil {
		return err
	}
	s.journal = nil
	return removeFile(s.Paths.Journal())
}

// resume goes on with a run that waits for a reboot.
func (s *session) resume(ctx context.Context) (int, error) {
	j := s.journal
	if j.BootID == s.boot && s.boot != "" {
		return s.askAgain()
	}
	t, err := s.acquire(ctx, j.Target)
	if err != nil {
		s.note("the run that waited for a reboot cannot go on: %s", err)
		if err := removeFile(s.Paths.Journal()); err != nil {
			return ended, err
		}
		s.journal = nil
		return s.converge(ctx)
	}
	j.Why, j.Point, j.BootID, j.Asked = release.WhyReboot, pointApplying, s.boot, 0
	s.at("Resumed")
	p := s.passOf(t, j)
	how, err := p.do(ctx)
	if how != ended || err != nil {
		return s.interrupted(p, how, err)
	}
	if err := s.commit(ctx, p); err != nil {
		return ended, err
	}
	return s.fallBack(ctx, p)
}

// askAgain asks once more for a reboot that has not come, a few times.
func (s *session) askAgain() (int, error) {
	j := s.journal
	if j.Asked++; j.Asked > maxRebootAsk {
		err := s.abandon(fmt.Sprintf("%s asked for a reboot %d times, and none came", j.Target.Release, maxRebootAsk), false)
		return ended, errors.Join(err, ErrReboot)
	}
	return rebooting, j.write(s.Paths)
}

// reboot asks the system for a reboot. It comes some time after this returns.
func (s *session) reboot(ctx context.Context) {
	s.settleTimer()
	s.logger().Info("rebooting", "release", s.journal.Target.Release)
	trouble := ErrReboot
	for _, c := range [][]string{{"systemctl", "reboot"}, {"shutdown", "-r", "now"}, {"reboot"}} {
		_, err := s.command(ctx, c[0], c[1:]...)
		if err == nil {
			return
		}
		trouble = fmt.Errorf("%w: %w", err, trouble)
	}
	s.fail(fmt.Errorf("ask for a reboot: %w", trouble))
}
