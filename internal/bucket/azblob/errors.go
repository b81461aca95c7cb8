package azblob

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A refusal is an answer that is no success.
type refusal struct {
	status int
	code   string        // of Azure's list; "": none
	said   string        // on one line, without secrets; "": nothing
	pause  time.Duration // that the server asks for
	cred   credential    // of the request
}

// Error is what the server said, or else what its status means.
func (r *refusal) Error() string {
	switch {
	case r.code == "" && r.said == "":
		return http.StatusText(r.status)
	case r.code == "" || r.said == "":
		return r.code + r.said
	}
	return r.code + ": " + r.said
}

// refusalOf reads the answer to a request with these credentials.
func refusalOf(resp *http.Response, cred credential) *refusal {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // the status says enough without it
	code, said := parseMessage(body)
	if header := resp.Header.Get("X-Ms-Error-Code"); header != "" {
		code = wire.Printable(header)
	}
	return &refusal{
		status: resp.StatusCode, code: codeOf(code, said), said: cred.hide(said),
		pause: wire.RetryAfter(resp.Header), cred: cred,
	}
}

// fail words err with its operation and finds its place in the vocabulary.
func (b *Bucket) fail(ctx context.Context, op, key string, c bucket.Condition, err error) error {
	where := strings.TrimSpace(op+" "+key) + " in " + b.at.String()
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
		// What broke off was an answer, not an object.
		unavailable := wire.Classify(ctx, &url.Error{Err: err})
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			return fmt.Errorf("%s: %w: is the name of the storage account right?", where, unavailable)
		}
		return fmt.Errorf("%s: %w", where, unavailable)
	}
	text := answer.Error()
	hint, cause := remedy(answer.code), error(nil)
	if unknown(answer.code) {
		hint, cause = b.unauthenticated(answer.cred, answer.said)
	}
	if hint != "" {
		text += ": " + hint
	}
	sentinel := classify(answer, c)
	if cause != nil && errors.Is(sentinel, bucket.ErrPermission) {
		sentinel = cause
	}
	if sentinel == nil {
		return fmt.Errorf("%s: status %d: %s", where, answer.status, text)
	}
	err = fmt.Errorf("%s: %w: %s", where, sentinel, text)
	if sentinel == bucket.ErrUnavailable {
		err = bucket.Later(err, answer.pause)
	}
	return err
}

// codeOf is the service's word for what Azurite calls AuthorizationFailure.
func codeOf(code, said string) string {
	if strings.HasPrefix(said, "Server failed to authenticate") {
		return "AuthenticationFailed"
	}
	return code
}

// unknown reports whether a code says that the service does not know who asks.
func unknown(code string) bool {
	return code == "AuthenticationFailed" || code == "InvalidAuthenticationInfo"
}

// rejected reports whether the server did not take the credentials; that they
// do not allow something is another matter.
func rejected(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	return r.status == http.StatusUnauthorized || r.status == http.StatusForbidden && unknown(r.code)
}

func classified(err error) bool {
	for _, s := range []error{bucket.ErrPermission, bucket.ErrUnavailable, bucket.ErrTruncated, bucket.ErrUnsupported, bucket.ErrNotModified} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

// classify maps what the server said. The codes count before the status.
// https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
func classify(r *refusal, c bucket.Condition) error {
	switch r.code {
	case "ContainerNotFound", "ContainerDisabled":
		return bucket.ErrNoBucket
	case "BlobNotFound", "ResourceNotFound":
		return bucket.ErrNotExist
	case "InvalidAuthenticationInfo", "NoAuthenticationInformation", "AuthenticationFailed", "KeyBasedAuthenticationNotPermitted":
		return bucket.ErrCredentials
	case "PublicAccessNotPermitted", "AccountIsDisabled", "AccountRequiresHttps", "BlobImmutableDueToPolicy", "SnapshotsPresent":
		return bucket.ErrPermission
	case "ContainerBeingDeleted", "ServerBusy", "InternalError", "OperationTimedOut", "LeaseIdMissing":
		return bucket.ErrUnavailable
	case "InvalidRange":
		return bucket.ErrTruncated
	}
	switch status := r.status; {
	// A right to create but not to overwrite.
	case r.code == "UnauthorizedBlobOverwrite" && c.IfAbsent:
		return bucket.ErrExists
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return bucket.ErrPermission
	case status == http.StatusNotFound:
		return bucket.ErrNotExist
	case status == http.StatusRequestedRangeNotSatisfiable:
		return bucket.ErrTruncated
	case (status == http.StatusPreconditionFailed || status == http.StatusConflict) && c.IfAbsent:
		return bucket.ErrExists
	case (status == http.StatusPreconditionFailed || status == http.StatusConflict) && c.IfMatch != "":
		return bucket.ErrPrecondition
	case wire.Temporary(status):
		return bucket.ErrUnavailable
	}
	return nil
}

// remedy says what the server's words mean for the reader.
func remedy(code string) string {
	switch code {
	case "AuthorizationPermissionMismatch":
		return "the identity or SAS token lacks this right"
	case "AuthorizationFailure":
		return "the identity lacks this right, or the storage account's network rules keep this machine out"
	case "KeyBasedAuthenticationNotPermitted":
		return "the storage account takes no account keys: use a managed identity"
	case "AccountRequiresHttps":
		return "use https in the endpoint"
	case "LeaseIdMissing":
		return "somebody holds a lease on the blob"
	}
	return ""
}

// tolerance is how far the service lets a clock be off.
const tolerance = 15 * time.Minute

// unauthenticated says why the service does not know who asks, and the class of
// that. It does not look at the date of a request with a SAS token.
func (b *Bucket) unauthenticated(cred credential, said string) (hint string, cause error) {
	skew := time.Duration(b.wire.skew.Load())
	ended := !cred.ends.IsZero() && time.Now().Add(-skew).After(cred.ends)
	switch {
	case cred.sas == "" && skew.Abs() > tolerance-time.Minute:
		direction := "ahead of"
		if skew < 0 {
			direction = "behind"
		}
		return fmt.Sprintf("the clock of this machine is wrong (%s %s the server's)", skew.Abs().Round(time.Minute), direction), bucket.ErrClock
	case cred.sas != "" && ended:
		return "the SAS token ended at " + cred.ends.UTC().Format(time.RFC3339), bucket.ErrExpired
	case cred.sas != "" && strings.Contains(said, outOfTime) && cred.ends.IsZero():
		return "the stored access policy of the SAS token has ended, or has not begun", bucket.ErrExpired
	case cred.sas != "" && strings.Contains(said, outOfTime):
		return "the SAS token is not valid yet: see its st=", bucket.ErrCredentials
	case cred.sas != "":
		return "is the SAS token whole, and made for this container?", bucket.ErrCredentials
	case cred.key != nil:
		return "is the key the one of this storage account?", bucket.ErrCredentials
	case cred.token != "" && (ended || strings.Contains(said, "token is expired")):
		return "the token has expired", bucket.ErrExpired
	case cred.token != "":
		return "the token is not valid for this storage account", bucket.ErrCredentials
	}
	return "", bucket.ErrCredentials
}

// outOfTime is what the service says of a SAS token whose time is another.
const outOfTime = "not valid in the specified time frame"

// parseMessage returns the code and, on one line, what the body of an answer says.
func parseMessage(body []byte) (code, said string) {
	var answer struct {
		Code                      string
		Message                   string
		AuthenticationErrorDetail string
	}
	if xml.Unmarshal(body, &answer) != nil {
		return "", ""
	}
	// What follows is the request's ID and time, and a string that was signed.
	line, _, _ := strings.Cut(strings.TrimSpace(answer.Message), "\n")
	detail, _, _ := strings.Cut(strings.TrimSpace(answer.AuthenticationErrorDetail), "\n")
	for _, mark := range []string{"Server used following string", "String to sign"} {
		detail, _, _ = strings.Cut(detail, mark)
	}
	if detail != "" {
		line += " " + detail
	}
	return wire.Printable(strings.TrimSpace(answer.Code)), strings.TrimSuffix(strings.TrimSpace(wire.Printable(line)), ".")
}
