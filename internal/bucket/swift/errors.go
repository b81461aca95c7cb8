package swift

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// fail words err with its operation.
func (b *Bucket) fail(ctx context.Context, op, key string, err error) error {
	where := fmt.Sprintf("%s %s in %s", op, key, b.at)
	if done := ctx.Err(); done != nil && !errors.Is(err, done) {
		return fmt.Errorf("%s: %w", where, done)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// lacking gives the sources' error its cause. What Keystone says has one.
func lacking(err error) error {
	if bucket.Refused(err) || errors.Is(err, bucket.ErrUnavailable) && !errors.Is(err, errKeystone) {
		return bucket.Because(err, bucket.ErrNoCredentials)
	}
	return err
}

// refusal gives an answer that is no success its place in the vocabulary.
func (b *Bucket) refusal(op string, resp *http.Response, c bucket.Condition) error {
	status := resp.StatusCode
	switch {
	case status == http.StatusNotModified:
		return bucket.ErrNotModified
	case status == http.StatusNotFound && (op == "list" || op == "put"):
		return bucket.ErrNoBucket
	case status == http.StatusNotFound:
		return bucket.ErrNotExist
	case status == http.StatusPreconditionFailed && c != (bucket.Condition{}):
		return lost(c)
	case status == http.StatusRequestedRangeNotSatisfiable:
		return bucket.ErrTruncated
	}
	err := statusError(resp)
	hint, cause := b.why(status)
	if hint != "" {
		err = fmt.Errorf("%w: %s", err, hint)
	}
	if cause != nil {
		err = bucket.Because(err, cause)
	}
	return err
}

// statusError is for what may be said of any call.
func statusError(resp *http.Response) error {
	text := fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if id := resp.Header.Get("X-Trans-Id"); id != "" {
		text += ", transaction " + printable(id)
	}
	var sentinel error
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusProxyAuthRequired:
		sentinel = bucket.ErrPermission
	case status == http.StatusUnprocessableEntity || status == statusRateLimited || wire.Temporary(status):
		sentinel = bucket.ErrUnavailable
	case status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented:
		sentinel = bucket.ErrUnsupported
	default:
		return errors.New(text)
	}
	err := fmt.Errorf("%w: %s", sentinel, text)
	if sentinel == bucket.ErrUnavailable {
		err = bucket.Later(err, wire.RetryAfter(resp.Header))
	}
	return err
}

// statusRateLimited is Swift's own.
const statusRateLimited = 498

// why says what the status means for the reader, and why a request was
// refused; nil: for want of a right. Swift says 401 for each of these.
func (b *Bucket) why(status int) (hint string, cause error) {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		switch g := b.auth.Last(); {
		case g != nil && g.Value.temp != nil:
			return b.whyTemp(g.Value.temp)
		case g != nil && !g.Value.renewable && status == http.StatusUnauthorized:
			return "the token is wrong, has ended, or has no access rule for this", bucket.ErrCredentials
		}
		return "the credentials are good, but neither role, access rule nor container ACL allows this", nil
	case http.StatusUnprocessableEntity:
		return "the content was altered on the way", nil
	case http.StatusRequestEntityTooLarge:
		return "the quota is used up, or the object is over 5 GiB", nil
	}
	return "", nil
}

// whyTemp says why a temporary URL was refused.
func (b *Bucket) whyTemp(t *tempURL) (hint string, cause error) {
	skew := time.Duration(b.auth.skew.Load()) // known: the answer had a time
	switch {
	case t.key == nil && time.Now().Add(-skew).After(t.ends):
		return "the temporary URL expired at " + t.ends.UTC().Format(time.RFC3339) + b.auth.skewText(), bucket.ErrExpired
	case t.key == nil:
		return "the temporary URL was refused: is its signature whole, and made with a key of this account for this container?", bucket.ErrCredentials
	case -skew > tempLife-time.Minute:
		return "the clock of this machine is wrong" + b.auth.skewText() + ": a temporary URL has ended before it arrives", bucket.ErrClock
	}
	return "the temporary URL was refused: is the key one of this account or container?", bucket.ErrCredentials
}

// printable bounds what a server says and keeps it on one line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 300)]
}

// skewText says how far this clock is from the server's.
func (s *session) skewText() string {
	skew := time.Duration(s.skew.Load()).Round(time.Second)
	switch {
	case skew > time.Second:
		return fmt.Sprintf(" (%s ahead of the server's)", skew)
	case skew < -time.Second:
		return fmt.Sprintf(" (%s behind the server's)", -skew)
	}
	return ""
}
