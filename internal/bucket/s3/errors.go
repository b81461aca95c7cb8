package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// fail words err with its operation and finds its place in the vocabulary.
func (b *Bucket) fail(ctx context.Context, op, key string, c bucket.Condition, err error) error {
	where := fmt.Sprintf("%s %s in %s", op, key, b.at)
	if done := ctx.Err(); done != nil {
		return fmt.Errorf("%s: %w", where, done)
	}
	var answer *refusal
	if !errors.As(err, &answer) {
		if bucket.Refused(err) || errors.Is(err, bucket.ErrUnavailable) {
			// Only the sources speak so. What is on the way has no class yet.
			err = bucket.Because(err, bucket.ErrNoCredentials)
		}
		if classified(err) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return fmt.Errorf("%s: %w", where, wire.Classify(ctx, err))
	}
	text := answer.Code
	if answer.Message != "" && answer.Message != answer.Code {
		text += ": " + wire.Printable(answer.Message)
	}
	if hint := b.remedy(op, answer); hint != "" {
		text += ": " + hint
	}
	if sentinel := classify(answer, c); sentinel != nil {
		err = fmt.Errorf("%s: %w: %s", where, sentinel, text)
		if sentinel == bucket.ErrUnavailable {
			err = bucket.Later(err, b.wire.pause())
		}
		return err
	}
	return fmt.Errorf("%s: status %d: %s", where, answer.Status, text)
}

func classified(err error) bool {
	for _, s := range []error{bucket.ErrPermission, bucket.ErrUnavailable, bucket.ErrTruncated, bucket.ErrUnsupported} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

// classify maps what the server said. The codes count before the status: AWS
// answers an expired token and a slow upload with 400.
func classify(e *refusal, c bucket.Condition) error {
	switch e.Code {
	case "NoSuchBucket":
		return bucket.ErrNoBucket
	case "NoSuchKey", "NoSuchVersion":
		return bucket.ErrNotExist
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		if e.Region != "" {
			return &bucket.RegionError{Region: wire.Printable(e.Region)}
		}
		return bucket.ErrRegion
	case "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "InvalidSecurity":
		return bucket.ErrCredentials
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return bucket.ErrExpired
	case "RequestExpired", "RequestTimeTooSkewed":
		return bucket.ErrClock
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded",
		"RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted":
		return bucket.ErrUnavailable
	case "ObjectParentIsFile", "ExistingObjectIsDirectory", "MethodNotAllowed", "NotImplemented":
		return bucket.ErrUnsupported
	}
	switch status := e.Status; {
	case status == http.StatusNotModified:
		return bucket.ErrNotModified
	case status == http.StatusUnauthorized:
		return bucket.ErrCredentials
	case status == http.StatusForbidden:
		return bucket.ErrPermission
	case status == http.StatusNotFound:
		return bucket.ErrNotExist
	case status == http.StatusRequestedRangeNotSatisfiable:
		return bucket.ErrTruncated
	case (status == http.StatusPreconditionFailed || status == http.StatusConflict) && c.IfAbsent:
		return bucket.ErrExists
	case (status == http.StatusPreconditionFailed || status == http.StatusConflict) && c.IfMatch != "":
		return bucket.ErrPrecondition
	case status == http.StatusNotImplemented:
		return bucket.ErrUnsupported
	case wire.Temporary(status):
		return bucket.ErrUnavailable
	}
	return nil
}

// replaceable reports whether the sources may have other keys by now.
func replaceable(code string) bool {
	switch code {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidTokenId", "InvalidAccessKeyId":
		return true
	}
	return false
}

// remedy says what the server's words mean for the reader.
func (b *Bucket) remedy(op string, e *refusal) string {
	switch e.Code {
	case "SignatureDoesNotMatch":
		return "the secret key does not belong to the access key"
	case "InvalidAccessKeyId":
		return "the server does not know this access key"
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return "the credentials have expired"
	case "RequestTimeTooSkewed", "RequestExpired":
		return "the clock of this machine is wrong" + b.wire.skewText()
	case "AccessDenied":
		if op == "get" {
			return "S3 says this also of a missing object when the bucket may not be listed"
		}
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		if e.Region != "" {
			return fmt.Sprintf("the bucket is in another region: add region=%s to its URL", wire.Printable(e.Region))
		}
		return "the bucket is in another region: add region=NAME to its URL"
	}
	return ""
}

// skewText says how far this clock is from the server's.
func (w *watch) skewText() string {
	skew := time.Duration(w.skew.Load()).Round(time.Second)
	switch {
	case skew > 0:
		return fmt.Sprintf(" (%s ahead of the server's)", skew)
	case skew < 0:
		return fmt.Sprintf(" (%s behind the server's)", -skew)
	}
	return ""
}
