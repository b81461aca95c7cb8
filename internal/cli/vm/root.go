// Package vm holds the commands of bootwell-agent, which runs on every VM.
package vm

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/cli"
)

// Root returns the command tree of bootwell-agent on s.
func Root(s *cli.Session) *cobra.Command {
	root := &cobra.Command{
		Use:   "bootwell-agent",
		Short: "Keeps this VM as its project's bucket says",
		Example: `  bootwell-agent status        what this VM has
  bootwell-agent why           what the next run will do, and why
  bootwell-agent apply         run the steps now
  bootwell-agent apply --dry-run --diff`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	s.AddFlags(root)
	root.AddCommand(newApplyCmd(s), newStatusCmd(s), newWhyCmd(s), newDoctorCmd(s), newLogsCmd(s), newFactsCmd(s), newInstallCmd(s), newUninstallCmd(s), newVersionCmd(s))
	return root
}

// paths is where this machine keeps things; BOOTWELL_ROOT puts a folder before
// them, for trials.
func paths(s *cli.Session) agent.Paths { return agent.Paths{Root: s.Getenv("BOOTWELL_ROOT")} }

func newVersionCmd(s *cli.Session) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if s.JSON {
				return s.Event(map[string]any{"version": s.Version, "go": runtime.Version(), "arch": runtime.GOARCH})
			}
			s.Printf("bootwell-agent %s %s/%s\n", s.Version, runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

func newFactsCmd(s *cli.Session) *cobra.Command {
	return &cobra.Command{
		Use: "facts", Short: "Print what this VM knows of itself", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			f := agent.ReadFacts(paths(s), s.Version)
			if s.JSON {
				return s.Event(f)
			}
			for _, l := range [][2]string{
				{"instance_id", f.InstanceID}, {"hostname", f.Hostname}, {"cloud", f.Cloud}, {"region", f.Region}, {"zone", f.Zone},
				{"platform", f.Platform}, {"arch", f.Arch}, {"kernel", f.Kernel}, {"init", f.Init}, {"agent", f.Agent},
			} {
				s.Printf("%-12s %s\n", l[0], l[1])
			}
			return nil
		},
	}
}
