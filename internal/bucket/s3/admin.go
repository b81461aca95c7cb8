package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Create implements [bucket.Admin]: a bucket in the region of the URL, of which
// its owner owns all objects, with public access blocked and versions enabled. A
// server that lacks one of these makes a bucket without it; Setup tells.
func (b *Bucket) Create(ctx context.Context) error {
	if err := b.vacant(ctx); err != nil {
		return err
	}
	if err := b.createBucket(ctx); err != nil {
		return err
	}
	for _, s := range []struct{ query, body string }{
		{"publicAccessBlock", `<PublicAccessBlockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><BlockPublicAcls>true</BlockPublicAcls>` +
			`<IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>`},
		{"versioning", `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>`},
	} {
		_, err := b.ask(ctx, question{method: http.MethodPut, query: s.query, body: s.body})
		if err != nil && !lacks(err) {
			return b.fail(ctx, "set "+s.query+" of", "the new bucket", bucket.Condition{}, err)
		}
	}
	return nil
}

// vacant reports ErrExists when there is a bucket of this name. S3 in us-east-1
// would not refuse to make one's own bucket again, and reset its ACL.
func (b *Bucket) vacant(ctx context.Context) error {
	_, err := b.ask(ctx, question{method: http.MethodHead})
	var answer *refusal
	switch {
	case err == nil:
		return fmt.Errorf("create %s: %w", b.at, bucket.ErrExists)
	case !errors.As(err, &answer):
	case answer.Status == http.StatusNotFound:
		return nil
	case answer.Status == http.StatusForbidden && b.known(ctx):
		return fmt.Errorf("create %s: %w, and these credentials may not look at it (names are shared by all customers)", b.at, bucket.ErrExists)
	case answer.Status == http.StatusMovedPermanently:
		return fmt.Errorf("create %s: %w: %s", b.at, bucket.ErrExists, b.remedy("create", answer))
	}
	return b.fail(ctx, "create", "bucket", bucket.Condition{}, err)
}

// known reports whether the server knows these credentials: a HEAD that is
// refused does not say why.
func (b *Bucket) known(ctx context.Context) bool {
	_, err := b.ask(ctx, question{method: http.MethodGet, query: "location"})
	var answer *refusal
	return err == nil || errors.As(err, &answer) && answer.Code == "AccessDenied"
}

func (b *Bucket) createBucket(ctx context.Context) error {
	q := question{method: http.MethodPut, header: http.Header{"X-Amz-Object-Ownership": {"BucketOwnerEnforced"}}}
	if b.at.Region != "us-east-1" {
		q.body = `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>` + b.at.Region +
			`</LocationConstraint></CreateBucketConfiguration>`
	}
	_, err := b.ask(ctx, q)
	if lacks(err) {
		q.header = nil
		_, err = b.ask(ctx, q)
	}
	var answer *refusal
	if errors.As(err, &answer) && (answer.Code == "BucketAlreadyExists" || answer.Code == "BucketAlreadyOwnedByYou") {
		return fmt.Errorf("create %s: %w", b.at, bucket.ErrExists)
	}
	if err != nil {
		return b.fail(ctx, "create", "bucket", bucket.Condition{}, err)
	}
	return nil
}

// lacks reports whether a server does not know what it was asked. Some take a
// request for part of a bucket's set-up as one to make the bucket.
func lacks(err error) bool {
	var answer *refusal
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case "NotImplemented", "MethodNotAllowed", "InvalidRequest", "InvalidArgument", "MalformedXML", "BucketAlreadyOwnedByYou", "BucketAlreadyExists",
		"VersioningNotConfigured":
		return true
	}
	return answer.Status == http.StatusNotImplemented || answer.Status == http.StatusMethodNotAllowed
}

// Endpoint implements [bucket.Remote].
func (b *Bucket) Endpoint() (url, ca string) {
	u := b.address()
	return u.Scheme + "://" + u.Host, b.at.CA
}

// address is where the bucket is.
func (b *Bucket) address() *url.URL {
	u := &url.URL{Scheme: "https", Host: b.at.Endpoint, Path: "/"}
	if b.at.Insecure {
		u.Scheme = "http"
	}
	pathStyle := b.at.PathStyle
	if u.Host == "" {
		u.Host = amazon(b.at.Region, b.at.Dualstack)
		// A certificate for *.s3… does not fit a name with dots.
		pathStyle = pathStyle || strings.Contains(b.at.Bucket, ".")
	}
	if pathStyle {
		u.Path = "/" + b.at.Bucket + "/"
	} else {
		u.Host = b.at.Bucket + "." + u.Host
	}
	return u
}

// amazon returns the host of Amazon S3 in a region.
// https://docs.aws.amazon.com/general/latest/gr/s3.html
func amazon(region string, dualstack bool) string {
	host := "s3."
	if dualstack {
		host += "dualstack."
	}
	host += region + ".amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		host += ".cn"
	}
	return host
}

// A question is a request about the bucket itself.
type question struct {
	method, query, body string
	key                 string // of an object, when it is about one
	header              http.Header
	unsigned            bool // as somebody without credentials
}

const maxAdminAnswer = 1 << 20

// ask makes one request, or two (see signed). An answer that is no success is a *refusal.
func (b *Bucket) ask(ctx context.Context, q question) (body []byte, err error) {
	if q.unsigned {
		return b.askOnce(ctx, q)
	}
	err = b.signed(ctx, func() error {
		body, err = b.askOnce(ctx, q)
		return err
	})
	return body, err
}

func (b *Bucket) askOnce(ctx context.Context, q question) ([]byte, error) {
	r := request{method: q.method, name: q.key, query: q.query, header: q.header, unsigned: q.unsigned}
	if q.body != "" {
		sum := sha256.Sum256([]byte(q.body))
		r.body, r.size, r.sum = strings.NewReader(q.body), int64(len(q.body)), hex.EncodeToString(sum[:])
	}
	resp, err := b.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
}
