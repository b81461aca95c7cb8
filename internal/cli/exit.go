package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// The exit codes of all commands. Codes may be added: treat any unknown code
// as a failure.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitChanged     = 2 // only with --detailed-exitcode: worked, and something changed or would
	ExitUnhealthy   = 3 // the command worked, what it looked at is not healthy
	ExitUsage       = 4 // bad usage or project file; nothing was touched
	ExitNoMatch     = 5
	ExitBucket      = 10
	ExitInternal    = 11
	ExitUntrusted   = 12
	ExitLocked      = 13
	ExitTimeout     = 124
	ExitInterrupted = 130
)

// Errors that only mean an exit code.
var (
	ErrInterrupted = errors.New("interrupted")
	ErrUnhealthy   = errors.New("not healthy")
	ErrChanged     = errors.New("something changed")
	ErrNoMatch     = errors.New("nothing matched")
	errTimeout     = errors.New("timeout")
)

// A UsageError says that the command line or a file of the user is wrong.
type UsageError struct {
	Message string
	Hint    string
	Shown   bool // the details are on the screen already
}

// Error returns the message without the hint.
func (e *UsageError) Error() string { return e.Message }

// Usage returns a [UsageError].
func Usage(message, hint string) error { return &UsageError{Message: message, Hint: hint} }

// A hinted error carries the next step for this very case, where the table
// below would be too general.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint adds the next step to err, unless it has one from closer to the cause.
func Hint(err error, format string, a ...any) error {
	var h *hinted
	if errors.As(err, &h) {
		return err
	}
	return &hinted{err, fmt.Sprintf(format, a...)}
}

// WithCode gives err an exit code, a kind and a next step that the table below
// does not know, for errors of packages that not both commands link.
func WithCode(err error, code int, kind, hint string) error {
	return &coded{err, code, kind, hint}
}

type coded struct {
	error
	code       int
	kind, hint string
}

func (c *coded) Unwrap() error { return c.error }

// Silent marks err as shown already: only its exit code is left to do.
func Silent(err error) error { return &silent{err} }

type silent struct{ error }

func (e *silent) Unwrap() error { return e.error }

// exits is read from the top: the first error that matches decides.
var exits = []struct {
	is   error
	code int
	kind string
	hint string
}{
	{ErrInterrupted, ExitInterrupted, "interrupted", ""},
	{errTimeout, ExitTimeout, "timeout", "give more time with --timeout"},
	{ErrUnhealthy, ExitUnhealthy, "unhealthy", ""},
	{ErrChanged, ExitChanged, "changed", ""},
	{ErrNoMatch, ExitNoMatch, "no_match", ""},
	{trust.ErrKey, ExitUsage, "key", ""},
	{store.ErrTree, ExitUsage, "tree", "nothing was uploaded; leave files out with ignore: in bootwell.yaml"},
	{trust.ErrUntrusted, ExitUntrusted, "untrusted", "do not go on: somebody may have changed the bucket. Compare it with your git history, restore it, then publish again"},
	{trust.ErrRollback, ExitUntrusted, "rollback", "the bucket was set back to an older state; restore its newest state and try again"},
	{trust.ErrExpired, ExitUntrusted, "expired", "renew the signatures with: bootwell resign (and check this machine's clock)"},
	{release.ErrWrongFleet, ExitUntrusted, "wrong_fleet", "compare project: and bucket: in bootwell.yaml"},
	{release.ErrNewer, ExitFailed, "newer", "install the newest bootwell here"},
	{trust.ErrLocked, ExitLocked, "locked", "wait until the other publish has ended, then try again"},
	{trust.ErrConflict, ExitLocked, "conflict", "another publisher won the race each time; try again"},
	{trust.ErrNotInit, ExitUsage, "not_initialised", "make the project's keys and bucket metadata with: bootwell init"},
	{trust.ErrInit, ExitUsage, "initialised", "the bucket (and prefix) belongs to a project already; use another prefix, or that project's bootwell.lock and keys"},
	{trust.ErrNoRelease, ExitNoMatch, "no_release", "publish the first release with: bootwell publish"},
	{store.ErrNoSpace, ExitFailed, "disk_full", "free some space and try again"},
	{bucket.ErrNoBucket, ExitBucket, "no_bucket", "check the name in bucket:, or create it"},
	{bucket.ErrPermission, ExitBucket, "permission", "check the credentials and the rights of this identity on the bucket"},
	{bucket.ErrUnavailable, ExitBucket, "unavailable", "check the network, the endpoint= and region= of bucket:, then try again; nothing is lost"},
	{bucket.ErrUnsupported, ExitBucket, "unsupported", "publish to the bucket's own address (s3://… or file://…); https:// is for VMs that only read"},
	{bucket.ErrNotExist, ExitFailed, "not_found", "the bucket lacks an object that the project needs; publish again uploads content. For an agent: build or install the one that bootwell.lock pins, or bootwell publish --pin-agent"},
	{context.Canceled, ExitInterrupted, "interrupted", ""},
	{context.DeadlineExceeded, ExitTimeout, "timeout", "give more time with --timeout"},
}

// Classify returns err's exit code, its kind for machines, and the next step.
func Classify(err error) (code int, kind, hint string) {
	if err == nil {
		return ExitOK, "", ""
	}
	code, kind = ExitFailed, "failed"
	var u *UsageError
	if errors.As(err, &u) {
		return ExitUsage, "usage", u.Hint
	}
	var c *coded
	if errors.As(err, &c) {
		return c.code, c.kind, c.hint
	}
	for _, x := range exits {
		if errors.Is(err, x.is) {
			code, kind, hint = x.code, x.kind, x.hint
			break
		}
	}
	var h *hinted
	if errors.As(err, &h) {
		hint = h.hint
	}
	return code, kind, hint
}

// finish shows err and returns the exit code.
func (s *Session) finish(err error) int {
	code, kind, hint := Classify(err)
	if err == nil {
		return code
	}
	var u *UsageError
	var quiet *silent
	shown := errors.As(err, &quiet) || errors.As(err, &u) && u.Shown
	if !shown {
		fmt.Fprintf(s.Stderr, "error: %s\n", indent(err.Error()))
		if hint != "" {
			fmt.Fprintf(s.Stderr, "  hint: %s\n", indent(hint))
		}
		if s.Getenv("GITHUB_ACTIONS") == "true" {
			fmt.Fprintf(s.Stderr, "::error::%s\n", strings.ReplaceAll(err.Error(), "\n", "%0A"))
		}
	}
	if code != ExitChanged {
		doc := map[string]any{"type": "error", "exit_code": code, "kind": kind, "message": err.Error()}
		if hint != "" {
			doc["hint"] = hint
		}
		if jerr := s.Event(doc); jerr != nil && !errors.Is(jerr, os.ErrClosed) {
			fmt.Fprintf(s.Stderr, "error: %v\n", jerr)
		}
	}
	return code
}

func indent(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") }

// NoMatch returns an error that says nothing was found.
func NoMatch(format string, a ...any) error {
	return &noMatch{fmt.Sprintf(format, a...)}
}

type noMatch struct{ text string }

func (e *noMatch) Error() string   { return e.text }
func (e *noMatch) Is(t error) bool { return t == ErrNoMatch }

// UnknownScheme is the error of an [bucket.Opener] for a URL it cannot open.
func UnknownScheme(scheme string) error {
	return Usage(fmt.Sprintf("no bucket can be opened at %s:", scheme), "buckets are s3://bucket/prefix, az://account/container/prefix, gs://bucket/prefix, swift://container/prefix, file:///folder, and https://… for VMs that only read")
}
