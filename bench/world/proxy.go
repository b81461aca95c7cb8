package world

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Counts is what went through a Proxy since it started or was reset.
type Counts struct {
	Connections int64
	Requests    int64 // heads of HTTP requests
	Up          int64 // bytes from clients, heads included
	Down        int64 // bytes to clients, heads included
	Methods     map[string]int64
}

// A Proxy stands between clients and one TCP server: it delays both directions
// by half of a round-trip time and counts what it carries. Data in flight is
// not serialised: bandwidth stays what the machine gives. All methods may be
// called at any time.
type Proxy struct {
	target string
	listen net.Listener
	rtt    atomic.Int64
	down   atomic.Bool

	connections, requests, bytesUp, bytesDown atomic.Int64

	mu      sync.Mutex
	methods map[string]int64
	open    map[net.Conn]struct{}
	closed  bool
	carried sync.WaitGroup
}

// NewProxy listens on a free port of the loopback address for the server at
// target (host:port), until Close or the end of ctx.
func NewProxy(ctx context.Context, target string, rtt time.Duration) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listen: l, methods: map[string]int64{}, open: map[net.Conn]struct{}{}}
	p.SetRTT(rtt)
	context.AfterFunc(ctx, func() { p.Close() })
	p.carried.Add(1)
	go p.accept()
	return p, nil
}

// Addr returns the host:port that clients connect to.
func (p *Proxy) Addr() string { return p.listen.Addr().String() }

// URL returns the http: URL that clients use.
func (p *Proxy) URL() string { return "http://" + p.Addr() }

// SetRTT changes the round-trip time of connections made from now on.
func (p *Proxy) SetRTT(d time.Duration) { p.rtt.Store(int64(d)) }

// SetDown plays an outage: open connections break, and new ones are closed at once.
func (p *Proxy) SetDown(down bool) {
	p.down.Store(down)
	if down {
		p.breakAll()
	}
}

// Snapshot returns the counts so far.
func (p *Proxy) Snapshot() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := Counts{
		Connections: p.connections.Load(), Requests: p.requests.Load(),
		Up: p.bytesUp.Load(), Down: p.bytesDown.Load(), Methods: map[string]int64{},
	}
	for m, n := range p.methods {
		c.Methods[m] = n
	}
	return c
}

// Reset starts to count from zero, and returns the counts until then.
func (p *Proxy) Reset() Counts {
	c := p.Snapshot()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connections.Add(-c.Connections)
	p.requests.Add(-c.Requests)
	p.bytesUp.Add(-c.Up)
	p.bytesDown.Add(-c.Down)
	for m, n := range c.Methods {
		if p.methods[m] -= n; p.methods[m] == 0 {
			delete(p.methods, m)
		}
	}
	return c
}

// Close breaks all connections and waits until nothing is carried any more.
func (p *Proxy) Close() error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		return nil
	}
	err := p.listen.Close()
	p.breakAll()
	p.carried.Wait()
	return err
}

func (p *Proxy) breakAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// hold keeps a connection where breakAll finds it; false: too late.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *Proxy) release(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *Proxy) request(method string) {
	p.requests.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.methods[method]++
}

func (p *Proxy) accept() {
	defer p.carried.Done()
	for {
		c, err := p.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		p.connections.Add(1)
		if p.down.Load() || !p.hold(c) {
			c.Close()
			continue
		}
		p.carried.Add(1)
		go p.carry(c)
	}
}

// carry moves the bytes of one connection. The kernel has already answered the
// client's SYN, so that the first bytes pay for that round trip.
func (p *Proxy) carry(client net.Conn) {
	defer p.carried.Done()
	defer p.release(client)
	began, rtt := time.Now(), time.Duration(p.rtt.Load())
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.hold(server) {
		return
	}
	defer p.release(server)
	meter := &meter{found: p.request}
	var both sync.WaitGroup
	both.Go(func() {
		up := pipe{from: client, to: server, half: rtt / 2, notBefore: began.Add(rtt), bytes: &p.bytesUp, see: meter.up}
		up.run()
	})
	both.Go(func() {
		down := pipe{from: server, to: client, half: rtt / 2, bytes: &p.bytesDown, see: meter.down}
		down.run()
	})
	both.Wait()
}

// A pipe is one direction of a connection.
type pipe struct {
	from, to  net.Conn
	half      time.Duration // what each byte takes
	notBefore time.Time     // nothing is sent earlier
	bytes     *atomic.Int64
	see       func([]byte)
}

const (
	chunkSize = 64 << 10
	inFlight  = 128 // chunks: a window of 8 MiB, more than any of these lines fills
)

type chunk struct {
	due  time.Time
	data []byte // nil: the end
}

func (p *pipe) run() {
	if p.half == 0 {
		p.copyNow()
		return
	}
	queue := make(chan chunk, inFlight)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.deliver(queue)
	}()
	for {
		buf := make([]byte, chunkSize)
		n, err := p.from.Read(buf)
		sent := time.Now()
		if sent.Before(p.notBefore) {
			sent = p.notBefore
		}
		if n > 0 {
			p.count(buf[:n])
			queue <- chunk{due: sent.Add(p.half), data: buf[:n]}
		}
		if err != nil {
			queue <- chunk{due: sent.Add(p.half)}
			break
		}
	}
	close(queue)
	<-done
}

func (p *pipe) count(data []byte) {
	p.bytes.Add(int64(len(data)))
	p.see(data)
}

func (p *pipe) deliver(queue <-chan chunk) {
	for c := range queue {
		time.Sleep(time.Until(c.due))
		if c.data == nil {
			p.end()
			continue
		}
		if _, err := p.to.Write(c.data); err != nil {
			p.from.Close()
		}
	}
}

func (p *pipe) copyNow() {
	buf := make([]byte, chunkSize)
	for {
		n, err := p.from.Read(buf)
		if n > 0 {
			p.count(buf[:n])
			if _, err := p.to.Write(buf[:n]); err != nil {
				p.from.Close()
				return
			}
		}
		if err != nil {
			p.end()
			return
		}
	}
}

// end passes on that no more bytes come.
func (p *pipe) end() {
	if c, ok := p.to.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		return
	}
	p.to.Close()
}

var _ io.Closer = (*Proxy)(nil)
