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

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A call is what an error is told about.
type call struct {
	op, key string
	cond    bucket.Condition
	cred    credential
}

// fail words err with its operation and finds its place in the vocabulary.
func (b *Bucket) fail(ctx context.Context, in call, err error) error {
	where := strings.TrimSpace(in.op+" "+in.key) + " in " + b.at.String()
	if done := ctx.Err(); done != nil {
		return fmt.Errorf("%s: %w", where, done)
	}
	var answer *azcore.ResponseError
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
	said := message(answer.RawResponse)
	code := codeOf(answer.ErrorCode, said)
	text := answer.ErrorCode
	if said != "" {
		text = strings.TrimPrefix(text+": "+in.cred.hide(said), ": ")
	}
	hint, cause := remedy(code), error(nil)
	if code == "AuthenticationFailed" || code == "InvalidAuthenticationInfo" {
		hint, cause = b.unauthenticated(in.cred, said)
	}
	if hint != "" {
		text += ": " + hint
	}
	sentinel := classify(answer, in.cond)
	if cause != nil && errors.Is(sentinel, bucket.ErrPermission) {
		sentinel = cause
	}
	if sentinel != nil {
		err = fmt.Errorf("%s: %w: %s", where, sentinel, text)
		if sentinel == bucket.ErrUnavailable && answer.RawResponse != nil {
			err = bucket.Later(err, wire.RetryAfter(answer.RawResponse.Header))
		}
		return err
	}
	return fmt.Errorf("%s: status %d: %s", where, answer.StatusCode, text)
}

// codeOf is the service's word for what Azurite calls AuthorizationFailure.
func codeOf(code, said string) string {
	if strings.HasPrefix(said, "Server failed to authenticate") {
		return "AuthenticationFailed"
	}
	return code
}

// rejected reports whether the server did not take the credentials; that they
// do not allow something is another matter. It leaves the answer to be read.
func rejected(resp *http.Response) bool {
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return false
	}
	body, err := runtime.Payload(resp) // which the transport bounds
	if err != nil {
		return false
	}
	code := codeOf(resp.Header.Get("x-ms-error-code"), parseMessage(body))
	return resp.StatusCode == http.StatusUnauthorized || code == "AuthenticationFailed" || code == "InvalidAuthenticationInfo"
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
func classify(e *azcore.ResponseError, c bucket.Condition) error {
	switch e.ErrorCode {
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
	switch status := e.StatusCode; {
	// A right to create but not to overwrite.
	case e.ErrorCode == "UnauthorizedBlobOverwrite" && c.IfAbsent:
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

// message returns what an answer's body says, on one line.
// https://learn.microsoft.com/rest/api/storageservices/status-and-error-codes2
func message(resp *http.Response) string {
	if resp == nil || resp.Body == nil {
		return ""
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return ""
	}
	return parseMessage(body)
}

func parseMessage(body []byte) string {
	var said struct {
		Message                   string
		AuthenticationErrorDetail string
	}
	if xml.Unmarshal(body, &said) != nil {
		return ""
	}
	// What follows is the request's ID and time, and a string that was signed.
	line, _, _ := strings.Cut(strings.TrimSpace(said.Message), "\n")
	detail, _, _ := strings.Cut(strings.TrimSpace(said.AuthenticationErrorDetail), "\n")
	for _, mark := range []string{"Server used following string", "String to sign"} {
		detail, _, _ = strings.Cut(detail, mark)
	}
	if detail != "" {
		line += " " + detail
	}
	return strings.TrimSuffix(strings.TrimSpace(wire.Printable(line)), ".")
}
