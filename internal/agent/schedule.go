package agent

import (
	"fmt"
	"time"
)

// A Schedule is when one VM polls: once in every period, always at the same
// point of it. The points of a fleet's VMs are spread evenly over the period,
// whenever the VMs were started.
type Schedule struct {
	Every time.Duration // whole minutes that divide an hour, or whole hours that divide a day
	Phase time.Duration // of the first poll after midnight (UTC; with cron, local), less than Every, in whole seconds
	Boot  time.Duration // from a boot to the poll that it causes, in whole seconds
}

const (
	firstBootPoll = 5 * time.Second
	bootSplay     = 25 * time.Second
)

// ScheduleOf returns the schedule of a VM. poll is rounded down to what every
// cron can do: a part of an hour in minutes, or a part of a day in hours.
func ScheduleOf(poll time.Duration, vm string) Schedule {
	every := regular(poll)
	part := func(what string, d time.Duration) time.Duration {
		return time.Duration(share(what+" "+vm) * float64(d)).Truncate(time.Second)
	}
	return Schedule{Every: every, Phase: part("phase", every), Boot: firstBootPoll + part("boot", min(every/5, bootSplay))}
}

// Next returns the first poll after t that the period asks for.
func (s Schedule) Next(t time.Time) time.Time {
	// Time counts from a midnight, and so do all that divide a day.
	n := t.UTC().Add(-s.Phase).Truncate(s.Every).Add(s.Phase)
	for !n.After(t) {
		n = n.Add(s.Every)
	}
	return n
}

// nextByCron is Next for a cron, for which the day is the one of the clock on
// the wall, in the location of t. In the hour in which that clock is changed it
// may be a period late.
func (s Schedule) nextByCron(t time.Time) time.Time {
	y, m, d := t.Date()
	hour, minute, second := t.Clock()
	for wall := time.Date(y, m, d, hour, minute, second, t.Nanosecond(), time.UTC); ; {
		wall = s.Next(wall)
		y, m, d = wall.Date()
		hour, minute, second = wall.Clock()
		if n := time.Date(y, m, d, hour, minute, second, 0, t.Location()); n.After(t) {
			return n
		}
	}
}

// regular is the longest period that is no longer than poll and divides an
// hour into whole minutes or a day into whole hours.
func regular(poll time.Duration) time.Duration {
	unit, of := time.Minute, 60
	if poll >= time.Hour {
		unit, of = time.Hour, 24
	}
	n := min(max(int(poll/unit), 1), of)
	for of%n != 0 {
		n--
	}
	return time.Duration(n) * unit
}

// calendar is the schedule as systemd.time(7) writes it, in words that systemd
// 219 knows too.
func (s Schedule) calendar() string {
	hour, minute, second := clockOf(s.Phase)
	hours, minutes := "*", fmt.Sprintf("%02d", minute)
	switch n := int(s.Every / time.Minute); {
	case n == 1:
		minutes = "*"
	case n < 60:
		minutes = fmt.Sprintf("%02d/%d", minute, n)
	case n == 24*60:
		hours = fmt.Sprintf("%02d", hour)
	case n > 60:
		hours = fmt.Sprintf("%02d/%d", hour, n/60)
	}
	return fmt.Sprintf("*-*-* %s:%s:%02d UTC", hours, minutes, second)
}

// crontab is the same for a cron, which counts in minutes and by the local
// clock: the seconds are to be slept.
func (s Schedule) crontab() (spec string, sleep int) {
	hour, minute, second := clockOf(s.Phase)
	hours, minutes := "*", fmt.Sprint(minute)
	switch n := int(s.Every / time.Minute); {
	case n == 1:
		minutes = "*"
	case n < 60:
		minutes = fmt.Sprintf("%d-59/%d", minute, n)
	case n == 24*60:
		hours = fmt.Sprint(hour)
	case n > 60:
		hours = fmt.Sprintf("%d-23/%d", hour, n/60)
	}
	return fmt.Sprintf("%s %s * * *", minutes, hours), second
}

func clockOf(d time.Duration) (hour, minute, second int) {
	return int(d / time.Hour), int(d/time.Minute) % 60, int(d/time.Second) % 60
}

// schedule is the one of this VM. Its name is all that it depends on: a
// machine-id can be the same on all that were made from one image.
func (st *state) schedule() Schedule { return ScheduleOf(st.poll(), st.VM) }
