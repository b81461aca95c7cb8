package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

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
