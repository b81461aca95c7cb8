package step

import (
	"context"
	"os"

	"github.com/bootwell/bootwell/internal/release"
)

// rebootAfter sets Reboot as the step asks for it. With if-required the system
// is asked also when the step changed nothing: an agent that was killed before
// its reboot would otherwise never do it.
func (j *job) rebootAfter(ctx context.Context, o outcome) outcome {
	if j.DryRun {
		return o
	}
	switch j.step.Reboot {
	case release.RebootIfChanged:
		o.reboot = o.result == release.ResultChanged
	case release.RebootIfRequired:
		o.reboot = j.rebootRequired(ctx)
	}
	return o
}

// rebootRequired asks the system: Debian's and SUSE's flag files, else
// needs-restarting of dnf-utils or yum-utils, where exit 1 of -r means yes.
func (j *job) rebootRequired(ctx context.Context) bool {
	for _, p := range []string{"/run/reboot-required", "/var/run/reboot-required", "/run/reboot-needed"} {
		if _, err := os.Stat(j.abs(p)); err == nil {
			return true
		}
	}
	tool, ok := j.tool("needs-restarting")
	if !ok {
		return false
	}
	ctx, cancel := j.timeout(ctx)
	defer cancel()
	res, err := j.query(ctx, tool, "-r")
	return err == nil && !res.cut() && res.code == 1
}
