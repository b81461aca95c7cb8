package lab

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
)

// deafStream answers with the given bytes whatever is said to it.
type deafStream struct{ io.Reader }

func (deafStream) Write(p []byte) (int, error) { return len(p), nil }
func (deafStream) Close() error                { return nil }

// FuzzReplies lets a machine say anything.
func FuzzReplies(f *testing.F) {
	for _, s := range []string{
		`{"hello":"a"}` + "\n" + `{"id":1,"out":"aGk="}` + "\n" + `{"id":1,"exit":0}` + "\n",
		`{"failed":"no","denied":true}` + "\n", `{"id":1,"exit":3}` + "\n" + `{"id":1,"exit":3}` + "\n",
		`{"hello":"a"}` + "\n" + `{"hello":"b"}` + "\n", `{"console":"eA=="}` + "\n", "\n\n{}\n[",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		console := newConsole(nil)
		c := newConn(deafStream{bytes.NewReader(b)}, console)
		c.mu.Lock()
		k := &call{done: make(chan struct{})}
		if c.err == nil {
			c.calls[1] = k
		} else {
			close(k.done)
		}
		c.mu.Unlock()
		<-c.dead
		<-k.done // a call ends with its machine
	})
}

func FuzzKernelPayload(f *testing.F) {
	good := make([]byte, 0x2000)
	good[0x1f1] = 1
	copy(good[0x202:], "HdrS")
	good[0x248], good[0x24c] = 0x10, 0x20
	f.Add(good)
	f.Add([]byte("HdrS"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := kernelPayload(b); err == nil && len(p) > len(b) {
			t.Error("the payload is larger than the file")
		}
	})
}

func FuzzAnswerName(f *testing.F) {
	f.Add([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x08metadata\x06google\x08internal\x00\x00\x01\x00\x01"))
	f.Add([]byte("\x12\x34\x81\x80"))
	zone := map[string]netip.Addr{"metadata.google.internal": netip.MustParseAddr(MetadataAddress)}
	f.Fuzz(func(t *testing.T, query []byte) {
		reply := answerName(query, zone)
		if reply != nil && (len(reply) < 12 || reply[0] != query[0] || reply[1] != query[1] || reply[2]&0x80 == 0) {
			t.Errorf("no answer to %q: %q", query, reply)
		}
	})
}
