package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MetadataAddress is where clouds have their metadata service.
const MetadataAddress = "169.254.169.254"

// Network is an own network with nobody on it: a Linux network namespace
// with a loopback interface. The servers that machines may reach are started
// in it, on addresses that exist nowhere else. QEMU guests whose network it
// is can reach those servers and nothing of the real network. It needs root.
//
// It is safe for concurrent use. Close ends all that runs in it.
type Network struct {
	work    chan func()
	quit    chan struct{}
	stopped chan struct{} // closed when the thread is gone

	mu      sync.Mutex
	aliases int
	closers []func()
	closed  bool
}

// NewNetwork makes a network whose loopback interface also has the given
// IPv4 addresses. The error is ErrForbidden without root.
func NewNetwork(addresses ...string) (*Network, error) {
	n := &Network{work: make(chan func()), quit: make(chan struct{}), stopped: make(chan struct{})}
	made := make(chan error)
	go n.thread(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	for _, a := range addresses {
		if err := n.AddAddress(a); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

// thread is the one thread that is in the namespace. It ends with its
// goroutine, because it stays locked, and with it the processes that have it
// as parent.
func (n *Network) thread(made chan<- error) {
	runtime.LockOSThread()
	defer close(n.stopped)
	host, err := enterNetwork()
	made <- err
	if err != nil {
		return
	}
	// The first thread of a process does not end, it sleeps: it must not
	// hold the namespace.
	defer func() {
		_ = unix.Setns(host, unix.CLONE_NEWNET)
		_ = unix.Close(host)
	}()
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.quit:
			return
		}
	}
}

// enterNetwork puts the calling thread in a new network namespace and
// returns a descriptor of the one it came from.
func enterNetwork() (host int, err error) {
	if host, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
		err = loopbackUp()
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: a network namespace needs root", ErrForbidden)
	}
	if err != nil {
		_ = unix.Close(host)
	}
	return host, err
}

// Do runs f on the network's thread: the sockets it opens and the processes
// it starts belong to the network. Everything else in the network waits
// meanwhile.
func (n *Network) Do(f func() error) error {
	done := make(chan error)
	select {
	case n.work <- func() { done <- f() }:
		return <-done
	case <-n.stopped:
		return net.ErrClosed
	}
}

// AddAddress gives the loopback interface one more IPv4 address.
func (n *Network) AddAddress(address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is4() {
		return fmt.Errorf("add address %q: not an IPv4 address", address)
	}
	if ip.IsLoopback() {
		return nil
	}
	n.mu.Lock()
	n.aliases++
	name := "lo:" + strconv.Itoa(n.aliases)
	n.mu.Unlock()
	if err := n.Do(func() error { return setAddress(name, ip) }); err != nil {
		return fmt.Errorf("add address %s: %w", address, err)
	}
	return nil
}

func setAddress(name string, ip netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a4 := ip.As4()
	for _, set := range []struct {
		request uint
		value   []byte
	}{{unix.SIOCSIFADDR, a4[:]}, {unix.SIOCSIFNETMASK, []byte{255, 255, 255, 255}}} {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(set.value); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.request, ifr); err != nil {
			return err
		}
	}
	return nil
}

// Listen listens in the network, on an IP address and port; port 0 is any.
func (n *Network) Listen(address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in the lab's network: %w", err)
	}
	return l, nil
}

// Dial connects to an IP address and port in the network; it fits
// http.Transport.DialContext.
func (n *Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	// A literal address is dialled on the calling thread.
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial in the lab's network: %w", err)
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		c, err = d.DialContext(ctx, "tcp4", address)
		return err
	})
	return c, err
}

// Client is an HTTP client in the network.
func (n *Network) Client() *http.Client {
	t := &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}
	return &http.Client{Transport: t, Timeout: time.Minute}
}

// Serve serves h at address until the network is closed, and returns the
// base URL.
func (n *Network) Serve(address string, h http.Handler) (string, error) {
	l, err := n.Listen(address)
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l)
	}()
	n.onClose(func() {
		_ = srv.Close()
		<-ended
	})
	return "http://" + l.Addr().String(), nil
}

// Start starts cmd in the network. The process is killed when the network is
// closed or this process dies; the caller still has to Wait for it.
func (n *Network) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := n.Do(cmd.Start); err != nil {
		return fmt.Errorf("start %s in the lab's network: %w", cmd.Path, err)
	}
	n.onClose(func() { _ = cmd.Process.Kill() })
	return nil
}

// Forward relays connections from a port of the host's own loopback
// interface to address in the network, until the network is closed. It
// returns the host's address. It is for clients that cannot run inside.
func (n *Network) Forward(address string) (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("forward to the lab's network: %w", err)
	}
	n.onClose(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.relay(c, address)
		}
	}()
	return l.Addr().String(), nil
}

func (n *Network) relay(c net.Conn, address string) {
	defer c.Close()
	to, err := n.Dial(context.Background(), "tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(c, to)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(to, c)
	_ = to.(*net.TCPConn).CloseWrite()
	<-back
}

func (n *Network) onClose(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, f)
}

// Close ends the servers, the processes and the network itself. It may be
// called twice.
func (n *Network) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	closers := n.closers
	n.mu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	close(n.quit)
	<-n.stopped
}
