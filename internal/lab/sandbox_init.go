package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/lab/guest"
)

// Reexec must be called first thing in main (in TestMain for tests) of every
// program that uses Sandbox. In the program itself it returns at once; in
// the processes that Sandbox starts of the same program it never returns.
func Reexec() {
	switch os.Args[0] {
	case sandboxArg:
		os.Exit(sandboxInit())
	case agentArg:
		os.Exit(sandboxAgent())
	}
}

// connFD is the file descriptor of the conversation with the lab.
const connFD = 3

// sandboxInit is the first process: it makes the machine, starts the agent
// and buries the processes that lost their parent.
func sandboxInit() int {
	conn := os.NewFile(connFD, "lab")
	err := initMachine(conn)
	if err == nil {
		var pid int
		if pid, err = startAgent(conn); err == nil {
			_ = conn.Close()
			return reap(pid)
		}
	}
	reply := guest.Reply{Failed: err.Error(), Denied: errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)}
	_ = json.NewEncoder(conn).Encode(reply)
	return 1
}

func initMachine(conn io.Reader) error {
	// One byte at a time: what follows the first line belongs to the agent.
	line, err := bufio.NewReaderSize(oneByte{conn}, 1).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read setup: %w", err)
	}
	var s setup
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("read setup: %w", err)
	}
	if s.SetIDs {
		if err := becomeRoot(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if s.Loopback {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return makeRoot(s)
}

// oneByte reads single bytes, so that nothing is read ahead.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func becomeRoot() error {
	if err := syscall.Setresgid(0, 0, 0); err != nil {
		return fmt.Errorf("become root: %w", err)
	}
	if err := syscall.Setgroups([]int{0}); err != nil {
		return fmt.Errorf("become root: %w", err)
	}
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return fmt.Errorf("become root: %w", err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	return nil
}

func startAgent(conn *os.File) (int, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{agentArg}
	cmd.Env = []string{childEnv, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, os.Stderr
	cmd.ExtraFiles = []*os.File{conn}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start agent: %w", err)
	}
	return cmd.Process.Pid, nil
}

// reap waits for all processes until the agent ends.
func reap(agent int) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid == agent:
			return 0
		}
	}
}

// sandboxAgent serves the lab until the lab goes away.
func sandboxAgent() int {
	conn := os.NewFile(connFD, "lab")
	syscall.CloseOnExec(connFD)
	// Read and write, so that it never ends and writers never wait for it.
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		_ = json.NewEncoder(conn).Encode(guest.Reply{Failed: err.Error()})
		return 1
	}
	if err := guest.Serve(conn, "sandbox", console); err != nil {
		return 1
	}
	return 0
}
