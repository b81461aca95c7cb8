// Package trust decides which bytes of a bucket are a project's own. It signs
// and verifies TUF metadata (The Update Framework specification 1.0) through
// go-tuf, and keeps what it verified durably.
//
//   - The anchor is the SHA-256 of 1.root.json; a VM has it from its user-data.
//   - A target is a named, signed blob: releases/<name>.json or channels/<name>.json.
//   - The floor is the lowest state this machine will ever accept again.
package trust

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// What refuses bytes of the bucket.
var (
	ErrUntrusted = errors.New("signature or digest does not match")    // forged, altered, mixed, wrong root
	ErrRollback  = errors.New("older than what this machine has seen") // replay of older metadata
	ErrExpired   = errors.New("signed metadata has expired")           // freeze, or the project forgot to re-sign
	ErrNoRelease = errors.New("nothing has been published yet")
	ErrConflict  = errors.New("another publisher committed first")
	ErrLocked    = errors.New("another publisher holds the lock")
	ErrKey       = errors.New("key cannot be used")               // missing, wrong passphrase, not the project's
	ErrNotInit   = errors.New("bucket holds no bootwell project") // no root metadata
	ErrInit      = errors.New("bucket holds a project already")
)

// A Target is what the signed metadata say of one named blob.
type Target struct {
	Name   string // such as releases/r43.json
	Size   int64
	Digest release.Digest
}

// A Client verifies a project's metadata on a VM or for an operator. Its
// durable state lives in Dir. It is not safe for concurrent use: the caller
// holds the agent's lock.
type Client struct {
	Bucket bucket.Bucket
	Dir    string         // durable: two generations of verified metadata, floor.json
	Anchor release.Digest // of 1.root.json
	Now    func() time.Time
	Log    *slog.Logger
}

// A View is one verified, consistent state of the metadata.
type View struct {
	Timestamp int64     // version of timestamp.json
	Expires   time.Time // the earliest expiry in the chain
	Warn      []string  // such as "metadata expires in 9 days: run bootwell resign"
	// unexported: targets of releases and channels
	targets map[string]Target
	client  *Client
}

// Poll asks with one conditional GET whether timestamp.json differs from the
// one last verified. It returns true also when a Refresh is due for another
// reason: nothing verified yet, metadata near expiry, or an hour since the
// last look for a new root. Nothing may be applied on its word.
func (c *Client) Poll(ctx context.Context) (changed bool, err error) {
	return false, errors.ErrUnsupported
}

// Refresh brings the metadata up to date and returns the verified view. When
// the bucket is away (bucket.ErrUnavailable) or lies (ErrUntrusted,
// ErrRollback, ErrExpired), the error says so and [Client.Last] still has the
// view from before.
func (c *Client) Refresh(ctx context.Context) (*View, error) { return nil, errors.ErrUnsupported }

// Last returns the view that was verified last, without network and even if
// it has expired; ErrNoRelease if there is none. Torn or lost local state
// heals itself.
func (c *Client) Last() (*View, error) { return nil, errors.ErrUnsupported }

// Target returns what is signed for name.
func (v *View) Target(name string) (Target, bool) { t, ok := v.targets[name]; return t, ok }

// Targets returns the signed targets in the order of their names, limited to
// those that start with prefix.
func (v *View) Targets(prefix string) []Target { return nil }

// Fetch downloads the target called name and verifies its length and digest.
// Errors: bucket.ErrNotExist for an unknown name, ErrUntrusted.
func (v *View) Fetch(ctx context.Context, name string) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Time returns the reference time: the largest of the clock, the highest time
// ever recorded here and the build's own time, so that a clock set back
// cannot revive expired metadata.
func (c *Client) Time() time.Time { return time.Time{} }

// RaiseFloor records durably that releases below number are never accepted
// again, unless a signed channel's floor allows it.
func (c *Client) RaiseFloor(number int) error { return errors.ErrUnsupported }

// Floor returns the highest release number accepted so far.
func (c *Client) Floor() (int, error) { return 0, errors.ErrUnsupported }
