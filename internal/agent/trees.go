package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
)

// stage makes t's tree whole. It asks the bucket only when something in the
// tree is missing or wrong.
func (s *session) stage(ctx context.Context, t *target) error {
	defer s.phase("stage", time.Now())
	st := store.Staged{Dir: t.dir, Manifest: t.manifest}
	if isDir(t.dir) {
		err := store.VerifyStaged(ctx, st, s.Config.Role)
		if err == nil {
			return s.accept(t)
		}
		if ctx.Err() != nil {
			return err
		}
		s.note("the tree of %s is not whole and is repaired: %s", t.Release, err)
	}
	s.collect()
	err := store.ReadAny(ctx, s.Bucket, func() error {
		stats, err := s.store.Stage(ctx, t.manifest, store.StageOptions{
			Dir: t.dir, Role: s.Config.Role, Reuse: s.reusable(t.Manifest),
			Progress: func(p store.Progress) {
				s.times.turn(p.Phase)
				s.tell(Event{Kind: EventStage, Release: t.Release, Phase: p.Phase, Done: p.Done, Total: p.Total})
			},
		})
		t.size += stats.Fetched
		return err
	})
	if err != nil {
		return fmt.Errorf("stage %s: %w", t.Release, diskError(err))
	}
	return s.accept(t)
}

// accept raises the floor to a release that is whole here.
func (s *session) accept(t *target) error {
	if s.DryRun || t.ref != s.state.Wanted {
		return nil
	}
	return diskError(s.trust.RaiseFloor(t.manifest.Number))
}

// reusable are the trees whose unchanged files need not be fetched again.
func (s *session) reusable(not release.Digest) []store.Staged {
	var out []store.Staged
	for _, d := range []release.Digest{s.state.Applied.Manifest, s.state.Good.Manifest} {
		if d == not || d.IsZero() || len(out) > 0 && out[0].Dir == s.Paths.Tree(d) || !isDir(s.Paths.Tree(d)) {
			continue
		}
		if m := s.kept(d); m != nil {
			out = append(out, store.Staged{Dir: s.Paths.Tree(d), Manifest: m})
		}
	}
	return out
}

// collect removes the trees that nothing refers to any more.
func (s *session) collect() {
	keep := map[string]bool{s.state.Wanted.Manifest.Hex(): true, s.state.Applied.Manifest.Hex(): true, s.state.Good.Manifest.Hex(): true}
	if s.journal != nil {
		keep[s.journal.Target.Manifest.Hex()] = true
	}
	for _, link := range []string{s.Paths.Current(), s.Paths.LastGood()} {
		if t, err := os.Readlink(link); err == nil {
			keep[filepath.Base(t)] = true
		}
	}
	entries, err := os.ReadDir(s.Paths.Releases())
	if err != nil {
		return
	}
	for _, e := range entries {
		if !keep[strings.TrimSuffix(e.Name(), ".json")] {
			if err := os.RemoveAll(filepath.Join(s.Paths.Releases(), e.Name())); err != nil {
				s.logger().Warn("old release not removed", "name", e.Name(), "err", err)
			}
		}
	}
}
