package step

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// A supervisor is a system's service manager.
type supervisor interface {
	// status returns what is known of a service. errNoService if there is none.
	status(ctx context.Context, name string) (serviceStatus, error)
	set(ctx context.Context, name, verb string) error // start, stop, enable, disable
	notify(ctx context.Context, verb, name string) error
	story(ctx context.Context, name string) []byte // last lines of its own log; may be nil
}

// A serviceStatus is how a service is.
type serviceStatus struct {
	running bool
	enabled bool
	fixed   bool   // can neither be enabled nor disabled, such as a static unit
	masked  bool   // can be neither started nor enabled
	detail  string // the manager's own word for its state
}

var errNoService = errors.New("there is no such service")

// serviceName keeps options and patterns out of commands.
var serviceName = pattern(`^[A-Za-z0-9_][A-Za-z0-9_.@:\\-]*$`)

// supervisor finds the service manager that runs.
func (r *Runner) supervisor() (supervisor, error) {
	if _, err := os.Stat(r.abs("/run/systemd/system")); err == nil {
		if p, ok := r.tool("systemctl"); ok {
			return &systemd{Runner: r, ctl: p}, nil
		}
	}
	if svc, ok := r.tool("rc-service"); ok {
		upd, _ := r.tool("rc-update")
		return &openrc{Runner: r, svc: svc, upd: upd}, nil
	}
	if svc, ok := r.tool("service"); ok {
		return &sysv{Runner: r, svc: svc}, nil
	}
	return nil, final(errors.New("no service manager: systemd does not run, and neither rc-service nor service is installed"))
}

// services brings the services of the step to their states.
func (j *job) services(ctx context.Context) error {
	sup, err := j.supervisor()
	if err != nil {
		return err
	}
	for _, s := range j.step.Services {
		if !serviceName().MatchString(s.Name) {
			return final(fmt.Errorf("%q is no name of a service", s.Name))
		}
		if err := j.service(ctx, sup, s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

func (j *job) service(ctx context.Context, sup supervisor, s release.Service) error {
	st, err := sup.status(ctx, s.Name)
	if errors.Is(err, errNoService) {
		asked := s.State == release.ServiceRunning || s.Enabled != nil && *s.Enabled
		switch {
		case !asked: // what is not there neither runs nor starts at boot
			return nil
		case j.DryRun: // a step before may bring it
			st, err = serviceStatus{detail: "not there yet"}, nil
		}
	}
	if err != nil {
		return err
	}
	var todo []string
	if s.Enabled != nil && *s.Enabled != st.enabled && !st.fixed {
		todo = append(todo, map[bool]string{true: "enable", false: "disable"}[*s.Enabled])
	}
	switch {
	case s.State == release.ServiceRunning && !st.running:
		todo = append(todo, "start")
	case s.State == release.ServiceStopped && st.running:
		todo = append(todo, "stop")
	}
	if st.masked && (slices.Contains(todo, "start") || slices.Contains(todo, "enable")) {
		return final(errors.New("is masked: somebody forbade it with systemctl mask"))
	}
	for _, verb := range todo {
		if j.DryRun {
			j.changed("%s %s", verb, s.Name)
			continue
		}
		if err := j.touch(); err != nil {
			return err
		}
		if err := sup.set(ctx, s.Name, verb); err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
		j.changed("%s %s", past[verb], s.Name)
	}
	if j.DryRun || !slices.Contains(todo, "start") {
		return nil
	}
	if st, err = sup.status(ctx, s.Name); err == nil && !st.running {
		return &commandError{why: fmt.Sprintf("was started and is %s now", st.detail), tail: sup.story(ctx, s.Name)}
	}
	return err
}

var past = map[string]string{"start": "started", "stop": "stopped", "enable": "enabled", "disable": "disabled"}

// A systemd speaks to the running systemd.
type systemd struct {
	*Runner
	ctl      string
	reloaded bool
}

func (s *systemd) status(ctx context.Context, name string) (serviceStatus, error) {
	p, err := s.show(ctx, name)
	if err != nil {
		return serviceStatus{}, err
	}
	if p["LoadState"] == "not-found" || p["NeedDaemonReload"] == "yes" {
		if p, err = s.reload(ctx, name, p); err != nil {
			return serviceStatus{}, err
		}
	}
	if p["LoadState"] == "not-found" && p["ActiveState"] != "active" {
		return serviceStatus{}, fmt.Errorf("%w: systemd knows no unit %s", errNoService, name)
	}
	if l := p["LoadState"]; l == "error" || l == "bad-setting" {
		return serviceStatus{}, fmt.Errorf("its unit file cannot be loaded (%s): see systemctl status %s", l, name)
	}
	st := unitStatus(p)
	if p["UnitFileState"] == "" || p["UnitFileState"] == "generated" {
		// A unit made from a System V script; only systemctl knows where to look.
		res, err := s.query(ctx, s.ctl, "is-enabled", "--", name)
		if err != nil {
			return st, err
		}
		st.enabled = res.code == 0 && !res.cut()
		st.fixed = false
	}
	return st, nil
}

// reload makes systemd read unit files again, once, where its own state is
// behind them. Not on a dry run.
func (s *systemd) reload(ctx context.Context, name string, p map[string]string) (map[string]string, error) {
	if s.reloaded || s.DryRun {
		return p, nil
	}
	s.reloaded = true
	if res, err := s.act(ctx, s.ctl, "daemon-reload"); err != nil {
		return p, withReason(err, res, systemdError())
	}
	return s.show(ctx, name)
}

func (s *systemd) show(ctx context.Context, name string) (map[string]string, error) {
	res, err := s.query(ctx, s.ctl, "show", "--property=LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload", "--", name)
	if err == nil {
		err = withReason(s.ended("systemctl show", res), res, systemdError())
	}
	return parseShow(res.stdout), err
}

// parseShow reads lines Name=value of systemctl show.
func parseShow(b []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			m[k] = v
		}
	}
	return m
}

// unitStatus translates the words of systemctl(1), is-enabled.
func unitStatus(p map[string]string) serviceStatus {
	st := serviceStatus{detail: p["ActiveState"]}
	if sub := p["SubState"]; sub != "" && sub != st.detail {
		st.detail += " (" + sub + ")"
	}
	switch p["ActiveState"] {
	case "active", "reloading", "refreshing": // activating may be a crash loop
		st.running = true
	}
	switch p["UnitFileState"] {
	case "enabled":
		st.enabled = true
	case "static", "indirect", "generated", "alias", "transient":
		st.enabled, st.fixed = true, true
	case "masked", "masked-runtime":
		st.masked = true
	}
	st.masked = st.masked || p["LoadState"] == "masked"
	return st
}

var systemdError = pattern(`(?m)^(?:Failed to [^:\n]*: )?(.*\S.*)$`)

func (s *systemd) set(ctx context.Context, name, verb string) error {
	res, err := s.act(ctx, s.ctl, verb, "--", name)
	if err == nil {
		switch verb {
		case "start", "restart", "reload-or-restart":
			return s.execed(ctx, name)
		}
		return nil
	}
	err = withReason(err, res, systemdError())
	if res.cut() {
		return err
	}
	return &commandError{why: err.Error(), cause: err, tail: append(res.tail, s.story(ctx, name)...)}
}

// execed waits until the main process of a service that was just started has
// become its program, or has ended: for Type=simple, systemctl start returns
// after the fork, so that a program that cannot be executed looks active for a
// moment. Until then systemd gives the process a name in parentheses.
func (s *systemd) execed(ctx context.Context, name string) error {
	for deadline := time.Now().Add(maxExec); time.Now().Before(deadline); {
		res, err := s.query(ctx, s.ctl, "show", "--property=MainPID", "--value", "--", name)
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(res.stdout)))
		if err != nil || pid <= 0 {
			return nil
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && !strings.HasPrefix(string(comm), "(") {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// maxExec is how long a fork of systemd may take to become the service.
const maxExec = 10 * time.Second

// story is what systemctl shows of a service: systemctl start does not say why.
func (s *systemd) story(ctx context.Context, name string) []byte {
	res, err := s.query(ctx, s.ctl, "status", "--no-pager", "--full", "--lines=20", "--", name)
	if err != nil {
		return nil
	}
	return res.stdout
}

func (s *systemd) notify(ctx context.Context, verb, name string) error {
	if !serviceName().MatchString(name) {
		return fmt.Errorf("%q is no name of a service", name)
	}
	st, err := s.status(ctx, name) // reloads unit files that a step has changed
	if err != nil {
		return err
	}
	if st.masked {
		return errors.New("is masked")
	}
	if verb == "reload" {
		verb = "reload-or-restart"
	}
	return s.set(ctx, name, verb)
}

func (*openrc) story(context.Context, string) []byte { return nil }

func (*sysv) story(context.Context, string) []byte { return nil }

// An openrc speaks to OpenRC (Alpine, Gentoo).
type openrc struct {
	*Runner
	svc, upd string
}

func (o *openrc) status(ctx context.Context, name string) (serviceStatus, error) {
	if _, err := os.Stat(o.abs(filepath.Join("/etc/init.d", name))); err != nil {
		return serviceStatus{}, fmt.Errorf("%w: there is no /etc/init.d/%s", errNoService, name)
	}
	res, err := o.query(ctx, o.svc, name, "status")
	if err != nil || res.cut() {
		return serviceStatus{}, errors.Join(err, o.ended("rc-service status", res))
	}
	st := serviceStatus{running: res.code == 0, detail: lastLine(res.tail)}
	levels, err := filepath.Glob(o.abs(filepath.Join("/etc/runlevels/*", name)))
	st.enabled = len(levels) > 0
	return st, err
}

func (o *openrc) set(ctx context.Context, name, verb string) error {
	argv := []string{o.svc, name, verb}
	switch verb {
	case "enable":
		argv = []string{o.upd, "add", name}
	case "disable":
		argv = []string{o.upd, "-a", "del", name}
	}
	if argv[0] == "" {
		return errors.New("rc-update is not installed")
	}
	res, err := o.act(ctx, argv...)
	return withReason(err, res, initError())
}

var initError = pattern(`(?m)^\s*\* (?:ERROR: )?(.*\S)$`)

func (o *openrc) notify(ctx context.Context, verb, name string) error {
	return notifyScript(ctx, o, o.Runner, o.svc, verb, name)
}

// notifyScript restarts or reloads by an init script; one that does not run is
// started instead of reloaded.
func notifyScript(ctx context.Context, sup supervisor, r *Runner, svc, verb, name string) error {
	if !serviceName().MatchString(name) {
		return fmt.Errorf("%q is no name of a service", name)
	}
	st, err := sup.status(ctx, name)
	if err != nil {
		return err
	}
	if verb == "reload" && !st.running {
		verb = "restart"
	}
	res, err := r.act(ctx, svc, name, verb)
	return withReason(err, res, initError())
}

// A sysv runs System V init scripts, where nothing supervises (containers).
type sysv struct {
	*Runner
	svc string
}

func (s *sysv) status(ctx context.Context, name string) (serviceStatus, error) {
	if _, err := os.Stat(s.abs(filepath.Join("/etc/init.d", name))); err != nil {
		return serviceStatus{}, fmt.Errorf("%w: there is no /etc/init.d/%s, and systemd does not run", errNoService, name)
	}
	res, err := s.query(ctx, s.svc, name, "status")
	if err != nil || res.cut() {
		return serviceStatus{}, errors.Join(err, s.ended("service status", res))
	}
	st := serviceStatus{running: res.code == 0, detail: "not running"}
	links, err := filepath.Glob(s.abs("/etc/rc[2-5].d/S[0-9][0-9]" + name))
	st.enabled = len(links) > 0
	return st, err
}

func (s *sysv) set(ctx context.Context, name, verb string) error {
	if verb == "start" || verb == "stop" {
		res, err := s.act(ctx, s.svc, name, verb)
		return withReason(err, res, initError())
	}
	if p, ok := s.tool("update-rc.d"); ok {
		if verb == "enable" {
			if res, err := s.act(ctx, p, name, "defaults"); err != nil {
				return withReason(err, res, initError())
			}
		}
		res, err := s.act(ctx, p, name, verb)
		return withReason(err, res, initError())
	}
	if p, ok := s.tool("chkconfig"); ok {
		res, err := s.act(ctx, p, name, map[string]string{"enable": "on", "disable": "off"}[verb])
		return withReason(err, res, initError())
	}
	return errors.New("neither update-rc.d nor chkconfig is installed")
}

func (s *sysv) notify(ctx context.Context, verb, name string) error {
	return notifyScript(ctx, s, s.Runner, s.svc, verb, name)
}
