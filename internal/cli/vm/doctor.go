package vm

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/doctor"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	credentialsFile = "/etc/bootwell/credentials"
	minSpace        = 200 << 20 // bytes below which the state folder is worth a warning
	maxUnit         = 64 << 10
)

func newDoctorCmd(s *cli.Session) *cobra.Command {
	var noNetwork bool
	c := &cobra.Command{
		Use: "doctor", Args: cobra.NoArgs,
		Short: "Find what keeps this VM from following its bucket, and say what to do",
		Long: `Looks at this VM's settings, schedule, state and last run, then asks the bucket: the
way to it (names, TLS, proxies), clocks, credentials, the rights that this VM needs
and those it should not have, the project's signatures.

It writes nothing to the bucket: rights are tried with writes on a condition that
cannot hold, with the bytes that are there anyway.

Exit code 0, also with warnings; 3 when there is a problem.`,
		Example: "  sudo bootwell-agent doctor\n  sudo bootwell-agent doctor --no-network --json",
		RunE:    func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), s, noNetwork) },
	}
	c.Flags().BoolVar(&noNetwork, "no-network", false, "look at this machine only")
	return c
}

// An examination is what one doctor command has found so far.
type examination struct {
	s     *cli.Session
	paths agent.Paths
	found doctor.Findings
}

func runDoctor(ctx context.Context, s *cli.Session, noNetwork bool) error {
	if os.Geteuid() != 0 && paths(s).Root == "" {
		return cli.Usage("only root can see all of this VM's settings and state", "try: sudo bootwell-agent doctor")
	}
	x := &examination{s: s, paths: paths(s)}
	x.ok("version", s.Version)
	cfg, err := agent.LoadConfig(x.paths)
	if err != nil {
		x.problem("settings", "settings", strings.ReplaceAll(err.Error(), "\n", "; "), "correct "+x.paths.Config()+", or start a VM with the text of bootwell user-data ROLE")
	} else {
		x.ok("settings", fmt.Sprintf("project %s, role %s, channel %s", cfg.Project, cfg.Role, cfg.Channel))
	}
	x.credentialsFile()
	x.schedule(ctx)
	x.held()
	x.state()
	r := x.lastRun()
	switch {
	case err != nil:
		x.unknown("bucket", "not_asked", "not asked: the settings do not tell which one")
	case noNetwork:
		x.unknown("bucket", "not_asked", "not asked (--no-network)")
	default:
		x.proxy()
		x.bucket(ctx, cfg, r)
	}
	return cli.ShowFindings(ctx, s, x.found)
}

func (x *examination) add(check string, st doctor.Status, cause, message, fix string) {
	x.found = append(x.found, doctor.Finding{Check: check, Status: st, Cause: cause, Message: fleet.Clean(message, 600), Fix: fix})
}

func (x *examination) ok(check, message string) { x.add(check, doctor.OK, "", message, "") }

func (x *examination) problem(check, cause, message, fix string) {
	x.add(check, doctor.Problem, cause, message, fix)
}

func (x *examination) warning(check, cause, message, fix string) {
	x.add(check, doctor.Warning, cause, message, fix)
}

func (x *examination) unknown(check, cause, message string) {
	x.add(check, doctor.Unknown, cause, message, "")
}

// at is a path of the VM below the folder for trials.
func (x *examination) at(path string) string { return filepath.Join(x.paths.Root, path) }

func (x *examination) credentialsFile() {
	const check = "credentials file"
	info, err := os.Stat(x.at(credentialsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.ok(check, "none: this VM uses the identity that its cloud gives it")
	case err != nil:
		x.problem(check, "credentials_file", err.Error(), "check the owner and mode of /etc/bootwell")
	case !info.Mode().IsRegular():
		x.problem(check, "credentials_file", credentialsFile+" is no file", "remove it")
	case info.Mode().Perm()&0o077 != 0:
		x.problem(check, "credentials_file", fmt.Sprintf("%s can be read by others (mode %04o)", credentialsFile, info.Mode().Perm()), "chmod 600 "+credentialsFile+", and change the keys in it if others use this VM")
	default:
		x.ok(check, credentialsFile+", only for its owner")
	}
}

// schedule looks for what starts the agent again and again.
func (x *examination) schedule(ctx context.Context) {
	const check, fix = "schedule", "bootwell-agent install"
	timer := exists(x.paths.Timer()) && exists(x.paths.Service())
	switch {
	case timer && x.paths.Root == "" && exists("/run/systemd/system"):
		x.systemd(ctx)
	case timer:
		x.ok(check, "the units bootwell.service and bootwell.timer are there")
	case exists(x.paths.Cron()):
		x.ok(check, "cron, by /etc/cron.d/bootwell")
	case strings.Contains(readSome(x.paths.Crontab()), "bootwell-agent apply --timer"):
		x.ok(check, "cron, by root's crontab")
	case exists(x.paths.Timer()) || exists(x.paths.Service()):
		x.problem(check, "schedule", "one of the units bootwell.service and bootwell.timer is missing", fix)
	default:
		x.problem(check, "schedule", "nothing starts the agent: there is neither its systemd timer nor its line for cron", fix)
	}
}

func (x *examination) systemd(ctx context.Context) {
	const check = "schedule"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	say := func(args ...string) string {
		// The word on stdout counts; the exit code only repeats it.
		out, _ := exec.CommandContext(ctx, "systemctl", args...).Output()
		return strings.TrimSpace(string(out))
	}
	enabled, active := say("is-enabled", "bootwell.timer"), say("is-active", "bootwell.timer")
	switch {
	case active == "" || enabled == "":
		x.unknown(check, "no_answer", "systemctl does not answer")
	case strings.HasPrefix(enabled, "masked"):
		x.problem(check, "schedule", "bootwell.timer is masked", "systemctl unmask bootwell.timer && bootwell-agent install")
	case active != "active":
		x.problem(check, "schedule", "bootwell.timer is "+active+": nothing starts the agent", "systemctl enable --now bootwell.timer")
	case enabled != "enabled":
		x.warning(check, "schedule", "bootwell.timer runs, but is "+enabled+": not after the next boot", "systemctl enable bootwell.timer")
	default:
		x.ok(check, "bootwell.timer is enabled and active")
	}
}

func (x *examination) held() {
	if text, err := os.ReadFile(x.paths.Hold()); err == nil {
		why := strings.TrimSpace(string(text[:min(len(text), 300)]))
		x.warning("hold", "held", "no run begins: "+or(why, "somebody made /etc/bootwell/hold"), "rm /etc/bootwell/hold")
	}
}

// state looks at the folder of everything durable and who works in it.
func (x *examination) state() {
	const check = "state"
	dir := x.paths.State()
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		x.unknown(check, "no_run", "/var/lib/bootwell is not there: no run has begun yet")
		return
	}
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	free := st.Bavail * uint64(max(st.Bsize, 1))
	switch {
	case err != nil:
		x.problem(check, "state", err.Error(), "look at the file system below /var/lib")
	case !info.IsDir():
		x.problem(check, "state", "/var/lib/bootwell is no folder", "move it away")
	case st.Flags&unix.ST_RDONLY != 0:
		x.problem(check, "read_only", "the file system of /var/lib/bootwell can only be read", "mount it for writing; after an error of the disk the kernel makes it so: see dmesg")
	case info.Mode().Perm()&0o022 != 0:
		x.problem(check, "state_mode", fmt.Sprintf("others may write to /var/lib/bootwell (mode %04o): they could change what root runs", info.Mode().Perm()), "chmod go-w /var/lib/bootwell, and find out who changed it")
	case free < minSpace:
		x.warning(check, "disk_full", "only "+size(free)+" are free below /var/lib/bootwell", "free some space, or make the disk larger")
	default:
		text := size(free) + " free"
		if pid := lockHolder(x.paths.Lock()); pid != "" {
			text += "; process " + pid + " works on it now"
		}
		x.ok(check, text)
	}
}

// lockHolder returns the process that holds the lock, from /proc/locks
// (proc(5)): trying the lock could keep out an agent that starts now.
func lockHolder(name string) string {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return ""
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer f.Close()
	return holder(io.LimitReader(f, 1<<20), st.Ino)
}

// holder finds "1: FLOCK ADVISORY WRITE 812 08:01:1234 0 EOF" by its inode.
func holder(r io.Reader, inode uint64) string {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		part := strings.Fields(lines.Text())
		if len(part) > 5 && part[1] == "FLOCK" && strings.HasSuffix(part[5], fmt.Sprintf(":%d", inode)) {
			return part[4]
		}
	}
	return ""
}

func (x *examination) lastRun() *release.Report {
	const check = "last run"
	r, err := agent.Status(x.paths)
	switch {
	case errors.Is(err, agent.ErrNoStatus):
		x.unknown(check, "no_run", err.Error())
		return nil
	case err != nil:
		x.problem(check, "status", err.Error(), "bootwell-agent apply writes it anew")
		return nil
	}
	said := fmt.Sprintf("%s %s, %s ago", or(r.Release, "no release"), r.State, time.Since(r.Time).Round(time.Second))
	switch r.State {
	case release.StateFailed:
		x.problem(check, "failed", said+": "+r.Reason, "bootwell-agent logs")
	case release.StateHeld:
		x.warning(check, "held", said+": "+r.Reason, "")
	default:
		if len(r.Warn) > 0 {
			x.warning(check, "warnings", said+"; "+strings.Join(r.Warn, "; "), "")
			break
		}
		x.ok(check, said)
	}
	return r
}

var proxyVariables = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"}

// proxy compares this shell's way out with that of the timer's service, which
// knows nothing of a login.
func (x *examination) proxy() {
	here := ""
	for _, name := range proxyVariables {
		if x.s.Getenv(name) != "" {
			here = name
			break
		}
	}
	text := readSome(x.paths.Service()) + readSome(x.paths.Cron()) + readSome(x.paths.Crontab())
	drops, _ := filepath.Glob(x.paths.Service() + ".d/*.conf") // the pattern is ours
	for _, d := range drops {
		text += readSome(d)
	}
	there := strings.Contains(strings.ToUpper(text), "_PROXY=") || strings.Contains(text, "EnvironmentFile=")
	switch {
	case here != "" && !there && text != "":
		x.warning("proxy", "proxy_only_here", here+" is set here, but not where the timer starts the agent",
			"systemctl edit bootwell.service, and write: [Service] and Environment="+strings.ToUpper(here)+"=… (with cron: a line "+strings.ToUpper(here)+"=… in /etc/cron.d/bootwell)")
	case here == "" && there:
		x.warning("proxy", "proxy_only_there", "the timer's service has a proxy that this shell has not: the checks below go another way", "run it as the service does: systemd-run --pipe -p Environment=… bootwell-agent doctor")
	}
}

func (x *examination) bucket(ctx context.Context, cfg agent.Config, r *release.Report) {
	x.s.Update("  asking the bucket …")
	p := doctor.Probe{For: doctor.VM}
	if r != nil {
		p.VM = cmp.Or(agent.Folder(x.paths), r.VM)
		// What the bucket has but for the output of steps.
		if b, err := r.Bytes(); err == nil {
			p.Report = b
		}
	}
	as := doctor.Target{Anchor: cfg.Root, State: x.paths.Trust()}
	urls := append([]string{cfg.Bucket}, cfg.Mirrors...)
	x.found = append(x.found, p.LookAll(ctx, doctor.Targets(ctx, x.s.Open, urls, as))...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readSome returns the beginning of a small file, "" if there is none.
func readSome(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUnit))
	if err != nil {
		return ""
	}
	return string(b)
}
