package buckettest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/needs"
)

// TestAzurite_InNamespace starts a server where only the namespace sees it, as
// tests with virtual machines do, with the certificate of its address there.
func TestAzurite_InNamespace(t *testing.T) {
	needs.Root(t)
	ip := needs.Tool(t, "ip")
	ns := fmt.Sprintf("bwa%d", os.Getpid())
	if out, err := exec.Command(ip, "netns", "add", ns).CombinedOutput(); err != nil {
		needs.Skip(t, "netns", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { exec.Command(ip, "netns", "del", ns).Run() })
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", "10.77.0.1/32", "dev", "lo"}} {
		if out, err := exec.Command(ip, append([]string{"-n", ns}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{
		Listen: "10.77.0.1:10000", OAuth: true,
		Client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialIn(ctx, "/run/netns/"+ns, network, addr)
		}}},
		Hook: func(cmd *exec.Cmd) {
			cmd.Args = append([]string{ip, "netns", "exec", ns}, cmd.Args...)
			cmd.Path = ip
		},
	})
	srv.CreateContainer("fleet", "")
	token := azblob.TokenSource("test", func(context.Context) (string, time.Time, error) {
		return buckettest.AzureToken("https://storage.azure.com", time.Now().Add(time.Hour)), time.Time{}, nil
	})
	b, err := azblob.Open(t.Context(), srv.URL("fleet", ""), azblob.Options{Sources: []azblob.Source{token}, Transport: srv.Transport()})
	if err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, b, "reports/vm1/report.json", []byte("{}"))
}
