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
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

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

// When a [Client.Poll] asks for a Refresh although timestamp.json is as it was.
const (
	// rootInterval is the longest time between two looks for a new root. Each
	// Refresh of a changed timestamp.json looks too, and whoever can hold back
	// the one can hold back the other.
	rootInterval = 24 * time.Hour
	nearExpiry   = 24 * time.Hour // before the first metadata expires
)

// A Client verifies a project's metadata on a VM or for an operator. Its
// durable state lives in Dir. One Client is not safe for concurrent use;
// Clients of several processes on one Dir are, they take turns.
type Client struct {
	Bucket bucket.Bucket
	Dir    string         // durable: two generations of verified metadata, cur, floor.json
	Anchor release.Digest // of 1.root.json
	Now    func() time.Time
	Log    *slog.Logger

	polled *answer // timestamp.json as the last Poll found it, for the next Refresh
	known  *set    // verified last in this process
	cur    *glance // as the last Poll read it; nil: not since the last Refresh
}

// Poll asks with one conditional GET whether timestamp.json differs from the
// one last verified. It returns true also when a Refresh is due for another
// reason: nothing verified yet, metadata near expiry, or a day since the last
// look for a new root, less up to a quarter that is drawn anew each time.
// Nothing may be applied on its word. What it found the next Refresh need not
// ask for again.
func (c *Client) Poll(ctx context.Context) (changed bool, err error) {
	c.polled = nil
	cur, recorded, ok := c.durable().glance()
	c.cur = &cur
	now := c.now()
	if !ok || cur.ETag == "" || now.Before(cur.Checked) || now.Sub(cur.Checked) >= min(rootInterval, cur.LookAfter) ||
		c.reference(recorded).Add(nearExpiry).After(cur.Expires) {
		return true, nil
	}
	b, obj, err := get(ctx, c.Bucket, metadataPrefix+timestampFile, bucket.GetOptions{IfNoneMatch: cur.ETag}, maxTimestampBytes)
	switch {
	case errors.Is(err, bucket.ErrNotModified):
		return false, nil
	case errors.Is(err, bucket.ErrTooLarge):
		return true, nil // Refresh says so
	case err != nil:
		return false, fmt.Errorf("poll: %w", err)
	case obj.ETag == cur.ETag:
		return false, nil
	}
	c.polled = &answer{data: b, etag: obj.ETag}
	return true, nil
}

// Refresh brings the metadata up to date and returns the verified view. When
// the bucket is away (bucket.ErrUnavailable) or lies (ErrUntrusted,
// ErrRollback, ErrExpired), the error says so and [Client.Last] still has the
// view from before. A bucket without a project is ErrNotInit; signed metadata
// that the bucket has lost is bucket.ErrNotExist.
func (c *Client) Refresh(ctx context.Context) (*View, error) { return c.refresh(ctx, false, nil) }

// RefreshWhile is Refresh that calls meanwhile, unless that is nil, when all is
// verified but for the answer whether there is another root, which is on its
// way. Nothing may take effect that meanwhile does with its view: it may fetch
// what the view names, and should take no longer than needed. If the view
// holds, RefreshWhile returns the same one.
func (c *Client) RefreshWhile(ctx context.Context, meanwhile func(*View)) (*View, error) {
	return c.refresh(ctx, false, meanwhile)
}

// refresh is Refresh; with lax it accepts expired metadata, so that they can
// be signed again, and learns nothing about the time from them.
func (c *Client) refresh(ctx context.Context, lax bool, meanwhile func(*View)) (*View, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c.cur = nil
	d := c.durable()
	u := &update{ctx: ctx, client: c, local: files{}, meanwhile: meanwhile, early: map[string]*answer{}}
	if u.polled, c.polled = c.polled, nil; u.polled != nil {
		if f := d.named(); f.roots() > 0 {
			u.sent = u.askAheadOf(f, u.polled)
		}
	}
	st := d.load()
	ref := c.reference(latest(st.floors))
	if lax {
		ref = time.Time{}
	}
	u.ref, u.floors = ref, st.floors
	if st.set != nil {
		u.local, u.etag = st.set.files, st.etag
	}
	s, err := u.run()
	if err != nil {
		return nil, fmt.Errorf("refresh: %w", err)
	}
	if err := checkFloors(st.floors, s); err != nil {
		return nil, fmt.Errorf("refresh: %w", err)
	}
	kept := make(chan error, 1)
	go func() { kept <- d.commit(st, s, u.etag, ref, c.now()) }()
	// Where no answer was awaited in the end, the disk is.
	v := u.view(s)
	if meanwhile != nil && u.shown != v && (st.set == nil || s.newer(st.set)) {
		meanwhile(v)
	}
	if err := <-kept; err != nil {
		return nil, fmt.Errorf("refresh: keep what was verified: %w", err)
	}
	c.known = s
	return v, nil
}

// Last returns the view that was verified last, without network and even if
// it has expired; ErrNoRelease if there is none. Its signatures are verified
// again, from the anchor on. Torn or lost local state heals itself.
func (c *Client) Last() (*View, error) {
	st := c.durable().load()
	c.known = st.set
	if st.set == nil {
		return nil, fmt.Errorf("this machine has verified no metadata yet: %w", ErrNoRelease)
	}
	return c.view(st.set, st.etag), nil
}

// Verified returns the version of the timestamp.json that was verified last, 0
// if none is known. Unlike [Client.Last] it does not look at the metadata.
func (c *Client) Verified() int64 {
	if c.cur != nil {
		return c.cur.Version
	}
	cur, _ := c.durable().current()
	return cur.Version
}

// Time returns the reference time: the largest of the clock, the highest time
// ever recorded here and the build's own time, so that a clock set back
// cannot revive expired metadata.
func (c *Client) Time() time.Time { return c.reference(latest(c.durable().floors())) }

// RaiseFloor records durably that releases below number are never accepted
// again, unless a signed channel's floor allows it.
func (c *Client) RaiseFloor(number int) error {
	unlock, err := c.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	d := c.durable()
	if d.raised(number) {
		return nil
	}
	if err := d.raise(number); err != nil {
		return fmt.Errorf("raise floor to %s: %w", release.Name(number), err)
	}
	return nil
}

// Floor returns the highest release number accepted so far, 0 if none.
func (c *Client) Floor() (int, error) {
	n := 0
	for _, f := range c.durable().floors() {
		n = max(n, f.Release)
	}
	return n, nil
}

// keep stores a set that a publisher has just made visible.
func (c *Client) keep(ctx context.Context, s *set, etag string) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d := c.durable()
	st := d.load()
	if err := checkFloors(st.floors, s); err != nil {
		return err
	}
	c.known = s
	return d.commit(st, s, etag, c.reference(latest(st.floors)), c.now())
}

func (c *Client) durable() *durable {
	return &durable{disk: osDisk{c.Dir}, anchor: c.Anchor, known: c.known}
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now().UTC()
	}
	return c.Now().UTC()
}

func (c *Client) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// reference is the reference time where recorded is the highest time on record.
func (c *Client) reference(recorded time.Time) time.Time {
	t := c.now()
	for _, other := range []time.Time{buildTime(), recorded} {
		if other.After(t) {
			t = other
		}
	}
	return t
}

// lock makes processes that share Dir take turns.
func (c *Client) lock(ctx context.Context) (unlock func(), err error) {
	if c.Dir == "" {
		return nil, errors.New("no folder is given for verified metadata")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for verified metadata: %w", err)
	}
	l := flock.New(filepath.Join(c.Dir, "lock"))
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock verified metadata: %w", err)
	}
	return func() { l.Close() }, nil
}
