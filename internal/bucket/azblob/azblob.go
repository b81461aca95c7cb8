// Package azblob is a bucket in a container of Azure Blob Storage, over its REST
// API. Each call is one request: writes are a single Put Blob, which limits
// objects to 5,000 MiB but keeps conditions. Deadlines and retries are those of
// [bucket.Retry].
//
// A managed identity, a SAS token and an account key are read here; other bearer
// tokens come through a [TokenSource].
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

// Operations, as errors name them.
const (
	opGet    = "get"
	opPut    = "put"
	opList   = "list"
	opDelete = "delete"
	opCreate = "create"
	opSetup  = "ask about"
)

// name is the blob's full name in the container.
func (b *Bucket) name(key string) (string, error) {
	name, err := wire.Name(b.prefix, key)
	if err != nil {
		return "", err
	}
	return name, checkName(name)
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
	r := request{method: http.MethodGet, name: name, header: http.Header{}}
	if o.IfNoneMatch != "" {
		r.header.Set("If-None-Match", quoted(o.IfNoneMatch))
	}
	span, ranged := wire.Range(o)
	if ranged {
		r.header.Set("Range", span)
	}
	resp, err := b.send(ctx, r)
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, opGet, key, bucket.Condition{}, err)
	}
	obj, n, err := described(resp, o, ranged)
	if err != nil {
		resp.Body.Close()
		return nil, bucket.Object{}, b.fail(ctx, opGet, key, bucket.Condition{}, err)
	}
	obj.Key = key
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, resp.Body, n, classify), obj, nil
}

// described is what an answer says of the object, and the length of its body.
func described(resp *http.Response, o bucket.GetOptions, ranged bool) (obj bucket.Object, n int64, err error) {
	obj = version(resp.Header)
	obj.Size = resp.ContentLength
	switch {
	case obj.Size < 0:
		return obj, 0, fmt.Errorf("the server does not tell the object's size: %w", bucket.ErrUnsupported)
	case !ranged:
		return obj, obj.Size, nil
	case obj.Size == 0: // Azurite's way to say 416
		return obj, 0, fmt.Errorf("range at %d: %w", o.Offset, bucket.ErrTruncated)
	}
	obj.Size, n, err = wire.Partial(o, resp.Header.Get("Content-Range"))
	return obj, n, err
}

// version is what headers say of an object's content.
func version(h http.Header) bucket.Object {
	obj := bucket.Object{ETag: unquoted(h.Get("ETag"))}
	obj.Modified, _ = http.ParseTime(h.Get("Last-Modified")) // absent: zero
	return obj
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
	lent := wire.Lend(ctx, body)
	defer lent.Back()
	r := request{method: http.MethodPut, name: name, body: lent, size: size, header: http.Header{}}
	r.header.Set("Content-Type", "application/octet-stream")
	r.header.Set("X-Ms-Blob-Type", "BlockBlob")
	if c.IfAbsent {
		r.header.Set("If-None-Match", "*")
	}
	if c.IfMatch != "" {
		r.header.Set("If-Match", quoted(c.IfMatch))
	}
	resp, err := b.send(ctx, r)
	if err != nil {
		err = b.fail(ctx, opPut, key, c, err)
		if errors.Is(err, bucket.ErrPrecondition) && b.missing(ctx, name) {
			err = fmt.Errorf("put %s in %s: %w", key, b.at, bucket.ErrNotExist)
		}
		return bucket.Object{}, err
	}
	defer wire.Finish(resp)
	obj := version(resp.Header)
	obj.Key, obj.Size = key, size
	return obj, nil
}

// missing reports whether there is surely no such blob. The service gives the
// same answer to If-Match for a blob that is not there and for one that changed.
func (b *Bucket) missing(ctx context.Context, name string) bool {
	resp, err := b.send(ctx, request{method: http.MethodHead, name: name})
	if err == nil {
		wire.Finish(resp)
	}
	var answer *refusal
	return errors.As(err, &answer) && answer.status == http.StatusNotFound
}

// List implements [bucket.Bucket]: one request for each 5,000 blobs. The service
// cannot begin in the middle, so what stands before after is asked for and left
// out. Names that cannot be keys, and the folders of accounts with a
// hierarchical namespace, are left out too.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		if err := b.list(ctx, prefix, after, yield); err != nil {
			yield(bucket.Object{}, b.fail(ctx, opList, prefix, bucket.Condition{}, err))
		}
	}
}

// list yields until there is no more, or yield has enough.
func (b *Bucket) list(ctx context.Context, prefix, after string, yield func(bucket.Object, error) bool) error {
	marker, last := "", ""
	for {
		p, err := b.page(ctx, b.prefix+prefix, marker, nil, false)
		if err != nil {
			return err
		}
		for _, blob := range p.Blobs.Blob {
			obj, ok := b.object(blob, prefix)
			if !ok {
				continue
			}
			if obj.Key <= last {
				return fmt.Errorf("%q stands after %q: %w: does the account have a hierarchical namespace?", obj.Key, last, bucket.ErrUnsupported)
			}
			last = obj.Key
			if obj.Key > after && !yield(obj, nil) {
				return nil
			}
		}
		if marker = p.NextMarker; marker == "" {
			return ctx.Err()
		}
	}
}

// object returns an entry of a list; ok is false if it is no object of ours.
func (b *Bucket) object(l listed, prefix string) (obj bucket.Object, ok bool) {
	key, ok := strings.CutPrefix(l.Name.Text, b.prefix)
	if !ok || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil || l.Properties.Size < 0 || l.Properties.ResourceType == "directory" {
		return obj, false
	}
	obj = bucket.Object{Key: key, Size: l.Properties.Size, ETag: unquoted(l.Properties.ETag)}
	obj.Modified, _ = http.ParseTime(l.Properties.Modified) // absent: zero
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
	resp, err := b.send(ctx, request{method: http.MethodDelete, name: name})
	if err == nil {
		wire.Finish(resp)
		return nil
	}
	if err = b.fail(ctx, opDelete, key, bucket.Condition{}, err); errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	return err
}

// quoted and unquoted translate between the ETags of a header and ours. Lists
// have them without quotes.
func quoted(etag string) string { return `"` + etag + `"` }

func unquoted(etag string) string { return strings.Trim(etag, `"`) }
