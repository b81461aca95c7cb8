package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// A line is a TCP proxy to a server, on which connections break.
type line struct {
	net.Listener
	server string
	bytes  atomic.Int64 // of answers that a connection carries before it breaks; -1: all
	lost   atomic.Int32 // answers that are still to be dropped whole, after the server gave them
	stall  atomic.Int32 // connections that are still to carry nothing
	conns  atomic.Int64
}

func newLine(t *testing.T, server string) *line {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &line{Listener: l, server: server}
	p.bytes.Store(-1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Add(1)
			go p.carry(c)
		}
	}()
	return p
}

func (p *line) carry(client net.Conn) {
	defer client.Close()
	if p.stall.Add(-1) >= 0 {
		io.Copy(io.Discard, client)
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, client)
		server.Close()
	}()
	if p.lost.Add(-1) >= 0 {
		server.Read(make([]byte, 1))
		return
	}
	if n := p.bytes.Load(); n >= 0 {
		io.CopyN(client, server, n)
		return
	}
	io.Copy(client, server)
}

func throughLine(t *testing.T, p bucket.RetryPolicy) (b bucket.Bucket, direct *s3.Bucket, l *line) {
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	l = newLine(t, srv.Addr)
	url := strings.Replace(srv.URL("fleet", ""), "127.0.0.1%3A"+srv.Addr[strings.LastIndex(srv.Addr, ":")+1:],
		strings.Replace(l.Addr().String(), ":", "%3A", 1), 1)
	p.Pause, p.Limit = time.Millisecond, time.Millisecond
	return bucket.Retry(open(t, url, root()), p), open(t, srv.URL("fleet", ""), root()), l
}

func TestBrokenLine_BodyIsReadOn(t *testing.T) {
	b, direct, l := throughLine(t, bucket.RetryPolicy{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	buckettest.Put(t, direct, "packs/p", data)
	l.bytes.Store(200_000)
	got, _, err := bucket.ReadAll(t.Context(), b, "packs/p", bucket.GetOptions{Offset: 16}, 2<<20)
	if err != nil || !bytes.Equal(got, data[16:]) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(data)-16, err)
	}
	if n := l.conns.Load(); n < 6 {
		t.Errorf("%d connections of at most 200,000 bytes carried 1 MiB", n)
	}
}

func TestBrokenLine_LostAnswers(t *testing.T) {
	b, direct, l := throughLine(t, bucket.RetryPolicy{})
	l.lost.Store(1)
	obj, err := b.Put(t.Context(), "locks/publish", strings.NewReader("me"), bucket.Condition{IfAbsent: true})
	if err != nil {
		t.Fatalf("put if absent: %v", err)
	}
	_, now := buckettest.Get(t, direct, "locks/publish")
	if obj.ETag != now.ETag || l.lost.Load() >= 0 {
		t.Fatalf("returned %+v, stored %+v", obj, now)
	}
	_, err = b.Put(t.Context(), "locks/publish", strings.NewReader("you"), bucket.Condition{IfAbsent: true})
	if !errors.Is(err, bucket.ErrExists) {
		t.Errorf("put over it: %v", err)
	}
}

func TestBrokenLine_NoAnswer(t *testing.T) {
	b, direct, l := throughLine(t, bucket.RetryPolicy{Wait: 100 * time.Millisecond, Tries: 20})
	buckettest.Put(t, direct, "k", []byte("x"))
	l.stall.Store(2)
	if got, _ := buckettest.Get(t, b, "k"); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	l.stall.Store(2)
	buckettest.Put(t, b, "big", make([]byte, 1<<20))
	if _, now := buckettest.Get(t, direct, "big"); now.Size != 1<<20 {
		t.Errorf("stored %+v", now)
	}
}

// slowBody is in the middle of a read when the call is cancelled.
type slowBody struct {
	*bytes.Reader
	passes  int
	reading chan struct{}
	busy    atomic.Bool
}

func (b *slowBody) Seek(offset int64, whence int) (int64, error) {
	if offset == 0 && whence == io.SeekStart {
		b.passes++
	}
	return b.Reader.Seek(offset, whence)
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.passes < 2 {
		return b.Reader.Read(p) // the digest
	}
	b.busy.Store(true)
	defer b.busy.Store(false)
	select {
	case b.reading <- struct{}{}:
	default:
	}
	time.Sleep(50 * time.Millisecond)
	return b.Reader.Read(p[:1])
}

// lateReader is a transport that returns before it is done with the body, as
// [http.RoundTripper] allows.
type lateReader struct{}

func (lateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	go io.Copy(io.Discard, req.Body)
	<-req.Context().Done()
	return nil, req.Context().Err()
}

func TestPut_ReadsNothingAfterItsReturn(t *testing.T) {
	b, err := s3.Open(t.Context(), "s3://fleet?endpoint=http://127.0.0.1:1", s3.Options{Sources: []s3.Source{root()}, Transport: lateReader{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := &slowBody{Reader: bytes.NewReader(make([]byte, 100)), reading: make(chan struct{}, 1)}
	go func() {
		<-body.reading
		cancel()
	}()
	_, err = b.Put(ctx, "k", body, bucket.Condition{})
	if body.busy.Load() {
		t.Error("the body is still read")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
}
