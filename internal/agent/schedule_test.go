package agent

import (
	"fmt"
	"math"
	"os/exec"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

func TestSchedule_Words(t *testing.T) {
	const phase = 6*time.Hour + 17*time.Minute + 8*time.Second
	for poll, want := range map[time.Duration]struct {
		every          time.Duration
		calendar, cron string
	}{
		time.Second:          {time.Minute, "*-*-* *:*:08 UTC", "* * * * *"},
		time.Minute:          {time.Minute, "*-*-* *:*:08 UTC", "* * * * *"},
		90 * time.Second:     {time.Minute, "*-*-* *:*:08 UTC", "* * * * *"},
		5 * time.Minute:      {5 * time.Minute, "*-*-* *:02/5:08 UTC", "2-59/5 * * * *"},
		7 * time.Minute:      {6 * time.Minute, "*-*-* *:05/6:08 UTC", "5-59/6 * * * *"},
		45 * time.Minute:     {30 * time.Minute, "*-*-* *:17/30:08 UTC", "17-59/30 * * * *"},
		time.Hour:            {time.Hour, "*-*-* *:17:08 UTC", "17 * * * *"},
		90 * time.Minute:     {time.Hour, "*-*-* *:17:08 UTC", "17 * * * *"},
		5 * time.Hour:        {4 * time.Hour, "*-*-* 02/4:17:08 UTC", "17 2-23/4 * * *"},
		24 * time.Hour:       {24 * time.Hour, "*-*-* 06:17:08 UTC", "17 6 * * *"},
		365 * 24 * time.Hour: {24 * time.Hour, "*-*-* 06:17:08 UTC", "17 6 * * *"},
	} {
		s := Schedule{Every: ScheduleOf(poll, "i").Every}
		s.Phase = phase % s.Every
		cron, sleep := s.crontab()
		if s.Every != want.every || s.calendar() != want.calendar || cron != want.cron || sleep != 8 {
			t.Errorf("%v: every %v, %q, %q after %d seconds", poll, s.Every, s.calendar(), cron, sleep)
		}
	}
}

// TestSchedule_AsSystemdReadsIt lets systemd say when it would start the agent.
func TestSchedule_AsSystemdReadsIt(t *testing.T) {
	tool := needs.Tool(t, "systemd-analyze")
	for _, poll := range []time.Duration{time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour} {
		s := ScheduleOf(poll, "i-0abc")
		from := time.Date(2027, 3, 1, 23, 58, 59, 0, time.UTC)
		out, err := exec.Command(tool, "calendar", "--iterations=5", "--base-time", from.Format("2006-01-02 15:04:05 MST"), s.calendar()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", poll, err, out)
		}
		for range 5 {
			from = s.Next(from)
			if text := from.Format("Mon 2006-01-02 15:04:05 MST"); !strings.Contains(string(out), text) {
				t.Errorf("%v, %s: systemd does not start it at %s\n%s", poll, s.calendar(), text, out)
			}
		}
	}
}

func TestSchedule_Next(t *testing.T) {
	s := ScheduleOf(5*time.Minute, "i-0abc")
	at := time.Date(2027, 3, 1, 12, 0, 0, 500, time.FixedZone("", 5400))
	for range 1000 {
		n := s.Next(at)
		if d := n.Sub(at); d <= 0 || d > 5*time.Minute {
			t.Fatalf("%v after %v", d, at)
		}
		if midnight := n.Truncate(24 * time.Hour); n.Sub(midnight)%s.Every != s.Phase {
			t.Fatalf("%v is not at phase %v", n, s.Phase)
		}
		at = n
	}
	if s != ScheduleOf(5*time.Minute, "i-0abc") {
		t.Error("another schedule the second time")
	}
}

// inField reports whether the field of a crontab (*, n or n-m/step) has v.
func inField(t *testing.T, field string, v int) bool {
	t.Helper()
	from, to, step := 0, 59, 1
	if field != "*" {
		if n, _ := fmt.Sscanf(field, "%d-%d/%d", &from, &to, &step); n == 1 {
			to = from
		} else if n != 3 {
			t.Fatalf("crontab(5) has no field %q here", field)
		}
	}
	return v >= from && v <= to && (v-from)%step == 0
}

// cronStarts is when a cron whose clock is that of after starts the agent next.
func cronStarts(t *testing.T, s Schedule, after time.Time) time.Time {
	t.Helper()
	spec, sleep := s.crontab()
	fields := strings.Fields(spec)
	for at := after.Truncate(time.Minute); ; at = at.Add(time.Minute) {
		if n := at.Add(time.Duration(sleep) * time.Second); inField(t, fields[0], at.Minute()) && inField(t, fields[1], at.Hour()) && n.After(after) {
			return n
		}
	}
}

func TestSchedule_NextByCron(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("", 19800), time.FixedZone("", -8*3600), time.FixedZone("", 13*3600), berlin} {
		for _, poll := range []time.Duration{time.Minute, 20 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 24 * time.Hour} {
			s := ScheduleOf(poll, "i-0abc")
			at := time.Date(2027, 3, 1, 23, 58, 59, 7, time.UTC).In(zone)
			for range 7 {
				n := s.nextByCron(at)
				if want := cronStarts(t, s, at); !n.Equal(want) {
					t.Errorf("one poll in %v: after %v comes %v, cron says %v", poll, at, n, want)
				}
				at = n.Add(time.Minute / 2)
			}
			// On the days on which the clock is changed it is never in the past.
			for _, day := range []time.Time{time.Date(2027, 3, 28, 0, 0, 0, 0, time.UTC), time.Date(2027, 10, 31, 0, 0, 0, 0, time.UTC)} {
				for i := range 24 * 6 {
					at := day.Add(time.Duration(i) * 10 * time.Minute).In(zone)
					if d := s.nextByCron(at).Sub(at); d <= 0 || d > 2*s.Every+time.Hour {
						t.Errorf("one poll in %v: %v after %v", poll, d, at)
					}
				}
			}
		}
	}
}

// TestNextRun_IsWhenTheScheduleStartsTheAgent has a VM whose clock is not UTC.
func TestNextRun_IsWhenTheScheduleStartsTheAgent(t *testing.T) {
	for _, schedule := range []string{ScheduleSystemd, ScheduleCron} {
		w := newWorld(t)
		w.now = w.now.In(time.FixedZone("", 19800))
		seldom := role(w.put("a", "one"))
		seldom.Schedule.Poll = release.Duration(6 * time.Hour)
		w.publish(seldom)
		times := ScheduleOf(6*time.Hour, "i-0abc")
		want := cronStarts(t, times, w.now)
		if schedule == ScheduleSystemd {
			w.write(w.vm("run/systemd/system/.keep"), "")
			want = times.Next(w.now)
		}
		if r := w.good(); !r.NextRun.Equal(want) || !w.reported().NextRun.Equal(want) {
			t.Errorf("%s: next run %v, want %v", schedule, r.NextRun, want.UTC())
		}
	}
}

// TestTimer_TimeWithoutPollIsLongerThanAPeriod: two polls in one would be twice
// the cost, and none at all a VM that is lost.
func TestTimer_TimeWithoutPollIsLongerThanAPeriod(t *testing.T) {
	for _, poll := range []time.Duration{time.Minute, 5 * time.Minute, 90 * time.Minute, 24 * time.Hour} {
		s := ScheduleOf(poll, "i-0abc")
		_, rest, _ := strings.Cut(timerUnit(s), "\nOnUnitInactiveSec=")
		var seconds int
		if _, err := fmt.Sscanf(rest, "%ds\n", &seconds); err != nil {
			t.Errorf("%v: %v in\n%s", poll, err, timerUnit(s))
		}
		if d := time.Duration(seconds) * time.Second; d < s.Every+time.Minute || d > 2*s.Every {
			t.Errorf("one poll in %v, and at the latest after %v", s.Every, d)
		}
	}
}

// TestSchedule_IsEven counts the VMs in each sixtieth of the period: a fair
// draw has a chi-square of about 59 and above 120 once in 10 million times.
func TestSchedule_IsEven(t *testing.T) {
	const vms = 12_000
	for name, part := range map[string]func(Schedule) float64{
		"phase": func(s Schedule) float64 { return float64(s.Phase) / float64(s.Every) },
		"boot":  func(s Schedule) float64 { return float64(s.Boot-firstBootPoll) / float64(bootSplay) },
	} {
		cells := 60
		if name == "boot" {
			cells = 25
		}
		counts := make([]float64, cells)
		for i := range vms {
			counts[int(part(ScheduleOf(5*time.Minute, fmt.Sprintf("i-%016x", i)))*float64(cells))]++
		}
		mean, chi := vms/float64(cells), 0.0
		for _, n := range counts {
			chi += math.Pow(n-mean, 2) / mean
		}
		if chi > 120 {
			t.Errorf("%s: chi-square %.0f: %v", name, chi, counts)
		}
	}
}
