// Command meter runs a command and writes what it cost, with all its
// descendants, to a file as JSON. It is small on purpose: the kernel counts the
// memory of the process that forks as the child's until the child has its own.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A cost is what getrusage(2) says of the command and its descendants.
type cost struct {
	Began  int64 `json:"began_ns"` // by CLOCK_BOOTTIME
	Wall   int64 `json:"wall_ns"`
	CPU    int64 `json:"cpu_ns"`     // user and system
	RSS    int64 `json:"rss_bytes"`  // the largest of any one process
	Exit   int   `json:"exit"`       // 128 + n for signal n
	Writes int64 `json:"out_blocks"` // of 512 bytes, to disks
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: meter FILE COMMAND [ARG]...")
		os.Exit(2)
	}
	c, err := run(os.Args[2:])
	if err == nil {
		var text []byte
		if text, err = json.Marshal(c); err == nil {
			err = os.WriteFile(os.Args[1], text, 0o600)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "meter:", err)
		os.Exit(125)
	}
}

// run also waits for descendants that the command leaves behind.
func run(argv []string) (cost, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return cost{}, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return cost{}, err
	}
	var c cost
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return cost{}, err
	}
	c.Began = since.Nano()
	began := time.Now()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return cost{}, err
	}
	for {
		var status syscall.WaitStatus
		var use syscall.Rusage
		got, err := syscall.Wait4(-1, &status, 0, &use)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECHILD:
			return c, nil
		case err != nil:
			return cost{}, err
		}
		if got == pid {
			c.Wall = int64(time.Since(began))
			c.Exit = status.ExitStatus()
			if status.Signaled() {
				c.Exit = 128 + int(status.Signal())
			}
		}
		c.CPU += use.Utime.Nano() + use.Stime.Nano()
		c.RSS = max(c.RSS, use.Maxrss*1024)
		c.Writes += use.Oublock
	}
}
