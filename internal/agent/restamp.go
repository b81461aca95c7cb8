package agent

import (
	"bytes"
	"fmt"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// restamp brings the status file up to date where only times in it change, as at
// nearly every poll: without the types of a whole report, which take longer than
// the rest of it. It reports whether that worked.
func (s *session) restamp(r *release.Report) bool {
	b, err := readBounded(s.Paths.Status(), release.MaxReportBytes)
	if err != nil {
		return false
	}
	for name, t := range map[string]time.Time{"time": r.Time, "next_run": r.NextRun} {
		text, err := t.MarshalJSON()
		if err != nil {
			return false
		}
		var ok bool
		if b, ok = withString(b, name, text); !ok {
			return false
		}
	}
	return placeFile(s.Paths.Status(), b, 0o644) == nil
}

// withString returns the JSON object b with another text for the first member
// called name that is a string. In strings before it no name can stand between
// quotes that are not escaped.
func withString(b []byte, name string, text []byte) ([]byte, bool) {
	before, rest, ok := bytes.Cut(b, []byte(`"`+name+`":"`))
	_, after, closed := bytes.Cut(rest, []byte(`"`))
	if !ok || !closed {
		return nil, false
	}
	return bytes.Join([][]byte{before, []byte(`"` + name + `":`), text, after}, nil), true
}

// shows is what the status file tells of r, a summary, but for the time and the
// next poll, as a digest. It is "" after calls in which something happened. The
// metrics tell nothing more.
func (s *session) shows(r release.Report) string {
	if s.acted || s.ended != nil || s.journal != nil || s.state.Last.read() || s.lacksMetrics() {
		return ""
	}
	success := r.LastSuccess.UnixNano() // without the name of its zone
	r.Time, r.NextRun, r.LastSuccess = time.Time{}, time.Time{}, time.Time{}
	return release.DigestOf(fmt.Appendf(nil, "%+v %d %s %s", r, success, s.state.Last.raw(), s.state.History.raw())).Short()
}

// noteShown remembers what the status file tells now.
func (s *session) noteShown(shown string) {
	if shown == s.state.Shown {
		return
	}
	s.state.Shown = shown
	if err := s.saveSoon(); err != nil {
		s.logger().Warn("state not written", "err", err)
	}
}
