package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
)

type applyFlags struct{ timer, force, dryRun, diff, detailed bool }

func newApplyCmd(s *cli.Session) *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use: "apply", Args: cobra.NoArgs,
		Short: "Run the steps of this VM's release now",
		Long: `Polls, takes the release that the channel names, runs its steps and checks, and
reports. A second run of the same release changes nothing. With --timer it does
so only if something is due, else it costs one request.`,
		Example: `  bootwell-agent apply
  bootwell-agent apply --dry-run --diff     change nothing, show what would change`,
		Annotations: map[string]string{cli.SignalsLater: "--timer"},
		RunE:        func(c *cobra.Command, _ []string) error { return runApply(c.Context(), s, f) },
	}
	c.Flags().BoolVar(&f.timer, "timer", false, "run the steps only if that is due; what the timer calls")
	c.Flags().BoolVar(&f.force, "force", false, "also run a release that was set aside after it failed here")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "change nothing, tell what would change")
	c.Flags().BoolVar(&f.diff, "diff", false, "with --dry-run: show the changes of files")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit with 2 when something changed, or would")
	return c
}

func runApply(ctx context.Context, s *cli.Session, f applyFlags) error {
	if f.diff && !f.dryRun {
		return cli.Usage("--diff goes with --dry-run", "bootwell-agent apply --dry-run --diff")
	}
	if f.timer && (f.dryRun || f.force) {
		return cli.Usage("--timer does not go with --dry-run or --force", "leave --timer to the timer")
	}
	if !f.timer {
		s.Heed() // a poll that has nothing to do leaves nothing behind
	}
	a, err := open(ctx, s)
	if err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	t := newTeller(s, a.Config.Role, f)
	a.Events = t.event
	a.Began = agent.ReadBeginning("")
	r, err := a.Run(ctx, agent.Options{Force: f.force, Now: !f.timer, DryRun: f.dryRun, Diff: f.diff})
	if t.err != nil {
		return t.err
	}
	if err != nil {
		return t.fail(err)
	}
	if f.timer && !t.ran && r != nil {
		s.Say("%s: nothing to do", fleet.Clean(or(r.Release, "no release yet"), 20))
	}
	if err := s.Event(map[string]any{"type": "result", "report": r, "exit_code": 0}); err != nil {
		return err
	}
	if f.detailed && t.changed {
		return cli.Silent(cli.ErrChanged)
	}
	return nil
}

// open makes the agent of this VM from its settings.
func open(ctx context.Context, s *cli.Session) (*agent.Agent, error) {
	s.Bare = true
	if os.Geteuid() != 0 && paths(s).Root == "" {
		return nil, cli.Usage("only root can look after this VM", "try: sudo bootwell-agent …")
	}
	cfg, err := agent.LoadConfig(paths(s))
	if err != nil {
		return nil, cli.WithCode(err, cli.ExitUsage, "settings", "")
	}
	b, err := agent.OpenBucket(ctx, s.Open, cfg)
	if err != nil {
		return nil, err
	}
	return &agent.Agent{Config: cfg, Paths: paths(s), Bucket: b, Log: s.Logger(), Version: s.Version}, nil
}

// A teller shows a run as it goes: a table on a screen, a line a fact in a
// journal.
type teller struct {
	s       *cli.Session
	role    string
	flags   applyFlags
	ran     bool
	changed bool
	failed  bool // a failure was shown
	passed  int  // checks
	checks  int
	release string
	counts  map[string]int
	err     error
}

func newTeller(s *cli.Session, role string, f applyFlags) *teller {
	return &teller{s: s, role: role, flags: f, counts: map[string]int{}}
}

func (t *teller) event(e agent.Event) {
	s := t.s
	if e.Kind != agent.EventEnd {
		s.Heed()
	}
	if e.Kind != agent.EventStage {
		if err := s.Event(e); err != nil {
			t.err = err
		}
	}
	switch e.Kind {
	case agent.EventNote:
		s.Say("%s", fleet.Clean(e.Text, 600))
	case agent.EventStage:
		s.Update("  %s %s of %s", e.Phase, size(uint64(e.Done)), size(uint64(e.Total)))
	case agent.EventStart:
		t.start(e)
	case agent.EventStepStart:
		s.Update("  %2d  %s …", e.Index, fleet.Clean(e.Name, 60))
	case agent.EventStepEnd:
		t.step(e)
	case agent.EventCheck:
		t.check(e)
	case agent.EventReboot:
		s.Say("  rebooting now, as step %q asks; the run goes on after it", fleet.Clean(e.Name, 60))
	case agent.EventResult:
		t.result(e)
	case agent.EventEnd:
		t.end(e)
	}
}

func (t *teller) start(e agent.Event) {
	t.ran, t.release = true, e.Release
	t.counts, t.passed, t.checks = map[string]int{}, 0, 0
	line := fmt.Sprintf("%s for role %s", e.Release, e.Role)
	if e.Previous != "" && e.Previous != e.Release {
		line += " (has " + e.Previous + ")"
	}
	if e.Size > 0 {
		line += " · " + size(uint64(e.Size)) + " fetched"
	}
	switch {
	case t.flags.dryRun:
		line += " · dry run: nothing will be changed"
	case e.Fallback:
		line += " · the last good release is applied again"
	case e.Attempt > 1:
		line += fmt.Sprintf(" · attempt %d", e.Attempt)
	}
	line += " · signatures and digests verified · " + whyText(e.Why)
	if t.s.Plain() {
		line += " · run " + e.ID
	}
	t.s.Say("%s", line)
	t.s.Screen("")
}

func whyText(why string) string {
	return map[string]string{
		release.WhyFirst: "first run", release.WhyRelease: "new release", release.WhyRetry: "again after a failure", release.WhyReboot: "goes on after the reboot",
		release.WhyReapply: "re-apply is due", release.WhyForced: "asked for", release.WhyPower: "the last run was cut off",
	}[why]
}

func (t *teller) step(e agent.Event) {
	s, r := t.s, *e.Step
	t.counts[r.Result]++
	t.changed = t.changed || r.Result == release.ResultChanged
	if s.Plain() {
		t.plainStep(r)
		return
	}
	s.Say("%s", cli.StepLine(s, e.Index, r))
	if len(r.Changes) > 1 {
		for _, c := range r.Changes[1:min(len(r.Changes), 20)] {
			s.Say("      %-20s   %s", "", fleet.Clean(c, 160))
		}
	}
	t.tail(r)
	t.diff(r)
}

func (t *teller) plainStep(r release.StepResult) {
	what := r.Result
	if len(r.Changes) > 0 {
		what += ": " + strings.Join(r.Changes[:min(len(r.Changes), 10)], "; ")
	} else if r.Reason != "" {
		what += ": " + r.Reason
	}
	say := t.s.Say
	if r.Result == release.ResultFailed {
		what, say = "FAILED: "+r.Reason, t.s.Alarm
	}
	say("%s: %s (%s)", fleet.Clean(r.Name, 60), fleet.Clean(what, 600), cli.Seconds(r.Seconds))
	t.tail(r)
	t.diff(r)
}

func (t *teller) tail(r release.StepResult) {
	if r.Result != release.ResultFailed || r.Tail == "" {
		return
	}
	lines := strings.Split(strings.TrimRight(cli.CleanText([]byte(r.Tail)), "\n"), "\n")
	for _, l := range lines[max(0, len(lines)-12):] {
		t.s.Say("    | %s", l)
	}
}

// diff goes to stdout: on a dry run it is the result.
func (t *teller) diff(r release.StepResult) {
	if r.Diff != "" && !t.s.JSON {
		t.s.Printf("%s", cli.CleanText([]byte(r.Diff)))
	}
}

func (t *teller) check(e agent.Event) {
	t.checks++
	if e.Check.Result == release.CheckPassed {
		t.passed++
		if t.s.Plain() {
			return
		}
		t.s.Say("%s", cli.CheckLine(t.s, *e.Check))
		return
	}
	if t.s.Plain() {
		t.s.Alarm("check %s: FAILED: %s", fleet.Clean(e.Check.Name, 80), fleet.Clean(e.Check.Reason, 400))
		return
	}
	t.s.Say("%s", cli.CheckLine(t.s, *e.Check))
}

func (t *teller) result(e agent.Event) {
	s := t.s
	if t.checks > 0 && s.Plain() && t.passed == t.checks {
		s.Say("checks: %d of %d passed", t.passed, t.checks)
	}
	var parts []string
	for _, r := range []string{release.ResultChanged, release.ResultUnchanged, release.ResultSkipped, release.ResultFailed} {
		if n := t.counts[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, r))
		}
	}
	verb := "Applied"
	if t.flags.dryRun {
		verb = "Dry run of"
	}
	s.Screen("")
	if e.Run.Result == release.ResultFailed {
		t.failed = true
		s.Alarm("%s failed after %s in run %s: %s", e.Run.Release, cli.Seconds(e.Run.Seconds), e.Run.ID, fleet.Clean(e.Run.Reason, 600))
		return
	}
	s.Say("%s %s in %s: %s.", verb, e.Run.Release, cli.Seconds(e.Run.Seconds), or(strings.Join(parts, ", "), "no steps"))
}

func (t *teller) end(e agent.Event) {
	r := e.Report
	if r == nil {
		return
	}
	for _, w := range r.Warn {
		t.s.Say("  %s %s", t.s.Glyph("warning"), fleet.Clean(w, 400))
	}
	if r.State == release.StateHeld {
		t.s.Say("held: %s", fleet.Clean(r.Reason, 400))
	}
	if t.ran && r.Reason != "" && r.State == release.StateFailed {
		t.s.Say("%s", fleet.Clean(r.Reason, 600))
	}
	if t.ran && !r.NextRun.IsZero() && !t.flags.dryRun {
		t.s.Say("Next poll about %s.", r.NextRun.Local().Format(time.TimeOnly))
	}
}

// fail gives the agent's errors their exit codes.
func (t *teller) fail(err error) error {
	switch {
	case errors.Is(err, agent.ErrChecks):
		err = cli.WithCode(err, cli.ExitUnhealthy, "checks", "the log: bootwell-agent logs")
	case errors.Is(err, agent.ErrSteps):
		err = cli.WithCode(err, cli.ExitFailed, "steps", "the log: bootwell-agent logs")
	default:
		return exitCode(err)
	}
	if t.failed {
		return cli.Silent(err)
	}
	return err
}

// exitCode gives the agent's own errors their exit codes.
func exitCode(err error) error {
	switch {
	case errors.Is(err, agent.ErrBusy):
		return cli.WithCode(err, cli.ExitLocked, "busy", "wait until it has ended: bootwell-agent status --wait")
	case errors.Is(err, agent.ErrConfig):
		return cli.WithCode(err, cli.ExitUsage, "settings", "")
	case errors.Is(err, agent.ErrUnhealthy):
		return cli.WithCode(err, cli.ExitFailed, "unhealthy", "see: bootwell-agent status, bootwell-agent logs")
	}
	if _, kind, _ := cli.Classify(err); kind == "not_found" {
		return cli.WithCode(err, cli.ExitFailed, "damaged", "the release is damaged in the bucket: run bootwell publish again")
	}
	return err
}

func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}
