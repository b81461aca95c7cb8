package azblob

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	// apiVersion has folders and escaped names in lists, and blobs of 5,000 MiB in
	// one request.
	// https://learn.microsoft.com/rest/api/storageservices/previous-azure-storage-service-versions
	apiVersion = "2021-12-02"

	maxRefusal = 64 << 10 // bytes of an answer that says why not
	maxPage    = 32 << 20 // a page of 5,000 names of 1,024 bytes has some 10 MiB
)

// A request is one call of the API.
// https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
type request struct {
	method   string
	name     string // of a blob, with the prefix; "": the container itself
	query    url.Values
	header   http.Header   // beside those of all requests; nil: none
	body     io.ReadSeeker // nil: none
	size     int64         // of body
	unsigned bool          // as somebody without credentials
}

// send makes one request, and once more with other credentials when the server
// rejects those. An answer that is no success is a *refusal or ErrNotModified.
// The caller closes the body.
func (b *Bucket) send(ctx context.Context, r request) (*http.Response, error) {
	if r.unsigned {
		return b.sendAs(ctx, r, credential{})
	}
	g, err := b.creds.Get(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := b.sendAs(ctx, r, g.Value)
	if !rejected(err) || !b.creds.Forget(g) {
		return resp, err
	}
	if g, nerr := b.creds.Get(ctx); nerr == nil {
		return b.sendAs(ctx, r, g.Value)
	}
	return nil, err
}

func (b *Bucket) sendAs(ctx context.Context, r request, cred credential) (*http.Response, error) {
	req, err := b.request(ctx, r)
	if err != nil {
		return nil, err
	}
	cred.sign(req, time.Now())
	resp, err := b.wire.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if r.succeeded(resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return nil, bucket.ErrNotModified
	}
	return nil, refusalOf(resp, cred)
}

// succeeded reports whether a status is the service's own word of success:
// others on the way say 200 to anything.
func (r request) succeeded(status int) bool {
	switch r.method {
	case http.MethodPut:
		return status == http.StatusCreated
	case http.MethodDelete:
		return status == http.StatusAccepted
	}
	return status == http.StatusOK || status == http.StatusPartialContent
}

func (b *Bucket) request(ctx context.Context, r request) (*http.Request, error) {
	u, err := url.Parse(b.at.base())
	if err != nil {
		return nil, err
	}
	u.Path += "/" + b.at.Container
	if r.name != "" {
		u.Path += "/" + r.name
	}
	u.RawPath = wire.PathEscape(u.Path)
	u.RawQuery = r.query.Encode()
	req := (&http.Request{Method: r.method, URL: u, Host: u.Host, Header: http.Header{}}).WithContext(ctx)
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "bootwell")
	req.Header.Set("X-Ms-Version", apiVersion)
	if r.body == nil || r.size == 0 {
		return req, nil
	}
	req.ContentLength = r.size
	// A connection that was closed before anything was sent is no failure.
	req.GetBody = func() (io.ReadCloser, error) {
		_, err := r.body.Seek(0, io.SeekStart)
		return io.NopCloser(r.body), err
	}
	if req.Body, err = req.GetBody(); err != nil {
		return nil, fmt.Errorf("rewind body: %w", err)
	}
	return req, nil
}

// A page is one answer to a list.
// https://learn.microsoft.com/rest/api/storageservices/list-blobs
type page struct {
	XMLName    xml.Name
	Blobs      *struct{ Blob []listed } // nil: it is no list
	NextMarker string
}

type listed struct {
	Name struct {
		Encoded bool   `xml:"Encoded,attr"` // percent-encoded: it has characters that XML has not
		Text    string `xml:",chardata"`
	}
	VersionID  string `xml:"VersionId"`
	Properties struct {
		Size         int64  `xml:"Content-Length"`
		ETag         string `xml:"Etag"`
		Modified     string `xml:"Last-Modified"`
		ResourceType string // directory: in accounts with a hierarchical namespace
	}
}

// page asks for the page of a list that a marker names.
func (b *Bucket) page(ctx context.Context, prefix, marker string, more url.Values, unsigned bool) (*page, error) {
	q := url.Values{"restype": {"container"}, "comp": {"list"}}
	for name, values := range more {
		q[name] = values
	}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	if marker != "" {
		q.Set("marker", marker)
	}
	resp, err := b.send(ctx, request{method: http.MethodGet, query: q, unsigned: unsigned})
	if err != nil {
		return nil, err
	}
	defer wire.Finish(resp)
	p, err := parsePage(io.LimitReader(resp.Body, maxPage))
	if err == nil && marker != "" && p.NextMarker == marker {
		err = fmt.Errorf("the server gives the same page again: %w", bucket.ErrUnsupported)
	}
	return p, err
}

// parsePage reads an answer to a list, and its names as they are.
func parsePage(r io.Reader) (*page, error) {
	var p page
	if err := xml.NewDecoder(r).Decode(&p); err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	if p.XMLName.Local != "EnumerationResults" || p.Blobs == nil {
		return nil, fmt.Errorf("the answer is no list: %w", bucket.ErrUnsupported)
	}
	for i := range p.Blobs.Blob {
		name := &p.Blobs.Blob[i].Name
		if !name.Encoded {
			continue
		}
		text, err := url.PathUnescape(name.Text)
		if err != nil {
			return nil, fmt.Errorf("the list has the name %.100q: %w", name.Text, bucket.ErrUnsupported)
		}
		name.Text = text
	}
	return &p, nil
}

// watch remembers how far the server's clock is.
type watch struct {
	next http.RoundTripper
	skew atomic.Int64 // nanoseconds this clock is ahead
}

func (w *watch) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		w.skew.Store(int64(time.Since(date)))
	}
	return resp, nil
}
