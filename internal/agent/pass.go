package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/step"
)

// How a pass can end.
const (
	ended     = iota // the run has a result
	rebooting        // the journal waits for a reboot
	stopped          // ctx ended; the journal tells where
)

// A pass is one run: the steps and checks of one release, once.
type pass struct {
	*session
	t      *target
	j      *journal
	run    *release.Run
	log    *runLog
	runner *step.Runner
	began  time.Time // of this process's part
	before float64   // seconds that earlier parts took
	halted bool      // a step failed and those after it did not run
	kind   error     // ErrSteps or ErrChecks when the run failed
}

// newPass makes a run of t that begins at its first step.
func (s *session) newPass(t *target, d decision) *pass {
	j := &journal{
		Schema: stateSchema, Run: newRunID(s.time()), Why: d.why, Target: t.ref, Fallback: d.fallback,
		Attempt: s.state.attempts(t.Manifest) + 1, Started: s.time().UTC(), BootID: s.boot, Point: pointApplying,
	}
	if s.journal != nil && (s.journal.Target == t.ref || s.journal.Target == ref{}) {
		j.Cuts = s.journal.cutOff(s.boot)
	}
	return s.passOf(t, j)
}

// passOf makes the run that j tells of.
func (s *session) passOf(t *target, j *journal) *pass {
	p := &pass{session: s, t: t, j: j, began: time.Now()}
	p.run = &release.Run{
		ID: j.Run, Why: j.Why, Release: t.Release, Fallback: j.Fallback, Attempt: j.Attempt,
		Started: j.Started, Steps: j.Steps,
	}
	for _, r := range j.Steps {
		p.before += r.Seconds
	}
	p.log = openLog(s.Paths.RunLog(j.Run))
	p.runner = &step.Runner{
		Tree: t.dir, Manifest: t.manifest, Vars: t.role.Vars, Facts: s.facts, Role: s.Config.Role,
		Release: t.Release, Channel: s.Config.Channel, Phase: "apply", Memory: s.memory,
		Scratch: s.scratch(), Log: p.log, DryRun: s.DryRun, Diff: s.Diff, Root: s.Paths.Root,
	}
	return p
}

func (s *session) scratch() string { return filepath.Join(s.Paths.Run(), "step") }

// do runs the steps and checks. A returned error means that the disk did not
// let the run begin or go on; the journal then tells where it was.
func (p *pass) do(ctx context.Context) (int, error) {
	defer p.log.Close()
	if err := p.begin(); err != nil {
		return ended, err
	}
	how, err := p.steps(ctx)
	if how != ended || err != nil {
		return how, err
	}
	if how, err := p.checks(ctx); how != ended || err != nil {
		return how, err
	}
	p.finish()
	return ended, nil
}

// begin makes the run the one under way and its tree the current one.
func (p *pass) begin() error {
	defer p.phase("begin", time.Now())
	if err := os.MkdirAll(p.scratch(), 0o755); err != nil {
		return diskError(err)
	}
	p.tell(Event{
		Kind: EventStart, ID: p.run.ID, Release: p.t.Release, Previous: p.state.Applied.Release, Role: p.Config.Role, Why: p.run.Why,
		Total: int64(len(p.t.role.Steps)), Size: p.t.size, Attempt: p.run.Attempt, Fallback: p.run.Fallback,
	})
	p.logger().Info("run begins", "run", p.run.ID, "release", p.t.Release, "role", p.Config.Role, "why", p.run.Why)
	fmt.Fprintf(p.log, "--- run %s of %s for %s (%s) at %s\n", p.run.ID, p.t.Release, p.Config.Role, p.run.Why, p.time().UTC().Format(time.RFC3339))
	if p.DryRun {
		return nil
	}
	p.session.journal = p.j
	if err := p.j.put(p.Paths); err != nil {
		return err
	}
	p.at("Journaled")
	if err := putLink(filepath.Join("releases", p.t.Manifest.Hex()), p.Paths.Current()); err != nil {
		return err
	}
	if err := syncDir(p.Paths.State()); err != nil {
		return err
	}
	p.at("Flipped")
	p.publishStatus(p.report())
	return nil
}

// mark moves the journal. The next action may begin only after it.
func (p *pass) mark(point string, index int) error {
	if p.DryRun {
		return nil
	}
	p.j.Point, p.j.Step, p.j.Steps, p.j.BootID = point, index, p.run.Steps, p.boot
	return p.j.write(p.Paths)
}

func (p *pass) steps(ctx context.Context) (int, error) {
	defer p.phase("steps", time.Now())
	steps := p.t.role.Steps
	// The journal as begin wrote it says that the first one is about to run.
	for first, i := p.j.Step, p.j.Step; i < len(steps); i++ {
		if i > first {
			if err := p.mark(pointApplying, i); err != nil {
				return ended, err
			}
		}
		p.at(fmt.Sprintf("Applying_step_%d_Enter", i+1))
		res := p.step(ctx, i)
		if ctx.Err() != nil {
			return p.stop()
		}
		p.at(fmt.Sprintf("Applying_step_%d_Leave", i+1))
		if res.Reboot && res.Result != release.ResultFailed && !p.DryRun {
			next := i + 1
			if res.Again {
				next = i
			}
			return rebooting, p.askReboot(next, res.Name)
		}
		if res.Result == release.ResultFailed && steps[i].OnError != release.OnErrorContinue {
			p.leaveOut(i+1, res.Name)
			break
		}
	}
	return ended, nil
}

// step runs one step and records its result.
func (p *pass) step(ctx context.Context, i int) release.StepResult {
	s := p.t.role.Steps[i]
	defer p.phase("step "+s.Name, time.Now())
	total := len(p.t.role.Steps)
	fmt.Fprint(p.log, stepMark(i, total, s.Name))
	p.tell(Event{Kind: EventStepStart, Index: i + 1, Total: int64(total), Name: s.Name})
	res := p.runner.Run(ctx, s)
	if res.Reboot && p.j.Reboots >= maxReboots && res.Result != release.ResultFailed {
		res.Result, res.Reboot, res.Again = release.ResultFailed, false, false
		res.Reason = fmt.Sprintf("asked for a reboot again after %d in this run", p.j.Reboots)
	}
	p.record(res)
	res = p.run.Steps[len(p.run.Steps)-1]
	p.logger().Info("step ended", "run", p.run.ID, "step", s.Name, "result", res.Result, "reason", res.Reason)
	fmt.Fprintf(p.log, "--- %s: %s %s\n", oneLine(s.Name, 200), res.Result, oneLine(res.Reason, release.MaxReasonBytes))
	p.tell(Event{Kind: EventStepEnd, Index: i + 1, Total: int64(total), Name: s.Name, Step: &res})
	return res
}

// record adds a result. One that continues a step after its reboot takes the
// place of the part before.
func (p *pass) record(res release.StepResult) {
	if n := len(p.run.Steps); n > 0 && p.run.Steps[n-1].Again && p.run.Steps[n-1].Name == res.Name {
		first := p.run.Steps[n-1]
		res.Seconds += first.Seconds
		res.Changes = append(first.Changes[:len(first.Changes):len(first.Changes)], res.Changes...)
		if first.Result == release.ResultChanged && res.Result == release.ResultUnchanged {
			res.Result, res.Reason = first.Result, first.Reason
		}
		p.run.Steps = p.run.Steps[:n-1]
	}
	p.run.Steps = append(p.run.Steps, res)
}

// leaveOut records the steps that do not run because the one called failed did.
func (p *pass) leaveOut(from int, failed string) {
	p.halted = true
	for _, s := range p.t.role.Steps[from:] {
		p.run.Steps = append(p.run.Steps, release.StepResult{
			Name: s.Name, Kind: s.Kind, Result: release.ResultSkipped, Reason: fmt.Sprintf("not run: %s failed", failed),
		})
	}
}

func (p *pass) checks(ctx context.Context) (int, error) {
	if p.DryRun || p.halted {
		return ended, nil
	}
	defer p.phase("checks", time.Now())
	if err := p.mark(pointChecking, len(p.t.role.Steps)); err != nil {
		return ended, err
	}
	p.at("Checking_Enter")
	p.runner.Phase = "check"
	fmt.Fprintf(p.log, "--- checks (%d)\n", len(p.t.role.Checks))
	for i, c := range p.t.role.Checks {
		res := p.runner.Check(ctx, c)
		if ctx.Err() != nil {
			return p.stop()
		}
		p.run.Checks = append(p.run.Checks, res)
		fmt.Fprintf(p.log, "check %s: %s %s\n", oneLine(c.Name, 200), res.Result, oneLine(res.Reason, release.MaxReasonBytes))
		p.tell(Event{Kind: EventCheck, Index: i + 1, Total: int64(len(p.t.role.Checks)), Name: c.Name, Check: &res})
	}
	p.at("Checking_Leave")
	return ended, nil
}

// stop leaves the journal where it is, with the word that nothing was torn.
func (p *pass) stop() (int, error) {
	if p.DryRun {
		return stopped, nil
	}
	p.j.Stopped = true
	return stopped, p.j.write(p.Paths)
}

// askReboot records that the run goes on with step next after a reboot. The
// reboot itself comes after the report.
func (p *pass) askReboot(next int, name string) error {
	p.j.Reboots++
	p.j.Asked = 1
	if err := p.mark(pointRebooting, next); err != nil {
		return err
	}
	p.at("Rebooting")
	p.tell(Event{Kind: EventReboot, Name: name, Release: p.t.Release})
	return nil
}

// finish works out the run's result.
func (p *pass) finish() {
	p.run.Seconds = p.before + time.Since(p.began).Seconds()
	p.run.Result = release.ResultUnchanged
	for i := range p.run.Steps {
		switch r := &p.run.Steps[i]; r.Result {
		case release.ResultChanged:
			if p.run.Result == release.ResultUnchanged {
				p.run.Result = release.ResultChanged
			}
		case release.ResultFailed:
			p.blame(ErrSteps, fmt.Sprintf("step %s failed: %s", r.Name, r.Reason))
		}
	}
	for _, c := range p.run.Checks {
		if c.Result != release.CheckPassed {
			p.blame(ErrChecks, fmt.Sprintf("check %s failed: %s", c.Name, c.Reason))
		}
	}
}

// blame makes the run failed; the first reason counts.
func (p *pass) blame(kind error, reason string) {
	p.run.Result = release.ResultFailed
	if p.kind == nil {
		p.kind, p.run.Reason = kind, cut(oneLine(reason, release.MaxReasonBytes), release.MaxReasonBytes)
	}
}
