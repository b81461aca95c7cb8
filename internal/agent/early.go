package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/bootwell/bootwell/internal/trust"
)

// An early is what came of preparing a release before its metadata were
// verified to the last.
type early struct {
	view *trust.View // that names it
	ref
	target *target
	err    error
}

// ahead returns what to do while the bucket is asked for another root, which it
// hardly ever has: to get ready what the metadata lead to if it has none. nil
// where a call is not as usual: then one thing comes after the other.
func (s *session) ahead(ctx context.Context) func(*trust.View) {
	if s.DryRun || s.Force || s.journal != nil || s.several() {
		return nil
	}
	return func(v *trust.View) {
		s.phase(s.part, s.since)
		was := s.state
		defer func() {
			s.state, s.view, s.store.Bucket = was, nil, s.clock
			s.part, s.since = "settle", time.Now()
		}()
		s.state, s.view, s.store.Bucket = was.clone(), v, v.Over(s.clock)
		ch, err := s.store.Channel(ctx, v, s.Config.Project, s.Config.Channel)
		if err != nil {
			return
		}
		r := ref{ch.Release, ch.Manifest}
		s.state.want(r, ch.Floor, v.Timestamp)
		if d := decide(s.state, nil, s.Options, s.now); !d.run || d.target != r || r == was.Applied {
			return
		}
		e := &early{view: v, ref: r}
		e.target, e.err = s.prepare(ctx, r)
		s.early = e
	}
}

// clone returns a copy of st to try things on.
func (st *state) clone() *state {
	c := *st
	c.Attempts, c.Quarantine = maps.Clone(st.Attempts), slices.Clone(st.Quarantine)
	return &c
}
