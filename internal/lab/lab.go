// Package lab makes throw-away machines: a sandbox of Linux namespaces over
// the host's own files, and QEMU guests of a stock distribution image. It
// also makes what such machines need around them: an isolated network, a
// package repository, and (package metadata) a cloud's metadata service.
//
// Nothing that a machine does reaches the host: its disk is an overlay that
// goes with it, its network has nobody on it but what the caller put there.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

var (
	// ErrForbidden means that the kernel or a container around this process
	// does not let it make the machine. The wrapping error says what to do.
	ErrForbidden = errors.New("not allowed here")
	// ErrMissing means that a program the driver needs is not installed.
	ErrMissing = errors.New("not installed")
	// ErrGone means that the machine stopped while it was asked something.
	ErrGone = errors.New("the machine is gone")
)

// Driver makes machines of one sort. Drivers are safe for concurrent use.
type Driver interface {
	// Name is a short word for messages: "sandbox", "qemu".
	Name() string
	// Create makes a machine and returns when commands can be run on it,
	// which for a virtual machine is long before its first boot is over.
	Create(ctx context.Context) (Instance, error)
}

// Instance is one living machine. It is safe for concurrent use.
type Instance interface {
	// Exec runs a command as root. The error is nil whatever the command's
	// exit code is; it is ErrGone if the machine stopped meanwhile. When ctx
	// ends the command's process group is killed.
	Exec(ctx context.Context, c Command) (Result, error)
	// Console is what the machine has written on its console so far.
	Console() *Console
	// Destroy ends the machine at once and removes all that it left. It may
	// be called twice.
	Destroy() error
}

// Command is one command line for a machine.
type Command struct {
	Args  []string  // the program, found in the machine's PATH, and its arguments
	Env   []string  // NAME=value, added to a clean root environment
	Dir   string    // working directory; "" is /
	Stdin []byte    // whole standard input
	Tee   io.Writer // also gets both outputs as they come; may be nil
}

// Result is how a command ended. Each output is kept up to MaxOutput bytes.
type Result struct {
	Stdout, Stderr []byte
	Code           int // exit code; 128+n when signal n ended it; 127 when it could not start
}

// MaxOutput bounds what a Result keeps of one output stream.
const MaxOutput = 16 << 20

// Run runs argv on inst and returns its standard output, trimmed of the last
// newline. A non-zero exit code is an error that has the tail of the output.
func Run(ctx context.Context, inst Instance, argv ...string) (string, error) {
	r, err := inst.Exec(ctx, Command{Args: argv})
	if err != nil {
		return "", err
	}
	out := strings.TrimSuffix(string(r.Stdout), "\n")
	if r.Code != 0 {
		return out, fmt.Errorf("run %q: exit code %d: %s", argv, r.Code, tail(out+"\n"+string(r.Stderr), 1000))
	}
	return out, nil
}

// Put writes a file on inst, atomically and with its parent folders.
func Put(ctx context.Context, inst Instance, name string, mode fs.FileMode, content []byte) error {
	const script = `set -e; mkdir -p -- "$2"; t=$(mktemp -- "$1.XXXXXX"); cat >"$t"; chmod "$3" -- "$t"; mv -f -- "$t" "$1"`
	r, err := inst.Exec(ctx, Command{
		Args:  []string{"sh", "-c", script, "put", name, path.Dir(name), fmt.Sprintf("%04o", unixMode(mode))},
		Stdin: content,
	})
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if r.Code != 0 {
		return fmt.Errorf("put %s: %s", name, tail(string(r.Stderr), 500))
	}
	return nil
}

// unixMode is the numeric mode with the set-id and sticky bits.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, v := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			u |= v
		}
	}
	return u
}

// tail is the last n bytes of s without white space around them.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}
