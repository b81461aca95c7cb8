// Package operator holds the commands of bootwell, the operator's tool.
package operator

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
)

// Root returns the command tree of bootwell on s.
func Root(s *cli.Session) *cobra.Command {
	root := &cobra.Command{
		Use:   "bootwell",
		Short: "Stock image in, working VM out. Your bucket is the only server.",
		Long: `bootwell provisions VMs from scripts in your own bucket: keep the cloud's stock
image, give it the user-data that bootwell prints, and it fetches, verifies and
runs your scripts at first boot and on a timer. Updating a fleet is a publish.`,
		Example: `  bootwell init --bucket s3://acme-provision/prod   make a project here
  bootwell publish                                  sign and upload a release
  bootwell user-data web > web.user-data            for your VMs, once
  bootwell status                                   how they are`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	s.AddFlags(root)
	f := root.PersistentFlags()
	f.StringVarP(&s.Dir, "dir", "C", ".", "project `folder`")
	f.StringVarP(&s.File, "file", "f", "", "project `file` (default: bootwell.yaml in the folder)")
	root.AddGroup(
		&cobra.Group{ID: "project", Title: "Project:"},
		&cobra.Group{ID: "release", Title: "Releases:"},
		&cobra.Group{ID: "fleet", Title: "Fleet:"},
	)
	root.AddCommand(
		newInitCmd(s), newValidateCmd(s), newExplainCmd(s), newDoctorCmd(s),
		newPublishCmd(s), newReleasesCmd(s), newGCCmd(s), newResignCmd(s),
		newUserDataCmd(s), newPolicyCmd(s), newStatusCmd(s), newLogsCmd(s),
		newVersionCmd(s),
	)
	return root
}

func newVersionCmd(s *cli.Session) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if s.JSON {
				return s.Event(map[string]any{"version": s.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			s.Printf("bootwell %s %s/%s\n", s.Version, runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		if len(args) < n {
			return cli.Usage(fmt.Sprintf("%s needs %s", c.CommandPath(), what), "see: "+c.CommandPath()+" --help")
		}
		return cli.Usage(fmt.Sprintf("%s takes only %s, not %q", c.CommandPath(), what, args[n]), "see: "+c.CommandPath()+" --help")
	}
}
