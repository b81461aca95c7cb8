package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// Errors of looking at a VM.
var (
	ErrNoStatus  = errors.New("no run has ended on this VM yet")
	ErrNoRun     = errors.New("no such run on this VM")
	ErrUnhealthy = errors.New("this VM is not in order") // Wait: failed or held
)

// Status returns the last report of this VM, without network. The state is
// held or applying when that is so at this moment. ErrNoStatus when the agent
// has not run yet, also when the disk is a copy of another VM's and holds what
// that one left.
func Status(p Paths) (*release.Report, error) {
	r, err := lastReport(p)
	if err != nil {
		return nil, err
	}
	if !ofThisVM(p, r) {
		return nil, fmt.Errorf("%w: its disk is a copy of %s's", ErrNoStatus, r.VM)
	}
	s := session{Agent: &Agent{Paths: p}}
	if held := s.held(); held != "" {
		r.State, r.Reason = release.StateHeld, held
	} else if j, err := peekJournal(p); err == nil && (j.Point == pointRebooting || j.alive(p)) {
		r.State, r.Reason = release.StateApplying, j.sentence()
	}
	return r, nil
}

// ofThisVM reports whether r is a report of this machine: the agent gives a
// copy a name of its own only when it runs there.
func ofThisVM(p Paths, r *release.Report) bool {
	i := readInstance(p, readInstanceData(p))
	if st, err := peekState(p); err == nil && st.VM != "" {
		return r.VM == st.VM && !i.differs(st.Instance)
	}
	return i.ID == "" || r.VM == vmName(i, "")
}

// alive reports whether the agent that wrote j still runs. A look at the lock
// would tell too, but could keep an agent out that starts at that moment.
func (j *journal) alive(p Paths) bool {
	if j.PID <= 0 || j.BootID != bootID(p) {
		return false
	}
	err := unix.Kill(j.PID, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// lastReport reads the status file, or its copy after a reboot. Only the copy,
// for who may read it, has the output of the run's steps.
func lastReport(p Paths) (*release.Report, error) {
	r, err := readReport(p.Status())
	full, err2 := readReport(p.StatusCopy())
	switch {
	case err == nil:
		if err2 == nil && r.Run != nil && full.Run != nil && r.Run.ID == full.Run.ID {
			r.Run.Steps = full.Run.Steps
		}
		return r, nil
	case err2 == nil:
		return full, nil
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist):
		return nil, ErrNoStatus
	}
	return nil, fmt.Errorf("read status: %w", errors.Join(err, err2))
}

func readReport(name string) (*release.Report, error) {
	b, err := readBounded(name, release.MaxReportBytes)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		// A power cut came before its bytes reached the disk.
		return nil, fmt.Errorf("%s is empty: %w", name, fs.ErrNotExist)
	}
	return release.ParseReport(b)
}

// peekJournal reads the journal without mending anything.
func peekJournal(p Paths) (*journal, error) {
	b, err := readBounded(p.Journal(), maxJournal)
	if err != nil {
		return nil, err
	}
	return parseJournal(b)
}

// Wait returns the report once the VM has settled: nil error when it is ok or
// changed, ErrUnhealthy when it failed or is held. Until then it looks again
// every so often. When ctx ends, its error comes with the last report, if any.
func Wait(ctx context.Context, p Paths, every time.Duration) (*release.Report, error) {
	t := time.NewTicker(max(every, 10*time.Millisecond))
	defer t.Stop()
	for {
		r, err := Status(p)
		switch {
		case err != nil:
			if !errors.Is(err, ErrNoStatus) {
				return nil, err
			}
		case r.State == release.StateOK || r.State == release.StateChanged:
			return r, nil
		case r.State != release.StateApplying:
			return r, fmt.Errorf("%s: %s: %w", r.State, r.Reason, ErrUnhealthy)
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-t.C:
		}
	}
}

// Why explains in sentences what state the VM is in and what the next poll
// will do, without network.
func Why(p Paths, now time.Time) ([]string, error) {
	b, err := readState(p)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{"Nothing was applied on this VM yet.", "The next poll applies the release of its channel."}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	st, err := parseState(b)
	if err != nil {
		return nil, err
	}
	out := st.story()
	s := session{Agent: &Agent{Paths: p}}
	if held := s.held(); held != "" {
		return append(out, fmt.Sprintf("No run begins: %s. Remove %s to go on.", held, p.Hold())), nil
	}
	j, _ := peekJournal(p)
	return append(out, st.next(j, now)...), nil
}

// story tells what was.
func (st *state) story() []string {
	var out []string
	switch {
	case st.Applied == ref{}:
		out = append(out, "Nothing was applied on this VM yet.")
	case st.Failed:
		out = append(out, fmt.Sprintf("%s was applied last and failed: %s.", st.Applied.Release, lastOf(st)))
	case st.Changed:
		out = append(out, fmt.Sprintf("%s was applied last and changed something.", st.Applied.Release))
	default:
		out = append(out, fmt.Sprintf("%s was applied last and changed nothing.", st.Applied.Release))
	}
	if st.Wanted != (ref{}) {
		out = append(out, fmt.Sprintf("Channel %s names %s.", st.Channel, st.Wanted.Release))
	}
	for _, q := range st.Quarantine {
		out = append(out, fmt.Sprintf("%s is refused here since %s: %s. Another release on the channel ends that, or: bootwell-agent apply --force", q.Release, q.Since.Local().Format("2 Jan 15:04"), q.Reason))
	}
	for _, b := range bucketSentences(st.Buckets) {
		out = append(out, "At the last poll, "+strings.TrimSuffix(b, ".")+".")
	}
	switch {
	case !st.Refused.IsZero():
		out = append(out, "The bucket does not let this VM write its report; it is tried again less and less often, at least once an hour, and when there is news.")
	case st.Pending:
		out = append(out, "The last report has not reached the bucket; it is sent again with the next poll.")
	}
	return out
}

func lastOf(st *state) string {
	if st.last() == nil || st.last().Reason == "" {
		return "no reason is known"
	}
	return st.last().Reason
}

// next tells what will be, if the channel names nothing new meanwhile.
func (st *state) next(j *journal, now time.Time) []string {
	if j != nil && j.Point == pointRebooting {
		return []string{fmt.Sprintf("%s waits for a reboot and then goes on with step %d.", j.Target.Release, j.Step+1)}
	}
	d := decide(st, j, Options{}, now)
	switch {
	case d.target == ref{}:
		return []string{"The next poll runs nothing: there is no release to run until the channel names another one."}
	case !d.run && d.why == release.WhyRetry:
		return []string{fmt.Sprintf("%s is tried again about %s (failure %d in a row).", d.target.Release, st.NextRetry.Local().Format("15:04"), st.Failures)}
	case !d.run:
		return []string{fmt.Sprintf("The next poll runs nothing unless the channel names another release. %s is applied again about %s.", d.target.Release, st.NextReapply.Local().Format("15:04"))}
	}
	because := map[string]string{
		release.WhyFirst: "nothing was applied yet", release.WhyRelease: "it is another release than the one applied last",
		release.WhyRetry: "the last run failed", release.WhyReapply: "the re-apply interval has passed",
		release.WhyPower: "the last run was cut off",
	}[d.why]
	return []string{fmt.Sprintf("The next poll applies %s: %s.", d.target.Release, because)}
}

// Runs returns the results of the runs that are kept on the VM, newest first.
// The error is always nil.
func Runs(p Paths) ([]release.Run, error) {
	var out []release.Run
	for _, id := range runIDs(p) {
		// The last results before a power cut may be torn.
		if f, err := readRun(p, id); err == nil {
			out = append(out, f.Run)
		}
	}
	return out, nil
}

// newestRun is the run under way, else the one that ended last. Names of runs
// only tell seconds apart.
func newestRun(p Paths) string {
	if j, err := peekJournal(p); err == nil && j.Run != "" {
		return j.Run
	}
	if r, err := lastReport(p); err == nil && r.Run != nil && validRunID(r.Run.ID) {
		return r.Run.ID
	}
	if ids := runIDs(p); len(ids) > 0 {
		return ids[0]
	}
	return ""
}

// Logs returns the log of a run, at most 4 MiB; id "" is the newest run. With
// step, only what that step wrote ("checks": the checks). ErrNoRun when there
// is no such run or step in it.
func Logs(p Paths, id, step string) ([]byte, error) {
	if id == "" {
		id = newestRun(p)
	}
	if !validRunID(id) {
		return nil, fmt.Errorf("run %.40q: %w", id, ErrNoRun)
	}
	b, err := readBounded(p.RunLog(id), maxLogHead+maxLogTail+4096)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("run %s: %w", id, ErrNoRun)
	}
	if err != nil || step == "" {
		return b, err
	}
	part, ok := sectionOf(string(b), step)
	if !ok {
		return nil, fmt.Errorf("step %q of run %s: %w", step, id, ErrNoRun)
	}
	return []byte(part), nil
}
