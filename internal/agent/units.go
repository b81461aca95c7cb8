package agent

import (
	"fmt"
	"strings"
)

// serviceUnit is the systemd service. KillMode=process because what a step
// started for good must outlive the run; the agent itself kills the process
// group of a step that it stops. It is no part of the boot: the timer starts
// it, so a long first run blocks neither multi-user.target nor cloud-init. With
// systemd's own limit of 5 starts in 10 seconds, people who poll by hand again
// and again would have the timer refused too.
func serviceUnit(binary string) string {
	return fmt.Sprintf(`# Written by bootwell-agent install.
[Unit]
Description=Apply this machine's bootwell release
Wants=network-online.target
After=network-online.target local-fs.target
StartLimitBurst=20

[Service]
Type=oneshot
ExecStart=%s apply --timer
SuccessExitStatus=10 13
TimeoutStartSec=infinity
TimeoutStopSec=60s
KillMode=process
SyslogIdentifier=bootwell
`, binary)
}

// timerUnit is the systemd timer. Many VMs of a large fleet share a second of
// the period, so that each has its own place in that second too. Each poll
// begins the time without one anew, so that it comes to its end only where the
// calendar does not: a systemd before 252 can go on to wait for the year in
// which the clock was before it was set back.
func timerUnit(s Schedule) string {
	return fmt.Sprintf(`# Written by bootwell-agent install. The times follow the role's schedule.
[Unit]
Description=Poll for bootwell releases

[Timer]
OnBootSec=%ds
OnCalendar=%s
OnUnitInactiveSec=%ds
RandomizedDelaySec=1s
FixedRandomDelay=true
AccuracySec=1us

[Install]
WantedBy=timers.target
`, int(s.Boot.Seconds()), s.calendar(), int(2*s.Every.Seconds()))
}

const cronPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cronTable is the schedule for cron(8).
func cronTable(binary string, s Schedule) string {
	spec, sleep := s.crontab()
	var b strings.Builder
	b.WriteString("# Written by bootwell-agent install. The times follow the role's schedule.\n")
	b.WriteString("SHELL=/bin/sh\n")
	b.WriteString("PATH=" + cronPath + "\n")
	fmt.Fprintf(&b, "@reboot root sleep %d; %s apply --timer >/dev/null 2>&1\n", int(s.Boot.Seconds()), binary)
	fmt.Fprintf(&b, "%s root sleep %d; %s apply --timer >/dev/null 2>&1\n", spec, sleep, binary)
	return b.String()
}
