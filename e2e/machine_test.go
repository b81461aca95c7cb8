package e2e

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/release"
)

// A machine is one VM of a test.
type machine struct {
	*lab.VM
	name string // in reports
}

// boot starts a VM from the stock image.
func (w *world) boot(name string, d lab.QEMU) *machine {
	w.t.Helper()
	d.Image, d.Network = w.image, w.net
	inst, err := d.Create(deadline(w.t, patience))
	if err != nil {
		w.t.Fatal(err)
	}
	m := &machine{VM: inst.(*lab.VM), name: name}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			m.tell(w.t)
		}
		if err := m.Destroy(); err != nil {
			w.t.Error(err)
		}
	})
	return m
}

// tell logs what helps to understand a failure.
func (m *machine) tell(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lines := strings.Split(m.Console().String(), "\n")
	t.Logf("the console of %s:\n%s", m.name, strings.Join(lines[max(0, len(lines)-120):], "\n"))
	for _, script := range []string{
		"tail -n 100 /var/log/cloud-init-output.log", "grep -E 'WARN|ERR|Trace' /var/log/cloud-init.log | tail -n 20",
		"journalctl -b -u bootwell --no-pager | tail -n 200", "bootwell-agent logs --list", "bootwell-agent status", "bootwell-agent logs | tail -n 60", "bootwell-agent why",
	} {
		r, err := m.Exec(ctx, lab.Command{Args: []string{"sh", "-c", script}})
		if err != nil {
			t.Logf("%s: %v", script, err)
			return
		}
		t.Logf("$ %s\n%s%s", script, r.Stdout, r.Stderr)
	}
}

// sh runs a script that must succeed, and returns its output.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := lab.Run(deadline(t, patience), m.VM, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// code runs a script and returns how it ended.
func (m *machine) code(t *testing.T, script string) lab.Result {
	t.Helper()
	r, err := m.Exec(deadline(t, patience), lab.Command{Args: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// apply runs the agent by hand. It waits while the timer's run holds the lock.
func (m *machine) apply(t *testing.T, flags string) lab.Result {
	t.Helper()
	for {
		r := m.code(t, "bootwell-agent apply "+flags)
		if r.Code != 13 {
			return r
		}
		time.Sleep(time.Second)
	}
}

// poll does at once what the timer does next, and waits for its end. It
// returns systemd's view of how the service ended: the timer may start it again
// before it is looked at, and then that run's end is as good.
func (m *machine) poll(t *testing.T) (result, status string) {
	t.Helper()
	// A run that is under way may have polled already: it is let end first.
	out := m.sh(t, `while systemctl is-active --quiet bootwell.service || test "$(systemctl is-active bootwell.service)" = activating; do sleep 1; done
systemctl start bootwell.service || true
while
	set -- $(systemctl show -p ActiveState -p Result -p ExecMainStatus bootwell.service | sort)
	test "$1" = ActiveState=activating
do sleep 1; done
echo "${3#*=} ${2#*=}"`)
	result, status, _ = strings.Cut(out, " ")
	return result, status
}

// local is the VM's own report.
func (m *machine) local(t *testing.T) *release.Report {
	t.Helper()
	r, err := release.ParseReport([]byte(m.sh(t, "bootwell-agent status --json")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// awaitLocal waits until the VM's own report says so.
func (m *machine) awaitLocal(t *testing.T, what string, ok func(*release.Report) bool) *release.Report {
	t.Helper()
	for ctx := deadline(t, patience); ; {
		r := m.local(t)
		if ok(r) {
			return r
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			t.Fatalf("no report that says %s; the last one: %s", what, brief(r))
		}
	}
}

// cloudInit waits for the end of the first boot and returns what cloud-init
// says of it.
func (m *machine) cloudInit(t *testing.T) string {
	t.Helper()
	r := m.code(t, "cloud-init status --wait --long")
	return string(r.Stdout) + string(r.Stderr)
}

// same compares texts.
func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// has reports texts that are missing in got.
func has(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, got)
		}
	}
}

// What the bootstrap and the first run of the agent write on the console.
var (
	bootwellLine = regexp.MustCompile(`bootwell: ([0-9]+\.[0-9]+)s (.*)`)
	agentLine    = regexp.MustCompile(`r[0-9]+ for role|checks: [0-9]+ of|Applied r[0-9]+ in`)
)

// A timetable tells a boot second by second, from the start of the kernel.
type timetable []moment

type moment struct {
	at   float64 // seconds
	what string
}

func (x *timetable) add(at float64, format string, a ...any) {
	*x = append(*x, moment{at, fmt.Sprintf(format, a...)})
}

// addMicroseconds takes one of systemd's clocks; 0 is what has not happened.
func (x *timetable) addMicroseconds(text, format string, a ...any) {
	if us, err := strconv.ParseFloat(text, 64); err == nil && us > 0 {
		x.add(us/1e6, format, a...)
	}
}

func (m *machine) timetable(t *testing.T) string {
	t.Helper()
	var x timetable
	x.console(m.Console().Lines())
	x.units(m.sh(t, "systemctl show -p Id -p ExecMainStartTimestampMonotonic -p ExecMainExitTimestampMonotonic cloud-init-local cloud-init cloud-config cloud-final; systemctl show -p UserspaceTimestampMonotonic"))
	// When the machine started, by its own clock.
	f := strings.Fields(m.sh(t, "date +%s.%N; cut -d' ' -f1 /proc/uptime"))
	now, _ := strconv.ParseFloat(f[0], 64)
	up, _ := strconv.ParseFloat(f[1], 64)
	if r := m.local(t); r.Run != nil {
		x.run(r.Run, float64(r.Run.Started.UnixNano())/1e9-(now-up))
	}
	slices.SortStableFunc(x, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	var out strings.Builder
	for _, m := range x {
		fmt.Fprintf(&out, "%8.2f  %s\n", m.at, m.what)
	}
	return out.String() + m.sh(t, "bootwell-agent logs --timing")
}

// console takes what bootstrap and agent said. The bootstrap's own seconds
// tell how far the host's are ahead.
func (x *timetable) console(lines []lab.Line) {
	var ahead float64
	for _, l := range lines {
		if agentLine.MatchString(l.Text) {
			x.add(l.After.Seconds()-ahead, "agent: %s", l.Text)
		}
		f := bootwellLine.FindStringSubmatch(l.Text)
		if f == nil {
			continue
		}
		at, _ := strconv.ParseFloat(f[1], 64)
		if len(*x) == 0 {
			ahead = l.After.Seconds() - at
			x.add(0, "kernel starts, %.1f s after QEMU", ahead)
		}
		x.add(at, "bootstrap: %s", f[2])
	}
}

// units takes properties as systemctl shows them.
func (x *timetable) units(text string) {
	for unit := range strings.SplitSeq(text, "\n\n") {
		v := map[string]string{}
		for l := range strings.Lines(unit) {
			key, value, _ := strings.Cut(strings.TrimSpace(l), "=")
			v[key] = value
		}
		x.addMicroseconds(v["ExecMainStartTimestampMonotonic"], "%s begins", v["Id"])
		x.addMicroseconds(v["ExecMainExitTimestampMonotonic"], "%s ends", v["Id"])
		x.addMicroseconds(v["UserspaceTimestampMonotonic"], "systemd begins")
	}
}

// run takes the agent's run, which began at this second.
func (x *timetable) run(r *release.Run, began float64) {
	x.add(began, "agent: run of %s begins (%s)", r.Release, r.Why)
	x.add(began+r.Seconds, "agent: run ends")
	for _, s := range r.Steps {
		began += s.Seconds
		x.add(began, "agent: step %s %s after %.2f s", s.Name, s.Result, s.Seconds)
	}
	for _, c := range r.Checks {
		began += c.Seconds
		x.add(began, "agent: check %s %s", c.Name, c.Result)
	}
}
