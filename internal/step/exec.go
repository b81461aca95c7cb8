package step

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	basePath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	graceDefault = 10 * time.Second
	maxCapture   = 64 << 20 // of a tool's output that is parsed
)

// A timedOut is the cause of a context that ended by a step's own timeout.
type timedOut time.Duration

func (d timedOut) Error() string { return "timed out after " + time.Duration(d).String() }

// A command is one process to be run.
type command struct {
	argv    []string
	dir     string            // "": the tree
	env     map[string]string // the step's own
	name    string            // of the step or check, for BOOTWELL_STEP
	phase   string            // "": the runner's
	output  string            // path for BOOTWELL_OUTPUT
	user    *account          // nil: as the agent
	tool    bool              // a tool of the system: chrooted to Root, no BW_ variables
	quiet   bool              // not logged
	capture int               // bytes of standard output, and of standard error, to return
}

// A result is how a command ended.
type result struct {
	code           int
	signal         string // that killed it
	cause          error  // the context's, when that ended it
	tail           []byte
	stdout, stderr []byte
	truncated      bool // more was written than captured
}

// cut reports whether the command was ended by a signal or the context.
func (r result) cut() bool { return r.signal != "" || r.cause != nil }

// A commandError is a command that did not end well.
type commandError struct {
	what, why string
	cause     error
	tail      []byte
}

func (e *commandError) Error() string {
	if e.what == "" {
		return e.why
	}
	return e.what + ": " + e.why
}

func (e *commandError) Unwrap() error { return e.cause }

// ended returns the error of a command that ended with res, nil for exit 0.
func (r *Runner) ended(what string, res result) error {
	e := &commandError{what: what, cause: res.cause, tail: res.tail}
	switch {
	case res.cause != nil && errors.Is(res.cause, context.Canceled):
		e.why = "cancelled"
	case res.cause != nil:
		e.why = res.cause.Error()
	case res.signal != "":
		e.why = "killed by " + res.signal
	case res.code != 0:
		e.why = fmt.Sprintf("exit %d", res.code)
	default:
		return nil
	}
	return e
}

// abs returns where the absolute path p of a step is.
func (r *Runner) abs(p string) string {
	if r.Root == "" {
		return p
	}
	return filepath.Join(r.Root, p)
}

// tool finds a program of the system and returns its path within Root.
func (r *Runner) tool(name string) (string, bool) {
	for _, dir := range strings.Split(basePath, ":") {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(r.abs(p)); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}

// query runs a tool that only looks, and returns its output.
func (r *Runner) query(ctx context.Context, argv ...string) (result, error) {
	return r.exec(ctx, command{argv: argv, tool: true, quiet: true, capture: maxCapture})
}

// act runs a tool that changes the machine; anything but exit 0 is an error.
func (r *Runner) act(ctx context.Context, argv ...string) (result, error) {
	r.logf("+ %s", strings.Join(argv, " "))
	res, err := r.exec(ctx, command{argv: argv, tool: true, capture: 1 << 20})
	if err != nil {
		return res, err
	}
	return res, r.ended(filepath.Base(argv[0]), res)
}

func (r *Runner) logf(format string, args ...any) {
	if r.Log != nil {
		_, _ = fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// exec runs c to its end, or to the end of ctx. Its error is that c could not
// be started.
func (r *Runner) exec(ctx context.Context, c command) (result, error) {
	id := runID()
	s := &sink{log: r.Log}
	if c.quiet {
		s.log = nil
	}
	out, err := newStream(s, c.capture, c.user)
	if err != nil {
		return result{}, err
	}
	errs := out
	if c.capture > 0 {
		if errs, err = newStream(s, c.capture, c.user); err != nil {
			out.close()
			return result{}, err
		}
	}
	closeAll := func(f func(*stream)) {
		f(out)
		if errs != out {
			f(errs)
		}
	}
	group := newCgroup(id)
	defer group.close()
	cmd, err := r.start(c, id, group, out.w, errs.w)
	if err != nil {
		closeAll((*stream).close)
		return result{}, err
	}
	closeAll((*stream).start)
	p := &process{pid: cmd.Process.Pid, id: id, group: group}
	cause := r.await(ctx, p)
	closeAll((*stream).finish)
	err = cmd.Wait()
	res := result{cause: cause, tail: s.tail.bytes(), stdout: out.kept, truncated: out.cut || errs.cut}
	if errs != out {
		res.stderr = errs.kept
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		res.code = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			res.signal = unix.SignalName(ws.Signal())
		}
	} else if err != nil {
		return res, fmt.Errorf("wait for %s: %w", c.argv[0], err)
	}
	return res, nil
}

// await returns when the main process has ended and what had to be killed is
// gone. The process stays unreaped, so that its id cannot mean another one.
func (r *Runner) await(ctx context.Context, p *process) (cause error) {
	grace := r.grace
	if grace == 0 {
		grace = graceDefault
	}
	exited := make(chan bool, 1)
	go func() { exited <- p.wait() }()
	select {
	case ok := <-exited:
		if !ok {
			p.killGroup()
		}
		return nil
	case <-ctx.Done():
	}
	select {
	case ok := <-exited: // both at once: the process was first
		if ok {
			return nil
		}
	default:
	}
	p.terminate(grace)
	return context.Cause(ctx)
}

// cmd builds the process of c.
func (r *Runner) cmd(c command, id string) (*exec.Cmd, error) {
	// Whatever the agent itself inherited stays with it.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	env, err := r.environ(c, id)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: c.argv[0], Args: c.argv, Dir: c.dir, Env: env, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if cmd.Dir == "" {
		cmd.Dir = r.Tree
	}
	if c.tool {
		cmd.Dir = "/"
		cmd.SysProcAttr.Chroot = r.Root
	}
	if cmd.SysProcAttr.Credential, err = c.user.credential(); err != nil {
		return nil, err
	}
	return cmd, nil
}

// start starts c in group, or without one where the kernel refuses that.
func (r *Runner) start(c command, id string, group *cgroup, stdout, stderr *os.File) (*exec.Cmd, error) {
	for {
		cmd, err := r.cmd(c, id)
		if err != nil {
			return nil, err
		}
		cmd.Stdout, cmd.Stderr = stdout, stderr
		if group != nil {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.dir.Fd())
		}
		err = cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if group == nil {
			return nil, startError(cmd, err)
		}
		group = nil
	}
}

// startError says why a program could not be started.
func startError(cmd *exec.Cmd, err error) error {
	if cmd.Dir != "" && cmd.SysProcAttr.Chroot == "" {
		if _, serr := os.Stat(cmd.Dir); serr != nil {
			return fmt.Errorf("start %s: working folder %s: %w", cmd.Path, cmd.Dir, cause(serr))
		}
	}
	return fmt.Errorf("start %s: %w", cmd.Path, cause(err))
}

// cause returns the bare reason of a file or process error, without the name
// of the temporary file or call it happened to.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// runID returns a random name for the processes of one command.
func runID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
