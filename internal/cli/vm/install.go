package vm

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/cli"
)

func newInstallCmd(s *cli.Session) *cobra.Command {
	var noRun bool
	c := &cobra.Command{
		Use: "install", Args: cobra.NoArgs,
		Short: "Set up the timer and do the first run",
		Long: `Installs the agent, its systemd service and timer (cron where there is no
systemd), and runs it at once. The bootstrap in the user-data calls it. It can be
called again. It fails when the first run fails, so that cloud-init shows it.`,
		RunE: func(c *cobra.Command, _ []string) error { return runInstall(c.Context(), s, noRun) },
	}
	c.Flags().BoolVar(&noRun, "no-run", false, "only set up the schedule")
	return c
}

func runInstall(ctx context.Context, s *cli.Session, noRun bool) error {
	a, err := open(ctx, s)
	if err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	t := newTeller(s, a.Config.Role, applyFlags{})
	a.Events = t.event
	a.Began = agent.ReadBeginning(s.Getenv(agent.TimingEnv))
	in, r, err := a.Install(ctx, agent.InstallOptions{NoRun: noRun})
	if t.err != nil {
		return t.err
	}
	if len(in.Changed) > 0 {
		s.Say("installed: %s, repeated by %s", in.Binary, in.Schedule)
	}
	if err != nil {
		if r != nil && !t.ran && !errors.Is(err, agent.ErrBusy) {
			s.Say("The timer tries again; this VM needs no help once the cause is gone.")
		}
		return t.fail(err)
	}
	return s.Event(map[string]any{"type": "result", "installation": in, "report": r, "exit_code": 0})
}

func newUninstallCmd(s *cli.Session) *cobra.Command {
	var o agent.UninstallOptions
	c := &cobra.Command{
		Use: "uninstall", Args: cobra.NoArgs,
		Short: "Remove the timer; what steps did stays",
		RunE: func(c *cobra.Command, _ []string) error {
			s.Bare = true
			a := &agent.Agent{Paths: paths(s), Log: s.Logger(), Version: s.Version}
			if err := a.Uninstall(c.Context(), o); err != nil {
				return exitCode(err)
			}
			s.Say("uninstalled; what the steps did stays")
			return s.Event(map[string]any{"type": "result", "exit_code": 0})
		},
	}
	c.Flags().BoolVar(&o.Binary, "binary", false, "also remove the agent itself")
	c.Flags().BoolVar(&o.Purge, "purge", false, "also remove settings, state, staged releases and logs")
	return c
}
