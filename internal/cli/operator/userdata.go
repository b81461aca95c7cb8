package operator

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/userdata"
)

type userDataFlags struct{ cloud, format, bucket, channel string }

func newUserDataCmd(s *cli.Session) *cobra.Command {
	var f userDataFlags
	c := &cobra.Command{
		Use: "user-data ROLE", GroupID: "fleet", Args: exactly(1, "one role"),
		Short: "Print the cloud-init user-data for VMs of a role",
		Long: `Prints the text to give to a VM made from a stock image. It holds no secret and
stays the same bytes from release to release, so Terraform never replaces a VM
because of a publish. It is checked against the limit of the cloud.`,
		Example: `  bootwell user-data web > web.user-data
  bootwell user-data web --format script --cloud openstack
  bootwell user-data web --bucket https://cdn.acme.example/prod   VMs read there`,
		RunE: func(c *cobra.Command, args []string) error { return runUserData(s, args[0], f) },
	}
	c.Flags().StringVar(&f.cloud, "cloud", "aws", "whose size limit counts (`name`): "+userdata.CloudNames())
	c.Flags().StringVar(&f.format, "format", "cloud-config", "`form` of the text: cloud-config, script or mime")
	c.Flags().StringVar(&f.bucket, "bucket", "", "`URL` by which VMs reach the bucket, if not the project's")
	c.Flags().StringVar(&f.channel, "channel", "stable", "the `channel` the VMs follow")
	return c
}

func runUserData(s *cli.Session, role string, f userDataFlags) error {
	w, err := loadProject(s, false)
	if err != nil {
		return err
	}
	if _, ok := w.roles[role]; !ok {
		return cli.NoMatch("the project has no role %q; it has: %s", role, roleNames(w.roles))
	}
	if w.lock.Root.IsZero() {
		return cli.Usage("bootwell.lock does not know the project's root key", "make it with: bootwell init")
	}
	if len(w.lock.Agents) == 0 {
		return cli.Usage("bootwell.lock pins no agent, so a VM would not know what to fetch", "run: bootwell publish --pin-agent")
	}
	url := w.url
	if f.bucket != "" {
		url = f.bucket
	}
	u, err := userdata.Generate(userdata.Config{
		Project: w.proj.Name, Bucket: url, Role: role, Channel: f.channel, Root: w.lock.Root, Agents: w.lock.Agents, Cloud: f.cloud, Format: f.format,
	})
	if err != nil {
		return cli.Usage(err.Error(), "nothing was written")
	}
	size := humanize.Comma(int64(len(u.Text))) + " bytes"
	if u.Limit > 0 {
		size = fmt.Sprintf("%s of %s bytes (limit of %s)", humanize.Comma(int64(len(u.Text))), humanize.Comma(int64(u.Limit)), f.cloud)
	}
	s.Say("%s for role %s: %s, no secrets.", f.format, role, size)
	s.Screen("It stays the same from release to release, so Terraform will not replace VMs.")
	if s.JSON {
		return s.Event(map[string]any{"role": role, "format": f.format, "cloud": f.cloud, "bytes": len(u.Text), "limit_bytes": u.Limit, "user_data": string(u.Text)})
	}
	if _, err := s.Stdout.Write(u.Text); err != nil {
		return fmt.Errorf("write stdout: %w", err)
	}
	return nil
}
