package step

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// checkHTTP asks for the URL once. Redirects are followed; a server on this
// machine is never asked by way of a proxy.
func checkHTTP(ctx context.Context, c release.Check) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "bootwell-check")
	for _, h := range c.Headers {
		k, v, ok := strings.Cut(h, ":")
		if !ok {
			return fmt.Errorf("header %q is not like Name: value", h)
		}
		if v = strings.TrimSpace(v); strings.EqualFold(k, "Host") {
			req.Host = v
		} else {
			req.Header.Set(k, v)
		}
	}
	t := &http.Transport{Proxy: proxyFor, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: c.AllowInsecure}} //nolint:gosec // asked for
	defer t.CloseIdleConnections()
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return httpError(ctx, c, err)
	}
	defer res.Body.Close()
	want := c.Status
	if want == 0 {
		want = http.StatusOK
	}
	if res.StatusCode != want {
		return fmt.Errorf("%s answers %d, expected %d", c.Target, res.StatusCode, want)
	}
	if len(c.Body) == 0 {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxLooked))
	if err == nil || occur("", b, c.Body) == nil {
		return occur("body", b, c.Body)
	}
	return httpError(ctx, c, err)
}

func httpError(ctx context.Context, c release.Check, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: no answer: %w", c.Target, cause)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s: %w", c.Target, err)
}

// proxyFor is the environment's proxy, but for this machine's own addresses.
func proxyFor(req *http.Request) (*url.URL, error) {
	host := req.URL.Hostname()
	if ip := net.ParseIP(host); host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback() {
		return nil, nil
	}
	return http.ProxyFromEnvironment(req)
}

// checkPort looks whether something listens on "tcp:80", "udp:53" or "80".
func checkPort(ctx context.Context, c release.Check) error {
	proto, port, err := parsePort(c.Target)
	if err != nil {
		return err
	}
	listens, err := listening(proto, port)
	if err != nil && strings.HasPrefix(proto, "tcp") { // no /proc: ask the port itself
		conn, derr := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
		if listens = derr == nil; listens {
			_ = conn.Close()
		}
		err = nil
	}
	switch {
	case err != nil:
		return err
	case listens && !wants(c.Listening):
		return fmt.Errorf("something listens on %s:%d, expected nothing", proto, port)
	case !listens && wants(c.Listening):
		return fmt.Errorf("nothing listens on %s:%d", proto, port)
	}
	return nil
}

func parsePort(s string) (proto string, port int, err error) {
	proto, num, ok := strings.Cut(s, ":")
	if !ok {
		proto, num = "tcp", s
	}
	n, err := strconv.ParseUint(num, 10, 16)
	switch proto {
	case "tcp", "tcp6", "udp", "udp6":
	default:
		err = errors.New("protocol")
	}
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q is not like tcp:80", s)
	}
	return proto, int(n), nil
}

// listening looks in /proc/net (proc_net(5)); a name with 6 means only IPv6.
func listening(proto string, port int) (bool, error) {
	files := []string{proto}
	if !strings.HasSuffix(proto, "6") {
		files = append(files, proto+"6")
	}
	read := false
	for _, name := range files {
		f, err := os.Open("/proc/net/" + name)
		if err != nil {
			continue
		}
		read = true
		found := scanSockets(f, strings.HasPrefix(proto, "tcp"), port)
		_ = f.Close()
		if found {
			return true, nil
		}
	}
	if !read {
		return false, errors.New("/proc/net cannot be read")
	}
	return false, nil
}

// scanSockets looks for a socket bound to port: for TCP one that listens
// (state 0A), for UDP one that is not connected (07).
func scanSockets(r io.Reader, tcp bool, port int) bool {
	state := "07"
	if tcp {
		state = "0A"
	}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 4 || f[3] != state {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); ok && err == nil && int(n) == port {
			return true
		}
	}
	return false
}
