package operator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

type gcFlags struct {
	dryRun                 bool
	keep                   int
	grace, agents, reports ageFlag
	keys                   string
}

// An ageFlag is a duration that may be said in days.
type ageFlag time.Duration

func (a *ageFlag) String() string {
	d := time.Duration(*a)
	if d > 0 && d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return d.String()
}

func (a *ageFlag) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no number of days", text)
		}
		*a = ageFlag(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is neither days, such as 90d, nor hours and minutes, such as 36h", text)
	}
	*a = ageFlag(d)
	return nil
}

func (a *ageFlag) Type() string { return "age" }

func newGCCmd(s *cli.Session) *cobra.Command {
	f := gcFlags{grace: ageFlag(24 * time.Hour)}
	c := &cobra.Command{
		Use: "gc", GroupID: "release", Args: cobra.NoArgs,
		Short: "Delete from the bucket what no release needs any more",
		Long: `Deletes content, manifests and signed metadata that no listed release, no channel
and no VM in the middle of an update needs any more. It may run while others
publish: they wait for the moments in which it deletes. What was written, or
replaced, within the grace stays. Mirrors are cleaned as well.
Agents stay, since user-data that is in use somewhere may name them, and so do
reports, unless --agents or --reports say otherwise. Where the bucket keeps old
versions of objects, what is deleted takes up space until its own rule removes it.
It signs, so it needs the project's keys, and the right to delete: bootwell policy --for gc.`,
		Example: `  bootwell gc --dry-run             what would go, by kind
  bootwell gc                       once a week or month, from CI
  bootwell gc --keep 10             list only the newest ten releases, and those of channels
  bootwell gc --reports 90d         also forget VMs that have been silent for 90 days`,
		RunE: func(c *cobra.Command, _ []string) error { return runGC(c.Context(), s, f) },
	}
	fl := c.Flags()
	fl.BoolVar(&f.dryRun, "dry-run", false, "tell what would go, change nothing (needs no signing keys)")
	fl.IntVar(&f.keep, "keep", 50, "how many `releases` stay listed, besides those that channels name")
	fl.Var(&f.grace, "grace", "how long what was replaced stays for VMs that are reading it")
	fl.Var(&f.agents, "agents", "delete agents older than this that bootwell.lock does not pin (default: never)")
	fl.Var(&f.reports, "reports", "delete reports and logs of VMs that have been silent for so long (default: never)")
	fl.StringVar(&f.keys, "keys", "", "`folder` of the signing keys (default: in the user's config folder)")
	return c
}

func runGC(ctx context.Context, s *cli.Session, f gcFlags) error {
	if f.keep < 1 {
		return cli.Usage(fmt.Sprintf("--keep %d would leave no release on the list", f.keep), "see: bootwell gc --help")
	}
	w, err := loadProject(s, false)
	if err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	signer := func() (*trust.Publisher, error) { return w.publisher(f.keys) }
	if f.dryRun {
		signer = w.previewer
	}
	p, err := signer()
	if err != nil {
		return err
	}
	defer w.close()
	o := store.CollectOptions{
		Keep: f.keep, Grace: time.Duration(f.grace), Agents: time.Duration(f.agents), Reports: time.Duration(f.reports), DryRun: f.dryRun,
		Progress: func(g store.Progress) {
			if g.Phase == store.PhaseWait {
				s.Say("%s", g.Text)
				return
			}
			s.Update("  %s %s", g.Phase, amount(g))
		},
	}
	for _, d := range w.lock.Agents {
		o.Pinned = append(o.Pinned, d)
	}
	names := []string{w.proj.Bucket}
	skipped := w.mirrorsToClean(ctx, &o, &names)
	got, err := w.store.Collect(ctx, p, o)
	if errors.Is(err, bucket.ErrPermission) {
		err = cli.Hint(err, "cleaning up takes the rights to list, to write tuf/ and to delete: print them with bootwell policy --for gc")
	}
	if err != nil {
		return err
	}
	return w.showCollected(got, names, skipped, f)
}

// mirrorsToClean opens the mirrors that can be written to, and returns what is
// to be said of the others.
func (w *workspace) mirrorsToClean(ctx context.Context, o *store.CollectOptions, names *[]string) (skipped []string) {
	for _, url := range w.proj.Mirrors {
		b, err := w.s.Open(ctx, url)
		switch {
		case err != nil:
			skipped = append(skipped, withoutOptions(url)+": "+fleet.Clean(err.Error(), 400))
		case b.Caps().ReadOnly:
			skipped = append(skipped, withoutOptions(url)+" is read only: clean it where it is copied to")
		default:
			o.Mirrors = append(o.Mirrors, w.mirrorClient(url, bucket.Impatient(b)))
			*names = append(*names, url)
		}
	}
	return skipped
}

type gcAmount struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

type gcBucket struct {
	Type   string              `json:"type"`
	Bucket string              `json:"bucket"`
	Gone   map[string]gcAmount `json:"gone"`
	Kept   map[string]gcAmount `json:"kept"`
	Error  string              `json:"error,omitempty"`
}

func gcAmounts(kinds map[string]store.Amount) map[string]gcAmount {
	out := map[string]gcAmount{}
	for kind, a := range kinds {
		out[kind] = gcAmount(a)
	}
	return out
}

// showCollected prints a table for each bucket: the result is on stdout.
func (w *workspace) showCollected(got store.Collected, names, skipped []string, f gcFlags) error {
	s, failed := w.s, 0
	for _, text := range skipped {
		s.Say("  %s mirror %s", s.Glyph("warning"), text)
	}
	if n := len(got.Dropped); n > 0 {
		verb := "taken off the list"
		if f.dryRun {
			verb = "would be taken off the list"
		}
		after := ""
		if f.grace > 0 {
			after = "; what only they need stays for another " + f.grace.String()
		}
		s.Say("  %s %s %s: %s%s", s.Glyph("changed"), cli.Plural(n, "release"), verb, strings.Join(got.Dropped, " "), after)
	}
	for i, b := range got.Buckets {
		e := gcBucket{Type: "bucket", Bucket: withoutOptions(names[i]), Gone: gcAmounts(b.Gone), Kept: gcAmounts(b.Kept)}
		if b.Err != nil {
			failed++
			e.Error = fleet.Clean(b.Err.Error(), 400)
			s.Say("  %s mirror %s was not cleaned: %s", s.Glyph("warning"), e.Bucket, e.Error)
		}
		if err := s.Event(e); err != nil {
			return err
		}
		if b.Err == nil && !s.JSON {
			showGone(s, e.Bucket, b, f.dryRun)
		}
	}
	if f.dryRun {
		s.Say("Dry run: nothing was changed.")
	}
	return s.Event(map[string]any{"type": "result", "dry_run": f.dryRun, "dropped": append([]string{}, got.Dropped...), "mirrors_left": failed + len(skipped), "seconds": got.Seconds, "exit_code": 0})
}

func showGone(s *cli.Session, name string, b store.CollectedBucket, dryRun bool) {
	gone, kept := store.Sum(b.Gone), store.Sum(b.Kept)
	if gone.Objects == 0 {
		s.Printf("%s: nothing to delete; %s, %s stay\n", name, cli.Plural(kept.Objects, "object"), humanize.Bytes(uint64(kept.Bytes)))
		return
	}
	verb := "deleted"
	if dryRun {
		verb = "would delete"
	}
	s.Printf("%s: %s %s, %s\n", name, verb, cli.Plural(gone.Objects, "object"), humanize.Bytes(uint64(gone.Bytes)))
	t := tabwriter.NewWriter(s.Stdout, 0, 8, 3, ' ', 0)
	head := "DELETED"
	if dryRun {
		head = "TO DELETE"
	}
	fmt.Fprintf(t, "  KIND\t%s\tBYTES\tSTAYS\tBYTES\n", head)
	for _, kind := range store.CollectKinds() {
		g, k := b.Gone[kind], b.Kept[kind]
		if g.Objects+k.Objects > 0 {
			fmt.Fprintf(t, "  %s\t%d\t%s\t%d\t%s\n", kind, g.Objects, humanize.Bytes(uint64(g.Bytes)), k.Objects, humanize.Bytes(uint64(k.Bytes)))
		}
	}
	t.Flush()
}
