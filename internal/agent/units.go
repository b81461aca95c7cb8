package agent

import (
	"fmt"
	"strings"
	"time"
)

// serviceUnit is the systemd service. KillMode=process because what a step
// started for good must outlive the run; the agent itself kills the process
// group of a step that it stops. It is no part of the boot: the timer starts
// it, so a long first run blocks neither multi-user.target nor cloud-init.
func serviceUnit(binary string) string {
	return fmt.Sprintf(`# Written by bootwell-agent install.
[Unit]
Description=Apply this machine's bootwell release
Wants=network-online.target
After=network-online.target local-fs.target

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

// timerUnit is the systemd timer. A poll comes poll or a little less after
// the end of the last one; the part that is random is fixed for a machine, so
// that a fleet stays spread and each machine is regular.
func timerUnit(poll time.Duration) string {
	poll = max(poll, time.Minute)
	splay := min(poll/5, 30*time.Second)
	return fmt.Sprintf(`# Written by bootwell-agent install. The times follow the role's schedule.
[Unit]
Description=Poll for bootwell releases

[Timer]
OnBootSec=5s
OnUnitInactiveSec=%s
RandomizedDelaySec=%s
FixedRandomDelay=true
AccuracySec=1us

[Install]
WantedBy=timers.target
`, systemdSpan(poll-splay), systemdSpan(splay))
}

func systemdSpan(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

const cronPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cronTable is the schedule for cron(8).
func cronTable(binary string, poll time.Duration, machine string) string {
	spec, splay := cronTimes(poll, machine)
	var b strings.Builder
	b.WriteString("# Written by bootwell-agent install. The times follow the role's schedule.\n")
	b.WriteString("SHELL=/bin/sh\n")
	b.WriteString("PATH=" + cronPath + "\n")
	fmt.Fprintf(&b, "@reboot root %s apply --timer >/dev/null 2>&1\n", binary)
	fmt.Fprintf(&b, "%s root sleep %d; %s apply --timer >/dev/null 2>&1\n", spec, splay, binary)
	return b.String()
}

// cronTimes are when a cron, which counts in minutes, is to start the agent:
// the splay is seconds to sleep first, always the same on one machine.
func cronTimes(poll time.Duration, machine string) (spec string, splay int) {
	spec, every := cronSpec(poll)
	return spec, int(share("splay "+machine) * min(every/5, 30*time.Second).Seconds())
}

// cronSpec is the regular schedule nearest to poll that is not rarer: cron
// knows only parts of an hour and parts of a day.
func cronSpec(poll time.Duration) (spec string, every time.Duration) {
	minutes := max(int(poll/time.Minute), 1)
	if minutes < 60 {
		for 60%minutes != 0 {
			minutes--
		}
		if minutes == 1 {
			return "* * * * *", time.Minute
		}
		return fmt.Sprintf("*/%d * * * *", minutes), time.Duration(minutes) * time.Minute
	}
	hours := min(minutes/60, 24)
	for 24%hours != 0 {
		hours--
	}
	switch hours {
	case 1:
		return "0 * * * *", time.Hour
	case 24:
		return "0 0 * * *", 24 * time.Hour
	}
	return fmt.Sprintf("0 */%d * * *", hours), time.Duration(hours) * time.Hour
}
