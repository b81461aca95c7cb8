// Package step does one step or check of a role on the machine it runs on,
// and tells what became of it in the four results. It knows nothing of
// releases' numbers, buckets or the order of steps.
//
//   - A kind (packages, files, services, users, script, run) looks first and
//     touches only what differs; what is right is left alone to the inode.
//   - A guard (creates, unless) or the rerun rule can make a step unchanged
//     without it being run.
//   - A notice is a restart or reload of a service that a change asks for. It
//     stays due until it was done, also across a crash.
package step

import (
	"context"
	"io"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// DefaultTimeout bounds an attempt of a step that names no timeout, and
// DefaultCheckTimeout one of a check.
const (
	DefaultTimeout      = 10 * time.Minute
	DefaultCheckTimeout = 10 * time.Second
)

// ExitReboot is the exit status with which a script asks for a reboot and to
// be called again after it.
const ExitReboot = 194

// A Memory remembers, for a step's key, the digest of the inputs with which
// it last succeeded on this VM. Implementations keep it durably. Remember
// with the zero Digest forgets the key. Keys are opaque to it; besides
// "<role>/<step>" there is "<role>/<step>#notices" for notices that are due.
type Memory interface {
	Last(key string) (release.Digest, bool)
	Remember(key string, inputs release.Digest) error
}

// A Runner runs the steps of one release on this machine. The zero value is
// not usable; it is not safe for concurrent use. Vars, Facts, Log and Memory
// may be nil or empty (without Memory each step runs as if for the first time).
//
// Scripts (kinds script and run, guards, validate, checks of kind command and
// run) work in Tree, with standard input closed and a clean environment:
//
//   - PATH, LANG=C.UTF-8, DEBIAN_FRONTEND=noninteractive, HOME, USER, LOGNAME
//     and SHELL of the user, and the proxy variables of the agent;
//   - BOOTWELL_ROLE, _RELEASE, _INSTANCE_ID, _CLOUD, _REGION, _ZONE, _CHANNEL,
//     _STEP and _PHASE;
//   - each variable as BW_<name>: text as it is, numbers plain, true or false,
//     lists as JSON;
//   - the step's own env, which wins over all of the above;
//   - BOOTWELL_OUTPUT, a file for changed=true or changed=false, and
//     BOOTWELL_RUN, which marks the processes of one attempt.
//
// Whether a script or run is run at all: a guard that holds (creates exists,
// unless exits 0) makes it unchanged; a guard that does not hold makes it run,
// so that what vanished is made again; with no guard it runs when its inputs
// differ from those of its last success: its own definition, the variables,
// and the content of the script and of the release files its inputs match.
// With rerun: never it runs until it succeeded once, whatever guards say.
//
// What exit 0 of a script or run means: what it wrote to $BOOTWELL_OUTPUT;
// else unchanged for rerun: always without a guard, since such a step runs
// each time whether or not there is something to do; else changed, since
// it ran because something differed. Exit [ExitReboot] is changed with Reboot
// and Again set. Any other end is failed.
//
// Processes: when the main process ends the step goes on at once, whoever
// still holds its output. After success everything it left behind lives on (a
// daemon started on purpose); after a failure its process group is killed, so
// that background jobs do not meet the next attempt, but what started its own
// session lives; after a timeout or a cancelled context every process that
// came out of it is told to end and, ten seconds later, killed: those
// of its control group where there is one (cgroup v2 and the right to use it),
// its process group, its descendants, and all that carry its BOOTWELL_RUN.
//
// Root, when set, is a folder below which all absolute paths of steps and
// checks are. Package managers, service managers and account tools then run
// chrooted in it; scripts do not.
//
// Files: what has the right content, mode and owner is not opened for writing.
// Else the new content is written beside the old, checked by validate, and
// moved over it, so that a reader sees the old or the new file whole; a failure
// leaves the old one. A symbolic link at the destination is replaced, not
// followed (its target belongs to somebody else); a folder, device, pipe or
// socket in the way is a failure. Missing parents are made with mode 0755.
// Folders that a folder item finds are left as they are; those it makes get
// the item's owner. State absent removes folders with all that is in them. An
// empty owner, group or (for a folder) mode leaves what is there.
//
// Templates see the variables as .name, whole numbers as integers, and
// .Facts (release.Facts), .Role, .Release and .Channel. Functions besides those of
// text/template: join SEP LIST, json VALUE, quote VALUE (one word of a shell).
//
// Packages are installed with what the system's own settings bring along
// (recommended packages too); configuration files that were changed stay.
// Users that are removed keep their home folder; groups a user is to be in are
// made when there are none.
type Runner struct {
	Tree     string            // staged tree: the working folder of scripts
	Manifest *release.Manifest // of Tree; content is checked against it before it is used
	Vars     release.Vars
	Facts    release.Facts
	Role     string
	Release  string // such as r43
	Channel  string
	Phase    string // apply, check; later bake
	Memory   Memory
	Scratch  string    // folder for files that live as long as a step (on /run); "": the system's
	Log      io.Writer // output of steps, already bounded by the caller; its errors are ignored
	DryRun   bool      // change nothing, tell what would change
	Diff     bool      // fill StepResult.Diff on a dry run
	Root     string    // prefix of all absolute paths; "" on a real machine, a folder in tests

	grace time.Duration // between SIGTERM and SIGKILL; 0: ten seconds
	pause time.Duration // before the second attempt; 0: one second
	mgr   packager      // package manager found earlier
}

// Run does one step: platform filter, guards, rerun rule, retries, timeout,
// then restarts and reloads of services when something changed. It never
// returns an error: what went wrong is in the result. When ctx ends the
// step's whole process group is killed and the result is failed.
//
// On a dry run guards are asked, nothing else is executed that could change
// the machine. A script that would run is changed ("would run"), except one
// with rerun: always and no guard, which is skipped: it runs in any case, so
// that it would run tells nothing.
func (r *Runner) Run(ctx context.Context, s release.Step) release.StepResult {
	start := time.Now()
	j := &job{Runner: r, step: s, diff: bounded{limit: maxDiff}}
	o := j.do(ctx)
	res := release.StepResult{
		Name: s.Name, Kind: s.Kind, Result: o.result, Reason: oneLine(o.reason), Changes: boundChanges(o.changes),
		Seconds: time.Since(start).Seconds(), Attempts: j.attempts, Reboot: o.reboot, Again: o.again,
	}
	if o.result == release.ResultFailed {
		res.Tail = cleanTail(o.tail, release.MaxTailBytes)
	}
	if r.DryRun && r.Diff {
		res.Diff = j.diff.String()
	}
	return res
}

// Check does one check with its retries and timeout. The reason of a failed
// one says what was found and what was expected.
func (r *Runner) Check(ctx context.Context, c release.Check) release.CheckResult {
	start := time.Now()
	res := release.CheckResult{Name: c.Name, Kind: c.Kind, Result: release.CheckFailed}
	for {
		res.Attempts++
		reason := r.checkOnce(ctx, c)
		if reason == "" {
			res.Result, res.Reason = release.CheckPassed, ""
			break
		}
		res.Reason = oneLine(reason)
		if ctx.Err() != nil || res.Attempts > c.Retries || sleep(ctx, c.Interval.Std()) != nil {
			break
		}
	}
	res.Seconds = time.Since(start).Seconds()
	return res
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
