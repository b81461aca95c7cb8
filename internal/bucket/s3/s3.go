// Package s3 is a bucket on Amazon S3 or a server that speaks its protocol. It
// signs with SigV4 and each call is one request: writes are a single PUT, which
// limits objects to 5 GiB but keeps conditions (a multipart upload drops them).
// Deadlines and retries are those of [bucket.Retry].
package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Options say whose credentials sign the requests.
type Options struct {
	Sources   []Source          // tried in this order; nothing else is asked
	Transport http.RoundTripper // nil: one with the proxy and certificates of the environment
	Logger    *slog.Logger      // a warning when a VM uses permanent keys; nil: nowhere
}

// A Bucket is a bucket, or the part of it below a prefix.
type Bucket struct {
	at     Location
	keys   *wire.Chain[Keys]
	signer *v4.Signer
	wire   *watch
	prefix string // with a slash at its end, or ""
}

// Open returns the bucket that an s3: URL names (see [Parse]). It asks the
// network nothing but, for Amazon S3 and an instance role, the region.
func Open(ctx context.Context, rawURL string, o Options) (*Bucket, error) {
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
	if at.Region == "" {
		at.Region = region(ctx, at, o.Sources)
	}
	b := &Bucket{at: at, keys: newChain(o.Sources, o.Logger), signer: newSigner(), wire: w}
	if at.Prefix != "" {
		b.prefix = at.Prefix + "/"
	}
	return b, nil
}

// region is never "", so that no request ever asks where the bucket is.
func region(ctx context.Context, at Location, sources []Source) string {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if r := os.Getenv(name); r != "" {
			return r
		}
	}
	for _, s := range sources {
		if s.region == nil || at.Endpoint != "" || at.Anonymous {
			continue
		}
		if r, err := s.region(ctx); err == nil && r != "" {
			return r
		}
	}
	return "us-east-1"
}

// Caps promises atomic conditions.
func (b *Bucket) Caps() bucket.Caps {
	return bucket.Caps{IfAbsent: true, IfMatch: true, ListFrom: true}
}

// Location returns what the bucket was opened with.
func (b *Bucket) Location() Location { return b.at }

// name is the object's full key in the S3 bucket.
func (b *Bucket) name(key string) (string, error) {
	return wire.Name(b.prefix, key)
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
	r := request{method: http.MethodGet, name: name, header: http.Header{}}
	if o.IfNoneMatch != "" {
		r.header.Set("If-None-Match", `"`+o.IfNoneMatch+`"`)
	}
	span, ranged := wire.Range(o)
	if ranged {
		r.header.Set("Range", span)
	}
	var resp *http.Response
	err = b.signed(ctx, func() (err error) {
		resp, err = b.send(ctx, r)
		return err
	})
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, "get", key, bucket.Condition{}, err)
	}
	n := resp.ContentLength
	obj := bucket.Object{Key: key, Size: n, ETag: etag(resp.Header.Get("ETag"))}
	obj.Modified, _ = http.ParseTime(resp.Header.Get("Last-Modified")) // absent: zero
	if ranged {
		obj.Size, n, err = wire.Partial(o, resp.Header.Get("Content-Range"))
	}
	if err != nil {
		resp.Body.Close()
		return nil, bucket.Object{}, b.fail(ctx, "get", key, bucket.Condition{}, err)
	}
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, resp.Body, n, classify), obj, nil
}

// Put implements [bucket.Bucket]. It reads the body twice: its SHA-256 is part
// of the signature, so that the server refuses one that was altered on the way.
// Object.Modified is not known.
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
	sum := sha256.New()
	if _, err := io.Copy(sum, lent); err != nil {
		return bucket.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	r := request{method: http.MethodPut, name: name, body: lent, size: size, sum: hex.EncodeToString(sum.Sum(nil))}
	r.header = http.Header{"Content-Type": {"application/octet-stream"}}
	if c.IfAbsent {
		r.header.Set("If-None-Match", "*")
	}
	if c.IfMatch != "" {
		r.header.Set("If-Match", `"`+c.IfMatch+`"`)
	}
	obj := bucket.Object{Key: key, Size: size}
	err = b.signed(ctx, func() error {
		if _, err := lent.Seek(0, io.SeekStart); err != nil {
			return err
		}
		resp, err := b.send(ctx, r)
		if err != nil {
			return err
		}
		obj.ETag = etag(resp.Header.Get("ETag"))
		wire.Finish(resp)
		return nil
	})
	if err != nil {
		return bucket.Object{}, b.fail(ctx, "put", key, c, err)
	}
	return obj, nil
}

// etag is an entity tag without its quotes.
func etag(header string) string {
	return strings.TrimSuffix(strings.TrimPrefix(header, `"`), `"`)
}

// List implements [bucket.Bucket]: one request for each thousand objects. Names
// that cannot be keys, such as the folder marks of web consoles, are left out.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		if err := b.list(ctx, prefix, after, yield); err != nil {
			yield(bucket.Object{}, b.fail(ctx, "list", prefix, bucket.Condition{}, err))
		}
	}
}

// list yields until there is no more, or yield has enough.
func (b *Bucket) list(ctx context.Context, prefix, after string, yield func(bucket.Object, error) bool) error {
	start, token := "", ""
	if after != "" {
		start = b.prefix + after
	}
	for {
		var p *page
		err := b.signed(ctx, func() (err error) {
			p, err = b.page(ctx, b.prefix+prefix, start, token)
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range p.Contents {
			key, ok := strings.CutPrefix(o.Key, b.prefix)
			if !ok || key <= after || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil {
				continue
			}
			if !yield(bucket.Object{Key: key, Size: o.Size, ETag: etag(o.ETag), Modified: o.LastModified.Truncate(time.Millisecond)}, nil) {
				return nil
			}
		}
		if token = p.NextContinuationToken; !p.IsTruncated {
			return ctx.Err()
		}
	}
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
	err = b.signed(ctx, func() error {
		resp, err := b.send(ctx, request{method: http.MethodDelete, name: name})
		if err == nil {
			wire.Finish(resp)
		}
		return err
	})
	if err == nil {
		return nil
	}
	if err = b.fail(ctx, "delete", key, bucket.Condition{}, err); errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	return err
}
