// Package sdkauth is the credentials that the clouds' own tools have on an
// operator's machine: environment, profiles, logins, single sign-on, as their
// SDKs read them. It is large, and for the operator's command only.
//
// No source ever asks the metadata service of a machine: an operator's machine
// may be a VM with a stranger's identity. What an SDK would ask of one is
// switched off, and its connections cannot reach one.
package sdkauth

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

var errMetadata = errors.New("metadata services are not asked for an operator's credentials")

// containers are the addresses at which ECS, CodeBuild and EKS give a container
// its own role. They are asked only where the environment names them.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
var containers = [...]netip.Addr{
	netip.AddrFrom4([4]byte{169, 254, 170, 2}), netip.AddrFrom4([4]byte{169, 254, 170, 23}),
	netip.AddrFrom16([16]byte{0xfd, 0x00, 0x0e, 0xc2, 15: 0x23}),
}

// services are metadata services at addresses that are not link-local: of EC2
// and Compute Engine over IPv6, and of Azure's host.
var services = [...]netip.Addr{
	netip.AddrFrom16([16]byte{0xfd, 0x00, 0x0e, 0xc2, 14: 0x02, 15: 0x54}),
	netip.AddrFrom16([16]byte{0xfd, 0x20, 0x00, 0xce, 14: 0x02, 15: 0x54}),
	netip.AddrFrom4([4]byte{168, 63, 129, 16}),
}

// guard refuses a connection to a metadata service. It is a [net.Dialer]'s
// Control, so that it sees addresses and not names.
func guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // not of the Internet
	}
	return guardAddr(at.Addr())
}

func guardAddr(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	for _, c := range containers {
		if ip == c {
			return nil
		}
	}
	bad := ip.IsLinkLocalUnicast()
	for _, s := range services {
		bad = bad || ip == s
	}
	if bad {
		return fmt.Errorf("%s: %w", ip, errMetadata)
	}
	return nil
}

// guarded is a client that reaches no metadata service, neither itself nor
// through a proxy.
func guarded() (*http.Client, error) {
	t, err := wire.Transport("")
	if err != nil {
		return nil, err
	}
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: guard}).DialContext
	return &http.Client{Timeout: time.Minute, Transport: guardedTransport{t}}, nil
}

type guardedTransport struct{ next http.RoundTripper }

func (g guardedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := strings.TrimSuffix(strings.ToLower(req.URL.Hostname()), ".")
	if host == "metadata.google.internal" || host == "metadata" {
		return nil, fmt.Errorf("%s: %w", host, errMetadata)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if err := guardAddr(ip); err != nil {
			return nil, err
		}
	}
	return g.next.RoundTrip(req)
}

// class wraps err with its place in the vocabulary: bucket.ErrUnavailable where
// another try may do, else bucket.ErrPermission. status is that of the answer;
// 0: there was none.
func class(err error, status int) error {
	var network net.Error
	sentinel := bucket.ErrPermission
	switch {
	case errors.Is(err, errMetadata):
	case status != 0 && wire.Temporary(status), status == 0 && errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF):
		sentinel = bucket.ErrUnavailable
	}
	return fmt.Errorf("%w: %w", sentinel, oneLine{err})
}

// oneLine is an error of an SDK, whose words can be a page.
type oneLine struct{ error }

func (e oneLine) Unwrap() error { return e.error }

func (e oneLine) Error() string {
	s := strings.Join(strings.FieldsFunc(e.error.Error(), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > 600 {
		s = strings.ToValidUTF8(s[:600], "") + "…"
	}
	return s
}

// readBounded reads a file that is configuration.
func readBounded(path string) ([]byte, error) {
	const limit = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}
