package operator

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/userdata"
)

type userDataFlags struct{ cloud, format, encode, bucket, channel, how string }

func newUserDataCmd(s *cli.Session) *cobra.Command {
	var f userDataFlags
	c := &cobra.Command{
		Use: "user-data ROLE", GroupID: "fleet", Args: exactly(1, "one role"),
		Short: "Print the cloud-init user-data for VMs of a role",
		Long: `Prints the text to give to a VM made from a stock image. It holds no secret and
stays the same bytes from release to release, so Terraform never replaces a VM
because of a publish. It is checked against the limit of the cloud, and encoded
only for clouds that take nothing else: base64 for linode and vsphere. (The bytes
of gzip+base64 may change with the version of bootwell.)

With --how it prints how to make a VM with it instead: a command, a resource of
Terraform, or a source of Packer.`,
		Example: `  bootwell user-data web > web.user-data
  bootwell user-data web --format script --cloud openstack
  bootwell user-data web --cloud azure --how=terraform > web.tf
  bootwell user-data web --bucket https://cdn.acme.example/prod   VMs read there`,
		RunE: func(c *cobra.Command, args []string) error { return runUserData(s, args[0], f) },
	}
	c.Flags().StringVar(&f.cloud, "cloud", "aws", "whose size limit and encoding count (`name`): "+userdata.CloudNames())
	c.Flags().StringVar(&f.format, "format", userdata.FormatCloudConfig, "`form` of the text: cloud-config, script or mime")
	c.Flags().StringVar(&f.encode, "encode", "", "`encoding` of the text: none, base64 or gzip+base64 (default: what the cloud takes)")
	c.Flags().StringVar(&f.bucket, "bucket", "", "`URL` by which VMs reach the bucket, if not the project's")
	c.Flags().StringVar(&f.channel, "channel", "stable", "the `channel` the VMs follow")
	c.Flags().StringVar(&f.how, "how", "", "print how to give it to a VM with a `tool`: command, terraform or packer")
	c.Flags().Lookup("how").NoOptDefVal = userdata.HowCommand
	return c
}

func runUserData(s *cli.Session, role string, f userDataFlags) error {
	if f.how != "" && f.encode != "" {
		return cli.Usage("--how and --encode do not go together", "leave --encode away: what --how prints encodes as the cloud takes it")
	}
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
		Project: w.proj.Name, Bucket: url, Mirrors: w.proj.Mirrors, Role: role, Channel: f.channel, Root: w.lock.Root, Agents: w.lock.Agents,
		Cloud: f.cloud, Format: f.format, Encode: f.encode,
	})
	if err != nil {
		return cli.Usage(err.Error(), "nothing was written")
	}
	if f.how != "" {
		return printHow(s, role, f)
	}
	return printUserData(s, role, f, u)
}

func printUserData(s *cli.Session, role string, f userDataFlags, u userdata.UserData) error {
	size := humanize.Comma(int64(u.Bytes)) + " bytes"
	if u.Limit > 0 {
		size = fmt.Sprintf("%s of %s bytes (limit of %s)", humanize.Comma(int64(u.Bytes)), humanize.Comma(int64(u.Limit)), f.cloud)
	}
	form := f.format
	if u.Encode != userdata.EncodeNone {
		form += " in " + u.Encode
	}
	s.Say("%s for role %s: %s, no secrets.", form, role, size)
	s.Screen("It stays the same from release to release, so Terraform will not replace VMs.")
	if _, err := userdata.How(f.cloud, userdata.HowCommand, role, ""); err == nil {
		s.Screen("How to give it to a VM:  bootwell user-data %s --cloud %s --how", role, f.cloud)
	}
	if s.JSON {
		return s.Event(map[string]any{
			"role": role, "format": f.format, "encode": u.Encode, "cloud": f.cloud, "bytes": u.Bytes, "limit_bytes": u.Limit, "user_data": string(u.Text),
		})
	}
	if _, err := s.Stdout.Write(u.Text); err != nil {
		return fmt.Errorf("write stdout: %w", err)
	}
	return nil
}

// printHow prints what makes a VM. Its first line makes the file with the same
// flags.
func printHow(s *cli.Session, role string, f userDataFlags) error {
	flags := " --cloud " + f.cloud
	for _, o := range []struct{ name, value, usual string }{
		{"format", f.format, userdata.FormatCloudConfig}, {"bucket", f.bucket, ""}, {"channel", f.channel, "stable"},
	} {
		if o.value != o.usual {
			flags += " --" + o.name + " " + shellWord(o.value)
		}
	}
	text, err := userdata.How(f.cloud, f.how, role, flags)
	if err != nil {
		return cli.Usage(err.Error(), "nothing was written")
	}
	if s.JSON {
		return s.Event(map[string]any{"role": role, "cloud": f.cloud, "how": f.how, "text": text})
	}
	if _, err := fmt.Fprint(s.Stdout, text); err != nil {
		return fmt.Errorf("write stdout: %w", err)
	}
	return nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:/=+-]+$`)

// shellWord quotes a word for a shell where it needs that.
func shellWord(w string) string {
	if plainWord.MatchString(w) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
