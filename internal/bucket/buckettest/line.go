package buckettest

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Via puts the network of a test between a provider and its server: it
// returns the transport to open the bucket with. base has what the server needs,
// such as certificates and a way to dial it; nil: nothing. Each request gets a
// connection of its own.
type Via func(base *http.Transport) http.RoundTripper

// A fault is what becomes of a request on its way.
type fault struct {
	kind    faultKind
	bytes   int64    // that pass first; cutUp, cutDown
	stall   bool     // then nothing more comes, instead of an end of the connection
	status  int      // throttle
	methods []string // of requests; nil: all
	times   int      // requests; 0: all
}

type faultKind int

const (
	none     faultKind = iota
	refuse             // the connection ends before the server sees anything
	lose               // the server does it all, and its answer does not arrive
	cutUp              // the request breaks off
	cutDown            // the answer breaks off
	throttle           // the service says that it is too much, and asks for patience
)

// A line carries requests to a server, some of them badly.
type line struct {
	requests atomic.Int64
	mu       sync.Mutex
	faults   []*fault
}

// set replaces the faults. The first that fits a request and is not used up
// counts.
func (l *line) set(faults ...fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = nil
	for _, f := range faults {
		l.faults = append(l.faults, &f)
	}
}

func (l *line) pick(method string) fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		if f.times < 0 || f.methods != nil && !slices.Contains(f.methods, method) {
			continue
		}
		if f.times == 1 {
			f.times = -1
		} else if f.times > 1 {
			f.times--
		}
		return *f
	}
	return fault{}
}

type faultKey struct{}

// via implements [Via].
func (l *line) via(base *http.Transport) http.RoundTripper {
	if base == nil {
		base = &http.Transport{}
	}
	base = base.Clone()
	dial := base.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	base.Proxy, base.DisableKeepAlives, base.ForceAttemptHTTP2 = nil, true, false
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		f, _ := ctx.Value(faultKey{}).(fault)
		server, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return through(server, f)
	}
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		l.requests.Add(1)
		f := l.pick(req.Method)
		if f.kind == throttle {
			return throttled(req, f.status), nil
		}
		return base.RoundTrip(req.WithContext(context.WithValue(req.Context(), faultKey{}, f)))
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func throttled(req *http.Request, status int) *http.Response {
	if req.Body != nil {
		req.Body.Close()
	}
	const text = "slow down"
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header:        http.Header{"Retry-After": {"0"}, "Content-Type": {"text/plain"}},
		ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
	}
}

// through returns the near end of a TCP connection whose far end is carried to
// and from server as f says.
func through(server net.Conn, f fault) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		server.Close()
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		server.Close()
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		near.Close()
		server.Close()
		return nil, err
	}
	go f.carry(far, server)
	return near, nil
}

func (f fault) carry(client, server net.Conn) {
	up := make(chan struct{})
	hangUp := func() { client.Close(); server.Close() }
	defer func() { hangUp(); <-up }()
	if f.kind == refuse {
		close(up)
		return
	}
	go func() {
		defer close(up)
		defer hangUp()
		if f.kind != cutUp {
			io.Copy(server, client)
			return
		}
		io.CopyN(server, client, f.bytes)
		if f.stall {
			io.Copy(io.Discard, client)
		}
	}()
	switch {
	case f.kind == lose:
		server.Read(make([]byte, 1))
		return
	case f.kind == cutDown:
		io.CopyN(client, server, f.bytes)
	default:
		io.Copy(client, server)
	}
	if f.stall {
		<-up
	}
}
