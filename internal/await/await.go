// Package await waits for servers that tests and benchmarks have just started.
package await

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

const (
	pause = 20 * time.Millisecond
	limit = 2 * time.Minute
)

// Server calls ask until it returns nil, which says that the server called name
// is ready: two minutes at most, with a pause in between. ended gets the end of
// the server's process, with room for one: Server returns an error then and
// leaves the end in the channel, for whoever waits for it too.
func Server(ctx context.Context, name string, ended chan error, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-ended:
			ended <- end
			return fmt.Errorf("%s ended: %v", name, end)
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready: %w; it answered last: %w", name, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// Answer asks for url, as [Server] wants it. The server is ready when it
// answers with status; 0: with any.
func Answer(client *http.Client, url string, status int) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if status != 0 && resp.StatusCode != status {
			return fmt.Errorf("get %s: %s", url, resp.Status)
		}
		return nil
	}
}

// Address returns host with a port that was free just now; another process can
// take it before the server does.
func Address(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
