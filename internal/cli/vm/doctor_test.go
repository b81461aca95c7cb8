package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockHolder finds this very process through the kernel's own list.
func TestLockHolder(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if pid := lockHolder(f.Name()); pid != "" {
		t.Errorf("a free lock is held by %s", pid)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if pid := lockHolder(f.Name()); pid != fmt.Sprint(os.Getpid()) {
		t.Errorf("the lock is held by %q, want %d", pid, os.Getpid())
	}
	if pid := lockHolder(f.Name() + "s"); pid != "" {
		t.Errorf("a lock that is not there is held by %s", pid)
	}
}

func TestHolder(t *testing.T) {
	const table = "1: POSIX  ADVISORY  WRITE 700 08:01:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 812 08:01:42 0 EOF\n3: FLOCK\n"
	for inode, want := range map[uint64]string{42: "812", 2: "", 142: ""} {
		if got := holder(strings.NewReader(table), inode); got != want {
			t.Errorf("inode %d: %q, want %q", inode, got, want)
		}
	}
}
