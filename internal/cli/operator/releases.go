package operator

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
)

func newReleasesCmd(s *cli.Session) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "releases", GroupID: "release", Args: cobra.NoArgs,
		Short:   "List the releases in the bucket",
		Example: "  bootwell releases --json | jq -r '.[0].release'",
		RunE:    func(c *cobra.Command, _ []string) error { return runReleases(c.Context(), s, limit) },
	}
	c.Flags().IntVar(&limit, "limit", 20, "show at most `n`; 0 shows all")
	return c
}

func runReleases(ctx context.Context, s *cli.Session, limit int) error {
	w, err := loadProject(s, false)
	if err != nil {
		return err
	}
	if err := w.connectAny(ctx); err != nil {
		return err
	}
	v, err := w.view(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	list, err := w.store.Releases(ctx, v)
	if err != nil {
		return fmt.Errorf("list releases: %w", err)
	}
	more := 0
	if limit > 0 && len(list) > limit {
		more = len(list) - limit
		list = list[:limit]
	}
	if s.JSON {
		type row struct {
			Release  string    `json:"release"`
			Digest   string    `json:"digest"`
			Channels []string  `json:"channels"`
			Time     time.Time `json:"time"`
			By       string    `json:"by"`
			Commit   string    `json:"commit,omitempty"`
			Branch   string    `json:"branch,omitempty"`
			Dirty    bool      `json:"dirty,omitempty"`
			Note     string    `json:"note,omitempty"`
			Roles    []string  `json:"roles"`
			Files    int       `json:"files"`
		}
		rows := make([]row, 0, len(list))
		for _, r := range list {
			rows = append(rows, row{r.Name, r.Digest.String(), r.Channels, r.Source.Time, r.Source.By, r.Source.Commit, r.Source.Branch, r.Source.Dirty, r.Source.Note, r.Roles, r.Files})
		}
		return s.Event(rows)
	}
	if len(list) == 0 {
		return cli.Hint(cli.NoMatch("%s holds no release yet", w.proj.Bucket), "publish the first one with: bootwell publish")
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tCHANNEL\tWHEN\tBY\tCOMMIT\tFILES\tNOTE")
	for _, r := range list {
		commit := fmt.Sprintf("%.7s", r.Source.Commit)
		if r.Source.Dirty {
			commit += "+"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Name, dash(strings.Join(r.Channels, ",")), humanize.Time(r.Source.Time),
			fleet.Clean(r.Source.By, 32), dash(commit), r.Files, fleet.Clean(r.Source.Note, 40))
	}
	t.Flush()
	s.Printf("%s", b.String())
	if more > 0 {
		s.Say("and %d more: --limit 0", more)
	}
	return nil
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
