package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sandbox is the driver of machines made of Linux namespaces: own processes,
// mounts, host name, network (only a loopback interface) and an overlay over
// the host's root file system whose changes live in memory. It needs no
// program but this one. /run, /tmp, /var/tmp, /home and /root are empty;
// nothing of an agent or a cloud-init of the host is seen; there is no
// systemd.
//
// As a normal user it uses an unprivileged user namespace. With ranges in
// /etc/subuid and the newuidmap programs, that machine has all users.
// Without, it has root alone: users can be added to its /etc/passwd, but
// nothing can run as them or belong to them. The host's own files belong to
// nobody there; they can be replaced and removed, and those in /etc changed.
type Sandbox struct {
	Hostname    string    // "" is "sandbox"
	Binds       []Bind    // host folders and files that the machine shares
	HostNetwork bool      // share the host's network instead of having none
	Console     io.Writer // also gets the console; may be nil
}

// Bind makes a folder or file of the host part of a machine.
type Bind struct {
	Host     string // absolute path on the host
	Path     string // absolute path in the machine; made if it is missing
	ReadOnly bool
}

// sandboxArg is the name under which Reexec recognizes its own process.
const (
	sandboxArg = "bootwell-sandbox-init"
	agentArg   = "bootwell-sandbox-agent"
	childEnv   = "BOOTWELL_SANDBOX_CHILD=1"
)

// setup is what the first process of a sandbox is told, as one line of JSON.
type setup struct {
	Hostname  string
	Binds     []Bind
	Loopback  bool // the network is the machine's own
	UserNS    bool // in a user namespace
	SetIDs    bool // the ids come from newuidmap: become root first
	OnlyRoot  bool // no id but root's is mapped
	MachineID string
}

// Name returns "sandbox".
func (Sandbox) Name() string { return "sandbox" }

// Create makes a sandbox. The program must call Reexec first thing in main.
// The error is ErrForbidden where the kernel allows no namespaces.
func (d Sandbox) Create(ctx context.Context) (Instance, error) {
	if os.Getenv("BOOTWELL_SANDBOX_CHILD") != "" {
		return nil, errors.New("create sandbox: main did not call lab.Reexec")
	}
	for _, b := range d.Binds {
		if _, err := os.Stat(b.Host); err != nil {
			return nil, fmt.Errorf("create sandbox: share %s: %w", b.Host, err)
		}
		if !filepath.IsAbs(b.Host) || !filepath.IsAbs(b.Path) {
			return nil, fmt.Errorf("create sandbox: share %s as %s: both paths must be absolute", b.Host, b.Path)
		}
	}
	var err error
	for _, mode := range idModes() {
		var s *sandbox
		if s, err = d.boot(ctx, mode); err == nil {
			return s, nil
		}
		if !errors.Is(err, ErrForbidden) {
			break
		}
	}
	return nil, fmt.Errorf("create sandbox: %w", err)
}

// idMode is how a sandbox gets its user ids.
type idMode int

const (
	realRoot  idMode = iota // no user namespace
	subIDs                  // a user namespace with the ranges of /etc/subuid
	loneRoot                // a user namespace with this user as root
	wholeRoot               // a user namespace with the ids as they are
)

// idModes are the modes to try, best first.
func idModes() []idMode {
	if os.Geteuid() == 0 {
		return []idMode{realRoot, wholeRoot, loneRoot}
	}
	if _, err := subRange("/etc/subuid"); err != nil {
		return []idMode{loneRoot}
	}
	return []idMode{subIDs, loneRoot}
}

// sandbox is one living machine.
type sandbox struct {
	cmd     *exec.Cmd
	conn    *conn
	console *Console
	destroy func() error
}

func (d Sandbox) boot(ctx context.Context, mode idMode) (*sandbox, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{sandboxArg}
	cmd.Env = []string{childEnv}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = namespaces(mode, d.HostNetwork)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return nil, startError(err)
	}
	s := &sandbox{cmd: cmd, console: newConsole(d.Console)}
	s.conn = newConn(ours, s.console)
	s.destroy = sync.OnceValue(s.end)
	err = d.tell(ours, cmd.Process.Pid, mode)
	if err == nil {
		err = s.conn.ready(ctx)
	}
	if err != nil {
		_ = s.destroy()
		if errors.Is(err, ErrGone) && stderr.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, tail(stderr.String(), 2000))
		}
		return nil, err
	}
	return s, nil
}

// tell maps the ids where that is done from outside, and sends the setup.
func (d Sandbox) tell(w io.Writer, pid int, mode idMode) error {
	if mode == subIDs {
		if err := mapSubIDs(pid); err != nil {
			return err
		}
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	host := d.Hostname
	if host == "" {
		host = "sandbox"
	}
	return json.NewEncoder(w).Encode(setup{
		Hostname: host, Binds: d.Binds, Loopback: !d.HostNetwork, MachineID: id,
		UserNS: mode != realRoot, SetIDs: mode == subIDs, OnlyRoot: mode == loneRoot,
	})
}

// namespaces is how the first process is started.
func namespaces(mode idMode, hostNetwork bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	a.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if !hostNetwork {
		a.Cloneflags |= unix.CLONE_NEWNET
	}
	if mode != realRoot {
		a.Cloneflags |= unix.CLONE_NEWUSER
	}
	switch mode {
	case loneRoot:
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	case wholeRoot:
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
		a.GidMappings = a.UidMappings
		a.GidMappingsEnableSetgroups = true
	case subIDs:
		// Until its ids are mapped the process is nobody, and nobody keeps
		// its capabilities over exec only as ambient ones.
		for c := uintptr(0); c <= unix.CAP_CHECKPOINT_RESTORE; c++ {
			a.AmbientCaps = append(a.AmbientCaps, c)
		}
	}
	return a
}

func startError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: the kernel allows this process no namespaces (%w); run it as root, or allow unprivileged user namespaces", ErrForbidden, err)
	}
	return err
}

// subRange is the first range of subordinate ids of this user in file.
func subRange(file string) (r [2]int, err error) {
	u, err := user.Current()
	if err != nil {
		return r, err
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			return r, err
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != u.Username && f[0] != u.Uid {
			continue
		}
		start, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && count >= 65535 {
			return [2]int{start, 65535}, nil
		}
	}
	return r, fmt.Errorf("%s gives %s no range of 65535 ids", file, u.Username)
}

func mapSubIDs(pid int) error {
	for _, m := range []struct {
		tool, file string
		own        int
	}{{"newuidmap", "/etc/subuid", os.Geteuid()}, {"newgidmap", "/etc/subgid", os.Getegid()}} {
		r, err := subRange(m.file)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		out, err := exec.Command(m.tool, strconv.Itoa(pid), "0", strconv.Itoa(m.own), "1",
			"1", strconv.Itoa(r[0]), strconv.Itoa(r[1])).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s: %s", ErrForbidden, m.tool, tail(string(out), 300))
		}
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "lab"), os.NewFile(uintptr(fds[1]), "machine"), nil
}

func randomID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return "", fmt.Errorf("make machine id: %w", err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""), nil
}

func (s *sandbox) Exec(ctx context.Context, c Command) (Result, error) { return s.conn.exec(ctx, c) }

func (s *sandbox) Console() *Console { return s.console }

func (s *sandbox) Destroy() error { return s.destroy() }

// end kills the first process, and with it the kernel kills all others and
// drops the mounts.
func (s *sandbox) end() error {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.conn.close()
	return nil
}
