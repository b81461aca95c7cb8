package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/bootwell/bootwell/internal/needs"
)

func TestMeter_CountsHeads(t *testing.T) {
	for _, c := range []struct {
		name, up string
		want     string
	}{
		{"keep-alive", "GET /a HTTP/1.1\r\nHost: x\r\n\r\nHEAD /b HTTP/1.1\r\n\r\n", "GET HEAD"},
		{"body with a head in it", "PUT /a HTTP/1.1\r\nContent-Length: 19\r\n\r\nGET / HTTP/1.1\r\n\r\n\nDELETE /b HTTP/1.1\r\n\r\n", "PUT DELETE"},
		{"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "POST GET"},
		{"line between requests", "GET / HTTP/1.1\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", "GET GET"},
		{"half a head", "GET / HTTP/1.1\r\nHost: x\r\n", ""},
		{"not HTTP", "\x16\x03\x01 hello\n GET / HTTP/1.1\r\n\r\n", ""},
	} {
		for size := 1; size <= len(c.up); size++ {
			var got []string
			m := &meter{found: func(method string) { got = append(got, method) }}
			for rest := c.up; rest != ""; {
				n := min(size, len(rest))
				m.up([]byte(rest[:n]))
				rest = rest[n:]
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Fatalf("%s in pieces of %d: %q, want %q", c.name, size, s, c.want)
			}
		}
	}
}

func TestMeter_ExpectContinue(t *testing.T) {
	for _, c := range []struct{ says, next, want string }{
		{"HTTP/1.1 100 Continue\r\n\r\n", "12345", "PUT GET"},
		{"HTTP/1.1 403 Forbidden\r\n\r\n", "", "PUT GET"},
		{"HTTP/1.1 403 Forbidden\r\n\r\n", "12345", "PUT GET"},
	} {
		var got []string
		m := &meter{found: func(method string) { got = append(got, method) }}
		m.up([]byte("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"))
		m.down([]byte(c.says))
		m.up([]byte(c.next))
		m.up([]byte("GET / HTTP/1.1\r\n\r\n"))
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q then %q: %q, want %q", c.says, c.next, s, c.want)
		}
	}
}

func FuzzMeter(f *testing.F) {
	f.Add([]byte("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), []byte("HTTP/1.1 100"))
	f.Fuzz(func(t *testing.T, up, down []byte) {
		m := &meter{found: func(string) {}}
		m.up(up)
		m.down(down)
		m.up(up)
		if len(m.line) > maxLine || m.rest < 0 {
			t.Fatalf("line of %d bytes, rest %d", len(m.line), m.rest)
		}
	})
}

func TestProxy_CountsAKnownExchange(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, strings.Repeat("x", 1000))
	}))
	defer server.Close()
	p, err := NewProxy(t.Context(), server.Listener.Addr().String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	var up, down int64
	for _, req := range []string{
		"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		up += int64(len(req))
		if _, err := io.WriteString(conn, req); err != nil {
			t.Fatal(err)
		}
		for { // the head
			line, err := answers.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			down += int64(len(line))
			if line == "\r\n" {
				break
			}
		}
		n, err := io.CopyN(io.Discard, answers, 1000)
		if err != nil {
			t.Fatal(err)
		}
		down += n
	}
	c := p.Reset()
	if c.Connections != 1 || c.Requests != 3 || c.Up != up || c.Down != down || c.Methods["PUT"] != 1 {
		t.Errorf("counted %+v, want 1 connection, 3 requests, %d up, %d down", c, up, down)
	}
	if c := p.Snapshot(); c.Requests != 0 || c.Up != 0 || len(c.Methods) != 0 {
		t.Errorf("after Reset: %+v", c)
	}
}

// TestProxy_Delays holds lower bounds only: a busy machine may add what it likes.
func TestProxy_Delays(t *testing.T) {
	const rtt = 40 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	defer server.Close()
	p, err := NewProxy(t.Context(), server.Listener.Addr().String(), rtt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i, least := range []time.Duration{2 * rtt, rtt, rtt} { // the first one also connects
		began := time.Now()
		resp, err := client.Get(p.URL())
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(text) != "hello" {
			t.Fatalf("%q, %v", text, err)
		}
		if took := time.Since(began); took < least {
			t.Errorf("request %d took %v, want at least %v", i, took, least)
		}
	}
	if c := p.Snapshot(); c.Connections != 1 {
		t.Errorf("%d connections, want 1", c.Connections)
	}
}

// TestProxy_InParallel shows that what is under way does not wait for the rest:
// many chunks take one delay, not one each.
func TestProxy_InParallel(t *testing.T) {
	const rtt = 100 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 200 {
			fmt.Fprint(w, strings.Repeat("y", 1000))
			w.(http.Flusher).Flush()
		}
	}))
	defer server.Close()
	p, err := NewProxy(t.Context(), server.Listener.Addr().String(), rtt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	began := time.Now()
	resp, err := http.Get(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 200_000 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if took := time.Since(began); took > 200*rtt/2 {
		t.Errorf("took %v: each chunk waited", took)
	}
}

func TestProxy_Down(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer server.Close()
	p, err := NewProxy(t.Context(), server.Listener.Addr().String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	client := &http.Client{Transport: &http.Transport{}}
	get := func() error {
		resp, err := client.Get(p.URL())
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for i, down := range []bool{false, true, false} {
		p.SetDown(down)
		if err := get(); (err != nil) != down {
			t.Errorf("step %d: down %v, but %v", i, down, err)
		}
	}
}

func TestStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := Start(ctx, Options{Buckets: []string{"one"}})
	if errors.Is(err, ErrNoServer) {
		needs.Skip(t, "versitygw", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	client, err := minio.New(w.Proxy.Addr(), &minio.Options{Creds: credentials.NewStaticV4(Key, Secret, ""), Region: Region, BucketLookup: minio.BucketLookupPath})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PutObject(ctx, "one", "a/b", strings.NewReader("text"), 4, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if c := w.Proxy.Snapshot(); c.Methods["PUT"] != 1 || c.Requests != 1 {
		t.Errorf("one PUT is counted as %+v", c)
	}
	addr := w.addr
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the server is still there after Close")
	}
}
