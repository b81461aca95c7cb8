package operator

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"text/tabwriter"

	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // cuts large files when publishing
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/project"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

type publishFlags struct {
	channel, note, keys string
	dryRun, detailed    bool
	pin, noCache        bool
}

func newPublishCmd(s *cli.Session) *cobra.Command {
	var f publishFlags
	c := &cobra.Command{
		Use: "publish", GroupID: "release", Args: cobra.NoArgs,
		Short: "Sign and upload the project as a new release",
		Long: `Makes an immutable, signed release of the project folder and points the channel
at it. VMs take it at their next poll. Only content that the bucket lacks is
uploaded. The same tree again is no new release. Nothing is visible to VMs
before everything is in place. In a pipe, stdout is the release's name only.
Mirrors of the project get the release after the bucket has it; one that was away
gets it with the next publish, also when that has nothing new.`,
		Example: `  bootwell publish --dry-run          what would change, by role
  bootwell publish -m "raise worker count"
  r=$(bootwell publish)               r is then, for example, r43`,
		RunE: func(c *cobra.Command, _ []string) error { return runPublish(c.Context(), s, f) },
	}
	c.Flags().StringVar(&f.channel, "channel", "stable", "the `channel` that VMs follow")
	c.Flags().StringVarP(&f.note, "message", "m", "", "a `note` kept with the release")
	c.Flags().StringVar(&f.keys, "keys", "", "`folder` of the signing keys (default: in the user's config folder)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "tell what would be published, change nothing")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit with 2 when there is a new release (or would be)")
	c.Flags().BoolVar(&f.noCache, "no-cache", false, "forget what is remembered of the project's files, and read them all")
	c.Flags().BoolVar(&f.pin, "pin-agent", false, "pin the agent that came with this bootwell in bootwell.lock; user-data changes")
	return c
}

func runPublish(ctx context.Context, s *cli.Session, f publishFlags) error {
	w, err := loadProject(s, true)
	if err != nil {
		return err
	}
	if f.pin {
		if err := w.choosePin(); err != nil {
			return err
		}
	}
	if err := w.connect(ctx); err != nil {
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
	cache := w.publishCache()
	if f.noCache {
		if err := os.RemoveAll(cache); err != nil {
			return fmt.Errorf("forget the project's files: %w", err)
		}
	}
	if err := s.Start(); err != nil {
		return err
	}
	src := sync.OnceValues(func() (release.Source, error) { return source(ctx, s, w.proj.Dir, f.note) })
	head := sync.OnceFunc(func() { w.tellSource(src()) })
	res, err := w.store.Publish(ctx, p, store.PublishOptions{
		Dir: w.proj.Dir, Ignore: w.proj.Ignore, Project: w.proj.Name, Channel: f.channel, Roles: w.roles,
		Describe: func() release.Source { from, _ := src(); return from },
		Agents:   w.agents(), Owner: owner(s), DryRun: f.dryRun, Cache: cache,
		Progress: func(g store.Progress) {
			if g.Phase != store.PhaseScan { // git may need longer than the first update
				head()
			}
			if g.Phase == store.PhaseWait {
				s.Say("%s", g.Text)
				return
			}
			s.Update("  %s %s", g.Phase, amount(g))
		},
	})
	if err != nil {
		return err
	}
	head()
	if f.pin && !f.dryRun {
		if err := project.WriteLock(w.proj.Dir, w.lock); err != nil {
			return err
		}
	}
	rows, err := w.mirrorPublished(ctx, p.Client, f)
	if err != nil {
		return err
	}
	if err := w.showPublished(res, p.Keys.Ops.Fingerprint(), f, rows); err != nil {
		return err
	}
	if f.detailed && res.New {
		return cli.Silent(cli.ErrChanged)
	}
	return nil
}

// tellSource tells what is published and where it comes from. err is why that
// is not known.
func (w *workspace) tellSource(src release.Source, err error) {
	if err != nil {
		w.s.Say("  %s the release will not know its commit: git: %v", w.s.Glyph("warning"), err)
	}
	from := describe(src.Commit, src.Branch, src.Dirty)
	w.s.Tell(fmt.Sprintf("%s · %s · from %s", w.proj.Name, w.counts(), from), fmt.Sprintf("%s, from %s", w.counts(), from))
}

// mirrorPublished brings the mirrors to the state that the publisher has just
// seen or made.
func (w *workspace) mirrorPublished(ctx context.Context, c *trust.Client, f publishFlags) ([]mirrorRow, error) {
	if len(w.proj.Mirrors) == 0 {
		return nil, nil
	}
	v, err := c.Last()
	if err != nil {
		return nil, fmt.Errorf("bring mirrors up to date: %w", err)
	}
	rows := w.replicate(ctx, v, f.channel, f.dryRun)
	return rows, ctx.Err()
}

func amount(g store.Progress) string {
	switch {
	case g.Total > 0:
		return humanize.Bytes(uint64(g.Done)) + " of " + humanize.Bytes(uint64(g.Total))
	case g.Objects > 0:
		return cli.Plural(g.Objects, "object")
	}
	return ""
}

func describe(commit, branch string, dirty bool) string {
	if commit == "" {
		return "a folder without git"
	}
	state := "clean"
	if dirty {
		state = "with uncommitted changes"
	}
	if branch == "" {
		branch = "detached"
	}
	return fmt.Sprintf("%.7s (%s, %s)", commit, branch, state)
}

// showPublished tells the story on stderr and the release's name on stdout.
func (w *workspace) showPublished(res store.Published, signer string, f publishFlags, mirrors []mirrorRow) error {
	s, late := w.s, behind(mirrors)
	if err := w.roleEvents(res); err != nil {
		return err
	}
	if s.Plain() {
		w.plainRoles(res)
	} else {
		w.roleTable(res)
	}
	verb := "uploaded"
	if f.dryRun {
		verb = "would upload"
	}
	done := fmt.Sprintf("%s, %d already there, %s, %.1f s", cli.Plural(res.Uploaded, "object"), res.Present, humanize.Bytes(uint64(res.Bytes)), res.Seconds)
	switch {
	case !res.New:
		s.Say("%s already holds exactly this: nothing to publish", res.Release)
	case f.dryRun:
		s.Tell("  "+s.Glyph("waiting")+" "+verb+"  "+done, verb+" "+done)
		w.fileList(res.Files)
		if err := w.tellMirrors(mirrors, true, true); err != nil {
			return err
		}
		mirrors = nil
		s.Say("Dry run: nothing was changed. It would be %s.", res.Release)
	default:
		s.Tell(fmt.Sprintf("  %s uploaded   %s", s.Glyph("ok"), done), "uploaded "+done+"; signed by "+signer)
		s.Screen("  %s signed     %s", s.Glyph("ok"), signer)
		if err := w.tellMirrors(mirrors, true, false); err != nil {
			return err
		}
		mirrors = nil
		s.Screen("")
		s.Screen("Published %s (%s). VMs take it at their next poll.", res.Release, res.Digest.Short())
		s.Screen("Next:  bootwell status")
	}
	if err := w.tellMirrors(mirrors, false, f.dryRun); err != nil {
		return err
	}
	if err := w.summarize(res); err != nil {
		s.Say("  %s %v", s.Glyph("warning"), err)
	}
	result := map[string]any{"type": "result", "release": res.Release, "new": res.New, "dry_run": f.dryRun, "digest": res.Digest, "previous": res.Previous, "exit_code": 0}
	if len(w.proj.Mirrors) > 0 {
		result["mirrors_behind"] = late
	}
	if err := s.Event(result); err != nil || s.JSON {
		return err
	}
	s.Printf("%s\n", res.Release)
	return nil
}

// summarize adds a table to the page of a GitHub Actions run.
func (w *workspace) summarize(res store.Published) error {
	name := w.s.Getenv("GITHUB_STEP_SUMMARY")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write step summary: %w", err)
	}
	fmt.Fprintf(f, "### bootwell publish: %s %s\n\n| role | change | steps | to fetch |\n|---|---|---|---|\n", w.proj.Name, res.Release)
	for _, r := range res.Roles {
		fmt.Fprintf(f, "| %s | %s | %s | %s |\n", r.Role, r.Change, strings.ReplaceAll(strings.Join(r.Changed, ", "), "|", "\\|"), humanize.Bytes(uint64(r.Delta)))
	}
	return f.Close()
}

func (w *workspace) roleEvents(res store.Published) error {
	for _, r := range res.Roles {
		if err := w.s.Event(map[string]any{"type": "role", "role": r.Role, "change": r.Change, "steps": append([]string{}, r.Changed...), "bytes": r.Bytes, "delta": r.Delta}); err != nil {
			return err
		}
	}
	return w.s.Event(map[string]any{"type": "upload", "objects": res.Uploaded, "present": res.Present, "bytes": res.Bytes, "seconds": res.Seconds})
}

func (w *workspace) plainRoles(res store.Published) {
	for _, r := range res.Roles {
		switch {
		case r.Change == "same":
		case len(r.Changed) > 0:
			w.s.Say("%s %s: %s (+%s)", r.Role, r.Change, strings.Join(r.Changed, ", "), humanize.Bytes(uint64(r.Delta)))
		default:
			w.s.Say("%s %s", r.Role, r.Change)
		}
	}
}

func (w *workspace) roleTable(res store.Published) {
	var b strings.Builder
	than := "COMPARED WITH " + res.Previous
	if res.Previous == "" {
		than = "COMPARED WITH NOTHING"
	}
	room := 46 // of 80 columns, beside the others
	for _, r := range res.Roles {
		room = min(room, 46-len(r.Role))
	}
	room = max(room, 16)
	t := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	fmt.Fprintf(t, "  ROLE\tSTEPS\t%s\tFILES\tTO FETCH\n", than)
	for _, r := range res.Roles {
		what := "~ " + strings.Join(r.Changed, ", ") // without colour: the columns would count it
		if r.Change == "same" || len(r.Changed) == 0 {
			what = map[string]string{"same": "= same", "new": "+ new", "removed": "- removed", "changed": "~ changed"}[r.Change]
		}
		if n := []rune(what); len(n) > room {
			what = string(n[:room-1]) + "…"
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\n", r.Role, r.Steps, what, humanize.Bytes(uint64(r.Bytes)), humanize.Bytes(uint64(r.Delta)))
	}
	t.Flush()
	w.s.Screen("")
	for _, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		w.s.Say("%s", line)
	}
	w.s.Screen("")
}

// fileList shows at most twenty paths of a dry run.
func (w *workspace) fileList(c store.FileChanges) {
	type entry struct{ sign, path string }
	var all []entry
	for _, p := range c.Added {
		all = append(all, entry{"+", p})
	}
	for _, p := range c.Changed {
		all = append(all, entry{"~", p})
	}
	for _, p := range c.Removed {
		all = append(all, entry{"-", p})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].path < all[j].path })
	for i, e := range all {
		if i == 20 {
			w.s.Say("    and %d more files", len(all)-20)
			break
		}
		w.s.Say("    %s %q", e.sign, e.path)
	}
}

// choosePin takes the agents beside this command for the ones to pin. The lock
// file is written when they are in the bucket.
func (w *workspace) choosePin() error {
	found := findAgents(w.s)
	if len(found) == 0 {
		return cli.Usage("no agent to pin: bootwell-agent-linux-amd64.xz is not beside this command", "build it with make build, install the bootwell package, or set BOOTWELL_AGENTS to its folder")
	}
	w.lock.Agents = digests(found)
	return nil
}

func newResignCmd(s *cli.Session) *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use: "resign", GroupID: "release", Args: cobra.NoArgs,
		Short: "Renew the signatures before they expire",
		Long: `Signs the bucket's metadata again with a new expiry. VMs refuse expired metadata
and keep what they have, so run it from CI now and then; publish does it too.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			w, err := loadProject(s, false)
			if err != nil {
				return err
			}
			if err := w.connect(ctx); err != nil {
				return err
			}
			p, err := w.publisher(keys)
			if err != nil {
				return err
			}
			defer w.close()
			v, err := p.Resign(ctx)
			if err != nil {
				return err
			}
			if err := w.tellMirrors(w.replicate(ctx, v, store.DefaultChannel, false), true, false); err != nil {
				return err
			}
			if s.JSON {
				return s.Event(map[string]any{"type": "result", "expires": v.Expires.UTC(), "exit_code": 0})
			}
			s.Printf("signatures are good until %s\n", v.Expires.UTC().Format("2006-01-02 15:04 MST"))
			return nil
		},
	}
	c.Flags().StringVar(&keys, "keys", "", "`folder` of the signing keys")
	return c
}
