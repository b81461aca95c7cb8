package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

type statusFlags struct {
	filter     fleet.Filter
	vms, check bool
	plain      bool
	channel    string
}

func newStatusCmd(s *cli.Session) *cobra.Command {
	var f statusFlags
	c := &cobra.Command{
		Use: "status [VM]", GroupID: "fleet", Args: cobra.MaximumNArgs(1),
		Short: "Show the state of all VMs, or of one",
		Long: `Reads the VMs' reports from the bucket: counts by role, failures that are alike in
one line, VMs that have gone silent. Only reports that changed since the last
time are fetched.`,
		Example: `  bootwell status
  bootwell status --vms --state failed
  bootwell status i-0f3a91            one VM: its steps, checks and runs
  bootwell status --check             for CI and Nagios: exit 0 or 3`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return runStatusVM(c.Context(), s, args[0])
			}
			return runStatus(c.Context(), s, f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.filter.Role, "role", "", "only VMs of this `role`")
	fl.StringVar(&f.filter.State, "state", "", "only VMs in this `state`: ok, changed, applying, drifted, failed, stale, held")
	fl.StringVar(&f.filter.Release, "release", "", "only VMs that have this `release`")
	fl.BoolVar(&f.vms, "vms", false, "one line for each VM")
	fl.BoolVar(&f.check, "check", false, "exit with 3 if a VM is failed, stale or unreadable, or a mirror is behind")
	fl.BoolVar(&f.plain, "plain", false, "with --vms: tab-separated, no header")
	fl.StringVar(&f.channel, "channel", "stable", "the `channel` shown in the first line")
	return c
}

var states = []string{release.StateOK, release.StateChanged, release.StateApplying, release.StateDrifted, release.StateFailed, release.StateStale, release.StateHeld}

func runStatus(ctx context.Context, s *cli.Session, f statusFlags) error {
	if f.filter.State != "" && !slices.Contains(states, f.filter.State) {
		return cli.Usage(fmt.Sprintf("--state %q is not a state", f.filter.State), "states: "+strings.Join(states, ", "))
	}
	began := time.Now()
	w, err := loadProject(s, false)
	if err != nil {
		return err
	}
	if err := w.connectAny(ctx); err != nil {
		return err
	}
	defer func() { w.close() }()
	v, ch, err := w.channelNow(ctx, f.channel)
	if err != nil {
		return err
	}
	mirrors := w.compareMirrors(ctx, v, f.channel)
	st, err := w.collect(ctx, f.filter, f.vms, mirrors)
	if err != nil {
		return err
	}
	if st.Total == 0 && f.filter != (fleet.Filter{}) {
		return cli.NoMatch("no VM matches that filter")
	}
	if err := w.showStatus(st, ch, f, mirrors, time.Since(began)); err != nil {
		return err
	}
	if f.check && (!st.Healthy() || behind(mirrors) > 0 || w.bucketTrouble() != nil) {
		return cli.Silent(cli.ErrUnhealthy)
	}
	return nil
}

// channelNow returns the release the channel names; a project without one yet
// still has a status.
func (w *workspace) channelNow(ctx context.Context, name string) (*trust.View, *release.Channel, error) {
	v, err := w.view(ctx)
	if errors.Is(err, trust.ErrNoRelease) {
		return nil, nil, nil
	}
	if errors.Is(err, trust.ErrExpired) {
		w.s.Say("  %s %v; run: bootwell resign", w.s.Glyph("warning"), err)
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	ch, err := w.store.Channel(ctx, v, w.proj.Name, name)
	if errors.Is(err, trust.ErrNoRelease) || err != nil && w.bucketTrouble() != nil {
		return v, nil, nil
	}
	return v, ch, err
}

// collect reads the reports of the bucket and of the mirrors to which VMs can
// have reported while the bucket was away from them.
func (w *workspace) collect(ctx context.Context, f fleet.Filter, keep bool, mirrors []mirrorRow) (*fleet.Status, error) {
	c := fleet.Collector{Now: time.Now(), Filter: f, Keep: keep}
	var trouble error
	sources := w.reportSources(mirrors)
	showProgress(w.s, sources)
	failed := func(i int, err error) {
		if sources[i].Store == w.main && (len(mirrors) == 0 || !elsewhere(err)) || ctx.Err() != nil {
			trouble = err
			return
		}
		w.s.Say("  %s reports not read: %v", w.s.Glyph("warning"), err)
	}
	for e := range store.MergeReports(ctx, sources, failed) {
		c.Add(e)
	}
	if trouble != nil {
		return nil, fmt.Errorf("read reports: %w", trouble)
	}
	return c.Status(), nil
}

// showProgress has the sources tell how many reports were found and read.
func showProgress(s *cli.Session, sources []store.ReportSource) {
	var mu sync.Mutex
	found, read := make([]int, len(sources)), make([]int, len(sources))
	for i := range sources {
		sources[i].Progress = func(f, r int) {
			mu.Lock()
			defer mu.Unlock()
			found[i], read[i] = f, r
			s.Update("  read %d of %s", sum(read), cli.Plural(sum(found), "report"))
		}
	}
}

func sum(list []int) (n int) {
	for _, x := range list {
		n += x
	}
	return n
}

// elsewhere reports whether a bucket that fails so may leave VMs to report to
// another one.
func elsewhere(err error) bool {
	return errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, bucket.ErrPermission)
}

// reportSources are the buckets in which reports of VMs can be read.
func (w *workspace) reportSources(mirrors []mirrorRow) []store.ReportSource {
	cache := filepath.Join(cacheDir(w.s), "reports", w.lock.Root.Hex())
	var sources []store.ReportSource
	// One that has just been found away is not waited for again.
	if trouble := w.bucketTrouble(); w.main != nil && !errors.Is(trouble, bucket.ErrUnavailable) && !errors.Is(trouble, bucket.ErrNoBucket) {
		sources = append(sources, store.ReportSource{Store: w.main, CacheDir: cache})
	}
	for _, m := range mirrors {
		if m.store != nil && !m.ReadOnly {
			sources = append(sources, store.ReportSource{Store: m.store, CacheDir: filepath.Join(cache, "mirrors", release.DigestOf([]byte(m.URL)).Hex()[:16])})
		}
	}
	return sources
}

func (w *workspace) showStatus(st *fleet.Status, ch *release.Channel, f statusFlags, mirrors []mirrorRow, took time.Duration) error {
	s := w.s
	trouble := w.bucketTrouble()
	if trouble != nil {
		s.Say("  %s %s: %v; read from mirrors", s.Glyph("warning"), withoutOptions(w.proj.Bucket), trouble)
	}
	if f.vms {
		return showVMs(s, st, f.plain)
	}
	doc := struct {
		Project string `json:"project"`
		Channel string `json:"channel"`
		Release string `json:"release,omitempty"`
		*fleet.Status
		Mirrors []mirrorRow `json:"mirrors,omitempty"`
		Trouble string      `json:"bucket_error,omitempty"`
	}{w.proj.Name, f.channel, "", st, mirrors, ""}
	head := "nothing published"
	if trouble != nil {
		doc.Trouble, head = fleet.Clean(trouble.Error(), 400), "the release is not known"
	}
	if ch != nil {
		doc.Release, head = ch.Release, ch.Name+" "+ch.Release
	}
	if err := s.Event(doc); err != nil || s.JSON {
		return err
	}
	s.Printf("%s · %s · %s · read in %.1f s\n", w.proj.Name, head, cli.Plural(st.Total, "VM"), took.Seconds())
	if st.Total == 0 && len(st.Unread) == 0 {
		showMirrors(s, mirrors, st.Generated)
		s.Say("No VM has reported yet.")
		s.Say("Next:  bootwell user-data ROLE   and give that text to a VM")
		return nil
	}
	s.Printf("\n%s", roleCounts(st))
	showTrouble(s, st)
	showMirrors(s, mirrors, st.Generated)
	switch {
	case len(st.Failures) > 0:
		s.Screen("\nNext:  bootwell status --vms --state failed · bootwell logs %s", st.Failures[0].Example)
	case len(st.Stale) > 0:
		s.Screen("\nNext:  bootwell status %s", st.Stale[0].Name)
	}
	return nil
}

// openReport reads the last report of one VM, from wherever it sent it to, and
// returns the buckets in which its logs can be: that of the report first.
func openReport(ctx context.Context, s *cli.Session, name string) ([]*store.Store, *release.Report, error) {
	if !release.ValidVM(name) {
		return nil, nil, cli.Usage(fmt.Sprintf("%q cannot be a VM's name", name), "see them with: bootwell status --vms")
	}
	w, err := loadProject(s, false)
	if err != nil {
		return nil, nil, err
	}
	if err := w.connectAny(ctx); err != nil {
		return nil, nil, err
	}
	stores := w.reportStores(ctx)
	r, at, err := store.NewestReport(ctx, stores, name)
	if errors.Is(err, bucket.ErrNotExist) {
		return nil, nil, cli.Hint(cli.NoMatch("no VM called %s has reported", name), "see them with: bootwell status --vms")
	}
	if err != nil {
		return nil, nil, err
	}
	stores[0], stores[at] = stores[at], stores[0]
	return stores, r, nil
}

// reportStores opens the bucket and the mirrors that VMs can write to.
func (w *workspace) reportStores(ctx context.Context) []*store.Store {
	if len(w.proj.Mirrors) == 0 {
		return []*store.Store{w.store}
	}
	var stores []*store.Store
	if w.main != nil {
		stores = append(stores, &store.Store{Bucket: bucket.Impatient(w.main.Bucket), Log: w.s.Logger()})
	}
	for _, url := range w.proj.Mirrors {
		b, err := w.s.Open(ctx, url)
		if err == nil && !b.Caps().ReadOnly {
			stores = append(stores, &store.Store{Bucket: bucket.Impatient(b), Log: w.s.Logger()})
		}
	}
	return stores
}

func runStatusVM(ctx context.Context, s *cli.Session, name string) error {
	_, r, err := openReport(ctx, s, name)
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(r)
	}
	cli.ShowReport(s, r, time.Now())
	return nil
}

func newLogsCmd(s *cli.Session) *cobra.Command {
	var run string
	c := &cobra.Command{
		Use: "logs VM", GroupID: "fleet", Args: exactly(1, "the name of one VM"),
		Short: "Show the log of a VM's last run that changed something or failed",
		Example: `  bootwell logs i-0f3a91
  bootwell logs i-0f3a91 --run 7f3c     an earlier run, see: bootwell status i-0f3a91`,
		RunE: func(c *cobra.Command, args []string) error { return runLogs(c.Context(), s, args[0], run) },
	}
	c.Flags().StringVar(&run, "run", "", "`id` of the run")
	return c
}

func runLogs(ctx context.Context, s *cli.Session, name, run string) error {
	stores, r, err := openReport(ctx, s, name)
	if err != nil {
		return err
	}
	b, found := pickLog(r, run)
	if !found {
		if run != "" {
			return cli.Hint(cli.NoMatch("%s has no log of a run %s in the bucket", name, run), "runs: bootwell status %s; the VM itself keeps more: bootwell-agent logs", name)
		}
		return cli.Hint(cli.NoMatch("%s has sent no log", name), "logs are sent when a run changes something or fails; on the VM: bootwell-agent logs")
	}
	text, err := logOf(ctx, stores, name, b)
	if err != nil {
		return fmt.Errorf("read log of %s: %w", name, err)
	}
	if s.JSON {
		return s.Event(map[string]any{"vm": name, "run": b.ID, "release": b.Release, "result": b.Result, "started": b.Started, "log": cli.CleanText(text)})
	}
	s.Say("run %s of %s: %s %s, %s", fleet.Clean(b.ID, 40), name, fleet.Clean(b.Release, 16), fleet.Clean(b.Result, 16), b.Started.UTC().Format(time.RFC3339))
	s.Printf("%s", cli.CleanText(text))
	return nil
}

// logOf reads the log of a run. With several buckets a slot for logs holds another
// run in each; the first line tells.
func logOf(ctx context.Context, stores []*store.Store, vm string, run release.RunBrief) ([]byte, error) {
	text, err := stores[0].RunLog(ctx, vm, run.Log)
	for _, s := range stores[1:] {
		if err == nil && bytes.HasPrefix(text, []byte("--- run "+run.ID+" ")) {
			break
		}
		if other, oerr := s.RunLog(ctx, vm, run.Log); oerr == nil && (err != nil || bytes.HasPrefix(other, []byte("--- run "+run.ID+" "))) {
			text, err = other, nil
		}
	}
	return text, err
}

// pickLog finds the newest run with a log, or the one whose id starts with run.
func pickLog(r *release.Report, run string) (release.RunBrief, bool) {
	var all []release.RunBrief
	if r.Run != nil {
		all = append(all, r.Run.Brief())
	}
	for _, b := range append(all, r.History...) {
		if b.Log != "" && strings.HasPrefix(b.ID, run) {
			return b, true
		}
	}
	return release.RunBrief{}, false
}
