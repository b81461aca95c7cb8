package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
)

func newStatusCmd(s *cli.Session) *cobra.Command {
	var wait, check bool
	c := &cobra.Command{
		Use: "status", Args: cobra.NoArgs,
		Short: "Show what this VM has and how its last run went",
		Long: `Reads what the last run left, without network. With --wait it returns when the VM
is settled: 0 when it is ok, 1 when a step failed, 3 when checks failed or it is
held, 124 after --timeout. This is the ready signal for Terraform, Packer and
auto-scaling hooks.`,
		Example: "  bootwell-agent status --wait --timeout 15m",
		RunE:    func(c *cobra.Command, _ []string) error { return runStatus(c.Context(), s, wait, check) },
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until the VM is ok or has failed")
	c.Flags().BoolVar(&check, "check", false, "exit with 1 or 3 when the VM is not in order")
	return c
}

func runStatus(ctx context.Context, s *cli.Session, wait, check bool) error {
	s.Bare = true
	var r *release.Report
	var err error
	if wait {
		r, err = agent.Wait(ctx, paths(s), time.Second)
	} else {
		r, err = agent.Status(paths(s))
	}
	if errors.Is(err, agent.ErrNoStatus) {
		return cli.WithCode(err, cli.ExitNoMatch, "no_status", "the first run is under way or has not begun: bootwell-agent status --wait; journalctl -u bootwell")
	}
	if r == nil {
		return err
	}
	if s.JSON {
		if err := s.Event(r); err != nil {
			return err
		}
	} else {
		cli.ShowReport(s, r, time.Now())
	}
	switch {
	case err != nil && !errors.Is(err, agent.ErrUnhealthy):
		return err
	case !wait && !check || err == nil && (r.State == release.StateOK || r.State == release.StateChanged):
		return nil
	}
	return cli.Silent(unhealthy(r))
}

// unhealthy is exit 1 for a failed step and 3 for anything else.
func unhealthy(r *release.Report) error {
	if r.Run != nil {
		for _, st := range r.Run.Steps {
			if st.Result == release.ResultFailed {
				return cli.WithCode(agent.ErrSteps, cli.ExitFailed, "steps", "")
			}
		}
	}
	return cli.WithCode(agent.ErrUnhealthy, cli.ExitUnhealthy, "unhealthy", "")
}

func newWhyCmd(s *cli.Session) *cobra.Command {
	return &cobra.Command{
		Use: "why", Args: cobra.NoArgs, Short: "Tell what the next run will do, and why",
		RunE: func(*cobra.Command, []string) error {
			lines, err := agent.Why(paths(s), time.Now())
			if err != nil {
				return err
			}
			if s.JSON {
				return s.Event(map[string]any{"why": lines})
			}
			s.Printf("%s\n", cli.CleanText([]byte(strings.Join(lines, "\n"))))
			return nil
		},
	}
}

type logsFlags struct {
	step         string
	list, timing bool
}

func newLogsCmd(s *cli.Session) *cobra.Command {
	var f logsFlags
	c := &cobra.Command{
		Use: "logs [RUN]", Args: cobra.MaximumNArgs(1),
		Short: "Print the log of the last or a given run",
		Example: `  bootwell-agent logs
  bootwell-agent logs --step "site config"
  bootwell-agent logs --list
  bootwell-agent logs --timing     where the time of the last run went`,
		RunE: func(_ *cobra.Command, args []string) error {
			id := ""
			if len(args) == 1 {
				id = args[0]
			}
			return runLogs(s, id, f)
		},
	}
	c.Flags().StringVar(&f.step, "step", "", "only what this step wrote (`name`), or checks")
	c.Flags().BoolVar(&f.list, "list", false, "list the runs that are kept")
	c.Flags().BoolVar(&f.timing, "timing", false, "where the run's time went")
	return c
}

func runLogs(s *cli.Session, id string, f logsFlags) error {
	if f.list {
		return listRuns(s)
	}
	if f.timing {
		return showTiming(s, id)
	}
	b, err := agent.Logs(paths(s), id, f.step)
	if errors.Is(err, agent.ErrNoRun) {
		return cli.WithCode(err, cli.ExitNoMatch, "no_run", "runs: bootwell-agent logs --list")
	}
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(map[string]any{"run": id, "step": f.step, "log": cli.CleanText(b)})
	}
	s.Printf("%s", cli.CleanText(b))
	return nil
}

func listRuns(s *cli.Session) error {
	runs, err := agent.Runs(paths(s))
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(runs)
	}
	for _, r := range runs {
		s.Printf("%s  %s  %-5s %-9s %-8s %s\n", r.ID, r.Started.Local().Format(time.DateTime), r.Release, r.Result, r.Why, cli.Seconds(r.Seconds))
	}
	return nil
}

func showTiming(s *cli.Session, id string) error {
	t, err := agent.ReadTiming(paths(s), id)
	if errors.Is(err, agent.ErrNoRun) {
		return cli.WithCode(err, cli.ExitNoMatch, "no_run", "runs: bootwell-agent logs --list")
	}
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(t)
	}
	what := "from the start of the agent"
	if t.First {
		what = fmt.Sprintf("from the first line of the user-data, which was %s after the boot", cli.Seconds(t.Began))
	}
	s.Printf("run %s: %.3f s %s\n\n%-28s %8s %8s %6s\n", t.Run, t.Seconds, what, "part", "start s", "took s", "share")
	for _, p := range t.Spans {
		name := strings.Repeat("  ", p.Depth) + fleet.Clean(p.Name, 60)
		if p.Beside {
			name += " (beside)"
		}
		s.Printf("%-28s %8.3f %8.3f %5.1f%%  %s\n", name, p.Start, p.Seconds, share(p.Seconds, t.Seconds), bar(s, p.Start, p.Seconds, t.Seconds))
	}
	s.Printf("%-28s %8s %8.3f %5.1f%%\n", "between them", "", t.Other, share(t.Other, t.Seconds))
	s.Printf("%-28s %8s %8.3f %5.1f%%\n", "all", "", t.Seconds, 100.0)
	return nil
}

func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * part / whole
}

// barWidth is how many characters stand for all of a run.
const barWidth = 32

// bar shows where in a run of whole seconds a part lies.
func bar(s *cli.Session, start, took, whole float64) string {
	if whole <= 0 {
		return ""
	}
	from := min(int(start/whole*barWidth), barWidth-1)
	width := max(int((start+took)/whole*barWidth+0.5)-from, 1)
	return strings.Repeat(" ", from) + strings.Repeat(s.Glyph("bar"), min(width, barWidth-from))
}
