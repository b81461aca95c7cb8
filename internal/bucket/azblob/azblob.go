// Package azblob is a bucket in a container of Azure Blob Storage. Each call is
// one request: writes are a single Put Blob, which limits objects to 5,000 MiB
// but keeps conditions. Deadlines and retries are those of [bucket.Retry].
//
// It links no identity library: a managed identity, a SAS token and an account
// key are read here, and other bearer tokens come through a [TokenSource].
package azblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Options say whose credentials sign the requests.
type Options struct {
	Sources   []Source          // tried in this order; nothing else is asked
	Transport http.RoundTripper // nil: one with the proxy and certificates of the environment
	Logger    *slog.Logger      // a warning when a VM uses static keys; nil: nowhere
}

// A Bucket is a container, or the part of it below a prefix.
type Bucket struct {
	at     Location
	creds  *wire.Chain[credential]
	wire   *watch
	prefix string // with a slash at its end, or ""
}

// Open returns the bucket that an az: URL names (see [Parse]). It asks the
// network nothing.
func Open(_ context.Context, rawURL string, o Options) (*Bucket, error) {
	at, err := Parse(rawURL)
	if err != nil {
		return nil, err
	}
	w := &watch{next: o.Transport}
	if w.next == nil {
		if w.next, err = wire.Transport(at.CA); err != nil {
			return nil, fmt.Errorf("open %s: %w", at, err)
		}
	}
	b := &Bucket{at: at, creds: newChain(at, o.Sources, o.Logger), wire: w}
	if at.Prefix != "" {
		b.prefix = at.Prefix + "/"
	}
	return b, nil
}

// Caps promises atomic conditions.
func (b *Bucket) Caps() bucket.Caps { return bucket.Caps{IfAbsent: true, IfMatch: true} }

// Location returns what the bucket was opened with.
func (b *Bucket) Location() Location { return b.at }

// Endpoint implements [bucket.Remote].
func (b *Bucket) Endpoint() (url, ca string) { return b.at.base(), b.at.CA }

// name is the blob's full name in the container.
func (b *Bucket) name(key string) (string, error) {
	name, err := wire.Name(b.prefix, key)
	if err != nil {
		return "", err
	}
	return name, checkName(name)
}

// client returns a client that signs with the credentials of now, and these.
func (b *Bucket) client(ctx context.Context) (*container.Client, credential, error) {
	g, err := b.creds.Get(ctx)
	if err != nil {
		return nil, credential{}, err
	}
	cred := g.Value
	cred.renewed = new(credential)
	c, err := cred.client(b.at.base()+"/"+b.at.Container, b.wire, signer{b.creds, g, cred.renewed})
	return c, cred, err
}

// Get implements [bucket.Bucket].
func (b *Bucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := bucket.CheckGet(key, o); err != nil {
		return nil, bucket.Object{}, err
	}
	name, err := b.name(key)
	if errors.Is(err, bucket.ErrUnsupported) {
		return nil, bucket.Object{}, fmt.Errorf("get %s in %s: %w", key, b.at, bucket.ErrNotExist)
	}
	if err != nil {
		return nil, bucket.Object{}, err
	}
	c, cred, err := b.client(ctx)
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, call{op: "get", key: key}, err)
	}
	in := call{op: "get", key: key, cred: cred}
	opts := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: o.Offset, Count: o.Length}}
	if o.IfNoneMatch != "" {
		opts.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: quoted(o.IfNoneMatch)}}
	}
	var raw *http.Response
	resp, err := c.NewBlobClient(name).DownloadStream(policy.WithCaptureResponse(ctx, &raw), opts)
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, in, err)
	}
	if raw.StatusCode == http.StatusNotModified { // success, to the client library
		resp.Body.Close()
		return nil, bucket.Object{}, b.fail(ctx, in, bucket.ErrNotModified)
	}
	obj, n, err := object(key, o, resp)
	if err != nil {
		resp.Body.Close()
		return nil, bucket.Object{}, b.fail(ctx, in, err)
	}
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, resp.Body, n, classify), obj, nil
}

// object returns what an answer says of the object, and the length of its body.
func object(key string, o bucket.GetOptions, resp blob.DownloadStreamResponse) (bucket.Object, int64, error) {
	if resp.ContentLength == nil || *resp.ContentLength < 0 {
		return bucket.Object{}, 0, fmt.Errorf("the server does not tell the object's size: %w", bucket.ErrUnsupported)
	}
	obj := bucket.Object{Key: key, Size: *resp.ContentLength, ETag: unquoted(resp.ETag)}
	if resp.LastModified != nil {
		obj.Modified = *resp.LastModified
	}
	if _, ranged := wire.Range(o); !ranged {
		return obj, obj.Size, nil
	}
	if obj.Size == 0 { // Azurite's way to say 416
		return obj, 0, fmt.Errorf("range at %d: %w", o.Offset, bucket.ErrTruncated)
	}
	size, n, err := wire.Partial(o, deref(resp.ContentRange))
	obj.Size = size
	return obj, n, err
}

// Put implements [bucket.Bucket].
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if err := bucket.CheckPut(key, c); err != nil {
		return bucket.Object{}, err
	}
	name, err := b.name(key)
	if err != nil {
		return bucket.Object{}, err
	}
	size, err := bucket.Size(body)
	if err != nil {
		return bucket.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	cc, cred, err := b.client(ctx)
	in := call{op: "put", key: key, cond: c, cred: cred}
	if err != nil {
		return bucket.Object{}, b.fail(ctx, in, err)
	}
	when := &blob.ModifiedAccessConditions{}
	if c.IfAbsent {
		any := azcore.ETagAny
		when.IfNoneMatch = &any
	}
	if c.IfMatch != "" {
		when.IfMatch = quoted(c.IfMatch)
	}
	lent := wire.Lend(ctx, body)
	defer lent.Back()
	resp, err := cc.NewBlockBlobClient(name).Upload(ctx, lent, &blockblob.UploadOptions{
		AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: when},
	})
	if err != nil {
		err = b.fail(ctx, in, err)
		if errors.Is(err, bucket.ErrPrecondition) && b.missing(ctx, cc, name) {
			err = fmt.Errorf("put %s in %s: %w", key, b.at, bucket.ErrNotExist)
		}
		return bucket.Object{}, err
	}
	obj := bucket.Object{Key: key, Size: size, ETag: unquoted(resp.ETag)}
	if resp.LastModified != nil {
		obj.Modified = *resp.LastModified
	}
	return obj, nil
}

// missing reports whether there is surely no such blob. The service gives the
// same answer to If-Match for a blob that is not there and for one that changed.
func (b *Bucket) missing(ctx context.Context, c *container.Client, name string) bool {
	_, err := c.NewBlobClient(name).GetProperties(ctx, nil)
	var answer *azcore.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

// List implements [bucket.Bucket]: one request for each 5,000 blobs. The service
// cannot begin in the middle, so what stands before after is asked for and left
// out. Names that cannot be keys, and the folders of accounts with a
// hierarchical namespace, are left out too.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		c, cred, err := b.client(ctx)
		in := call{op: "list", key: prefix, cred: cred}
		if err != nil {
			yield(bucket.Object{}, b.fail(ctx, in, err))
			return
		}
		full, last := b.prefix+prefix, ""
		pages := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &full})
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err == nil && page.Segment == nil {
				err = fmt.Errorf("the answer is no list: %w", bucket.ErrUnsupported)
			}
			if err != nil {
				yield(bucket.Object{}, b.fail(ctx, in, err))
				return
			}
			for _, item := range page.Segment.BlobItems {
				obj, ok := b.listed(item, prefix)
				if !ok {
					continue
				}
				if obj.Key <= last {
					yield(bucket.Object{}, b.fail(ctx, in, fmt.Errorf("%q stands after %q: %w: does the account have a hierarchical namespace?", obj.Key, last, bucket.ErrUnsupported)))
					return
				}
				last = obj.Key
				if obj.Key > after && !yield(obj, nil) {
					return
				}
			}
		}
	}
}

// listed returns an entry of a list; ok is false if it is no object of ours.
func (b *Bucket) listed(item *container.BlobItem, prefix string) (obj bucket.Object, ok bool) {
	if item == nil || item.Name == nil || item.Properties == nil {
		return obj, false
	}
	p := item.Properties
	key, ok := strings.CutPrefix(*item.Name, b.prefix)
	if !ok || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil || deref(p.ResourceType) == "directory" {
		return obj, false
	}
	obj = bucket.Object{Key: key, ETag: unquoted(p.ETag)}
	if p.ContentLength != nil {
		obj.Size = *p.ContentLength
	}
	if p.LastModified != nil {
		obj.Modified = *p.LastModified
	}
	return obj, true
}

// Delete implements [bucket.Bucket].
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := bucket.CheckKey(key); err != nil {
		return err
	}
	name, err := b.name(key)
	if errors.Is(err, bucket.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	c, cred, err := b.client(ctx)
	if err == nil {
		_, err = c.NewBlobClient(name).Delete(ctx, nil)
	}
	if err == nil {
		return nil
	}
	if err = b.fail(ctx, call{op: "delete", key: key, cred: cred}, err); errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	return err
}

// quoted and unquoted translate between the ETags of a header and ours. Lists
// have them without quotes.
func quoted(etag string) *azcore.ETag {
	e := azcore.ETag(`"` + etag + `"`)
	return &e
}

func unquoted(e *azcore.ETag) string {
	if e == nil {
		return ""
	}
	return strings.Trim(string(*e), `"`)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// clientOptions lets the client library neither retry nor tell about itself.
func clientOptions(w *watch, sign policy.Policy) *container.ClientOptions {
	o := azcore.ClientOptions{Transport: w, Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true}}
	if sign != nil {
		o.PerRetryPolicies = []policy.Policy{sign}
	}
	return &container.ClientOptions{ClientOptions: o}
}

// watch is the transport of the client library. It follows no redirect, bounds
// what the library reads without a bound, and remembers how far the server's
// clock is.
type watch struct {
	next http.RoundTripper
	skew atomic.Int64 // nanoseconds this clock is ahead
}

const maxAnswer = 32 << 20 // a page of 5,000 names of 1,024 bytes has some 10 MiB

// Do implements the client library's transport.
func (w *watch) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		w.skew.Store(int64(time.Since(date)))
	}
	q := req.URL.Query()
	isObject := req.Method == http.MethodGet && !q.Has("comp") && !q.Has("restype") && resp.StatusCode < 300
	if !isObject {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, nil
}
