// Package needs lets a test say what it needs of the machine. A need that is
// not met skips the test with the reason; BOOTWELL_TEST_MUST names needs
// (comma-separated, or "all") for which a skip is a failure, so that a
// machine that should have everything cannot pass by skipping.
package needs

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Skip skips t because need is not met, or fails it if need must be met here.
func Skip(t testing.TB, need, reason string) {
	t.Helper()
	for _, m := range strings.Split(os.Getenv("BOOTWELL_TEST_MUST"), ",") {
		if m == need || m == "all" {
			t.Fatalf("%s is not available, and BOOTWELL_TEST_MUST names it: %s", need, reason)
		}
	}
	t.Skipf("needs %s: %s", need, reason)
}

// Root skips t unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "root", "runs as a normal user")
	}
}

// Tool returns the path of an installed program, or skips t.
func Tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Skip(t, name, "the program is not installed")
	}
	return p
}
