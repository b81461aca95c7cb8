package operator

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/policy"
)

type policyFlags struct{ cloud, audience, role, vm, bucket string }

func newPolicyCmd(s *cli.Session) *cobra.Command {
	var f policyFlags
	c := &cobra.Command{
		Use: "policy", GroupID: "project", Args: cobra.NoArgs,
		Short: "Print the least rights in the bucket, in your cloud's words",
		Long: `Prints what a VM, a publisher, a reader or a collector of garbage must be allowed
in the bucket, and nothing else: an IAM policy (AWS and servers that speak S3), role definitions
and assignments with conditions (Azure, Google Cloud), or the access rules of an
application credential (OpenStack). stdout is the document; how to put it to
use, and what the cloud cannot confine, is on stderr.`,
		Example: `  bootwell policy > vm.json                    for the VMs of the project's bucket
  bootwell policy --for publisher > ci.json     for people and CI that publish
  bootwell policy --for gc > gc.json            for the one that deletes, if it is not a publisher
  bootwell policy --role web --vm i-0abc123     for one VM of a role
  bootwell policy --cloud gcp --bucket gs://acme-provision/prod`,
		RunE: func(*cobra.Command, []string) error { return runPolicy(s, f) },
	}
	c.Flags().StringVar(&f.cloud, "cloud", "", "whose `words`: "+strings.Join(policy.Clouds(), ", ")+" (default: the bucket's)")
	c.Flags().StringVar(&f.audience, "for", string(policy.VM), "`who` gets the rights: vm, publisher, reader or gc")
	c.Flags().StringVar(&f.role, "role", "", "the `role` of the VMs, for the names of what is made; the rights are the same for all")
	c.Flags().StringVar(&f.vm, "vm", "", "one VM's `name`, as status shows it (default: every VM that has the identity)")
	c.Flags().StringVar(&f.bucket, "bucket", "", "`URL` of the bucket (default: the project's)")
	return c
}

func runPolicy(s *cli.Session, f policyFlags) error {
	cfg := policy.Config{Bucket: f.bucket, Cloud: f.cloud, For: policy.Audience(f.audience), VM: f.vm}
	if f.bucket == "" || f.role != "" {
		w, err := loadProject(s, false)
		if err != nil {
			return err
		}
		if _, ok := w.roles[f.role]; f.role != "" && !ok {
			return cli.NoMatch("the project has no role %q; it has: %s", f.role, roleNames(w.roles))
		}
		cfg.Bucket = cmp.Or(f.bucket, w.proj.Bucket)
		cfg.Name = w.proj.Name
	}
	if f.role != "" {
		cfg.Name += "-" + f.role
	}
	p, err := policy.Generate(cfg)
	if errors.Is(err, policy.ErrConfig) {
		return cli.Usage(err.Error(), "see: bootwell policy --help")
	}
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(p)
	}
	for _, line := range p.Apply {
		s.Say("  %s", line)
	}
	for _, n := range p.Notes {
		s.Say("  %s %s", s.Glyph("warning"), n)
	}
	if _, err := fmt.Fprint(s.Stdout, p.Text); err != nil {
		return fmt.Errorf("write stdout: %w", err)
	}
	return nil
}
