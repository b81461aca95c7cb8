// Package gcs is a bucket on Google Cloud Storage, over its JSON API. Each call
// is one request: writes are a single upload, which limits objects to 5 TiB and
// keeps conditions. An ETag is "g" and the object's generation. Deadlines and
// retries are those of [bucket.Retry].
//
// https://cloud.google.com/storage/docs/json_api/v1
package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Options say whose credentials go with the requests.
type Options struct {
	Sources   []Source          // tried in this order; nothing else is asked
	Transport http.RoundTripper // nil: one with the proxy and certificates of the environment
	Logger    *slog.Logger      // warnings about credentials; nil: nowhere
}

// A Bucket is a bucket, or the part of it below a prefix.
type Bucket struct {
	at     Location
	client *http.Client
	tokens *wire.Chain[string] // nil: no token is sent
	prefix string              // with a slash at its end, or ""
}

// Open returns the bucket that a gs: URL names (see [Parse]). It makes no
// request.
func Open(_ context.Context, rawURL string, o Options) (*Bucket, error) {
	at, err := Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if o.Transport == nil {
		if o.Transport, err = wire.Transport(at.CA); err != nil {
			return nil, fmt.Errorf("open %s: %w", at, err)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bucket{at: at, client: &http.Client{Transport: o.Transport, CheckRedirect: noRedirect}}
	if !at.Anonymous {
		if !at.private() {
			o.Logger.Warn("tokens go to this bucket over http, for everybody on the way to read", "bucket", at.String())
		}
		b.tokens = newChain(o.Sources, b.client, o.Logger)
	}
	if at.Prefix != "" {
		b.prefix = at.Prefix + "/"
	}
	return b, nil
}

// Caps promises atomic conditions.
func (b *Bucket) Caps() bucket.Caps {
	return bucket.Caps{IfAbsent: true, IfMatch: true, ListFrom: true}
}

// Location returns what the bucket was opened with.
func (b *Bucket) Location() Location { return b.at }

// Endpoint implements [bucket.Remote].
func (b *Bucket) Endpoint() (url, ca string) { return b.at.Endpoint, b.at.CA }

// Signer returns where the credentials come from that go with the requests, and
// nothing of the credentials themselves. It asks for them when no request has
// yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	if b.tokens == nil {
		return "nobody: requests have no token (anonymous=true)", nil
	}
	g, err := b.tokens.Get(ctx)
	if err != nil {
		return "", err
	}
	return g.Source, nil
}

// Operations, as errors name them.
const (
	opGet    = "get"
	opPut    = "put"
	opList   = "list"
	opDelete = "delete"
	opCreate = "create"
	opSetup  = "set-up"
)

// name is the object's full name in the bucket.
func (b *Bucket) name(key string) (string, error) {
	return wire.Name(b.prefix, key)
}

// objects is the path of the bucket's objects, or of one.
func (b *Bucket) objects(name string) string {
	p := "/storage/v1/b/" + b.at.Bucket + "/o"
	if name != "" {
		p += "/" + strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
	}
	return p
}

// A request is one call of the API.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         io.ReadSeeker // nil: none
	size         int64         // of body
}

// do answers with success, or with an error that is a *refusal where the
// server spoke. A token that the server refuses may have ended early: then
// another one is asked for, once.
func (b *Bucket) do(ctx context.Context, r request) (*http.Response, error) {
	for try := 1; ; try++ {
		var granted *wire.Grant[string]
		token := ""
		if b.tokens != nil {
			var err error
			if granted, err = b.tokens.Get(ctx); err != nil {
				return nil, lacking(err)
			}
			token = granted.Value
		}
		resp, err := b.send(ctx, r, token)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusNoContent {
			return resp, nil
		}
		said := refused(resp)
		resp.Body.Close()
		if token != "" {
			said.message = strings.ReplaceAll(said.message, token, "…")
		}
		if said.status == http.StatusUnauthorized && granted != nil && b.tokens.Forget(granted) && try == 1 {
			continue
		}
		return nil, said
	}
}

func (b *Bucket) send(ctx context.Context, r request, token string) (*http.Response, error) {
	target := b.at.Endpoint + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		if _, err := r.body.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("rewind body: %w", err)
		}
		body = io.NopCloser(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = r.size
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "bootwell")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return b.client.Do(req)
}

// ask is do for an answer in JSON. One that breaks off can be asked for again.
func (b *Bucket) ask(ctx context.Context, r request, limit int64, answer any) error {
	resp, err := b.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("%w: read the answer: %w", bucket.ErrUnavailable, err)
	case err != nil:
		return err
	case int64(len(data)) > limit:
		return fmt.Errorf("the answer is over %d bytes: %w", limit, bucket.ErrUnsupported)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the answer is not what Google Cloud Storage says: %w: %w", bucket.ErrUnsupported, err)
	}
	return nil
}

// generation is the number in an ETag of ours; "" if it cannot be one.
func generation(etag string) string {
	n, ok := strings.CutPrefix(etag, "g")
	if _, err := strconv.ParseUint(n, 10, 63); !ok || err != nil {
		return ""
	}
	return n
}

func etagOf(generation string) (string, error) {
	if n, err := strconv.ParseUint(generation, 10, 63); err != nil || n == 0 {
		return "", fmt.Errorf("the answer has no generation: %w", bucket.ErrUnsupported)
	}
	return "g" + generation, nil
}

// Get implements [bucket.Bucket].
func (b *Bucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := bucket.CheckGet(key, o); err != nil {
		return nil, bucket.Object{}, err
	}
	name, err := b.name(key)
	if err != nil {
		return nil, bucket.Object{}, err
	}
	// With gzip accepted, an object that was stored compressed arrives as it is.
	r := request{method: http.MethodGet, path: b.objects(name), query: url.Values{"alt": {"media"}}, header: http.Header{"Accept-Encoding": {"gzip"}}}
	if g := generation(o.IfNoneMatch); g != "" {
		r.query.Set("ifGenerationNotMatch", g)
	}
	span, ranged := wire.Range(o)
	if ranged {
		r.header.Set("Range", span)
	}
	resp, err := b.do(ctx, r)
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, opGet, key, bucket.Condition{}, err)
	}
	obj, n, err := describe(resp, o, ranged)
	if err != nil {
		resp.Body.Close()
		return nil, bucket.Object{}, b.fail(ctx, opGet, key, bucket.Condition{}, err)
	}
	obj.Key = key
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, resp.Body, n, classify), obj, nil
}

// describe reads the headers of a download: the object, and the length of what
// is to be read.
func describe(resp *http.Response, o bucket.GetOptions, ranged bool) (obj bucket.Object, n int64, err error) {
	h := resp.Header
	if obj.ETag, err = etagOf(h.Get("X-Goog-Generation")); err != nil {
		return obj, 0, err
	}
	obj.Modified, _ = http.ParseTime(h.Get("Last-Modified")) // absent: zero
	plain := func(encoding string) string { return strings.TrimPrefix(encoding, "identity") }
	sent, stored := plain(h.Get("Content-Encoding")), plain(h.Get("X-Goog-Stored-Content-Encoding"))
	if sent != stored {
		return obj, 0, fmt.Errorf("the server does not give the bytes that are stored (encoding %q, not %q): %w", sent, stored, bucket.ErrUnsupported)
	}
	if !ranged {
		obj.Size = resp.ContentLength
		if obj.Size < 0 {
			return obj, 0, fmt.Errorf("the server does not tell the object's size: %w", bucket.ErrUnsupported)
		}
		return obj, obj.Size, nil
	}
	if resp.StatusCode != http.StatusPartialContent {
		return obj, 0, fmt.Errorf("the server does not give ranges (status %d): %w", resp.StatusCode, bucket.ErrUnsupported)
	}
	obj.Size, n, err = wire.Partial(o, h.Get("Content-Range"))
	return obj, n, err
}

// A resource is what the API says of an object.
type resource struct {
	Name       string    `json:"name"`
	Generation string    `json:"generation"`
	Size       string    `json:"size"`
	Updated    time.Time `json:"updated"`
}

const (
	fieldsOfOne = "name,generation,size,updated"
	maxOne      = 64 << 10
	maxPage     = 16 << 20 // a page of 1,000 names of 1,024 bytes, escaped, has 6 MiB
)

func (r resource) object(key string) (bucket.Object, error) {
	etag, err := etagOf(r.Generation)
	if err != nil {
		return bucket.Object{}, err
	}
	size, err := strconv.ParseUint(r.Size, 10, 63)
	if err != nil {
		return bucket.Object{}, fmt.Errorf("the answer has no size: %w", bucket.ErrUnsupported)
	}
	return bucket.Object{Key: key, Size: int64(size), ETag: etag, Modified: r.Updated}, nil
}

// Put implements [bucket.Bucket]. It reads the body twice: its checksum goes
// ahead, so that the server refuses one that was altered on the way.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if err := bucket.CheckPut(key, c); err != nil {
		return bucket.Object{}, err
	}
	name, err := b.name(key)
	if err != nil {
		return bucket.Object{}, err
	}
	if c.IfMatch != "" && generation(c.IfMatch) == "" {
		return bucket.Object{}, b.changed(ctx, key, name, c, errors.New("it never had this ETag"))
	}
	size, err := bucket.Size(body)
	if err != nil {
		return bucket.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	lent := wire.Lend(ctx, body)
	defer lent.Back()
	up, err := newUpload(name, lent, size)
	if err != nil {
		return bucket.Object{}, b.fail(ctx, opPut, key, c, err)
	}
	r := request{
		method: http.MethodPost, path: "/upload/storage/v1/b/" + b.at.Bucket + "/o",
		query:  url.Values{"uploadType": {"multipart"}, "fields": {fieldsOfOne}},
		header: http.Header{"Content-Type": {up.contentType()}}, body: up, size: up.size(),
	}
	switch {
	case c.IfAbsent:
		r.query.Set("ifGenerationMatch", "0")
	case c.IfMatch != "":
		r.query.Set("ifGenerationMatch", generation(c.IfMatch))
	}
	var stored resource
	if err := b.ask(ctx, r, maxOne, &stored); err != nil {
		err = b.fail(ctx, opPut, key, c, err)
		if errors.Is(err, bucket.ErrPrecondition) {
			return bucket.Object{}, b.changed(ctx, key, name, c, err)
		}
		return bucket.Object{}, err
	}
	obj, err := stored.object(key)
	if err == nil && obj.Size != size {
		err = fmt.Errorf("the server stored %d bytes of %d: %w", obj.Size, size, bucket.ErrUnavailable)
	}
	if err != nil {
		return bucket.Object{}, b.fail(ctx, opPut, key, c, err)
	}
	return obj, nil
}

// changed tells an object that is not there from one that changed, which the
// server does not.
func (b *Bucket) changed(ctx context.Context, key, name string, c bucket.Condition, broken error) error {
	var there resource
	err := b.ask(ctx, request{method: http.MethodGet, path: b.objects(name), query: url.Values{"fields": {fieldsOfOne}}}, maxOne, &there)
	if err == nil {
		if errors.Is(broken, bucket.ErrPrecondition) {
			return broken
		}
		return b.fail(ctx, opPut, key, c, fmt.Errorf("%w: %w", bucket.ErrPrecondition, broken))
	}
	missing := b.fail(ctx, opGet, key, bucket.Condition{}, err)
	if errors.Is(missing, bucket.ErrPermission) && errors.Is(broken, bucket.ErrPrecondition) {
		return broken // who may write need not be allowed to read
	}
	return missing
}

// Delete implements [bucket.Bucket].
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := bucket.CheckKey(key); err != nil {
		return err
	}
	name, err := b.name(key)
	if err != nil {
		return err
	}
	resp, err := b.do(ctx, request{method: http.MethodDelete, path: b.objects(name)})
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxError))
		resp.Body.Close()
		if err == nil {
			return nil
		}
	}
	if err = b.fail(ctx, opDelete, key, bucket.Condition{}, err); errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	return err
}

// CredentialsTo returns the URL to which tokens go: who reads them on the way
// can use them.
func (b *Bucket) CredentialsTo() []string {
	if b.tokens == nil {
		return nil
	}
	return []string{b.at.Endpoint}
}
