package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	skewWarning = time.Minute
	skewProblem = 5 * time.Minute // a third of what SigV4 allows
)

// A way is one request to an endpoint and how far it came.
type way struct {
	scheme  string
	host    string   // host and port
	proxy   *url.URL // nil: none
	ca      string   // file of certificates, "": none
	now     time.Time
	timeout time.Duration

	mu       sync.Mutex
	found    bool // the name was resolved, or is an address
	reached  string
	secure   bool // TLS began
	trusted  bool // TLS is done
	sent     bool
	answered int // by the proxy to CONNECT; 0: not asked

	resp   *http.Response // its body is closed
	took   time.Duration
	serves time.Time // the server's clock, zero: not known
	local  time.Time // this clock at that moment
}

// endpoint makes one request without credentials to where the bucket is and
// says how that went, and how far the clocks are apart.
func (p *Probe) endpoint(ctx context.Context, t Target) Findings {
	r, remote := bucket.As[bucket.Remote](t.Bucket)
	if !remote {
		return nil
	}
	raw, ca := r.Endpoint()
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return Findings{unknown("endpoint", "no_endpoint", "the bucket does not tell where its requests go")}
	}
	u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, p.deadline())
	defer cancel()
	w, err := p.walk(ctx, u, ca, false)
	if err != nil && whole.Err() != nil {
		return Findings{unknown("endpoint", "interrupted", "not looked at to the end")}
	}
	if err != nil {
		f := w.explain(err)
		if f.Cause == causeExpired || f.Cause == causeNotYet {
			clock := p.clockUnverified(ctx, u, ca)
			switch clock.Status {
			case OK:
				f.Fix = "renew the server's certificate: this machine's clock is right"
			case Warning, Problem:
				f.Fix = clock.Fix
			}
			return Findings{f, clock}
		}
		return Findings{f}
	}
	if w.resp.StatusCode == http.StatusProxyAuthRequired && w.proxy != nil {
		return Findings{w.proxyAnswer(w.resp.StatusCode)}
	}
	return Findings{w.good(u), p.clock(w)}
}

// walk asks for the endpoint's root. Without verify it looks at no certificate;
// it sends nothing but the request line then either.
func (p *Probe) walk(ctx context.Context, u *url.URL, ca string, unverified bool) (*way, error) {
	w := &way{scheme: u.Scheme, host: u.Host, ca: ca, now: p.now(), timeout: p.deadline()}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, w.trace()), http.MethodHead, u.String(), nil)
	if err != nil {
		return w, err
	}
	req.Header.Set("User-Agent", "bootwell")
	tr, err := wire.Transport(ca)
	if err != nil {
		return w, err
	}
	defer tr.CloseIdleConnections()
	if p.Proxy != nil {
		tr.Proxy = p.Proxy
	}
	if w.proxy, err = tr.Proxy(req); err != nil {
		return w, &proxyURLError{err}
	}
	tr.DisableKeepAlives = true
	tr.TLSClientConfig.InsecureSkipVerify = unverified
	tr.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answered = resp.StatusCode
		return nil
	}
	began := time.Now()
	resp, err := tr.RoundTrip(req)
	w.took = time.Since(began)
	if err != nil {
		return w, err
	}
	resp.Body.Close()
	w.resp = resp
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && resp.Header.Get("Age") == "" {
		// The header has whole seconds, cut off; on average half of one is gone.
		w.serves, w.local = date.Add(500*time.Millisecond), p.now().Add(-w.took/2)
	}
	return w, nil
}

type proxyURLError struct{ error }

func (w *way) trace() *httptrace.ClientTrace {
	mark := func(set func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		set()
	}
	return &httptrace.ClientTrace{
		ConnectStart: func(string, string) { mark(func() { w.found = true }) },
		ConnectDone: func(_, addr string, err error) {
			if err == nil {
				mark(func() { w.reached = addr })
			}
		},
		TLSHandshakeStart: func() { mark(func() { w.secure = true }) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				mark(func() { w.trusted = true })
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) { mark(func() { w.sent = true }) },
	}
}

func (w *way) good(u *url.URL) Finding {
	text := fmt.Sprintf("%s answers in %d ms", u.Scheme+"://"+u.Host, w.took.Milliseconds())
	if w.proxy != nil {
		text += " through the proxy " + w.proxyName()
	}
	if w.resp.TLS != nil && len(w.resp.TLS.PeerCertificates) > 0 {
		leaf := w.resp.TLS.PeerCertificates[0]
		if left := leaf.NotAfter.Sub(w.now); left < 14*24*time.Hour && leaf.NotAfter.Sub(leaf.NotBefore) > 28*24*time.Hour {
			return bad("endpoint", Warning, "tls_expires_soon", fmt.Sprintf("%s; its certificate expires on %s", text, leaf.NotAfter.UTC().Format(time.DateOnly)),
				"renew the certificate of "+w.host+" in time")
		}
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return bad("endpoint", Warning, "no_tls", text+", without TLS: others on the way can read what VMs read",
			"use an https:// endpoint; what VMs run is signed, so nobody can change it, but anybody can read it")
	}
	return ok("endpoint", "%s", text)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// proxyName is the proxy and the variable that names it, without a password.
func (w *way) proxyName() string {
	u := *w.proxy
	u.User = nil
	return u.String()
}

const (
	causeExpired = "tls_expired"
	causeNotYet  = "tls_not_yet_valid"
)

// explain says where on the way err happened.
func (w *way) explain(err error) Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	var proxyURL *proxyURLError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.As(err, &proxyURL):
		return bad("endpoint", Problem, "proxy_bad", "the address of the proxy cannot be used", "write HTTPS_PROXY=http://HOST:PORT")
	case errors.As(err, &cert):
		return w.certificate(cert)
	case w.answered != 0 && w.answered != http.StatusOK:
		return w.proxyAnswer(w.answered)
	case errors.As(err, &dns):
		return w.name(dns)
	case errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return bad("endpoint", Problem, "tls_none", w.host+" does not speak TLS", "if that is meant, write endpoint=http://"+w.host+" in the bucket's URL; else check the port")
	case w.reached == "" && !w.found && timedOut(err):
		return w.name(&net.DNSError{Name: hostOnly(w.host), Err: fmt.Sprintf("no answer within %s", w.timeout)})
	case w.reached == "":
		return w.unreached(err)
	}
	return w.broken(err)
}

func (w *way) name(err *net.DNSError) Finding {
	what := "the endpoint"
	fix := "check endpoint= and region= in the bucket's URL, and this machine's DNS (/etc/resolv.conf)"
	cause := "dns"
	if w.proxy != nil {
		what, cause = "the proxy", "proxy_unreachable"
		fix = w.otherProxy()
	}
	if err.IsNotFound {
		return bad("endpoint", Problem, cause, fmt.Sprintf("no host is called %s (%s)", err.Name, what), fix)
	}
	return bad("endpoint", Problem, cause, fmt.Sprintf("the name server does not tell the address of %s (%s): %s", err.Name, what, err.Err), fix)
}

// variable is the one that names the proxy for this endpoint.
func (w *way) variable() string { return strings.ToUpper(w.scheme) + "_PROXY" }

// otherProxy is the remedy for a proxy that is not the right one.
func (w *way) otherProxy() string {
	return fmt.Sprintf("correct or unset %s; for a bucket inside your own network: NO_PROXY=%s", w.variable(), hostOnly(w.host))
}

func (w *way) unreached(err error) Finding {
	late := timedOut(err)
	why := rootWords(err)
	if late {
		why = fmt.Sprintf("no answer within %s", w.timeout)
	}
	if w.proxy != nil {
		return bad("endpoint", Problem, "proxy_unreachable", fmt.Sprintf("the proxy %s cannot be reached: %s", w.proxyName(), why),
			w.otherProxy())
	}
	if late {
		return bad("endpoint", Problem, "timeout", fmt.Sprintf("%s does not answer: %s", w.host, why),
			"look for a firewall, security group or missing route (NAT, VPC endpoint) between here and it; where the way out is a proxy, set HTTPS_PROXY")
	}
	return bad("endpoint", Problem, "refused", fmt.Sprintf("%s cannot be reached: %s", w.host, why), "check that the server runs, and the port in endpoint=")
}

// broken is a way that ended after the connection stood.
func (w *way) broken(err error) Finding {
	where := w.host
	if w.proxy != nil && w.answered == 0 {
		where = "the proxy " + w.proxyName()
	}
	phase := "answers nothing"
	if w.secure && !w.trusted {
		phase = "accepts the connection but does not complete TLS"
	}
	if timedOut(err) {
		if w.proxy != nil && w.answered == 0 {
			return bad("endpoint", Problem, "timeout", fmt.Sprintf("%s %s within %s", where, phase, w.timeout), w.otherProxy())
		}
		return bad("endpoint", Problem, "timeout", fmt.Sprintf("%s %s within %s", where, phase, w.timeout),
			"check that a bucket's server listens there, and that no firewall, MTU or proxy on the way holds packets back")
	}
	if w.proxy != nil && w.answered == 0 && !w.secure {
		return bad("endpoint", Problem, "proxy_unreachable", fmt.Sprintf("%s breaks off: %s", where, rootWords(err)),
			w.otherProxy())
	}
	return bad("endpoint", Problem, "broken", fmt.Sprintf("%s %s: %s", where, phase, rootWords(err)), "check that a bucket's server listens there, with https:// or http:// as endpoint= says")
}

func (w *way) proxyAnswer(status int) Finding {
	noProxy := "; for a bucket inside your own network: NO_PROXY=" + hostOnly(w.host)
	if status == http.StatusProxyAuthRequired {
		return bad("endpoint", Problem, "proxy_auth", fmt.Sprintf("the proxy %s wants a user name and password (407)", w.proxyName()),
			"write them into "+w.variable()+"=http://USER:PASSWORD@"+w.proxy.Host+noProxy)
	}
	if status >= 500 {
		return bad("endpoint", Problem, "proxy_refuses", fmt.Sprintf("the proxy %s does not reach %s: %d %s", w.proxyName(), w.host, status, http.StatusText(status)),
			"check endpoint= in the bucket's URL; the proxy must know that name"+noProxy)
	}
	return bad("endpoint", Problem, "proxy_refuses", fmt.Sprintf("the proxy %s does not let requests through to %s: %d %s", w.proxyName(), w.host, status, http.StatusText(status)),
		"ask who runs the proxy to allow "+hostOnly(w.host)+noProxy)
}

func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// rootWords is the innermost error's text, such as "connection refused".
func rootWords(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// clock compares the clocks.
func (p *Probe) clock(w *way) Finding {
	if w.serves.IsZero() {
		return unknown("clock", "no_date", "the server's answer has no time")
	}
	return skewFinding(w.local.Sub(w.serves), w.took/2)
}

// skewFinding judges a difference that is known only within doubt.
func skewFinding(skew, doubt time.Duration) Finding {
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	abs := skew.Abs()
	text := fmt.Sprintf("%s %s the bucket's", abs.Round(time.Second), side)
	switch {
	case abs-doubt > skewProblem:
		return bad("clock", Problem, "clock", text+"; signed requests are refused from 15 minutes on", clockFix)
	case abs-doubt > skewWarning:
		return bad("clock", Warning, "clock", text, clockFix)
	case abs < 2*time.Second+doubt:
		return ok("clock", "within %d s of the bucket's", int((2*time.Second+doubt)/time.Second))
	}
	return ok("clock", "%s", text)
}

// clockUnverified asks the server for its time where its certificate is out of
// its time, since a wrong clock here looks just the same. Nothing depends on
// the answer but the words.
func (p *Probe) clockUnverified(ctx context.Context, u *url.URL, ca string) Finding {
	w, err := p.walk(ctx, u, ca, true)
	if err != nil || w.serves.IsZero() {
		return unknown("clock", "no_date", "the server could not be asked for its time")
	}
	return p.clock(w)
}

// names shortens a list of a certificate's names.
func names(list []string) string {
	if len(list) > 4 {
		return strings.Join(list[:4], ", ") + " and " + strconv.Itoa(len(list)-4) + " more"
	}
	return strings.Join(list, ", ")
}
