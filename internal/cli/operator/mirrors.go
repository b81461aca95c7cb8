package operator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// What a mirror can be in status and publish.
const (
	mirrorOK          = "ok"          // holds what the bucket holds
	mirrorCopied      = "copied"      // publish: was brought up to date
	mirrorAhead       = "ahead"       // holds something newer: another publisher was there meanwhile
	mirrorLags        = "lags"        // holds something older
	mirrorUnreachable = "unreachable" // nothing is known of it
	mirrorFailed      = "failed"      // it answers, but cannot be used or written to
)

// A mirrorRow is one mirror as a command found or left it.
type mirrorRow struct {
	URL      string    `json:"url"`
	State    string    `json:"state"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Release  string    `json:"release,omitempty"`   // that it has
	Since    time.Time `json:"lags_since,omitzero"` // when the first release was made that it lacks
	Objects  int       `json:"objects,omitempty"`   // publish: copied, or to be copied
	Bytes    int64     `json:"bytes,omitempty"`     //
	Seconds  float64   `json:"seconds,omitempty"`   //
	Error    string    `json:"error,omitempty"`     //
	store    *store.Store
}

// good reports whether VMs find at the mirror what they find in the bucket.
func (m mirrorRow) good() bool {
	return m.State == mirrorOK || m.State == mirrorCopied || m.State == mirrorAhead
}

func (m mirrorRow) name() string { return withoutOptions(m.URL) }

func withoutOptions(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}

// mirrorClient returns the verifying client for one mirror of w's project. What
// it verified is kept beside that of the bucket, so that the next look costs
// little.
func (w *workspace) mirrorClient(url string, b bucket.Bucket) *trust.Client {
	dir := filepath.Join(stateDir(w.s), "trust", w.lock.Root.Hex(), "mirrors", release.DigestOf([]byte(url)).Hex()[:16])
	return &trust.Client{Bucket: b, Dir: dir, Anchor: w.lock.Root, Now: time.Now, Log: w.s.Logger()}
}

// eachMirror calls look for all mirrors at once, with a bucket that is given up
// soon and the real one, and returns the rows in the order of the project file.
func (w *workspace) eachMirror(ctx context.Context, look func(ctx context.Context, m *mirrorRow, quick, b bucket.Bucket) error) []mirrorRow {
	rows := make([]mirrorRow, len(w.proj.Mirrors))
	var wg sync.WaitGroup
	for i, url := range w.proj.Mirrors {
		m := &rows[i]
		m.URL = url
		wg.Go(func() {
			b, err := w.s.Open(ctx, url)
			if err == nil {
				m.ReadOnly = b.Caps().ReadOnly
				m.store = &store.Store{Bucket: b, Log: w.s.Logger()}
				err = look(ctx, m, bucket.Impatient(b), b)
			}
			if err == nil {
				return
			}
			m.State, m.Error = mirrorFailed, fleet.Clean(err.Error(), 400)
			if errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrNoBucket) {
				m.State, m.store = mirrorUnreachable, nil
			}
		})
	}
	wg.Wait()
	return rows
}

// compareMirrors tells how the mirrors stand beside the state v of the bucket;
// nil: not known.
func (w *workspace) compareMirrors(ctx context.Context, v *trust.View, channel string) []mirrorRow {
	return w.eachMirror(ctx, func(ctx context.Context, m *mirrorRow, quick, _ bucket.Bucket) error {
		if v == nil {
			_, err := w.mirrorClient(m.URL, quick).Holds(ctx)
			m.State = mirrorOK
			return err
		}
		return w.compareMirror(ctx, v, m, w.mirrorClient(m.URL, quick), channel)
	})
}

func (w *workspace) compareMirror(ctx context.Context, v *trust.View, m *mirrorRow, to *trust.Client, channel string) error {
	st, err := w.store.CompareMirror(ctx, v, to, w.proj.Name, channel)
	if err != nil {
		return err
	}
	m.Release, m.Since, m.State = st.Release, st.Since, mirrorOK
	switch {
	case st.Lags:
		m.State = mirrorLags
	case st.Newer:
		m.State = mirrorAhead
	}
	return nil
}

// replicate brings the mirrors to the state v of the bucket, as far as they can
// be written to.
func (w *workspace) replicate(ctx context.Context, v *trust.View, channel string, dryRun bool) []mirrorRow {
	var agents []release.Digest
	for _, d := range w.lock.Agents {
		agents = append(agents, d)
	}
	var mu sync.Mutex
	return w.eachMirror(ctx, func(ctx context.Context, m *mirrorRow, quick, b bucket.Bucket) error {
		if m.ReadOnly {
			return w.compareMirror(ctx, v, m, w.mirrorClient(m.URL, quick), channel)
		}
		// One that is away is given up soon, before anything long begins.
		if _, err := w.mirrorClient(m.URL, quick).Holds(ctx); err != nil {
			return err
		}
		r, err := w.store.Replicate(ctx, v, w.mirrorClient(m.URL, b), store.ReplicateOptions{
			Agents: agents, Owner: owner(w.s), DryRun: dryRun,
			Progress: func(g store.Progress) {
				mu.Lock()
				defer mu.Unlock()
				w.s.Update("  mirror %s: %s", m.name(), amount(g))
			},
		})
		m.Release, m.Objects, m.Bytes, m.Seconds, m.State = r.Before, r.Uploaded, r.Bytes, r.Seconds, mirrorCopied
		switch {
		case r.Same:
			m.State = mirrorOK
		case r.Newer:
			m.State = mirrorAhead
		case dryRun:
			m.State = mirrorLags
		}
		return err
	})
}

// tellMirrors is the story of what publish did, or would do, at the mirrors.
func (w *workspace) tellMirrors(rows []mirrorRow, newRelease, dryRun bool) error {
	for _, m := range rows {
		if err := w.s.Event(struct {
			Type string `json:"type"`
			mirrorRow
		}{"mirror", m}); err != nil {
			return err
		}
		sign, text := "ok", ""
		copied := fmt.Sprintf("%s, %s", cli.Plural(m.Objects, "object"), humanize.Bytes(uint64(m.Bytes)))
		switch {
		case m.State == mirrorUnreachable:
			sign, text = "warning", "cannot be reached, and VMs that read there keep what it has: publish again when it is back ("+m.Error+")"
		case m.State == mirrorFailed:
			sign, text = "warning", "was not brought up to date: "+m.Error+"; publish again when that is mended"
		case m.ReadOnly && !m.good():
			sign, text = "warning", "is read only: copy the bucket there yourself; VMs read it, and it has "+orNothing(m.Release)
		case m.ReadOnly:
			sign, text = "unchanged", "is read only: copy the bucket there yourself; VMs read it"
		case dryRun && !m.ReadOnly && (m.State == mirrorLags || newRelease && m.State == mirrorOK):
			sign, text = "waiting", "has "+orNothing(m.Release)+", and would get "+wouldGet(m, copied, newRelease)
		case m.State == mirrorCopied:
			text = fmt.Sprintf("has it too: %s, %.1f s", copied, m.Seconds)
		case m.State == mirrorAhead:
			sign, text = "unchanged", "is ahead: another publisher brought it further"
		default:
			sign, text = "unchanged", "has it already"
		}
		w.s.Tell("  "+w.s.Glyph(sign)+" mirror     "+m.name()+" "+text, "mirror "+m.name()+" "+text)
	}
	return nil
}

// wouldGet says what a dry run leaves out for a mirror.
func wouldGet(m mirrorRow, copied string, newRelease bool) string {
	switch {
	case !newRelease && m.Objects == 0:
		return "newer signatures"
	case !newRelease:
		return copied + " that it lacks"
	case m.Objects == 0:
		return "what this release brings"
	}
	return copied + " that it lacks, and what this release brings"
}

func orNothing(release string) string {
	if release == "" {
		return "no release"
	}
	return release
}

// behind counts the mirrors at which VMs do not find what the bucket has.
func behind(rows []mirrorRow) int {
	n := 0
	for _, m := range rows {
		if !m.good() {
			n++
		}
	}
	return n
}

// showMirrors is the part of status about them.
func showMirrors(s *cli.Session, rows []mirrorRow, now time.Time) {
	if len(rows) == 0 {
		return
	}
	wide := 0
	for _, m := range rows {
		wide = max(wide, len([]rune(m.name())))
	}
	s.Printf("\nMIRRORS\n")
	for _, m := range rows {
		what := ""
		switch {
		case m.Error != "":
			what = m.Error
		case m.State == mirrorLags && m.Release == "":
			what = "holds nothing of this project"
		case m.State == mirrorLags && m.Since.IsZero():
			what = m.Release + ", with older signatures"
		case m.State == mirrorLags:
			what = m.Release + ", " + age(now.Sub(m.Since)) + " behind"
		default:
			what = m.Release
		}
		s.Printf("  %-*s  %-11s  %s\n", wide, m.name(), m.State, what)
	}
	for _, m := range rows {
		if m.State == mirrorLags && !m.ReadOnly {
			s.Say("Next:  bootwell publish   brings mirrors up to date, also when there is nothing new")
			return
		}
	}
}
