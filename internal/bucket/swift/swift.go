// Package swift is a bucket on OpenStack Swift, by its own API. Tokens come from
// Keystone v3, or requests are signed as temporary URLs. Each call is one
// request, but for a Put with IfMatch, which looks first: Swift ignores the
// condition. Nor is its create-only atomic; [bucket.Caps] say so. Deadlines and
// retries are those of [bucket.Retry].
//
// https://docs.openstack.org/api-ref/object-store/
package swift

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Options say whose credentials are used.
type Options struct {
	Sources   []Source          // tried in this order; nothing else is asked
	Transport http.RoundTripper // nil: one with the proxy and certificates of the environment
	Logger    *slog.Logger      // a warning when a VM uses a password or a key; nil: nowhere

	// Newest has reads ask all replicas for the latest write. It is for
	// publishers, who must see what another has just written.
	Newest bool
}

// A Bucket is a container, or the part of it below a prefix.
type Bucket struct {
	at     Location
	auth   *session
	send   http.RoundTripper
	prefix string // with a slash at its end, or ""
	newest bool
}

// Open returns the bucket that a swift: URL names (see [Parse]). It asks the
// network nothing.
func Open(ctx context.Context, rawURL string, o Options) (*Bucket, error) {
	at, err := Parse(rawURL)
	if err != nil {
		return nil, err
	}
	at, temporary := atHand(ctx, at, o.Sources)
	send := o.Transport
	if send == nil {
		if send, err = wire.Transport(at.CA); err != nil {
			return nil, fmt.Errorf("open %s: %w", at, err)
		}
	}
	send = newClear(at, o, send)
	b := &Bucket{at: at, send: send, newest: o.Newest, auth: newSession(at, o, send)}
	b.auth.temporary.Store(temporary)
	if at.Prefix != "" {
		b.prefix = at.Prefix + "/"
	}
	return b, nil
}

// Caps promises nothing that is atomic. With temporary URLs there is no
// listing; that is known once the credentials are.
func (b *Bucket) Caps() bucket.Caps {
	return bucket.Caps{ListFrom: true, NoList: b.auth.temporary.Load(), ReadOnly: b.auth.readOnly.Load()}
}

// Location returns what the bucket was opened with.
func (b *Bucket) Location() Location { return b.at }

// Endpoint implements [bucket.Remote]: the storage if that is known, else
// Keystone.
func (b *Bucket) Endpoint() (url, ca string) {
	if g := b.auth.Last(); g != nil {
		return g.Value.storage, b.at.CA
	}
	if b.at.Storage != "" {
		return b.at.Storage, b.at.CA
	}
	return b.at.Auth, b.at.CA
}

// name is the object's full name in the container.
func (b *Bucket) name(key string) (string, error) {
	return wire.Name(b.prefix, key)
}

// A call is one request before it has credentials.
type call struct {
	method string
	name   string // of the object; "": of the container
	header http.Header
	query  url.Values
	body   *wire.Lent // nil: none
	size   int64      // of body
}

// do makes a request. The caller closes the body of the answer, whatever its
// status is. An answer that the credentials do not count is followed by one
// more try with new ones, if they may have ended: Swift says the same of what
// is denied.
func (b *Bucket) do(ctx context.Context, c call) (*http.Response, error) {
	g, err := b.auth.Get(ctx)
	if err != nil {
		return nil, lacking(err)
	}
	resp, err := b.once(ctx, c, g.Value)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !b.auth.Forget(g) {
		return resp, err
	}
	wire.Finish(resp)
	if g, err = b.auth.Get(ctx); err != nil {
		return nil, lacking(err)
	}
	if c.body != nil {
		if _, err := c.body.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return b.once(ctx, c, g.Value)
}

func (b *Bucket) once(ctx context.Context, c call, g *grant) (*http.Response, error) {
	target := g.storage + "/" + wire.PathEscape(b.at.Container)
	if c.name != "" {
		target += "/" + wire.PathEscape(c.name)
	}
	q, err := g.sign(b.at.Container, c)
	if err != nil {
		return nil, err
	}
	if q != "" {
		target += "?" + q
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, nil)
	if err != nil {
		return nil, err
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	req.Header.Set("User-Agent", "bootwell")
	if g.token != "" {
		req.Header.Set("X-Auth-Token", g.token)
	}
	if c.body != nil && c.size > 0 {
		req.Body, req.ContentLength = c.body, c.size
	}
	// Swift ends its answer to this with the end of a body that is not there.
	req.Close = c.method == http.MethodHead && c.name == ""
	resp, err := b.send.RoundTrip(req)
	if err != nil {
		return nil, wire.Classify(ctx, err)
	}
	b.auth.saw(resp.Header.Get("Date"))
	return resp, nil
}

// Get implements [bucket.Bucket]. Swift does not tell a missing container from
// a missing object: both are ErrNotExist.
func (b *Bucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	if err := bucket.CheckGet(key, o); err != nil {
		return nil, bucket.Object{}, err
	}
	name, err := b.name(key)
	if err != nil {
		return nil, bucket.Object{}, err
	}
	c := call{method: http.MethodGet, name: name, header: http.Header{}}
	if o.IfNoneMatch != "" {
		c.header.Set("If-None-Match", `"`+o.IfNoneMatch+`"`)
	}
	span, ranged := wire.Range(o)
	if ranged {
		c.header.Set("Range", span)
	}
	if b.newest {
		c.header.Set("X-Newest", "true")
	}
	resp, err := b.do(ctx, c)
	if err == nil && resp.StatusCode == http.StatusNotFound {
		resp, err = b.doAgain(ctx, c, resp)
	}
	if err != nil {
		return nil, bucket.Object{}, b.fail(ctx, "get", key, err)
	}
	obj := object(key, resp)
	n := obj.Size
	switch {
	case resp.StatusCode == http.StatusPartialContent && ranged:
		obj.Size, n, err = wire.Partial(o, resp.Header.Get("Content-Range"))
	case resp.StatusCode != http.StatusOK:
		err = b.refusal("get", resp, bucket.Condition{})
	case ranged:
		err = fmt.Errorf("the server does not give ranges: %w", bucket.ErrUnsupported)
	}
	if err != nil {
		wire.Finish(resp)
		return nil, bucket.Object{}, b.fail(ctx, "get", key, err)
	}
	classify := func(err error) error { return fmt.Errorf("read %s in %s: %w", key, b.at, wire.Classify(ctx, err)) }
	return bucket.NewBody(ctx, resp.Body, n, classify), obj, nil
}

// overwriting is how long an object server may take to replace an object.
const overwriting = 50 * time.Millisecond

// doAgain asks once more for an object that was not found. An object server
// finds a file, and while it opens it an overwrite can take it away: it then
// says that there is no object, and with one replica nobody knows better.
func (b *Bucket) doAgain(ctx context.Context, c call, missing *http.Response) (*http.Response, error) {
	wire.Finish(missing)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(overwriting):
	}
	return b.do(ctx, c)
}

// object reads what the header says of an object.
func object(key string, resp *http.Response) bucket.Object {
	obj := bucket.Object{Key: key, Size: resp.ContentLength, ETag: strings.Trim(resp.Header.Get("Etag"), `"`)}
	obj.Modified, _ = http.ParseTime(resp.Header.Get("Last-Modified")) // absent: zero
	return obj
}

// Put implements [bucket.Bucket]. It reads the body twice: its MD5 goes ahead,
// so that Swift refuses one that was altered on the way, and is the ETag. An
// object has at most 5 GiB. Object.Modified is not known.
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
	sum := md5.New()
	if _, err := io.Copy(sum, lent); err != nil {
		return bucket.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	if _, err := lent.Seek(0, io.SeekStart); err != nil {
		return bucket.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	etag := hex.EncodeToString(sum.Sum(nil))
	put := call{method: http.MethodPut, name: name, body: lent, size: size, header: http.Header{
		"Etag": {etag}, "Content-Type": {"application/octet-stream"},
	}}
	if c.IfAbsent {
		put.header.Set("If-None-Match", "*")
	}
	if c.IfMatch != "" {
		err = b.unchanged(ctx, name, c)
	}
	if err == nil {
		err = b.put(ctx, put, c)
	}
	if err != nil {
		return bucket.Object{}, b.fail(ctx, "put", key, err)
	}
	return bucket.Object{Key: key, Size: size, ETag: etag}, nil
}

func (b *Bucket) put(ctx context.Context, c call, cond bucket.Condition) error {
	resp, err := b.do(ctx, c)
	if err != nil {
		return err
	}
	defer wire.Finish(resp)
	switch {
	case resp.StatusCode == http.StatusCreated:
		return nil
	case resp.StatusCode == http.StatusAccepted:
		// Swift has a later write of the same object already, which counts.
		return lost(cond)
	}
	return b.refusal("put", resp, cond)
}

// lost is what the condition makes of another's write.
func lost(c bucket.Condition) error {
	switch {
	case c.IfAbsent:
		return bucket.ErrExists
	case c.IfMatch != "":
		return bucket.ErrPrecondition
	}
	return nil
}

// unchanged looks whether the object still has the ETag that c names.
func (b *Bucket) unchanged(ctx context.Context, name string, c bucket.Condition) error {
	resp, err := b.do(ctx, call{method: http.MethodHead, name: name, header: http.Header{"X-Newest": {"true"}}})
	if err != nil {
		return err
	}
	defer wire.Finish(resp)
	if resp.StatusCode != http.StatusOK {
		return b.refusal("get", resp, c)
	}
	if object("", resp).ETag != c.IfMatch {
		return bucket.ErrPrecondition
	}
	return nil
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
	resp, err := b.do(ctx, call{method: http.MethodDelete, name: name})
	if err == nil {
		defer wire.Finish(resp)
		if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotFound {
			return nil
		}
		err = b.refusal("delete", resp, bucket.Condition{})
	}
	return b.fail(ctx, "delete", key, err)
}
