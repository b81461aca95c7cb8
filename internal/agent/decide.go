package agent

import (
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// A decision is what one poll leads to.
type decision struct {
	run      bool
	why      string // of the run; one of release.Why…
	target   ref
	fallback bool // target is the last good release because the wanted one is refused
}

// decide applies the rule of when steps run. cut is the journal of a run that
// was cut off, or nil. It looks at nothing but its arguments.
func decide(st *state, cut *journal, o Options, now time.Time) decision {
	d := decision{target: st.Wanted}
	if _, refused := st.quarantineOf(st.Wanted.Manifest); refused && (!o.Force || o.DryRun) {
		d.target, d.fallback = st.Good, true
	}
	if st.Wanted == (ref{}) {
		d.target = st.have()
	}
	d.judge(st, cut, o, now)
	return d
}

// decideHave is decide for a VM that cannot have the release it wants: it
// keeps what it has in shape.
func decideHave(st *state, cut *journal, o Options, now time.Time) decision {
	d := decision{target: st.have()}
	d.judge(st, cut, o, now)
	return d
}

// have is the release to go on with when no other can be had.
func (st *state) have() ref {
	if st.Failed && st.Good != (ref{}) {
		return st.Good
	}
	return st.Applied
}

// ahead is by how much the first re-apply after a run of this cause comes early:
// up to half an interval, always the same on one VM. A fleet takes a release
// within one poll, and is not to ask what its steps ask all at once ever after.
func (st *state) ahead(why string) time.Duration {
	if why == release.WhyReapply {
		return 0
	}
	return time.Duration(share("reapply "+st.VM) * float64(st.reapply()/2))
}

func (d *decision) judge(st *state, cut *journal, o Options, now time.Time) {
	if d.target == (ref{}) {
		return
	}
	d.run = true
	switch {
	case o.Now || o.Force || o.DryRun:
		d.why = release.WhyForced
	case st.Applied == (ref{}) && cut == nil:
		d.why = release.WhyFirst
	case cut != nil && (cut.Target == d.target || cut.Target == (ref{})):
		d.why = release.WhyPower
	case d.target.Manifest != st.Applied.Manifest:
		d.why = release.WhyRelease
		if d.fallback {
			d.why = release.WhyRetry
		}
	case st.Failed:
		d.why = release.WhyRetry
		d.run = o.impatient || due(st.NextRetry.Add(-st.poll()/4), now, maxBackoff)
	default:
		d.why = release.WhyReapply
		d.run = due(st.NextReapply.Add(-st.poll()/2), now, st.reapply())
	}
}
