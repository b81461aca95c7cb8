// Package web is a bucket behind any web server: objects at the URLs of their
// keys, to read only.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	maxRedirects = 5
	maxSkip      = 64 << 20 // bytes read for nothing when a server ignores Range
	maxDrain     = 64 << 10 // of an answer that is an error
)

// Options say how to reach the server.
type Options struct {
	Transport http.RoundTripper // nil: one with the proxy and certificates of the environment
}

// A Bucket is what is below one URL.
type Bucket struct {
	base   *url.URL // path without a slash at its end
	ca     string   // file of certificates, or ""
	client *http.Client
}

// Open returns the bucket below an http: or https: URL. Its one option is
// ca=FILE, certificates to trust besides the system's. It makes no request.
func Open(_ context.Context, rawURL string, o Options) (*Bucket, error) {
	base, ca, err := Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if o.Transport == nil {
		if o.Transport, err = wire.Transport(ca); err != nil {
			return nil, fmt.Errorf("open %s: %w", base, err)
		}
	}
	return &Bucket{base: base, ca: ca, client: &http.Client{Transport: o.Transport, CheckRedirect: checkRedirect}}, nil
}

// Parse returns the address of the bucket's root and the file named by ca.
func Parse(rawURL string) (base *url.URL, ca string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, "", fmt.Errorf("bucket URL: %w", err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, "", fmt.Errorf("bucket %q: %w", u.Redacted(), err)
	}
	ca = q.Get("ca")
	for name, values := range q {
		if name != "ca" || len(values) != 1 || ca == "" {
			return nil, "", fmt.Errorf("bucket %q: option %q is not known or has no value; there is ca", u.Redacted(), name)
		}
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, "", fmt.Errorf("bucket %q: scheme is not http or https", u.Redacted())
	case u.Hostname() == "" || u.Opaque != "":
		return nil, "", fmt.Errorf("bucket %q: names no host", u.Redacted())
	case u.User != nil:
		return nil, "", fmt.Errorf("bucket %q: a password does not belong in the URL", u.Redacted())
	case u.Fragment != "":
		return nil, "", fmt.Errorf("bucket %q: has a fragment", u.Redacted())
	}
	base = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
	return base, ca, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if from := via[len(via)-1].URL; req.URL.Host == from.Host && req.URL.Path == from.Path+"/" {
		return errFolder
	}
	for _, before := range via {
		if before.URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errDowngrade
		}
	}
	return nil
}

var (
	errDowngrade = errors.New("redirect from https to http")
	errFolder    = errors.New("it is a folder")
)

// Caps says that all one can do is read.
func (b *Bucket) Caps() bucket.Caps { return bucket.Caps{ReadOnly: true, NoList: true} }

// Endpoint implements [bucket.Remote].
func (b *Bucket) Endpoint() (url, ca string) { return b.base.Scheme + "://" + b.base.Host, b.ca }

// address escapes each part of the key, so that it is one path to every server.
func (b *Bucket) address(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	u := *b.base
	return u.String() + "/" + strings.Join(parts, "/")
}

// Get implements [bucket.Bucket]. The ETag is the server's own, with its quotes;
// a server that sends none gives the whole object each time.
func (b *Bucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := bucket.CheckGet(key, o); err != nil {
		return nil, bucket.Object{}, err
	}
	where := fmt.Sprintf("get %s from %s", key, b.base)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.address(key), nil)
	if err != nil {
		return nil, bucket.Object{}, fmt.Errorf("%s: %w", where, err)
	}
	req.Header.Set("User-Agent", "bootwell")
	if o.IfNoneMatch != "" && !strings.HasSuffix(o.IfNoneMatch, young) {
		req.Header.Set("If-None-Match", o.IfNoneMatch)
	}
	if span, ok := wire.Range(o); ok {
		req.Header.Set("Range", span)
	}
	resp, err := b.client.Do(req)
	switch {
	case errors.Is(err, errDowngrade):
		return nil, bucket.Object{}, fmt.Errorf("%s: %w: %w", where, bucket.ErrPermission, errDowngrade)
	case errors.Is(err, errFolder):
		return nil, bucket.Object{}, fmt.Errorf("%s: %w: %w", where, bucket.ErrNotExist, errFolder)
	case err != nil:
		return nil, bucket.Object{}, fmt.Errorf("%s: %w", where, wire.Classify(ctx, err))
	}
	obj := bucket.Object{Key: key, Size: resp.ContentLength}
	obj.Modified, _ = http.ParseTime(resp.Header.Get("Last-Modified")) // absent: zero
	obj.ETag = etag(resp.Header, obj.Modified)
	body, err := b.answer(ctx, key, o, resp, &obj)
	if err != nil {
		io.CopyN(io.Discard, resp.Body, maxDrain)
		resp.Body.Close()
		return nil, obj, fmt.Errorf("%s: %w", where, err)
	}
	return body, obj, nil
}

// young ends an ETag that may also be that of a later content.
const young = ";young"

// etag returns the server's ETag. Some servers, such as nginx, make it of the
// size and the second of the last change, and so give two contents of one second
// the same. While that second is not over, such a tag proves nothing, and is
// marked so that no later Get relies on it.
func etag(h http.Header, modified time.Time) string {
	tag := h.Get("ETag")
	if tag == "" || modified.IsZero() {
		return tag
	}
	coarse := false
	for _, base := range []int{10, 16, 36} {
		coarse = coarse || strings.Contains(tag, strconv.FormatInt(modified.Unix(), base))
	}
	now, err := http.ParseTime(h.Get("Date"))
	if coarse && (err != nil || now.Sub(modified) < 2*time.Second) {
		tag += young
	}
	return tag
}

// answer makes a body of a response and completes obj.
func (b *Bucket) answer(ctx context.Context, key string, o bucket.GetOptions, resp *http.Response, obj *bucket.Object) (io.ReadCloser, error) {
	classify := func(err error) error { return fmt.Errorf("read %s from %s: %w", key, b.base, wire.Classify(ctx, err)) }
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		size, n, err := wire.Partial(o, resp.Header.Get("Content-Range"))
		if err != nil {
			return nil, err
		}
		obj.Size = size
		return bucket.NewBody(ctx, resp.Body, n, classify), nil
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp)
	case o.IfNoneMatch != "" && o.IfNoneMatch == obj.ETag && !strings.HasSuffix(obj.ETag, young):
		return nil, bucket.ErrNotModified // a server without conditional requests
	}
	n := obj.Size
	if n >= 0 {
		var err error
		if n, err = o.Within(n); err != nil {
			return nil, err
		}
	} else if o.Length > 0 {
		n = o.Length
	}
	if err := skip(resp.Body, o.Offset); err != nil {
		return nil, classifySkip(ctx, err)
	}
	return bucket.NewBody(ctx, resp.Body, n, classify), nil
}

// skip reads up to the offset that a server without ranges did not go to.
func skip(r io.Reader, offset int64) error {
	if offset > maxSkip {
		return fmt.Errorf("the server gives no ranges, and the part wanted is %d bytes in: %w", offset, bucket.ErrUnsupported)
	}
	_, err := io.CopyN(io.Discard, r, offset)
	return err
}

func classifySkip(ctx context.Context, err error) error {
	if errors.Is(err, bucket.ErrUnsupported) {
		return err
	}
	if errors.Is(err, io.EOF) {
		return bucket.ErrTruncated
	}
	return wire.Classify(ctx, err)
}

func statusError(resp *http.Response) error {
	var sentinel error
	switch status := resp.StatusCode; {
	case status == http.StatusNotModified:
		return bucket.ErrNotModified
	case status == http.StatusNotFound || status == http.StatusGone:
		return bucket.ErrNotExist
	case status == http.StatusRequestedRangeNotSatisfiable:
		return bucket.ErrTruncated
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusProxyAuthRequired:
		sentinel = bucket.ErrPermission
	case wire.Temporary(status):
		sentinel = bucket.ErrUnavailable
	default:
		sentinel = bucket.ErrUnsupported
	}
	err := fmt.Errorf("%w: status %d %s", sentinel, resp.StatusCode, http.StatusText(resp.StatusCode))
	if sentinel == bucket.ErrUnavailable {
		err = bucket.Later(err, wire.RetryAfter(resp.Header))
	}
	return err
}

// Put answers bucket.ErrUnsupported.
func (b *Bucket) Put(_ context.Context, key string, _ io.ReadSeeker, _ bucket.Condition) (bucket.Object, error) {
	return bucket.Object{}, b.unsupported("put", key)
}

// List answers bucket.ErrUnsupported.
func (b *Bucket) List(_ context.Context, prefix, _ string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		yield(bucket.Object{}, b.unsupported("list", prefix))
	}
}

// Delete answers bucket.ErrUnsupported.
func (b *Bucket) Delete(_ context.Context, key string) error { return b.unsupported("delete", key) }

func (b *Bucket) unsupported(op, key string) error {
	return fmt.Errorf("%s %s: %w: %s is a web server, which is only read", op, key, bucket.ErrUnsupported, b.base)
}
