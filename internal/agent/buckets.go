package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// OpenBucket opens the bucket of c. With mirrors it is a [bucket.Mirrored] of
// them all, in which one that cannot be opened is left out and told of.
func OpenBucket(ctx context.Context, open bucket.Opener, c Config) (bucket.Bucket, error) {
	if len(c.Mirrors) == 0 {
		b, err := open(ctx, c.Bucket)
		if err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", c.Bucket, err)
		}
		return b, nil
	}
	var list []bucket.Mirror
	usable := false
	for _, url := range append([]string{c.Bucket}, c.Mirrors...) {
		m := bucket.Mirror{URL: url}
		if m.Bucket, m.Err = open(ctx, url); m.Err != nil {
			m.Bucket = nil
		}
		usable = usable || m.Bucket != nil
		list = append(list, m)
	}
	if !usable {
		return nil, fmt.Errorf("open bucket %s: %w", c.Bucket, list[0].Err)
	}
	return bucket.Mirrors(list, store.Optional), nil
}

// bucketTroubles tells which buckets were of no use in this call.
func (s *session) bucketTroubles() []release.BucketTrouble {
	m, several := bucket.As[*bucket.Mirrored](s.Bucket)
	if !several {
		return nil
	}
	var out []release.BucketTrouble
	for _, t := range m.Troubles() {
		out = append(out, release.BucketTrouble{URL: withoutOptions(t.URL), State: bucketState(t.Err), Reason: cut(oneLine(t.Err.Error(), 300), 300)})
	}
	return out[:min(len(out), release.MaxBuckets)]
}

func bucketState(err error) string {
	switch {
	case errors.Is(err, trust.ErrRollback), errors.Is(err, trust.ErrExpired), errors.Is(err, trust.ErrNotInit), errors.Is(err, bucket.ErrNotExist):
		return release.BucketLags
	case errors.Is(err, trust.ErrUntrusted), errors.Is(err, bucket.ErrTruncated), errors.Is(err, bucket.ErrTooLarge):
		return release.BucketUntrusted
	case errors.Is(err, bucket.ErrPermission):
		return release.BucketRefused
	}
	return release.BucketUnreachable
}

// bucketSentences tells the same to people.
func bucketSentences(ts []release.BucketTrouble) []string {
	words := map[string]string{
		release.BucketUnreachable: "cannot be used", release.BucketRefused: "refuses this VM",
		release.BucketLags: "lags behind", release.BucketUntrusted: "holds what was not signed",
	}
	var out []string
	for _, t := range ts {
		out = append(out, fmt.Sprintf("%s %s: %s", t.URL, words[t.State], t.Reason))
	}
	return out
}

// bucketGist is what of them makes a report say something new.
func bucketGist(ts []release.BucketTrouble) string {
	var b strings.Builder
	for _, t := range ts {
		b.WriteString(" " + t.URL + " " + t.State)
	}
	return b.String()
}

// noteBuckets keeps for [Why] what was wrong with buckets, when it is news.
func (s *session) noteBuckets() {
	ts := s.bucketTroubles()
	if bucketGist(ts) == bucketGist(s.state.Buckets) {
		return
	}
	s.state.Buckets = ts
	if err := s.save(); err != nil {
		s.logger().Warn("state not written", "err", err)
	}
}

// reachable reports whether it is worth while to send something: another
// bucket may take it.
func (s *session) reachable() bool {
	return s.several() || !errors.Is(s.problem, bucket.ErrUnavailable)
}

func (s *session) several() bool {
	_, several := bucket.As[*bucket.Mirrored](s.Bucket)
	return several
}

// otherwise reports whether there is another way to send what was refused: to
// the folder that the bucket's rules confine this VM to, or to a mirror, which
// need not know of that folder.
func (s *session) otherwise(ctx context.Context) bool {
	if s.confine(ctx) {
		return true
	}
	if s.several() {
		s.store.Folder = ""
	}
	return s.several()
}

func withoutOptions(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}
