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
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

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
	core   minio.Core
	keys   *wire.Chain[credentials.Value]
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
	keys := newChain(o.Sources, o.Logger)
	creds := credentials.New(provider{keys})
	if at.Anonymous {
		creds = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	b := &Bucket{at: at, keys: keys, wire: w}
	if at.Prefix != "" {
		b.prefix = at.Prefix + "/"
	}
	endpoint, lookup := at.Endpoint, minio.BucketLookupAuto
	if endpoint == "" {
		endpoint = "s3.amazonaws.com"
	}
	switch {
	case at.PathStyle:
		lookup = minio.BucketLookupPath
	case at.Endpoint != "":
		lookup = minio.BucketLookupDNS
	}
	core, err := minio.NewCore(endpoint, &minio.Options{
		Creds: creds, Secure: !at.Insecure, Transport: w, Region: at.Region, BucketLookup: lookup, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", at, err)
	}
	core.SetS3EnableDualstack(at.Dualstack)
	b.core = *core
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
	var opts minio.GetObjectOptions
	if o.IfNoneMatch != "" {
		opts.Set("If-None-Match", `"`+o.IfNoneMatch+`"`)
	}
	span, ranged := wire.Range(o)
	if ranged {
		opts.Set("Range", span)
	}
	var r io.ReadCloser
	var info minio.ObjectInfo
	var header http.Header
	err = b.signed(ctx, func() (err error) {
		r, info, header, err = b.core.GetObject(ctx, b.at.Bucket, name, opts)
		return err
	})
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, "get", key, bucket.Condition{}, err)
	}
	obj := bucket.Object{Key: key, Size: info.Size, ETag: info.ETag, Modified: info.LastModified}
	n := info.Size
	if ranged {
		obj.Size, n, err = wire.Partial(o, header.Get("Content-Range"))
	}
	if err != nil {
		r.Close()
		return nil, bucket.Object{}, b.fail(ctx, "get", key, bucket.Condition{}, err)
	}
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, r, n, classify), obj, nil
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
	opts := minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: true}
	if c.IfAbsent {
		opts.SetMatchETagExcept("*")
	}
	if c.IfMatch != "" {
		opts.SetMatchETag(c.IfMatch)
	}
	var info minio.UploadInfo
	err = b.signed(ctx, func() (err error) {
		if _, err := lent.Seek(0, io.SeekStart); err != nil {
			return err
		}
		info, err = b.core.PutObject(ctx, b.at.Bucket, name, lent, size, "", hex.EncodeToString(sum.Sum(nil)), opts)
		return err
	})
	if err != nil {
		return bucket.Object{}, b.fail(ctx, "put", key, c, err)
	}
	return bucket.Object{Key: key, Size: size, ETag: info.ETag}, nil
}

// List implements [bucket.Bucket]: one request for each thousand objects. Names
// that cannot be keys, such as the folder marks of web consoles, are left out.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		noOwner := false
		opts := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true, FetchOwner: &noOwner}
		if after != "" {
			opts.StartAfter = b.prefix + after
		}
		stopped := false
		err := b.signed(ctx, func() error {
			for info := range b.core.ListObjectsIter(ctx, b.at.Bucket, opts) {
				if info.Err != nil {
					return info.Err
				}
				opts.StartAfter = info.Key
				key, ok := strings.CutPrefix(info.Key, b.prefix)
				if !ok || key <= after || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil {
					continue
				}
				if !yield(bucket.Object{Key: key, Size: info.Size, ETag: info.ETag, Modified: info.LastModified}, nil) {
					stopped = true
					return nil
				}
			}
			return ctx.Err()
		})
		if err != nil && !stopped {
			yield(bucket.Object{}, b.fail(ctx, "list", prefix, bucket.Condition{}, err))
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
		return b.core.RemoveObject(ctx, b.at.Bucket, name, minio.RemoveObjectOptions{})
	})
	if err == nil {
		return nil
	}
	if err = b.fail(ctx, "delete", key, bucket.Condition{}, err); errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	return err
}

// watch bounds what the client library reads without a bound, and remembers how
// far the server's clock is and how long it wants to be left alone.
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

const maxAnswer = 16 << 20 // a page of 1,000 keys of 1,024 bytes, escaped, has 4 MiB

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
	isObject := req.Method == http.MethodGet && !req.URL.Query().Has("list-type") && resp.StatusCode < 300
	if !isObject {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, nil
}
