package metadata_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/needs"
)

// The clients of these tests ask at 169.254.169.254, as they do on a VM. So a
// test makes a network, and runs again in a process of its own inside that
// network; from there the machine's own metadata service cannot be reached.

// insideEnv tells that process which network it must not be in.
const insideEnv = "BOOTWELL_TEST_NOT_IN"

// storeIP has the stores that clients use with what they got.
const storeIP = "192.0.2.10"

func currentNetwork(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// inside reports whether this process is the one in the network.
func inside(t *testing.T) bool {
	t.Helper()
	not := os.Getenv(insideEnv)
	if not == "" {
		return false
	}
	if here := currentNetwork(t); here == not {
		t.Fatalf("this process is in the machine's own network, %s", here)
	}
	return true
}

func newNetwork(t *testing.T) *lab.Network {
	t.Helper()
	n, err := lab.NewNetwork(lab.MetadataAddress, storeIP)
	if errors.Is(err, lab.ErrForbidden) {
		needs.Skip(t, "root", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func serveAt(t *testing.T, n *lab.Network, address string, h http.Handler) {
	t.Helper()
	if _, err := n.Serve(address, h); err != nil {
		t.Fatal(err)
	}
}

// again runs this test in the network, with nothing of the environment but
// what is given.
func again(t *testing.T, n *lab.Network, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), insideEnv + "=" + currentNetwork(t)}, env...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil || !strings.Contains(out.String(), "--- PASS: "+t.Name()) {
		t.Errorf("in the network: %v\n%s", err, out.String())
	}
}

// A mint makes names for keys and tokens, each good for a while.
type mint struct {
	life time.Duration

	mu      sync.Mutex
	current string
	expires map[string]time.Time
}

// get returns a name with most of its life before it: machines are slow at
// times.
func (m *mint) get(now time.Time) (string, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expires[m.current].Sub(now) < m.life*3/4 {
		if m.expires == nil {
			m.expires = map[string]time.Time{}
		}
		m.current = fmt.Sprintf("made-%d", len(m.expires)+1)
		m.expires[m.current] = now.Add(m.life)
	}
	return m.current, m.expires[m.current]
}

// accepts reports whether there is such a name and it has not expired.
func (m *mint) accepts(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.expires[name])
}

func (m *mint) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.expires)
}
