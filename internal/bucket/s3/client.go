package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	maxRefusal = 1 << 20  // bytes of an answer that says why not
	maxPage    = 16 << 20 // a page of 1,000 keys of 1,024 bytes, escaped, has 4 MiB

	// emptySum is the SHA-256 of nothing.
	emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// A request is one call of the API.
type request struct {
	method   string
	name     string // of an object, with the prefix; "": the bucket itself
	query    string
	header   http.Header // beside those of all requests; nil: none
	body     io.Reader   // nil: none
	size     int64       // of body
	sum      string      // SHA-256 of body in hexadecimal; "": of nothing
	unsigned bool        // as somebody without credentials
}

// A refusal is an answer of the server that is no success.
type refusal struct {
	XMLName xml.Name `xml:"Error"`
	Code    string   // of AWS's list of errors, or made of the status
	Message string
	Region  string // where the bucket is, if the server tells
	Status  int    `xml:"-"`
}

func (r *refusal) Error() string {
	if r.Message == "" {
		return r.Code
	}
	return r.Code + ": " + r.Message
}

// send makes one request. An answer that is no success is a *refusal. The caller
// closes the body.
func (b *Bucket) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := b.request(ctx, r)
	if err != nil {
		return nil, err
	}
	if !r.unsigned && !b.at.Anonymous {
		if err := b.sign(ctx, req, "s3"); err != nil {
			return nil, err
		}
	}
	resp, err := b.wire.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // the status says enough without it
	return nil, refused(resp, r.name != "", body)
}

func (b *Bucket) request(ctx context.Context, r request) (*http.Request, error) {
	u := b.address()
	u.Path += r.name
	// The signature is of the path as S3 itself would escape it.
	u.RawPath = wire.PathEscape(u.Path)
	u.RawQuery = r.query
	req := (&http.Request{Method: r.method, URL: u, Host: u.Host, Header: http.Header{}}).WithContext(ctx)
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "bootwell")
	sum := r.sum
	if sum == "" {
		sum = emptySum
	}
	req.Header.Set(contentSum, sum)
	if r.body != nil && r.size > 0 {
		req.Body, req.ContentLength = io.NopCloser(r.body), r.size
	}
	return req, nil
}

const contentSum = "X-Amz-Content-Sha256"

// sign signs req with the keys of now; its header has the sum of its body.
func (b *Bucket) sign(ctx context.Context, req *http.Request, service string) error {
	g, err := b.keys.Get(ctx)
	if err != nil {
		return err
	}
	keys := aws.Credentials{AccessKeyID: g.Value.AccessKey, SecretAccessKey: g.Value.SecretKey, SessionToken: g.Value.SessionToken}
	return b.signer.SignHTTP(ctx, keys, req, req.Header.Get(contentSum), service, b.at.Region, time.Now())
}

func newSigner() *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
}

// refused is what the server said, or else what its status means.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func refused(resp *http.Response, object bool, body []byte) *refusal {
	var r refusal
	if len(body) == 0 || xml.NewDecoder(bytes.NewReader(body)).Decode(&r) != nil || r.Code == "" {
		r = refusal{Code: strings.ReplaceAll(http.StatusText(resp.StatusCode), " ", "")}
		switch status := resp.StatusCode; {
		case status == http.StatusMovedPermanently:
			r.Code = "PermanentRedirect"
		case status == http.StatusForbidden && object:
			r.Code = "AccessDenied"
		case status == http.StatusNotFound && object:
			r.Code = "NoSuchKey"
		case status == http.StatusNotFound:
			r.Code = "NoSuchBucket"
		}
	}
	r.Status = resp.StatusCode
	if region := resp.Header.Get("x-amz-bucket-region"); region != "" {
		r.Region = region
	}
	r.Region = strings.TrimSpace(r.Region)
	return &r
}

// signed makes a call with the keys of now, and once more with others when the
// server rejects those.
func (b *Bucket) signed(ctx context.Context, call func() error) error {
	if b.at.Anonymous {
		return call()
	}
	g, err := b.keys.Get(ctx)
	if err != nil {
		return err
	}
	err = call()
	var answer *refusal
	if !errors.As(err, &answer) || !replaceable(answer.Code) || !b.keys.Forget(g) {
		return err
	}
	if _, err := b.keys.Get(ctx); err != nil {
		return err
	}
	return call()
}

// A page is one answer to a list.
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
type page struct {
	EncodingType          string
	IsTruncated           bool
	NextContinuationToken string
	Contents              []struct {
		Key          string
		LastModified time.Time
		ETag         string
		Size         int64
	}
}

// page asks for the objects below prefix that follow after, or those behind a
// continuation token.
func (b *Bucket) page(ctx context.Context, prefix, after, token string) (*page, error) {
	q := url.Values{"list-type": {"2"}, "encoding-type": {"url"}, "prefix": {prefix}}
	if after != "" {
		q.Set("start-after", after)
	}
	if token != "" {
		q.Set("continuation-token", token)
	}
	resp, err := b.send(ctx, request{method: http.MethodGet, query: q.Encode()})
	if err != nil {
		return nil, err
	}
	defer wire.Finish(resp)
	var p page
	if err := parsePage(io.LimitReader(resp.Body, maxPage), &p); err != nil {
		return nil, err
	}
	return &p, nil
}

// parsePage reads an answer to a list, and its keys as they are.
func parsePage(r io.Reader, p *page) error {
	if err := xml.NewDecoder(r).Decode(p); err != nil {
		return fmt.Errorf("read the list: %w", err)
	}
	if p.IsTruncated && p.NextContinuationToken == "" {
		return fmt.Errorf("the list goes on, and the server does not say where: %w", bucket.ErrUnsupported)
	}
	if p.EncodingType != "url" {
		return nil
	}
	for i := range p.Contents {
		key, err := url.QueryUnescape(p.Contents[i].Key)
		if err != nil {
			return fmt.Errorf("the list has the name %.100q: %w", p.Contents[i].Key, bucket.ErrUnsupported)
		}
		p.Contents[i].Key = key
	}
	return nil
}

// watch remembers how far the server's clock is and how long it wants to be
// left alone.
type watch struct {
	next  http.RoundTripper
	skew  atomic.Int64              // nanoseconds this clock is ahead
	quiet atomic.Pointer[time.Time] // until when; nil: it never asked
}

// pause is how long the server still wants to be left alone.
func (w *watch) pause() time.Duration {
	if t := w.quiet.Load(); t != nil {
		return max(time.Until(*t), 0)
	}
	return 0
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		w.skew.Store(int64(time.Since(date)))
	}
	if wire.Temporary(resp.StatusCode) {
		until := time.Now().Add(wire.RetryAfter(resp.Header))
		w.quiet.Store(&until)
	}
	return resp, nil
}
