package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/bootwell/bootwell/bench/world"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// serveMetadata is EC2's metadata service at its own address, each answer
// after delay, with keys that the bucket takes.
func serveMetadata(ctx context.Context, delay time.Duration) (func(), error) {
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", "169.254.169.254/32", "dev", "lo"}} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	s := metadata.NewEC2(metadata.Machine{ID: "i-0123456789abcdef0", Region: "us-east-1", Zone: "us-east-1a", Hostname: "web-1", Type: "t3.micro", Role: "vm"})
	s.SetCredentials(metadata.Credentials{AccessKeyID: world.Key, SecretAccessKey: world.Secret, Expires: time.Now().Add(6 * time.Hour)})
	l, err := net.Listen("tcp", "169.254.169.254:80")
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		s.ServeHTTP(w, r)
	})}
	go srv.Serve(l)
	return func() { _ = srv.Close() }, nil
}

// serveTLS takes TLS connections for a server that has none. It writes the
// certificate to trust to file.
func serveTLS(to, file string) (addr string, stop func(), err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return "", nil, err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return "", nil, err
	}
	go serve(l, to)
	return l.Addr().String(), func() { _ = l.Close() }, nil
}

func serve(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go join(c, to)
	}
}

func join(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, s)
}
