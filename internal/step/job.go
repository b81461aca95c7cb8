package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/bootwell/bootwell/internal/release"
)

// errFinal marks what another attempt cannot mend.
var errFinal = errors.New("")

// final wraps err so that the step is not tried again.
func final(err error) error { return fmt.Errorf("%w%w", err, errFinal) }

// A job is one step under way.
type job struct {
	*Runner
	step     release.Step
	attempts int
	changes  []string // of all attempts: what a failed one did is done
	diff     bounded
	late     bool // notices of an earlier run are still due
	marked   bool // this run recorded notices as due
	guarded  bool // a guard asked for the step to be run
}

// An outcome is what became of a step.
type outcome struct {
	result, reason string
	changes        []string
	tail           []byte
	reboot, again  bool
}

// do takes the step from its filter to its notices.
func (j *job) do(ctx context.Context) outcome {
	if reason, err := j.skip(); err != nil {
		return j.failed(err)
	} else if reason != "" {
		return outcome{result: release.ResultSkipped, reason: reason}
	}
	digest, err := j.inputs()
	if err != nil {
		return j.failed(err)
	}
	_, j.late = j.last(j.key() + "#notices")
	o, done := j.guard(ctx, digest)
	if !done {
		o = j.attempt(ctx)
	}
	if o.result == release.ResultFailed || o.result == release.ResultSkipped {
		return o
	}
	if o.again {
		return o
	}
	if o = j.notices(ctx, o); o.result == release.ResultFailed {
		return o
	}
	if !done && !j.DryRun && j.isScript() {
		if err := j.remember(j.key(), digest); err != nil {
			return j.failed(fmt.Errorf("ran, but that it did cannot be remembered: %w", err))
		}
	}
	return j.rebootAfter(ctx, o)
}

func (j *job) isScript() bool {
	return j.step.Kind == release.KindScript || j.step.Kind == release.KindRun
}

func (j *job) key() string { return j.Role + "/" + j.step.Name }

func (j *job) remember(key string, d release.Digest) error {
	if j.Memory == nil {
		return nil
	}
	return j.Memory.Remember(key, d)
}

func (j *job) last(key string) (release.Digest, bool) {
	if j.Memory == nil {
		return release.Digest{}, false
	}
	d, ok := j.Memory.Last(key)
	return d, ok && !d.IsZero()
}

// failed turns err into an outcome; the tail is that of the command in it.
func (j *job) failed(err error) outcome {
	o := outcome{result: release.ResultFailed, reason: err.Error(), changes: j.changes}
	var c *commandError
	if errors.As(err, &c) {
		o.tail = c.tail
	}
	return o
}

// skip returns why this platform does not get the step.
func (j *job) skip() (string, error) {
	if len(j.step.Only) == 0 {
		return "", nil
	}
	for _, glob := range j.step.Only {
		ok, err := path.Match(glob, j.Facts.Platform)
		if err != nil {
			return "", final(fmt.Errorf("only: %q is not a pattern", glob))
		}
		if ok {
			return "", nil
		}
	}
	return fmt.Sprintf("not for %s", orNone(j.Facts.Platform)), nil
}

func orNone(s string) string {
	if s == "" {
		return "an unknown platform"
	}
	return s
}

// inputs digests what decides whether a script is run again. Content is not
// read: the manifest has its digests, and scripts are checked before they run.
func (j *job) inputs() (release.Digest, error) {
	if !j.isScript() {
		return release.Digest{}, nil
	}
	s := j.step
	def := release.Step{Kind: s.Kind, Script: s.Script, Args: s.Args, Run: s.Run, Inputs: s.Inputs, Env: s.Env, User: s.User}
	in := struct {
		Step  release.Step
		Vars  release.Vars
		Files []string
	}{Step: def, Vars: j.Vars}
	if s.Kind == release.KindScript {
		f, err := j.file(s.Script)
		if err != nil {
			return release.Digest{}, final(err)
		}
		in.Files = append(in.Files, f.Path+" "+f.Digest.String())
	}
	for _, glob := range s.Inputs {
		if !doublestar.ValidatePattern(glob) {
			return release.Digest{}, final(fmt.Errorf("inputs: %q is not a pattern", glob))
		}
		if j.Manifest == nil {
			continue
		}
		for _, f := range j.Manifest.Files {
			if doublestar.MatchUnvalidated(glob, f.Path) {
				in.Files = append(in.Files, f.Path+" "+f.Link+f.Digest.String())
			}
		}
	}
	b, err := json.Marshal(in)
	if err != nil {
		return release.Digest{}, final(fmt.Errorf("digest inputs: %w", err))
	}
	return release.DigestOf(b), nil
}

// file returns the regular file that p of the release is or links to.
func (r *Runner) file(p string) (release.File, error) {
	if r.Manifest == nil {
		return release.File{}, fmt.Errorf("%s: the runner has no manifest", p)
	}
	at := p
	for range 40 {
		f, ok := r.Manifest.Find(at)
		switch {
		case !ok:
			return f, fmt.Errorf("%s is not in the release", at)
		case f.Dir:
			return f, fmt.Errorf("%s is a folder", at)
		case f.Link == "":
			return f, nil
		}
		at = path.Join(path.Dir(at), f.Link)
	}
	return release.File{}, fmt.Errorf("%s: too many links", p)
}

// guard applies creates, unless, the rerun rule and the dry run; done means
// that there is nothing to be run.
func (j *job) guard(ctx context.Context, digest release.Digest) (o outcome, done bool) {
	unchanged := func(reason string) (outcome, bool) {
		return outcome{result: release.ResultUnchanged, reason: reason}, true
	}
	s := j.step
	last, ok := j.last(j.key())
	if j.isScript() && s.Rerun == release.RerunNever && ok {
		return unchanged("ran once on this VM")
	}
	if s.Creates != "" {
		if _, err := os.Lstat(j.abs(s.Creates)); err == nil {
			return unchanged(s.Creates + " exists")
		}
		j.guarded = true
	}
	if s.Unless != "" {
		holds, err := j.unless(ctx)
		if err != nil {
			return j.failed(err), true
		}
		if holds {
			return unchanged("unless exited 0")
		}
		j.guarded = true
	}
	if !j.isScript() {
		return outcome{}, false
	}
	if s.Rerun == release.RerunChanged && ok && last == digest && !j.guarded {
		return unchanged("inputs are the same as at the last success")
	}
	if !j.DryRun {
		return outcome{}, false
	}
	if s.Rerun == release.RerunAlways && !j.guarded {
		return outcome{result: release.ResultSkipped, reason: "would run; what it would change is not known"}, true
	}
	return outcome{result: release.ResultChanged, reason: "would run", changes: []string{"would run " + j.what()}}, true
}

// what names a script for people.
func (j *job) what() string {
	if j.step.Kind == release.KindScript {
		return j.step.Script
	}
	return "the shell text"
}

func (j *job) unless(ctx context.Context) (bool, error) {
	ctx, cancel := j.timeout(ctx)
	defer cancel()
	u, err := j.user(j.step.User)
	if err != nil {
		if j.DryRun { // a step before may make the user
			return false, nil
		}
		return false, final(err)
	}
	res, err := j.exec(ctx, command{argv: []string{"/bin/sh", "-euc", j.step.Unless}, user: u, env: j.step.Env, name: j.step.Name})
	if err != nil {
		return false, fmt.Errorf("unless: %w", err)
	}
	if res.cut() {
		return false, fmt.Errorf("unless %w", j.ended("", res))
	}
	return res.code == 0, nil
}

func (j *job) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	d := j.step.Timeout.Std()
	if d <= 0 {
		d = DefaultTimeout
	}
	return context.WithTimeoutCause(ctx, d, timedOut(d))
}

// attempt does the work, again after a growing pause when it fails.
func (j *job) attempt(ctx context.Context) outcome {
	pause := j.pause
	if pause == 0 {
		pause = time.Second
	}
	for {
		j.attempts++
		o, err := j.once(ctx)
		if err == nil {
			return o
		}
		if ctx.Err() != nil || errors.Is(err, errFinal) || j.attempts > j.step.Retries {
			return j.failed(err)
		}
		j.logf("%s: attempt %d: %v; again in %v", j.step.Name, j.attempts, err, pause)
		if sleep(ctx, pause) != nil {
			return j.failed(err)
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// once is one attempt.
func (j *job) once(ctx context.Context) (outcome, error) {
	if err := context.Cause(ctx); err != nil {
		return outcome{}, fmt.Errorf("not started: %w", err)
	}
	ctx, cancel := j.timeout(ctx)
	defer cancel()
	if j.isScript() {
		return j.script(ctx)
	}
	var err error
	switch j.step.Kind {
	case release.KindFiles:
		err = j.files(ctx)
	case release.KindPackages:
		err = j.packages(ctx)
	case release.KindServices:
		err = j.services(ctx)
	case release.KindUsers:
		err = j.users(ctx)
	default:
		err = final(fmt.Errorf("this agent knows no step of kind %q: update it", j.step.Kind))
	}
	if err != nil {
		return outcome{}, err
	}
	o := outcome{result: release.ResultUnchanged, changes: j.changes}
	if len(j.changes) > 0 {
		o.result = release.ResultChanged
		o.reason = j.changes[0]
		if n := len(j.changes); n > 1 {
			o.reason = fmt.Sprintf("%s and %d more", cut(j.changes[0], 200), n-1)
		}
	}
	return o, nil
}

// changed records one change. Before the machine is touched it must have been
// announced by touch.
func (j *job) changed(format string, args ...any) {
	j.changes = append(j.changes, fmt.Sprintf(format, args...))
}

// touch records durably that notices are due, before the first change: an
// agent that is killed between a change and its restart would otherwise find
// everything in order at its next run and never restart.
func (j *job) touch() error {
	if j.marked || j.DryRun || len(j.step.Restart)+len(j.step.Reload) == 0 {
		return nil
	}
	if err := j.remember(j.key()+"#notices", release.DigestOf([]byte("due"))); err != nil {
		return final(fmt.Errorf("record that services are to be restarted: %w", err))
	}
	j.marked = true
	return nil
}

// notices restarts and reloads services after a change, each once.
func (j *job) notices(ctx context.Context, o outcome) outcome {
	if len(j.step.Restart)+len(j.step.Reload) == 0 {
		return o
	}
	if o.result == release.ResultUnchanged && !j.late {
		if j.marked {
			if err := j.remember(j.key()+"#notices", release.Digest{}); err != nil {
				return j.failed(err)
			}
		}
		return o
	}
	if o.result == release.ResultUnchanged {
		o.result, o.reason = release.ResultChanged, "a restart or reload was still due from an earlier run"
	}
	ctx, cancel := j.timeout(ctx)
	defer cancel()
	j.changes = o.changes
	done := map[string]bool{}
	for _, n := range []struct {
		verb  string
		names []string
	}{{"restart", j.step.Restart}, {"reload", j.step.Reload}} {
		for _, name := range n.names {
			if done[name] {
				continue
			}
			done[name] = true
			if err := j.notify(ctx, n.verb, name); err != nil {
				return j.failed(fmt.Errorf("%s %s: %w", n.verb, name, err))
			}
		}
	}
	o.changes = j.changes
	if !j.DryRun {
		if err := j.remember(j.key()+"#notices", release.Digest{}); err != nil {
			return j.failed(err)
		}
	}
	return o
}

func (j *job) notify(ctx context.Context, verb, name string) error {
	if j.DryRun {
		j.changed("%s %s", verb, name)
		return nil
	}
	sup, err := j.supervisor()
	if err != nil {
		return err
	}
	if err := sup.notify(ctx, verb, name); err != nil {
		return err
	}
	j.changed("%sed %s", verb, name)
	return nil
}
