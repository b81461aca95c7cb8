package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/bootwell/bootwell/internal/release"
)

// Schedules that Install sets up.
const (
	ScheduleSystemd = "systemd"
	ScheduleCron    = "cron"
)

// InstallOptions say what [Agent.Install] does.
type InstallOptions struct {
	Executable string // the agent to install; "": the running one
	NoRun      bool   // only set up the schedule
}

// An Installation says what Install set up.
type Installation struct {
	Binary   string   // path of the agent on the VM
	Schedule string   // ScheduleSystemd or ScheduleCron
	Changed  []string // files that were written
	Warn     []string // such as: neither systemd nor cron runs here

	startTimer func(context.Context) error // makes the running system know of the schedule; nil: it does
}

// Install puts the agent in its place, sets up its schedule and runs it at
// once, without splay. It holds the agent's lock all the while. What is there
// already is left alone. The report and error are those of the run; a VM that
// is not in order afterwards is an error (at least [ErrUnhealthy]).
func (a *Agent) Install(ctx context.Context, o InstallOptions) (Installation, *release.Report, error) {
	var in Installation
	unlock, err := lock(a.Paths)
	if err != nil {
		return in, nil, err
	}
	defer unlock()
	times, from := newTimeline(a.Began), time.Now()
	if err := a.setUp(ctx, o, &in); err != nil {
		return in, nil, fmt.Errorf("install: %w", err)
	}
	times.add("install", from, time.Now())
	timer := a.beside(ctx, in.startTimer, times)
	if a.Bucket.Caps().ReadOnly {
		in.Warn = append(in.Warn, "the bucket can only be read by this URL: this VM sends no reports")
	}
	for _, w := range in.Warn {
		a.note("%s", w)
	}
	if o.NoRun {
		return in, nil, timer()
	}
	a.awaitTimer = timer
	r, err := a.run(ctx, Options{impatient: true}, times)
	a.awaitTimer = nil
	err = errors.Join(err, timer())
	if err == nil && r.State == release.StateFailed {
		err = fmt.Errorf("%s: %w", r.Reason, ErrUnhealthy)
	}
	return in, r, err
}

// timerLimit bounds how long systemd may take to start the timer.
const timerLimit = time.Minute

// beside runs f beside what else is done, and to its end when ctx ends: without
// its timer a VM whose first run was interrupted would not poll before it
// boots again. The function returned waits for it and may be called again.
func (a *Agent) beside(ctx context.Context, f func(context.Context) error, times *timeline) func() error {
	if f == nil {
		return func() error { return nil }
	}
	from := time.Now()
	var took time.Duration
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timerLimit)
		defer cancel()
		err := f(ctx)
		took = time.Since(from)
		done <- err
	}()
	return sync.OnceValue(func() error {
		waits := time.Now()
		err := <-done
		times.add("start of the timer", from, from.Add(took)).beside = true
		times.add("wait for systemd", waits, time.Now())
		return err
	})
}

func (a *Agent) setUp(ctx context.Context, o InstallOptions, in *Installation) error {
	if err := a.placeBinary(o.Executable, in); err != nil {
		return err
	}
	st := &state{}
	if s, err := peekState(a.Paths); err == nil {
		st = s
	}
	f, i := survey(a.Paths, a.Version)
	st.identify(i, f.Hostname)
	running := isDir(a.Paths.at("/run/systemd/system"))
	c := findCron(a.Paths)
	if running || a.hasSystemd() && !c.running {
		in.Schedule = ScheduleSystemd
		return a.setUpSystemd(st.schedule(), running, in)
	}
	in.Schedule = ScheduleCron
	return a.setUpCron(c, st.schedule(), in)
}

// setUpSystemd leaves a timer that is there after the next boot, whatever
// becomes of this call, and that in.startTimer starts in this one: systemd
// takes longer to read its units anew than the first run to begin.
func (a *Agent) setUpSystemd(times Schedule, running bool, in *Installation) error {
	if err := a.write(a.Paths.Service(), serviceUnit(in.Binary), in); err != nil {
		return err
	}
	if err := a.write(a.Paths.Timer(), timerUnit(times), in); err != nil {
		return err
	}
	if err := removeIfThere(a.Paths.Cron()); err != nil {
		return err
	}
	a.leaveCrontab(in)
	if running {
		in.startTimer = a.startTimer
	} else {
		in.Warn = append(in.Warn, "systemd does not run here: the timer starts with the next boot")
	}
	if err := os.MkdirAll(filepath.Dir(a.timerLink()), 0o755); err != nil {
		return diskError(err)
	}
	return replaceLink("../bootwell.timer", a.timerLink())
}

func (a *Agent) startTimer(ctx context.Context) error {
	if err := a.reload(ctx, "start"); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// reload makes systemd read its units anew and then start, or whatever verb
// says, the timer. One process does both, which goes on when the agent is
// killed or its terminal goes away meanwhile.
func (a *Agent) reload(ctx context.Context, verb string) error {
	script := "trap '' HUP INT PIPE; systemctl daemon-reload && exec systemctl " + verb + " --no-block bootwell.timer"
	if _, err := a.command(ctx, "sh", "-c", script); err != nil {
		return fmt.Errorf("%s bootwell.timer: %w", verb, err)
	}
	return nil
}

// settleTimer waits until nobody else talks to systemd.
func (a *Agent) settleTimer() {
	if a.awaitTimer != nil {
		_ = a.awaitTimer()
	}
}

func (a *Agent) timerLink() string {
	return filepath.Join(filepath.Dir(a.Paths.Timer()), "timers.target.wants", "bootwell.timer")
}

// hasSystemd reports whether systemd is installed, running or not.
func (a *Agent) hasSystemd() bool {
	for _, p := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(a.Paths.at(p)); err == nil {
			return true
		}
	}
	return false
}

// placeBinary copies the agent to where the schedule starts it, unless it runs
// from there.
func (a *Agent) placeBinary(exe string, in *Installation) error {
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return err
		}
	}
	places := []string{a.Paths.Binary(), a.Paths.OtherBinary()}
	for _, p := range places {
		if same(exe, p) {
			in.Binary = a.Paths.onVM(p)
			return nil
		}
	}
	var errs []error
	for _, p := range places {
		wrote, err := copyBinary(exe, p)
		if err == nil {
			in.Binary = a.Paths.onVM(p)
			if wrote {
				in.Changed = append(in.Changed, in.Binary)
			}
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onVM is a path without the prefix of tests.
func (p Paths) onVM(path string) string {
	rest, _ := strings.CutPrefix(path, strings.TrimSuffix(p.Root, "/"))
	return rest
}

func same(a, b string) bool {
	i, err1 := os.Stat(a)
	j, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(i, j)
}

// copyBinary makes to a copy of from; a running agent at to is not disturbed.
func copyBinary(from, to string) (wrote bool, err error) {
	b, err := readBounded(from, 256<<20)
	if err != nil {
		return false, err
	}
	if old, err := readBounded(to, 256<<20); err == nil && bytes.Equal(old, b) {
		return false, os.Chmod(to, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return false, diskError(err)
	}
	t, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o755), renameio.WithTempDir(filepath.Dir(to)))
	if err != nil {
		return false, diskError(err)
	}
	defer t.Cleanup()
	if _, err := io.Copy(t, bytes.NewReader(b)); err != nil {
		return false, diskError(err)
	}
	if err := t.CloseAtomicallyReplace(); err != nil {
		return false, diskError(err)
	}
	return true, syncDir(filepath.Dir(to))
}

// write replaces a system file when its text differs.
func (a *Agent) write(name, text string, in *Installation) error {
	if old, err := readBounded(name, 64<<10); err == nil && string(old) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return diskError(err)
	}
	if err := replaceFile(name, []byte(text), 0o644); err != nil {
		return err
	}
	in.Changed = append(in.Changed, a.Paths.onVM(name))
	return nil
}

// followSchedule gives the installed schedule the times of the role. It is no
// reason for a run to fail.
func (s *session) followSchedule(ctx context.Context) {
	s.settleTimer()
	for _, f := range []struct{ name, text string }{
		{s.Paths.Timer(), timerUnit(s.state.schedule())},
		{s.Paths.Cron(), cronTable(s.installedBinary(), s.state.schedule())},
	} {
		old, err := readBounded(f.name, 64<<10)
		if err != nil || string(old) == f.text || !bytes.HasPrefix(old, []byte("# Written by bootwell-agent")) {
			continue
		}
		err = replaceFile(f.name, []byte(f.text), 0o644)
		if err == nil && f.name == s.Paths.Timer() && s.facts.Init == ScheduleSystemd {
			err = s.reload(ctx, "try-restart")
		}
		s.scheduleTrouble(err)
	}
	s.scheduleTrouble(s.followCrontab())
}

func (s *session) scheduleTrouble(err error) {
	if err != nil {
		s.warning(fmt.Sprintf("the schedule of this VM could not be changed to one poll in %s: %s", s.state.poll(), err))
	}
}

// installedBinary is the agent that the schedule starts.
func (s *session) installedBinary() string {
	if _, err := os.Stat(s.Paths.Binary()); err != nil {
		if _, err := os.Stat(s.Paths.OtherBinary()); err == nil {
			return s.Paths.onVM(s.Paths.OtherBinary())
		}
	}
	return s.Paths.onVM(s.Paths.Binary())
}

// UninstallOptions say what [Agent.Uninstall] removes besides the schedule.
type UninstallOptions struct {
	Binary bool // the agent itself
	Purge  bool // settings, state, staged releases and logs
}

// Uninstall ends the schedule and removes what Install wrote. What the steps
// of releases did stays. ErrBusy while a run is under way.
func (a *Agent) Uninstall(ctx context.Context, o UninstallOptions) error {
	unlock, err := lock(a.Paths)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	systemd := isDir(a.Paths.at("/run/systemd/system"))
	if _, err := os.Stat(a.Paths.Timer()); err == nil && systemd {
		if _, err := a.command(ctx, "systemctl", "disable", "--now", "bootwell.timer"); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{a.timerLink(), a.Paths.Timer(), a.Paths.Service(), a.Paths.Cron(), filepath.Join(a.Paths.Metrics(), "bootwell.prom")} {
		errs = append(errs, removeIfThere(name))
	}
	_, err = keepCrontab(a.Paths.Crontab(), "")
	errs = append(errs, err)
	if systemd {
		if _, err := a.command(ctx, "systemctl", "daemon-reload"); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, os.RemoveAll(a.Paths.Run()))
	if o.Binary || o.Purge {
		errs = append(errs, removeIfThere(a.Paths.Binary()), removeIfThere(a.Paths.OtherBinary()))
	}
	if o.Purge {
		errs = append(errs, os.RemoveAll(a.Paths.State()), os.RemoveAll(filepath.Dir(a.Paths.Config())))
	}
	return errors.Join(errs...)
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
