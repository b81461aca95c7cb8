package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
			return s.keep(t)
		}
		if ctx.Err() != nil {
			return err
		}
		s.note("the tree of %s is not whole and is repaired: %s", t.Release, err)
	}
	spare := s.collect(t.Manifest)
	kept := make(chan error, 1)
	go func() { kept <- s.keep(t) }()
	err := s.fetch(ctx, t, spare)
	if spare != "" && errors.Is(err, store.ErrNoSpace) {
		// Without it there is more room, and the other trees hold nearly the same.
		if err := os.RemoveAll(spare); err != nil {
			s.logger().Warn("old release not removed", "dir", spare, "err", err)
		}
		err = s.fetch(ctx, t, "")
	}
	if err = errors.Join(err, <-kept); err != nil {
		return fmt.Errorf("stage %s: %w", t.Release, diskError(err))
	}
	return nil
}

func (s *session) fetch(ctx context.Context, t *target, spare string) error {
	return store.ReadAny(ctx, s.Bucket, func() error {
		stats, err := s.store.Stage(ctx, t.manifest, store.StageOptions{
			Dir: t.dir, Role: s.Config.Role, Reuse: s.reusable(t.Manifest), Spare: store.Staged{Dir: spare}, Remember: true,
			Progress: func(p store.Progress) {
				s.times.turn(p.Phase)
				s.tell(Event{Kind: EventStage, Release: t.Release, Phase: p.Phase, Done: p.Done, Total: p.Total})
			},
		})
		t.size += stats.Fetched
		return err
	})
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
		st := store.Staged{Dir: s.Paths.Tree(d)}
		if !store.HasIndex(st.Dir) {
			if st.Manifest = s.kept(d); st.Manifest == nil {
				continue
			}
		}
		out = append(out, st)
	}
	return out
}

// collect removes what nothing refers to any more, but one tree that the
// target can be made of in place: to write, link and remove what differs costs
// less than to make a tree anew and to remove this one.
func (s *session) collect(target release.Digest) (spare string) {
	keep := map[string]bool{}
	hold := func(tree string) {
		keep[tree], keep[tree+".json"], keep[tree+store.IndexSuffix] = true, true, true
	}
	for _, d := range []release.Digest{target, s.state.Wanted.Manifest, s.state.Applied.Manifest, s.state.Good.Manifest} {
		hold(d.Hex())
	}
	// What a killed call left of the target is gone on with.
	keep["."+target.Hex()+".partial"] = true
	if s.journal != nil {
		hold(s.journal.Target.Manifest.Hex())
	}
	for _, link := range []string{s.Paths.Current(), s.Paths.LastGood()} {
		if t, err := os.Readlink(link); err == nil {
			hold(filepath.Base(t))
		}
	}
	entries, err := os.ReadDir(s.Paths.Releases())
	if err != nil {
		return ""
	}
	name := spareOf(entries, keep)
	if name != "" {
		keep[name], keep[name+store.IndexSuffix] = true, true
		spare = filepath.Join(s.Paths.Releases(), name)
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.RemoveAll(filepath.Join(s.Paths.Releases(), e.Name())); err != nil {
				s.logger().Warn("old release not removed", "name", e.Name(), "err", err)
			}
		}
	}
	return spare
}

// spareOf returns the name of the tree that was staged last of those not to be
// kept, or "". One with an index comes first: its files need not be read.
func spareOf(entries []fs.DirEntry, keep map[string]bool) (name string) {
	indexed := map[string]bool{}
	for _, e := range entries {
		if tree, ok := strings.CutSuffix(e.Name(), store.IndexSuffix); ok {
			indexed[tree] = true
		}
	}
	var best time.Time
	for _, e := range entries {
		_, err := release.ParseDigest("sha256:" + e.Name())
		if err != nil || !e.IsDir() || keep[e.Name()] {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if name == "" || indexed[e.Name()] && !indexed[name] || indexed[e.Name()] == indexed[name] && fi.ModTime().After(best) {
			name, best = e.Name(), fi.ModTime()
		}
	}
	return name
}
