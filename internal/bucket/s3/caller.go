package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const maxCaller = 64 << 10 // bytes of an answer of STS

// CallerID implements [bucket.Caller]: the value of the policy variable
// aws:userid, for an EC2 instance with a role "role ID:instance ID". It takes
// one request to the security token service of the region, or to
// AWS_ENDPOINT_URL_STS; no right is needed for it. Only Amazon S3 has it.
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
func (b *Bucket) CallerID(ctx context.Context) (string, error) {
	endpoint := os.Getenv("AWS_ENDPOINT_URL_STS")
	if endpoint == "" && b.at.Endpoint != "" || b.at.Anonymous {
		return "", fmt.Errorf("ask who the caller is: %w", bucket.ErrUnsupported)
	}
	if endpoint == "" {
		endpoint = "https://sts." + b.at.Region + ".amazonaws.com"
		if strings.HasPrefix(b.at.Region, "cn-") {
			endpoint += ".cn"
		}
	}
	req, err := b.callerRequest(ctx, endpoint)
	if err != nil {
		return "", fmt.Errorf("ask who the caller is: %w", err)
	}
	resp, err := b.wire.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("ask who the caller is: %w", wire.Classify(ctx, err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxCaller))
	if err != nil {
		return "", fmt.Errorf("ask who the caller is: %w", wire.Classify(ctx, err))
	}
	switch {
	case wire.Temporary(resp.StatusCode):
		return "", fmt.Errorf("ask who the caller is: status %d: %w", resp.StatusCode, bucket.ErrUnavailable)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("ask who the caller is: status %d: %w", resp.StatusCode, bucket.ErrPermission)
	}
	id, err := parseCaller(text)
	if err != nil {
		return "", fmt.Errorf("ask who the caller is: %w", err)
	}
	return id, nil
}

// callerRequest is the signed question.
func (b *Bucket) callerRequest(ctx context.Context, endpoint string) (*http.Request, error) {
	const form = "Action=GetCallerIdentity&Version=2011-06-15"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(endpoint, "/")+"/", strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(form))
	req.Header.Set(contentSum, hex.EncodeToString(sum[:]))
	if err := b.sign(ctx, req, "sts"); err != nil {
		return nil, err
	}
	return req, nil
}

// parseCaller reads the answer to GetCallerIdentity.
func parseCaller(text []byte) (string, error) {
	var answer struct {
		UserID string `xml:"GetCallerIdentityResult>UserId"`
	}
	if err := xml.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("parse the answer: %w", err)
	}
	if answer.UserID == "" || len(answer.UserID) > 256 {
		return "", fmt.Errorf("parse the answer: a user ID of %d bytes", len(answer.UserID))
	}
	return answer.UserID, nil
}
