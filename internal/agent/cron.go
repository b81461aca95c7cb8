package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const maxCrontab = 1 << 20

// A cron is what the agent knows of the VM's cron.
type cron struct {
	running bool
	busybox bool // it reads crontabs of users only, and never /etc/cron.d
}

// findCron looks for a cron among the processes (proc(5)), else among the
// programs. One that reads /etc/cron.d is preferred.
func findCron(p Paths) cron {
	var c cron
	names, _ := filepath.Glob(p.at("/proc/[0-9]*/comm"))
	for _, n := range names {
		if !isCron(filepath.Dir(n), strings.TrimSpace(string(readSmall(n)))) {
			continue
		}
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(n), "exe"))
		if !isBusybox(exe) {
			return cron{running: true}
		}
		c = cron{running: true, busybox: true}
	}
	if c.running {
		return c
	}
	for _, n := range []string{"/usr/sbin/cron", "/usr/sbin/crond", "/usr/bin/crond", "/sbin/crond", "/bin/crond"} {
		if _, err := os.Lstat(p.at(n)); err != nil {
			continue
		}
		program, _ := os.Readlink(p.at(n))
		if !isBusybox(program) {
			return cron{}
		}
		c.busybox = true
	}
	return c
}

// isCron reports whether the process in the folder proc with the name comm is
// a cron: one of its own, or busybox called as one.
func isCron(proc, comm string) bool {
	if comm == "cron" || comm == "crond" {
		return true
	}
	args := bytes.Split(readSmall(filepath.Join(proc, "cmdline")), []byte{0})
	return isBusybox(comm) && len(args) > 1 && string(args[1]) == "crond"
}

// isBusybox reports whether program is a busybox, such as busybox.static.
func isBusybox(program string) bool {
	return strings.HasPrefix(filepath.Base(program), "busybox")
}

const (
	crontabBegin = "# BEGIN bootwell. Written by bootwell-agent install; the times follow the role's schedule."
	crontabEnd   = "# END bootwell."
)

// crontabBlock is the schedule for root's own crontab. It sets no variables:
// they would hold for the lines of others too. It has no line for @reboot,
// which ends the crond of busybox 1.35 with a segmentation fault: after a boot
// the agent starts at the next regular time.
func crontabBlock(binary string, s Schedule) string {
	spec, sleep := s.crontab()
	return fmt.Sprintf("%s\n%s sleep %d; PATH=%s %s apply --timer >/dev/null 2>&1\n%s\n", crontabBegin, spec, sleep, cronPath, binary, crontabEnd)
}

// cutCrontab splits the text of a crontab at our block. Without one, block is
// "" and everything is in rest. A block whose end is lost ends at the first
// line that is not ours.
func cutCrontab(text string) (rest, block string) {
	var others, ours strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		bare := strings.TrimSuffix(line, "\n")
		switch {
		case bare == crontabBegin:
			inside = true
			ours.WriteString(line)
		case inside && bare == crontabEnd:
			inside = false
			ours.WriteString(line)
		case inside && strings.Contains(bare, "bootwell-agent apply --timer"):
			ours.WriteString(line)
		default:
			inside = false
			others.WriteString(line)
		}
	}
	return others.String(), ours.String()
}

// keepCrontab makes block ("": none) our part of root's crontab and leaves all
// other bytes as they are. It comes first: a variable that is set further down
// does not hold for it.
func keepCrontab(name, block string) (wrote bool, err error) {
	old, err := readBounded(name, maxCrontab)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read crontab: %w", err)
	}
	rest, have := cutCrontab(string(old))
	switch {
	case have == block:
		return false, nil
	case block == "" && rest == "":
		return true, removeFile(name)
	}
	perm := os.FileMode(0o600)
	if i, err := os.Stat(name); err == nil {
		perm = i.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return false, diskError(err)
	}
	return true, replaceFile(name, []byte(block+rest), perm)
}

// setUpCron puts the schedule where c reads it, and nowhere else.
func (a *Agent) setUpCron(c cron, times Schedule, in *Installation) error {
	start := "a cron that reads /etc/cron.d"
	var wrote bool
	var err error
	if c.busybox {
		start = "busybox's crond (on Alpine: rc-update add crond; rc-service crond start)"
		if wrote, err = keepCrontab(a.Paths.Crontab(), crontabBlock(in.Binary, times)); wrote {
			in.Changed = append(in.Changed, a.Paths.onVM(a.Paths.Crontab()))
		}
		err = errors.Join(err, removeIfThere(a.Paths.Cron()))
	} else {
		err = a.write(a.Paths.Cron(), cronTable(in.Binary, times), in)
		a.leaveCrontab(in)
	}
	if !c.running {
		in.Warn = append(in.Warn, fmt.Sprintf("neither systemd nor cron runs on this VM: start %s, or run `bootwell-agent apply --timer` on your own schedule", start))
	}
	return err
}

// leaveCrontab takes our part out of root's crontab, since another schedule
// takes its place. Two schedules do no harm: the lock keeps runs apart.
func (a *Agent) leaveCrontab(in *Installation) {
	if _, err := keepCrontab(a.Paths.Crontab(), ""); err != nil {
		in.Warn = append(in.Warn, err.Error())
	}
}

// followCrontab gives our part of root's crontab, if it has one, new times.
func (s *session) followCrontab() error {
	b, err := readBounded(s.Paths.Crontab(), maxCrontab)
	if err != nil {
		return nil
	}
	if _, have := cutCrontab(string(b)); have == "" {
		return nil
	}
	_, err = keepCrontab(s.Paths.Crontab(), crontabBlock(s.installedBinary(), s.state.schedule()))
	return err
}
