package step

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// maxOutputFile bounds what is read of $BOOTWELL_OUTPUT.
const maxOutputFile = 64 << 10

// script runs a step of kind script or run.
func (j *job) script(ctx context.Context) (outcome, error) {
	u, err := j.user(j.step.User)
	if err != nil {
		return outcome{}, final(err)
	}
	what := "script"
	argv := []string{"/bin/sh", "-euc", j.step.Run}
	if j.step.Kind == release.KindScript {
		what = path.Base(j.step.Script)
		if argv, err = j.scriptArgv(j.step.Script, j.step.Args); err != nil {
			return outcome{}, final(err)
		}
	}
	out, err := j.outputFile(u)
	if err != nil {
		return outcome{}, err
	}
	defer os.Remove(out)
	if err := j.touch(); err != nil {
		return outcome{}, err
	}
	res, err := j.exec(ctx, command{argv: argv, env: j.step.Env, name: j.step.Name, output: out, user: u})
	if err != nil {
		return outcome{}, err
	}
	if !res.cut() && res.code == ExitReboot {
		return outcome{result: release.ResultChanged, reason: "asked for a reboot", changes: j.changes, reboot: true, again: true}, nil
	}
	if err := j.ended("", res); err != nil {
		return outcome{}, err
	}
	o := outcome{result: release.ResultChanged, changes: j.changes}
	if j.step.Rerun == release.RerunAlways && !j.guarded {
		o.result = release.ResultUnchanged
	}
	said, err := readOutput(out)
	switch {
	case err != nil:
		o.reason = err.Error()
	case said == "true":
		o.result = release.ResultChanged
	case said == "false":
		o.result = release.ResultUnchanged
	}
	if o.result == release.ResultChanged {
		o.changes = append(o.changes, "ran "+what)
	}
	return o, nil
}

// outputFile makes the file for $BOOTWELL_OUTPUT.
func (j *job) outputFile(u *account) (string, error) {
	f, err := os.CreateTemp(j.Scratch, "output-*")
	if err != nil {
		return "", fmt.Errorf("make the file for $BOOTWELL_OUTPUT: %w", err)
	}
	defer f.Close()
	if u != nil {
		if err := f.Chown(u.uid, u.gid); err != nil && os.Geteuid() == 0 {
			return "", errors.Join(fmt.Errorf("make the file for $BOOTWELL_OUTPUT: %w", err), os.Remove(f.Name()))
		}
	}
	return f.Name(), nil
}

// readOutput returns what the file says of changed: true, false or nothing.
// The script may have replaced it by anything.
func readOutput(p string) (string, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read $BOOTWELL_OUTPUT: %w", cause(err))
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", errors.New("$BOOTWELL_OUTPUT is no longer a file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxOutputFile))
	if err != nil {
		return "", fmt.Errorf("read $BOOTWELL_OUTPUT: %w", cause(err))
	}
	return parseOutput(b)
}

// parseOutput reads lines key=value; the last changed wins, other keys are for
// later versions.
func parseOutput(b []byte) (changed string, err error) {
	for line := range bytes.Lines(b) {
		k, v, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if !ok || k != "changed" {
			continue
		}
		if v != "true" && v != "false" {
			err = fmt.Errorf("wrote changed=%.40s to $BOOTWELL_OUTPUT, which is neither true nor false", v)
			continue
		}
		changed, err = v, nil
	}
	return changed, err
}

// scriptArgv checks the script p of the release and returns how to run it. A
// script with a #! line is given to its interpreter here rather than by the
// kernel: that works on file systems mounted noexec, and says what is wrong.
func (r *Runner) scriptArgv(p string, args []string) ([]string, error) {
	f, err := r.file(p)
	if err != nil {
		return nil, err
	}
	at, err := filepath.Abs(filepath.Join(r.Tree, filepath.FromSlash(f.Path)))
	if err != nil {
		return nil, err
	}
	head, err := checkContent(at, f)
	if err != nil {
		return nil, fmt.Errorf("%s %w", p, err)
	}
	if bytes.HasPrefix(head, []byte("#!")) {
		interp, err := r.interpreter(head)
		if err != nil {
			return nil, fmt.Errorf("%s %w", p, err)
		}
		return append(append(interp, at), args...), nil
	}
	if f.Mode&0o111 == 0 {
		return nil, fmt.Errorf("%s is not executable and has no #! line", p)
	}
	if bytes.IndexByte(head, 0) < 0 {
		return append([]string{"/bin/sh", at}, args...), nil // as every shell does
	}
	if !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%s is neither a script nor a program for linux-%s", p, runtime.GOARCH)
	}
	var st unix.Statfs_t
	if unix.Statfs(at, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return nil, fmt.Errorf("%s cannot be run: its file system is mounted noexec", p)
	}
	return append([]string{at}, args...), nil
}

// checkContent reports how the file at p differs from f, and returns its start.
func checkContent(p string, f release.File) (head []byte, err error) {
	in, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	defer in.Close()
	head = make([]byte, min(4096, f.Size))
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, errAltered
	}
	h := sha256.New()
	h.Write(head)
	n, err := io.Copy(h, io.LimitReader(in, f.Size-int64(len(head))+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	if n+int64(len(head)) != f.Size || release.DigestFromSum([sha256.Size]byte(h.Sum(nil))) != f.Digest {
		return nil, errAltered
	}
	return head, nil
}

var errAltered = errors.New("does not match the release: it was changed on this VM")

// interpreter reads the #! line as the kernel does: a path and at most one
// argument.
func (r *Runner) interpreter(head []byte) ([]string, error) {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	if bytes.HasSuffix(line, []byte("\r")) {
		return nil, errors.New("has Windows line ends (CR LF): save it with LF, or set eol=lf in .gitattributes")
	}
	name, arg, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(string(line), "\t", " ")), " ")
	if !filepath.IsAbs(name) {
		return nil, fmt.Errorf("has no interpreter with an absolute path in its #! line (%.80q)", name)
	}
	fi, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be run: its interpreter %s: %w", name, cause(err))
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return nil, fmt.Errorf("cannot be run: its interpreter %s is not executable", name)
	}
	if arg = strings.TrimSpace(arg); arg != "" {
		return []string{name, arg}, nil
	}
	return []string{name}, nil
}
