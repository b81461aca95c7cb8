package lab

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/needs"
)

func newNetwork(t *testing.T, addresses ...string) *Network {
	t.Helper()
	n, err := NewNetwork(addresses...)
	if errors.Is(err, ErrForbidden) {
		needs.Skip(t, "root", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func get(c *http.Client, url string) (string, error) {
	res, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestNetworkIsApart(t *testing.T) {
	n := newNetwork(t, MetadataAddress, "192.0.2.10")
	s := metadata.NewOpenStack(metadata.Machine{ID: "u", Hostname: "h"})
	for _, address := range []string{MetadataAddress + ":80", "192.0.2.10:9000"} {
		url, err := n.Serve(address, s)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := get(n.Client(), url+"/latest/meta-data/instance-id"); err != nil || body != "u" {
			t.Errorf("%s from inside: %q, %v", url, body, err)
		}
	}
	if _, err := n.Client().Get("http://198.51.100.1/"); err == nil {
		t.Error("an address that is not there answered")
	}
	to, err := n.Forward("192.0.2.10:9000")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := get(http.DefaultClient, "http://"+to+"/latest/meta-data/instance-id"); err != nil || body != "u" {
		t.Errorf("from the host through Forward: %q, %v", body, err)
	}
}

func TestNetworkRunsAndEndsPrograms(t *testing.T) {
	n := newNetwork(t, "192.0.2.10")
	var out bytes.Buffer
	look := exec.Command("sh", "-c", "cat /proc/net/fib_trie | grep -c -e 192.0.2.10; ls /sys/class/net >/dev/null")
	look.Stdout = &out
	if err := n.Start(look); err != nil {
		t.Fatal(err)
	}
	if err := look.Wait(); err != nil || strings.TrimSpace(out.String()) == "0" {
		t.Errorf("the address is not seen by a program inside: %q, %v", out.String(), err)
	}
	stay := exec.Command("sleep", "1000")
	if err := n.Start(stay); err != nil {
		t.Fatal(err)
	}
	n.Close()
	var ee *exec.ExitError
	if err := stay.Wait(); !errors.As(err, &ee) {
		t.Errorf("the program outlived its network: %v", err)
	}
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("a closed network still works")
	}
}

func TestNetworkServesNames(t *testing.T) {
	n := newNetwork(t, "192.0.2.10")
	if err := n.ServeNames(map[string]string{"metadata.google.internal": "192.0.2.10"}); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	look := exec.Command("getent", "ahostsv4", "Metadata.Google.internal")
	look.Stdout, look.Stderr = &out, &errs
	if err := n.Start(look); err != nil {
		t.Fatal(err)
	}
	if err := look.Wait(); err != nil || !strings.HasPrefix(out.String(), "192.0.2.10 ") {
		t.Errorf("a known name: %q, %v %s", out.String(), err, errs.String())
	}
	look = exec.Command("getent", "ahostsv4", "example.com")
	if err := n.Start(look); err != nil {
		t.Fatal(err)
	}
	var ee *exec.ExitError
	if err := look.Wait(); !errors.As(err, &ee) || ee.ExitCode() != 2 {
		t.Errorf("an unknown name: %v, want getent's exit code 2", err)
	}
	if err := n.ServeNames(map[string]string{"x": "::1"}); err == nil {
		t.Error("an address of another kind was taken")
	}
}
