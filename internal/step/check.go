package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// maxLooked bounds what a check reads of a body, a file or an output.
const maxLooked = 8 << 20

// checkOnce is one attempt of c; it returns what is wrong, or "".
func (r *Runner) checkOnce(ctx context.Context, c release.Check) string {
	d := c.Timeout.Std()
	if d <= 0 {
		d = DefaultCheckTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d, timedOut(d))
	defer cancel()
	var err error
	switch c.Kind {
	case release.CheckHTTP:
		err = checkHTTP(ctx, c)
	case release.CheckPort:
		err = checkPort(ctx, c)
	case release.CheckService:
		err = r.checkService(ctx, c)
	case release.CheckFile:
		err = r.checkFile(c)
	case release.CheckPackage:
		err = r.checkPackage(ctx, c)
	case release.CheckCommand:
		err = r.checkCommand(ctx, c, []string{"/bin/sh", "-c", c.Target})
	case release.CheckRun:
		var argv []string
		if argv, err = r.scriptArgv(c.Target, nil); err == nil {
			err = r.checkCommand(ctx, c, argv)
		}
	default:
		err = fmt.Errorf("this agent knows no check of kind %q: update it", c.Kind)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

func wants(b *bool) bool { return b == nil || *b }

func (r *Runner) checkService(ctx context.Context, c release.Check) error {
	if !serviceName().MatchString(c.Target) {
		return fmt.Errorf("%q is no name of a service", c.Target)
	}
	look := *r
	look.DryRun = true // a check changes nothing, not even daemon-reload
	sup, err := look.supervisor()
	if err != nil {
		return err
	}
	st, err := sup.status(ctx, c.Target)
	if errors.Is(err, errNoService) && !wants(c.Running) && (c.Enabled == nil || !*c.Enabled) {
		return nil
	}
	switch {
	case err != nil:
		return err
	case st.running != wants(c.Running):
		return fmt.Errorf("%s is %s, expected %s", c.Target, orWord(st.detail, st.running), word(wants(c.Running), "running", "stopped"))
	case c.Enabled != nil && st.enabled != *c.Enabled:
		return fmt.Errorf("%s is %s, expected %s", c.Target, word(st.enabled, "enabled", "disabled"), word(*c.Enabled, "enabled", "disabled"))
	}
	return nil
}

func word(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func orWord(detail string, running bool) string {
	if detail != "" {
		return detail
	}
	return word(running, "running", "stopped")
}

func (r *Runner) checkFile(c release.Check) error {
	p := r.abs(c.Target)
	fi, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		if wants(c.Exists) {
			return fmt.Errorf("%s does not exist", c.Target)
		}
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", c.Target, cause(err))
	case !wants(c.Exists):
		return fmt.Errorf("%s exists, expected not to", c.Target)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: the system does not tell its mode", c.Target)
	}
	if c.Mode != "" {
		want, err := strconv.ParseUint(c.Mode, 8, 12)
		if err != nil {
			return fmt.Errorf("mode %q is not octal", c.Mode)
		}
		if have := st.Mode & 0o7777; uint64(have) != want {
			return fmt.Errorf("%s has mode %04o, expected %04o", c.Target, have, want)
		}
	}
	if err := r.checkOwner(c, st); err != nil {
		return err
	}
	if len(c.Contents) == 0 {
		return nil
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is no file with content", c.Target)
	}
	return contains(p, c)
}

func (r *Runner) checkOwner(c release.Check, st *syscall.Stat_t) error {
	if c.Owner == "" && c.Group == "" {
		return nil
	}
	a, err := r.accounts()
	if err != nil {
		return err
	}
	uid, err := r.ownerID(a, c.Owner)
	if err != nil {
		return err
	}
	gid, err := r.groupID(a, c.Group)
	if err != nil {
		return err
	}
	if uid >= 0 && int(st.Uid) != uid {
		return fmt.Errorf("%s is owned by %s, expected %s", c.Target, a.userName(int(st.Uid)), c.Owner)
	}
	if gid >= 0 && int(st.Gid) != gid {
		return fmt.Errorf("%s has the group %s, expected %s", c.Target, a.groupName(int(st.Gid)), c.Group)
	}
	return nil
}

func contains(p string, c release.Check) error {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Target, cause(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLooked))
	if err != nil {
		return fmt.Errorf("%s: %w", c.Target, cause(err))
	}
	return occur(c.Target, b, c.Contents)
}

// occur reports the first of patterns (text, or /regexp/) that is not in b.
func occur(what string, b []byte, patterns []string) error {
	for _, p := range patterns {
		if len(p) >= 2 && p[0] == '/' && p[len(p)-1] == '/' {
			re, err := regexp.Compile("(?m)" + p[1:len(p)-1])
			if err != nil {
				return fmt.Errorf("%s is no regular expression: %w", p, err)
			}
			if !re.Match(b) {
				return fmt.Errorf("%s does not match %s%s", what, p, excerpt(b))
			}
			continue
		}
		if !strings.Contains(string(b), p) {
			return fmt.Errorf("%s does not contain %q%s", what, p, excerpt(b))
		}
	}
	return nil
}

// excerpt shows what was found instead, when that is short enough to help.
func excerpt(b []byte) string {
	s := oneLine(string(b[:min(len(b), 2000)]))
	if s == "" {
		return "; it is empty"
	}
	return fmt.Sprintf("; it begins with %q", cut(s, 120))
}

func (r *Runner) checkPackage(ctx context.Context, c release.Check) error {
	if !packageName().MatchString(c.Target) {
		return fmt.Errorf("%q is no name of a package", c.Target)
	}
	mgr, err := r.packager()
	if err != nil {
		return err
	}
	v, err := mgr.installed(ctx, []string{c.Target})
	switch {
	case err != nil:
		return err
	case v.has(c.Target) && !wants(c.Installed):
		return fmt.Errorf("%s %s is installed, expected not to be", c.Target, v.version(c.Target))
	case !wants(c.Installed):
		return nil
	case !v.has(c.Target):
		return fmt.Errorf("%s is not installed", c.Target)
	case len(c.Versions) == 0:
		return nil
	}
	if !slices.ContainsFunc(c.Versions, func(w string) bool { return v.right(release.Package{Name: c.Target, Version: w}) }) {
		return fmt.Errorf("%s %s is installed, expected %s", c.Target, v.version(c.Target), strings.Join(c.Versions, " or "))
	}
	return nil
}

func (r *Runner) checkCommand(ctx context.Context, c release.Check, argv []string) error {
	res, err := r.exec(ctx, command{argv: argv, name: c.Name, phase: "check", capture: maxLooked})
	if err != nil {
		return err
	}
	if res.cut() {
		return r.ended("", res)
	}
	if res.code != c.ExitStatus {
		text := fmt.Sprintf("exit %d, expected %d", res.code, c.ExitStatus)
		if l := lastLine(res.tail); l != "" {
			text += ": " + l
		}
		return errors.New(text)
	}
	if err := occur("stdout", res.stdout, c.Stdout); err != nil {
		return err
	}
	return occur("stderr", res.stderr, c.Stderr)
}
