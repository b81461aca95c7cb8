package world

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Serve serves h on the loopback address behind a Proxy of its own, with the
// world's round-trip time, until the world is closed.
func (w *World) Serve(h http.Handler) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go server.Serve(l) // until Close
	p, err := NewProxy(w.ctx, l.Addr().String(), time.Duration(w.Proxy.rtt.Load()))
	if err != nil {
		server.Close()
		return nil, err
	}
	w.proxies = append(w.proxies, p)
	w.more = append(w.more, server.Close, p.Close)
	return p, nil
}

// SetRTT changes the round-trip time of new connections through all proxies.
func (w *World) SetRTT(d time.Duration) {
	w.Proxy.SetRTT(d)
	for _, p := range w.proxies {
		p.SetRTT(d)
	}
}

// GitHandler serves the bare repositories below dir, to read and to write, as
// git's own http-backend does behind a web server.
func GitHandler(ctx context.Context, dir string) (http.Handler, error) {
	out, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return nil, err
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent",
			"REMOTE_USER=bench"},
		InheritEnv: []string{"PATH"},
		Stderr:     io.Discard,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength >= 0 {
			backend.ServeHTTP(w, r)
			return
		}
		// CGI must say how long a body is before it comes.
		if err := whole(backend, w, r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}), nil
}

// whole serves a request of unknown length once all of it is there.
func whole(h http.Handler, w http.ResponseWriter, r *http.Request) error {
	f, err := os.CreateTemp("", "bootwell-bench-body-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, r.Body)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	with := r.Clone(r.Context())
	with.Body, with.ContentLength, with.TransferEncoding = f, n, nil
	h.ServeHTTP(w, with)
	return nil
}

var errNoGit = errors.New("no git here")

// MakeRepository makes an empty bare repository that GitHandler accepts pushes to.
func MakeRepository(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("git"); err != nil {
		return errNoGit
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "--initial-branch=main", dir},
		{"-C", dir, "config", "http.receivepack", "true"},
		{"-C", dir, "config", "gc.auto", "0"},
	} {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	return nil
}
