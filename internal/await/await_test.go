package await

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestServer(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	if err := Server(t.Context(), "x", make(chan error, 1), Answer(srv.Client(), srv.URL, http.StatusOK)); err != nil || asked != 3 {
		t.Errorf("%v after %d requests", err, asked)
	}
	asked = 0
	if err := Server(t.Context(), "x", make(chan error, 1), Answer(srv.Client(), srv.URL, 0)); err != nil || asked != 1 {
		t.Errorf("any answer will do: %v after %d requests", err, asked)
	}
}

func TestServer_Ended(t *testing.T) {
	gone := errors.New("exit status 3")
	ended := make(chan error, 1)
	ended <- gone
	err := Server(t.Context(), "x", ended, func(context.Context) error { return errors.New("no connection") })
	if err == nil || !strings.Contains(err.Error(), "x ended: exit status 3") {
		t.Error(err)
	}
	if got := <-ended; got != gone {
		t.Errorf("the next who waits hears %v", got)
	}
}

func TestServer_ContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	no := errors.New("no connection")
	err := Server(ctx, "x", make(chan error, 1), func(context.Context) error {
		cancel()
		return no
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, no) {
		t.Error(err)
	}
}
