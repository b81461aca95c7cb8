package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// resolvConf names the servers that programs on this machine ask for names.
const resolvConf = "/etc/resolv.conf"

// ServeNames answers questions for the addresses of names, in lower case and
// without a dot at the end; other names do not exist. Programs in the network
// and QEMU guests find it without a setting, because it has the addresses of
// the host's own name servers, in this network only.
func (n *Network) ServeNames(names map[string]string) error {
	zone := map[string]netip.Addr{}
	for name, address := range names {
		ip, err := netip.ParseAddr(address)
		if err != nil || !ip.Is4() {
			return fmt.Errorf("serve names: %s: %q is no IPv4 address", name, address)
		}
		zone[name] = ip
	}
	for _, server := range nameServers() {
		if err := n.AddAddress(server); err != nil {
			return fmt.Errorf("serve names: %w", err)
		}
		var conn net.PacketConn
		err := n.Do(func() (err error) {
			conn, err = net.ListenPacket("udp4", net.JoinHostPort(server, "53"))
			return err
		})
		if err != nil {
			return fmt.Errorf("serve names: %w", err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			answerNames(conn, zone)
		}()
		n.onClose(func() {
			_ = conn.Close()
			<-ended
		})
	}
	return nil
}

// nameServers are the IPv4 addresses that the host's resolver and QEMU's
// user network ask: those in resolv.conf, or the loopback address.
func nameServers() []string {
	var out []string
	if f, err := os.Open(resolvConf); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			word := strings.Fields(lines.Text())
			if len(word) < 2 || word[0] != "nameserver" {
				continue
			}
			if ip, err := netip.ParseAddr(word[1]); err == nil && ip.Is4() && !slices.Contains(out, word[1]) {
				out = append(out, word[1])
			}
		}
	}
	if len(out) == 0 {
		out = append(out, "127.0.0.1")
	}
	return out
}

// answerNames answers until conn is closed.
func answerNames(conn net.PacketConn, zone map[string]netip.Addr) {
	buf := make([]byte, 4096)
	for {
		size, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if reply := answerName(buf[:size], zone); reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}

// answerName answers one message, nil if it is no question.
func answerName(query []byte, zone map[string]netip.Addr) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	ip, known := zone[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
	reply := dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true}
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	m := dnsmessage.Message{Header: reply, Questions: []dnsmessage.Question{q}}
	if known && q.Type == dnsmessage.TypeA && q.Class == dnsmessage.ClassINET {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: ip.As4()},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
