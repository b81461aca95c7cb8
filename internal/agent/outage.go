package agent

import (
	"errors"

	"github.com/bootwell/bootwell/internal/bucket"
)

// bucketNow is the bucket with the patience for this call. A VM that found it
// away at its last poll asks once, as all others of its fleet do, so that an
// outage brings the bucket no more requests than other times do.
func (s *session) bucketNow(away bool) bucket.Bucket {
	if away && !s.Options.Now && !s.Force && !s.impatient {
		return bucket.Cautious(s.Agent.Bucket)
	}
	return s.Agent.Bucket
}

// noteAway remembers for the next poll whether this one, which ended with err,
// found the bucket.
func (s *session) noteAway(err error) {
	gone := errors.Is(err, bucket.ErrUnavailable)
	if gone == s.state.Away {
		return
	}
	s.state.Away = gone
	if err := s.save(); err != nil {
		s.logger().Warn("state not written", "err", err)
	}
}
