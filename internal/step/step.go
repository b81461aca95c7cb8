// Package step does one step or check of a role on the machine it runs on,
// and tells what became of it in the four results. It knows nothing of
// releases' numbers, buckets or the order of steps.
package step

import (
	"context"
	"io"

	"github.com/bootwell/bootwell/internal/release"
)

// A Memory remembers, for a step's key, the digest of the inputs with which
// it last succeeded on this VM. Implementations keep it durably.
type Memory interface {
	Last(key string) (release.Digest, bool)
	Remember(key string, inputs release.Digest) error
}

// A Runner runs the steps of one release on this machine. The zero value is
// not usable; it is not safe for concurrent use.
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
	Scratch  string    // folder for files that live as long as a step (on /run)
	Log      io.Writer // output of steps, already bounded by the caller
	DryRun   bool      // change nothing, tell what would change
	Diff     bool      // fill StepResult.Diff on a dry run
	Root     string    // prefix of all absolute paths; "" on a real machine, a folder in tests
}

// Run does one step: platform filter, guards, rerun rule, retries, timeout,
// then restarts and reloads of services when something changed. It never
// returns an error: what went wrong is in the result. When ctx ends the
// step's whole process group is killed and the result is failed.
func (r *Runner) Run(ctx context.Context, s release.Step) release.StepResult {
	return release.StepResult{Name: s.Name, Kind: s.Kind, Result: release.ResultFailed, Reason: "not built"}
}

// Check does one check with its retries and timeout.
func (r *Runner) Check(ctx context.Context, c release.Check) release.CheckResult {
	return release.CheckResult{Name: c.Name, Kind: c.Kind, Result: release.CheckFailed, Reason: "not built"}
}
