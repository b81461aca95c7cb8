package trust

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	lockKey      = "locks/publish"
	maxLockBytes = 4 << 10

	// unreadableTTL is how long an unreadable lock counts after it was written.
	unreadableTTL = time.Hour

	// settleTime is how long a write may take to be seen by all, on buckets
	// without conditions.
	settleTime = 2 * time.Second

	// inFlight is how much of the lock's life is kept for a write that is given
	// up and arrives all the same, on buckets without conditions.
	inFlight = 10 * time.Second

	// commitTTL is the life of the lock that Commit takes by itself.
	commitTTL = 10 * time.Minute
)

// A lease is the content of the lock object. A released lock stays as a lease
// without a token, so that it can be released on a condition.
type lease struct {
	Owner   string    `json:"owner"`
	Expires time.Time `json:"expires"`
	Token   string    `json:"token,omitempty"`
}

func (l lease) heldAt(now time.Time) bool { return l.Token != "" && now.Before(l.Expires) }

// Lock takes the publishers' lock object locks/publish (create-only, with
// owner and expiry; an expired one is taken over with IfMatch) and returns its
// release. ErrLocked names the holder. The lock only spares work: Commit is
// safe without it where the bucket has IfMatch and IfAbsent.
func (p *Publisher) Lock(ctx context.Context, owner string, ttl time.Duration) (unlock func(context.Context) error, err error) {
	now := p.now()
	old, obj, err := p.readLease(ctx)
	if err != nil && !errors.Is(err, bucket.ErrNotExist) {
		return nil, fmt.Errorf("lock publishing: %w", err)
	}
	cond := bucket.Condition{IfAbsent: true}
	if err == nil {
		if old.heldAt(now) {
			return nil, p.lockedBy(old)
		}
		cond = bucket.Condition{IfMatch: obj.ETag}
	}
	l := lease{Owner: owner, Expires: now.Add(ttl).Truncate(time.Second).UTC(), Token: rand.Text()}
	if err := p.writeLease(ctx, l, cond); err != nil {
		return nil, err
	}
	p.held = &l
	return func(ctx context.Context) error { return p.unlock(ctx, l) }, nil
}

// Locked reports whether somebody else holds the publishers' lock: ErrLocked
// names the holder, nil says that nobody does.
func (p *Publisher) Locked(ctx context.Context) error {
	l, _, err := p.readLease(ctx)
	if errors.Is(err, bucket.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at lock: %w", err)
	}
	if !l.heldAt(p.now()) || p.held != nil && l.Token == p.held.Token {
		return nil
	}
	return p.lockedBy(l)
}

func (p *Publisher) lockedBy(l lease) error {
	return fmt.Errorf("%.200q is publishing, or was cut off: its lock %s ends %s UTC: %w", l.Owner, lockKey, l.Expires.UTC().Format(time.DateTime), ErrLocked)
}

// readLease returns the lease in the bucket.
func (p *Publisher) readLease(ctx context.Context) (lease, bucket.Object, error) {
	b, obj, err := get(ctx, p.Client.Bucket, lockKey, bucket.GetOptions{}, maxLockBytes)
	if errors.Is(err, bucket.ErrTooLarge) {
		b, err = nil, nil
	}
	if err != nil {
		return lease{}, obj, err
	}
	return parseLease(b, obj.Modified), obj, nil
}

func parseLease(b []byte, written time.Time) lease {
	var l lease
	if err := json.Unmarshal(b, &l); err != nil {
		return lease{Owner: "an unknown publisher", Token: "unreadable", Expires: written.Add(unreadableTTL)}
	}
	return l
}

// writeLease puts l on a condition. Where the bucket cannot hold the condition
// against a racing writer, it waits and looks who has won.
func (p *Publisher) writeLease(ctx context.Context, l lease, cond bucket.Condition) error {
	body, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode lock: %w", err)
	}
	b := p.Client.Bucket
	atomic := b.Caps().IfAbsent && (cond.IfAbsent || b.Caps().IfMatch)
	_, err = b.Put(ctx, lockKey, bytes.NewReader(body), cond)
	if err == nil && atomic {
		return nil
	}
	lost := errors.Is(err, bucket.ErrExists) || errors.Is(err, bucket.ErrPrecondition) || errors.Is(err, bucket.ErrNotExist)
	if err != nil && !lost {
		return fmt.Errorf("lock publishing: %w", err)
	}
	if !atomic {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	// A refusal may also be the echo of our own write whose answer was lost.
	got, _, err := p.readLease(ctx)
	switch {
	case err == nil && got.Token == l.Token:
		return nil
	case err != nil && !errors.Is(err, bucket.ErrNotExist):
		return fmt.Errorf("lock publishing: %w", err)
	}
	if got.Owner == "" {
		got.Owner, got.Expires = "another publisher", l.Expires
	}
	return p.lockedBy(got)
}

// unlock gives the lock back if it is still ours.
func (p *Publisher) unlock(ctx context.Context, l lease) error {
	if p.held != nil && p.held.Token == l.Token {
		p.held = nil
	}
	got, obj, err := p.readLease(ctx)
	if errors.Is(err, bucket.ErrNotExist) || err == nil && got.Token != l.Token {
		return nil // it ran out, and another has it or had it
	}
	if err != nil {
		return fmt.Errorf("unlock publishing: %w", err)
	}
	b := p.Client.Bucket
	if !b.Caps().IfMatch {
		if !p.now().Add(inFlight).Before(got.Expires) {
			return nil // it ends by itself; another may be taking it over now
		}
		if err := b.Delete(ctx, lockKey); err != nil {
			return fmt.Errorf("unlock publishing: %w", err)
		}
		return nil
	}
	body, err := json.Marshal(lease{Owner: l.Owner, Expires: p.now().Truncate(time.Second).UTC()})
	if err != nil {
		return fmt.Errorf("encode lock: %w", err)
	}
	_, err = b.Put(ctx, lockKey, bytes.NewReader(body), bucket.Condition{IfMatch: obj.ETag})
	if err != nil && !errors.Is(err, bucket.ErrPrecondition) && !errors.Is(err, bucket.ErrNotExist) {
		return fmt.Errorf("unlock publishing: %w", err)
	}
	return nil
}

// holding reports whether the lock taken by p is still in force.
func (p *Publisher) holding(ctx context.Context) error {
	if p.held == nil {
		return fmt.Errorf("the publishers' lock is not held: %w", ErrLocked)
	}
	got, _, err := p.readLease(ctx)
	if err != nil && !errors.Is(err, bucket.ErrNotExist) {
		return fmt.Errorf("look at lock: %w", err)
	}
	if err != nil || got.Token != p.held.Token || p.left() <= 0 {
		return fmt.Errorf("the publishers' lock ran out before the end: %w", ErrLocked)
	}
	return nil
}

// left is how long a write under the lock may take.
func (p *Publisher) left() time.Duration { return p.held.Expires.Sub(p.now()) - inFlight }

// wait lets writes of others become visible.
func (p *Publisher) wait(ctx context.Context) error {
	d := p.settle
	if d == 0 {
		d = settleTime
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
