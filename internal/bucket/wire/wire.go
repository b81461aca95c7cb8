// Package wire is what all buckets over HTTP share: the transport, and what an
// error on the way means.
package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Transport returns a transport that honours HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR, never unpacks bodies, and waits for
// no server longer than half a minute. caFile names PEM certificates to trust
// besides the system's; "": none.
func Transport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    64,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := readBounded(caFile, 4<<20)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificates: %s holds no PEM certificate", caFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}

// Classify gives an error on the way its place in the vocabulary: ctx's own error
// when ctx is done, else ErrUnavailable, also for an answer that broke off: it can
// be asked for again. The words of the cause stay, without the URL. The body of
// an object is another matter: see [bucket.NewBody].
func Classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if done := ctx.Err(); done != nil {
		return done
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return fmt.Errorf("%w: %w%s", bucket.ErrUnavailable, err, certificateRemedy(cert))
	}
	return fmt.Errorf("%w: %w", bucket.ErrUnavailable, err)
}

func certificateRemedy(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return " (is the clock of this machine right?)"
	case errors.As(err, &unknown):
		return " (name its authority with ?ca=FILE or SSL_CERT_FILE)"
	}
	return ""
}

// PathEscape escapes all of a path but unreserved characters (RFC 3986, 2.3) and
// slashes.
func PathEscape(path string) string {
	return strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(path))
}

const maxDrain = 64 << 10 // bytes read of what nobody needs

// Finish reads the rest of an answer, within reason, and closes it, so that its
// connection serves again.
func Finish(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, maxDrain)
	resp.Body.Close()
}

// Temporary reports whether an answer with this status is worth another try.
func Temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// RetryAfter is the pause that an answer asks for before the next request, in
// seconds or until a date (RFC 9110, 10.2.3); zero: none.
func RetryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date")) // the server's own clock
	if err != nil {
		now = time.Now()
	}
	return max(date.Sub(now), 0)
}

// Partial reads the Content-Range header of an answer to [Range]: the whole
// object's size and the length of the body. Anything but the range that o asks
// for is bucket.ErrUnsupported.
func Partial(o bucket.GetOptions, header string) (size, n int64, err error) {
	first, last, size, err := ContentRange(header)
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("the server does not give ranges: %w: %w", bucket.ErrUnsupported, err)
	case first != o.Offset || o.Length > 0 && last-first >= o.Length || size < 0:
		return 0, 0, fmt.Errorf("the server gave another range, %.80q: %w", header, bucket.ErrUnsupported)
	}
	n, err = o.Within(size)
	return size, n, err
}

// Range returns the Range header for o; ok is false when the whole object is
// asked for.
func Range(o bucket.GetOptions) (header string, ok bool) {
	switch {
	case o.Length > 0:
		return fmt.Sprintf("bytes=%d-%d", o.Offset, o.Offset+o.Length-1), true
	case o.Offset > 0:
		return fmt.Sprintf("bytes=%d-", o.Offset), true
	}
	return "", false
}

// ContentRange parses a Content-Range header, "bytes 5-9/100" (RFC 9110, 14.4).
// size is -1 when the server does not know it.
func ContentRange(header string) (first, last, size int64, err error) {
	bad := fmt.Errorf("header Content-Range %.80q is not valid", header)
	span, total, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	a, b, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || !strings.HasPrefix(header, "bytes ") {
		return 0, 0, 0, bad
	}
	size = -1
	if total != "*" {
		if size, err = number(total); err != nil {
			return 0, 0, 0, bad
		}
	}
	first, err = number(a)
	if err == nil {
		last, err = number(b)
	}
	if err != nil || last < first || size >= 0 && last >= size {
		return 0, 0, 0, bad
	}
	return first, last, size, nil
}

func number(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// Private reports whether nobody on the way can read what is sent to a URL: it
// is https, or the host is this machine.
func Private(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
