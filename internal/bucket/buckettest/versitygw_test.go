package buckettest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/needs"
)

// TestVersityGW_InNamespace starts a server where only the namespace sees it,
// as tests with virtual machines do.
func TestVersityGW_InNamespace(t *testing.T) {
	needs.Root(t)
	ip := needs.Tool(t, "ip")
	ns := fmt.Sprintf("bwt%d", os.Getpid())
	if out, err := exec.Command(ip, "netns", "add", ns).CombinedOutput(); err != nil {
		needs.Skip(t, "netns", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { exec.Command(ip, "netns", "del", ns).Run() })
	if out, err := exec.Command(ip, "-n", ns, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialIn(ctx, "/run/netns/"+ns, network, addr)
	}}
	srv := buckettest.StartVersityGW(t, buckettest.ServerConfig{
		Listen: "127.0.0.1:7070",
		Client: &http.Client{Transport: transport},
		Hook: func(cmd *exec.Cmd) {
			cmd.Args = append([]string{ip, "netns", "exec", ns}, cmd.Args...)
			cmd.Path = ip
		},
	})
	srv.CreateBucket("fleet")
	srv.CreateUser("vm1", "vm1secret")
	srv.PutBucketPolicy("fleet", buckettest.VMPolicy("fleet", "", "vm1"))
	b, err := s3.Open(t.Context(), srv.URL("fleet", ""), s3.Options{Sources: []s3.Source{s3.Static("vm1", "vm1secret", "")}, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, b, "reports/vm1/report.json", []byte("{}"))
	if _, err := net.Dial("tcp", srv.Addr); err == nil {
		t.Error("the server is seen outside of its namespace")
	}
}

// dialIn connects from inside a network namespace. The thread that entered it
// is not used again.
func dialIn(ctx context.Context, ns, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open(ns)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
