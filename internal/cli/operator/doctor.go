package operator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/doctor"
	"github.com/bootwell/bootwell/internal/project"
	"github.com/bootwell/bootwell/internal/trust"
)

type doctorFlags struct {
	bucket, audience, keys string
	noNetwork              bool
}

func newDoctorCmd(s *cli.Session) *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use: "doctor", GroupID: "project", Args: cobra.NoArgs,
		Short: "Find what keeps bootwell from working here, and say what to do",
		Long: `Looks at the project's files and keys, then asks the bucket itself: the way to it
(names, TLS, proxies), clocks, credentials, each right by itself, conditional
writes, how the bucket is set up, the project's signatures, the pinned agents and
the mirrors.

It changes nothing. To try writing it makes objects of its own below
locks/doctor-… and removes them; with --for reader it writes none at all. It works
before bootwell init, and with --bucket also without a project.

Exit code 0, also with warnings; 3 when there is a problem.`,
		Example: `  bootwell doctor
  bootwell doctor --bucket s3://acme-provision/prod     before there is a project
  bootwell doctor --for reader                          rights to look, none to publish
  bootwell doctor --json | jq '.checks[] | select(.result == "problem")'`,
		RunE: func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), s, f) },
	}
	c.Flags().StringVar(&f.bucket, "bucket", "", "look at the bucket with this `URL` instead of the project's")
	c.Flags().StringVar(&f.audience, "for", "", "rights to look for: publisher or reader (default: publisher where the signing keys are; `who`)")
	c.Flags().StringVar(&f.keys, "keys", "", "`folder` of the signing keys (default: in the user's config folder)")
	c.Flags().BoolVar(&f.noNetwork, "no-network", false, "look at this machine only")
	return c
}

// An examination is what one doctor command has found so far.
type examination struct {
	s     *cli.Session
	flags doctorFlags
	proj  *project.Project // nil: none that can be used
	lock  project.Lock
	signs bool // the signing keys are here
	found doctor.Findings
}

func runDoctor(ctx context.Context, s *cli.Session, f doctorFlags) error {
	if f.audience != "" && f.audience != string(doctor.Publisher) && f.audience != string(doctor.Reader) {
		return cli.Usage(fmt.Sprintf("--for %q is not known", f.audience), "publisher or reader; a VM's rights are looked at on the VM: bootwell-agent doctor")
	}
	x := &examination{s: s, flags: f, found: doctor.Findings{{Check: "version", Status: doctor.OK, Message: s.Version}}}
	x.project()
	x.readLock()
	x.keys()
	x.buckets(ctx)
	return cli.ShowFindings(ctx, s, x.found)
}

func (x *examination) add(f doctor.Finding) { x.found = append(x.found, f) }

func (x *examination) project() {
	at := x.s.Dir
	if x.s.File != "" {
		if at = x.s.File; !filepath.IsAbs(at) {
			at = filepath.Join(x.s.Dir, at)
		}
	}
	p, err := project.Load(at)
	var diags project.Diagnostics
	f := doctor.Finding{Check: "project", Status: doctor.Problem, Cause: "project"}
	switch {
	case errors.As(err, &diags):
		f.Message, f.Fix = diags.Error(), "bootwell validate shows each with its place"
	case errors.Is(err, fs.ErrNotExist):
		f.Cause, f.Message = "no_project", "there is no "+project.FileName+" here"
		f.Fix = "go to the project's folder, name it with -C, or start one with bootwell init; for a bucket alone: bootwell doctor --bucket URL"
		if x.flags.bucket != "" {
			f.Status, f.Fix = doctor.Unknown, ""
		}
	case err != nil:
		f.Message, f.Fix = err.Error(), "check the file's owner and mode"
	default:
		x.proj = p
		roles, _ := p.Resolve()
		w := workspace{roles: roles}
		f = doctor.Finding{Check: "project", Status: doctor.OK, Message: p.File + ": " + w.counts()}
		if n := len(p.Warnings()); n > 0 {
			f.Message += ", " + cli.Plural(n, "warning") + " (bootwell validate shows them)"
		}
	}
	x.add(f)
}

func (x *examination) readLock() {
	if x.proj == nil {
		return
	}
	var err error
	x.lock, err = project.ReadLock(x.proj.Dir)
	f := doctor.Finding{Check: "lock", Status: doctor.Warning, Cause: "lock"}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Cause, f.Message, f.Fix = "not_initialised", project.LockName+" is not there: bootwell init has not ended here yet", "bootwell init; if the project is older, take the file from its repository"
	case err != nil:
		f.Status, f.Message, f.Fix = doctor.Problem, strings.TrimPrefix(err.Error(), "read "), "git checkout "+project.LockName+" (bootwell init writes it, and it is kept in git)"
	case x.lock.Root.IsZero():
		f.Cause, f.Message, f.Fix = "not_initialised", project.LockName+" names no root of trust: bootwell init has not ended", "bootwell init"
	case len(x.lock.Agents) == 0:
		f.Cause, f.Message, f.Fix = "no_agent", project.LockName+" pins no agent: user-data cannot be made", "bootwell publish --pin-agent"
	default:
		f = doctor.Finding{Check: "lock", Status: doctor.OK, Message: project.LockName + ": pins the root of trust and the agents for " + strings.Join(slices.Sorted(maps.Keys(x.lock.Agents)), ", ")}
	}
	x.add(f)
}

// errAsked stops a key from being opened where its passphrase is not given.
var errAsked = errors.New("nobody is asked for the passphrase")

func (x *examination) keys() {
	if x.proj == nil {
		return
	}
	w := workspace{s: x.s, proj: x.proj}
	dir := w.keyDir(x.flags.keys)
	ask := func(string) ([]byte, error) { return nil, errAsked }
	if x.s.Getenv("BOOTWELL_PASSPHRASE") != "" || x.s.Getenv("BOOTWELL_PASSPHRASE_FILE") != "" {
		ask = once(passphrase(x.s))
	}
	var missing []string
	for _, name := range []string{opsKey, onlineKey} {
		_, err := trust.LoadKey(dir, name, ask)
		switch {
		case err == nil, errors.Is(err, errAsked):
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		default:
			x.add(doctor.Finding{Check: "keys", Status: doctor.Problem, Cause: "key", Message: err.Error(), Fix: "bootwell publish needs both keys, ops and online"})
			return
		}
	}
	x.signs = len(missing) == 0
	if x.signs {
		x.add(doctor.Finding{Check: "keys", Status: doctor.OK, Message: "ops and online in " + dir})
		return
	}
	f := doctor.Finding{Check: "keys", Status: doctor.OK, Message: "none in " + dir + ": this machine can look, but not publish"}
	if x.flags.audience == string(doctor.Publisher) || len(missing) == 1 {
		f = doctor.Finding{Check: "keys", Status: doctor.Problem, Cause: "key", Message: strings.Join(missing, " and ") + " not in " + dir + ": this machine cannot publish",
			Fix: "copy the folder from who has it, or name it with --keys or BOOTWELL_KEYS; a new project gets keys from bootwell init"}
	}
	x.add(f)
}

// audience is whose rights are looked for: where nothing says otherwise, who
// has the keys, or no project yet, wants to publish.
func (x *examination) audience() doctor.Audience {
	switch {
	case x.flags.audience != "":
		return doctor.Audience(x.flags.audience)
	case x.signs || x.proj == nil || x.lock.Root.IsZero():
		return doctor.Publisher
	}
	return doctor.Reader
}

// buckets looks at all buckets at once; the findings stay in their order.
func (x *examination) buckets(ctx context.Context) {
	urls := x.urls()
	if len(urls) == 0 {
		x.add(doctor.Finding{Check: "bucket", Status: doctor.Unknown, Cause: "not_asked", Message: "not asked: the project file does not tell which one"})
		return
	}
	if x.flags.noNetwork {
		x.add(doctor.Finding{Check: "bucket", Status: doctor.Unknown, Cause: "not_asked", Message: "not asked (--no-network)"})
		return
	}
	as := doctor.Target{Anchor: x.lock.Root, Agents: x.lock.Agents}
	if !x.lock.Root.IsZero() {
		as.State = filepath.Join(stateDir(x.s), "trust", x.lock.Root.Hex(), "state")
	}
	if x.proj != nil && x.flags.bucket != "" {
		as.Other = !slices.Contains(append([]string{x.proj.Bucket}, x.proj.Mirrors...), urls[0])
	}
	x.s.Update("  asking %s …", cli.Plural(len(urls), "bucket"))
	p := doctor.Probe{For: x.audience(), Setup: doctor.Setup}
	x.found = append(x.found, p.LookAll(ctx, doctor.Targets(ctx, x.s.Open, urls, as))...)
}

func (x *examination) urls() []string {
	switch {
	case x.flags.bucket != "":
		return []string{absolute(x.flags.bucket)}
	case x.proj != nil:
		return append([]string{x.proj.Bucket}, x.proj.Mirrors...)
	}
	return nil
}

// absolute makes a folder's URL relative to the working folder one that can be
// opened.
func absolute(url string) string {
	rest, isFile := strings.CutPrefix(url, "file://")
	if !isFile || filepath.IsAbs(rest) {
		return url
	}
	abs, err := filepath.Abs(rest)
	if err != nil {
		return url
	}
	return "file://" + abs
}
