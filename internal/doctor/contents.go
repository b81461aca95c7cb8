package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// contents looks at what the project has in the bucket.
func (p *Probe) contents(ctx context.Context, t Target, a *access) Findings {
	f, releases := p.metadata(ctx, t, a)
	fs := Findings{f}
	if len(t.Agents) > 0 && !t.Anchor.IsZero() && f.Cause != "not_initialised" {
		agents := p.agents(ctx, t)
		if agents.Cause == "agent_missing" && f.Status == OK && releases == 0 {
			agents = unknown("agents", "not_published", "not in the bucket yet: the first bootwell publish uploads them")
		}
		fs = append(fs, agents)
	}
	return fs
}

// metadata verifies the signatures as a VM does, beside what was verified
// before, which stays as it is. It also counts the releases.
func (p *Probe) metadata(ctx context.Context, t Target, a *access) (f Finding, releases int) {
	const check = "signatures"
	if t.Anchor.IsZero() {
		if a.root != nil {
			return bad(check, Warning, "no_anchor", "the bucket holds a project, but without bootwell.lock it cannot be verified",
				"take bootwell.lock from the project's repository; if this is to be a new project, give it another prefix"), 0
		}
		return unknown(check, "not_initialised", "nothing to verify yet"), 0
	}
	if t.Other && errors.Is(a.err, bucket.ErrNotExist) {
		return unknown(check, "not_initialised", "the bucket holds no project at this prefix"), 0
	}
	dir, err := os.MkdirTemp("", "bootwell-doctor-")
	if err != nil {
		return failed(check, err), 0
	}
	defer os.RemoveAll(dir)
	if t.State != "" {
		// A copy that is torn or missing heals itself from the bucket.
		_ = os.CopyFS(filepath.Join(dir, "state"), os.DirFS(t.State))
	}
	c := &trust.Client{Bucket: t.Bucket, Dir: filepath.Join(dir, "state"), Anchor: t.Anchor, Now: p.now}
	ctx, cancel := context.WithTimeout(ctx, 3*p.deadline())
	defer cancel()
	v, err := c.Refresh(ctx)
	if err != nil {
		return p.untrusted(check, t, err), 0
	}
	day, n := v.Expires.UTC().Format(time.DateOnly), len(v.Targets("releases/"))
	if len(v.Warn) > 0 {
		return bad(check, Warning, "expires", fmt.Sprintf("past half of their life: they end on %s, and then no VM takes anything new", day), "bootwell resign"), n
	}
	what := fmt.Sprintf("%d releases published", n)
	switch n {
	case 0:
		what = "nothing published yet"
	case 1:
		what = "1 release published"
	}
	return ok(check, "verified, good until %s; %s", day, what), n
}

func (p *Probe) untrusted(check string, t Target, err error) Finding {
	switch {
	case errors.Is(err, trust.ErrExpired):
		return bad(check, Problem, "expired", "expired: VMs keep what they have and take nothing new ("+last(err)+")", "bootwell resign; if they should be good, look at this machine's clock")
	case errors.Is(err, trust.ErrRollback):
		return bad(check, Problem, "rollback", "older than what this machine has seen: "+last(err), "restore the newest state of the bucket's tuf/ folder, then bootwell publish")
	case errors.Is(err, trust.ErrUntrusted):
		return bad(check, Problem, "untrusted", "do not verify: "+last(err), "do not go on: somebody may have changed the bucket, or bootwell.lock is of another project. Compare both with your repository's history")
	case errors.Is(err, trust.ErrNotInit):
		fix := "bootwell init"
		if p.For == VM {
			fix = "compare bucket: in /etc/bootwell/agent.yaml with the project's; an operator makes the project with bootwell init"
		}
		return bad(check, Problem, "not_initialised", "the bucket holds no project at this prefix", fix)
	case errors.Is(err, bucket.ErrNotExist):
		return bad(check, Problem, "lost", "the bucket has lost signed metadata: "+last(err), "restore the tuf/ folder from the bucket's older versions")
	case errors.Is(err, bucket.ErrPermission):
		return bad(check, Problem, "denied", "cannot be read: "+said(err), p.needs(t, reading, "tuf/"))
	}
	return failed(check, err)
}

// last leaves out which call of ours it was.
func last(err error) string {
	return strings.TrimPrefix(err.Error(), "refresh: ")
}

// agents looks for the pinned agents, which every new VM downloads.
func (p *Probe) agents(ctx context.Context, t Target) Finding {
	const check = "agents"
	return within(ctx, p, func(ctx context.Context) Finding {
		var missing, there []string
		for arch, d := range t.Agents {
			r, _, err := t.Bucket.Get(ctx, "agents/"+d.Hex(), bucket.GetOptions{Length: 1})
			if err == nil {
				r.Close()
			}
			switch {
			case err == nil:
				there = append(there, arch)
			case errors.Is(err, bucket.ErrNotExist), errors.Is(err, bucket.ErrTruncated): // gone, or empty
				missing = append(missing, arch)
			case errors.Is(err, bucket.ErrPermission):
				return p.denied(t, check, Problem, "read agents/, or the pinned agent is not there", reading, "agents/", err)
			default:
				return failed(check, err)
			}
		}
		slices.Sort(missing)
		slices.Sort(there)
		if len(missing) > 0 {
			return bad(check, Problem, "agent_missing", "the bucket lacks the agent that bootwell.lock pins for "+join(missing)+": new VMs cannot start",
				"bootwell publish uploads it from beside the command (see BOOTWELL_AGENTS), or bootwell publish --pin-agent takes the one that is there")
		}
		return ok(check, "pinned and in the bucket: %s", join(there))
	})
}

// Lag compares the metadata of mirrors with the first bucket's: one finding a
// mirror, in their order.
func (p *Probe) Lag(ctx context.Context, first Target, mirrors []Target) Findings {
	want, err := p.version(ctx, first)
	var fs Findings
	for _, m := range mirrors {
		f := unknown("mirror", "not_asked", "not compared")
		if err == nil {
			f = p.lag(ctx, m, want)
		}
		f.Bucket = m.Name
		fs = append(fs, f)
	}
	return fs
}

func (p *Probe) lag(ctx context.Context, m Target, want int64) Finding {
	have, err := p.version(ctx, m)
	switch {
	case errors.Is(err, bucket.ErrNotExist):
		return bad("mirror", Warning, "mirror_empty", "holds nothing yet", "bootwell publish fills it")
	case err != nil:
		return unknown("mirror", "failed", "not compared: %s", said(err))
	case have < want:
		return bad("mirror", Warning, "mirror_lags", fmt.Sprintf("is behind: it has version %d of what is signed, the first bucket %d", have, want), "bootwell publish brings it up to date; if it was away before, once it is back")
	case have > want:
		return bad("mirror", Warning, "mirror_ahead", fmt.Sprintf("is ahead of the first bucket: version %d of what is signed, not %d", have, want), "the first bucket was set back, or somebody publishes to the mirror alone: bootwell publish to both")
	}
	return ok("mirror", "has the same as the first bucket")
}

// version is what timestamp.json says of itself, unverified: it is for words
// only.
func (p *Probe) version(ctx context.Context, t Target) (int64, error) {
	if t.Bucket == nil {
		return 0, errors.Join(bucket.ErrUnavailable, t.Err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.deadline())
	defer cancel()
	b, _, err := bucket.ReadAll(ctx, provider(t.Bucket), timestampKey, bucket.GetOptions{}, maxTimestamp)
	if err != nil {
		return 0, err
	}
	return timestampVersion(b)
}

func timestampVersion(b []byte) (int64, error) {
	var doc struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return 0, fmt.Errorf("read %s: %w: %w", timestampKey, release.ErrFormat, err)
	}
	if doc.Signed.Version < 1 {
		return 0, fmt.Errorf("read %s: it has no version: %w", timestampKey, release.ErrFormat)
	}
	return doc.Signed.Version, nil
}
