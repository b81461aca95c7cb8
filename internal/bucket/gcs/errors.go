package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const maxError = 64 << 10 // bytes read of an answer that is an error

// A refusal is an answer that is not what was asked for.
type refusal struct {
	status  int
	reason  string // such as notFound, conditionNotMet; "": none
	message string
	pause   time.Duration // that the server asks for
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("status %d", r.status)
	if r.reason != "" {
		text += " " + wire.Printable(r.reason)
	}
	if r.message != "" {
		text += ": " + wire.Printable(r.message)
	}
	return text
}

// refused reads what the server says. Downloads are refused in plain text,
// all else in JSON.
// https://cloud.google.com/storage/docs/json_api/v1/status-codes
func refused(resp *http.Response) *refusal {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what there is
	r := parseRefusal(resp.StatusCode, body)
	r.pause = wire.RetryAfter(resp.Header)
	return r
}

func parseRefusal(status int, body []byte) *refusal {
	r := &refusal{status: status}
	var doc struct {
		Error struct {
			Message string
			Errors  []struct{ Reason string }
		}
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		if text := strings.TrimSpace(string(body)); !strings.HasPrefix(text, "<") {
			r.message = text
		}
		return r
	}
	r.message = doc.Error.Message
	if len(doc.Error.Errors) > 0 {
		r.reason = doc.Error.Errors[0].Reason
	}
	return r
}

// fail words err with its operation and finds its place in the vocabulary.
func (b *Bucket) fail(ctx context.Context, op, key string, c bucket.Condition, err error) error {
	where := fmt.Sprintf("%s %s in %s", op, key, b.at)
	if done := ctx.Err(); done != nil {
		return fmt.Errorf("%s: %w", where, done)
	}
	var r *refusal
	if !errors.As(err, &r) {
		if classified(err) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return fmt.Errorf("%s: %w", where, wire.Classify(ctx, err))
	}
	text := r.Error()
	if hint := b.remedy(op, r); hint != "" {
		text += ": " + hint
	}
	sentinel := classify(op, r, c)
	if r.status == http.StatusUnauthorized && b.tokens == nil {
		sentinel = bucket.ErrPermission // there was nothing to accept
	}
	if sentinel != nil {
		err = fmt.Errorf("%s: %w: %s", where, sentinel, text)
		if sentinel == bucket.ErrUnavailable {
			err = bucket.Later(err, r.pause)
		}
		return err
	}
	return fmt.Errorf("%s: %s", where, text)
}

// lacking gives the sources' error its cause.
func lacking(err error) error {
	if bucket.Refused(err) || errors.Is(err, bucket.ErrUnavailable) {
		return bucket.Because(err, bucket.ErrNoCredentials)
	}
	return err
}

func classified(err error) bool {
	return slices.ContainsFunc([]error{
		bucket.ErrPermission, bucket.ErrUnavailable, bucket.ErrTruncated, bucket.ErrUnsupported, bucket.ErrNotExist, bucket.ErrPrecondition,
	}, func(s error) bool { return errors.Is(err, s) })
}

func classify(op string, r *refusal, c bucket.Condition) error {
	switch {
	case r.status == http.StatusNotModified:
		return bucket.ErrNotModified
	case r.limited() || wire.Temporary(r.status):
		return bucket.ErrUnavailable
	case r.status == http.StatusUnauthorized:
		return bucket.ErrCredentials // Google says the same of a wrong token and of one that ended
	case r.status == http.StatusForbidden:
		return bucket.ErrPermission
	case r.status == http.StatusNotFound && (op == opGet || op == opDelete) && !r.aboutBucket():
		return bucket.ErrNotExist
	case r.status == http.StatusNotFound:
		return bucket.ErrNoBucket
	case r.status == http.StatusRequestedRangeNotSatisfiable:
		return bucket.ErrTruncated
	case r.status == http.StatusPreconditionFailed && c.IfAbsent, r.status == http.StatusConflict && op == opCreate:
		return bucket.ErrExists
	case r.status == http.StatusPreconditionFailed && c.IfMatch != "":
		return bucket.ErrPrecondition
	case r.status == http.StatusNotImplemented || r.status == http.StatusMethodNotAllowed:
		return bucket.ErrUnsupported
	}
	return nil
}

// limited reports whether too many requests came, which Google says with 429
// and, in places, with 403. One object may change about once a second.
func (r *refusal) limited() bool {
	return r.status == http.StatusTooManyRequests ||
		r.status == http.StatusForbidden && (r.reason == "rateLimitExceeded" || r.reason == "userRateLimitExceeded")
}

// aboutBucket tells a missing bucket from a missing object, which have the same
// status and reason.
func (r *refusal) aboutBucket() bool {
	return strings.Contains(strings.ToLower(r.message), "bucket does not exist")
}

// remedy says what the server's words mean for the reader.
func (b *Bucket) remedy(op string, r *refusal) string {
	switch {
	case r.limited():
		return ""
	case r.status == http.StatusUnauthorized && b.tokens == nil:
		return "requests have no token (anonymous=true), and not everybody may do this"
	case r.status == http.StatusUnauthorized:
		return "the token is not accepted, or has ended"
	case r.status == http.StatusForbidden && strings.Contains(r.message, "scope"):
		return "the VM's access scopes leave storage out: stop it and give it the scope storage-rw"
	case r.status == http.StatusForbidden && op == opGet:
		return "Google says this also of a missing object when the bucket may not be listed"
	}
	return ""
}
