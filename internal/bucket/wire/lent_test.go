package wire

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestLent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	body := strings.NewReader("content")
	l := Lend(ctx, body)
	if _, err := l.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(l); err != nil || string(got) != "tent" {
		t.Fatalf("%q, %v", got, err)
	}
	cancel()
	if _, err := l.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("read after cancel: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	body.Reset("again")
	l.Back()
	if _, err := l.Read(make([]byte, 1)); !errors.Is(err, errReturned) {
		t.Errorf("read after it was given back: %v", err)
	}
	if _, err := l.Seek(0, io.SeekEnd); !errors.Is(err, errReturned) || body.Len() != 5 {
		t.Errorf("seek after it was given back: %v, %d bytes are left", err, body.Len())
	}
}
