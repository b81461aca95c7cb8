package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Keys are the signing keys of a solo project: Ops signs root, targets,
// releases and channels, Online signs snapshot and timestamp. A key that is
// not at hand has no Private; what only it can sign is then left as it is.
type Keys struct {
	Ops, Online Key
}

// Lifetimes of signed metadata.
const (
	DefaultLifetime = 90 * 24 * time.Hour  // timestamp, snapshot, releases, channels
	RootLifetime    = 365 * 24 * time.Hour // root and targets
)

// A Publisher signs changes to a project's targets. It is not safe for
// concurrent use.
type Publisher struct {
	Client *Client // verifies what is there before anything is signed on top of it
	Keys   Keys
	Life   time.Duration // 0: as long as what is signed anew lived before
	Now    func() time.Time
	Log    *slog.Logger

	held   *lease        // the lock, while it is held
	settle time.Duration // 0: settleTime
}

// A Change is what one commit does to the targets. Blobs are the content of
// the targets by name (releases/…json, channels/…json); Remove names targets
// that no longer count. Carry travels with the metadata.
type Change struct {
	Blobs  map[string][]byte
	Remove []string

	// Elsewhere are targets whose content the bucket holds in another form, under
	// names of the caller's, who writes it. They are signed like Blobs; Fetch does
	// not find them.
	Elsewhere []Target

	Carry Carry

	// Beside, if not nil, is called while the objects of the commit are written.
	// Nothing becomes visible before it has returned; its error ends the commit.
	Beside func(context.Context) error
}

// A Carry holds copies of objects of the bucket, by key, that readers of a new
// state ask for next: below tuf/targets/, manifests/ and packs/. They go into
// its bundles, for as far as these have room.
type Carry struct {
	Next map[string][]byte // for readers who hold the state before
	Full map[string][]byte // for all others
}

// View returns the verified present state to build a Change on. While somebody
// collects garbage it waits for the end of that, two minutes at most.
func (p *Publisher) View(ctx context.Context) (*View, error) {
	return p.settled(ctx, func() (*View, error) { return p.Client.Refresh(ctx) })
}

// Commit makes c visible at once and whole, on top of base: it writes the
// target blobs, the delegated metadata, the snapshot (each create-only) and
// then timestamp.json with IfMatch, which is the commit. ErrConflict when
// base is no longer the present state; nothing is visible then, and the
// caller builds its change again on a fresh View. A change of nothing writes
// nothing and returns base. Where the bucket lacks IfMatch or IfAbsent, Commit
// works under the lock, which it takes if the caller has not: ErrLocked.
func (p *Publisher) Commit(ctx context.Context, base *View, c Change) (*View, error) {
	d, err := p.draft(base)
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	changed, err := d.apply(c)
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	if !changed {
		return base, nil
	}
	p.renewStale(d, base)
	v, err := p.publish(ctx, base, d, c)
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return v, nil
}

// Resign renews the expiry of the metadata these keys sign, without a change.
// It is the one operation that works on expired metadata. Root and targets are
// renewed only in the second half of their life, since each VM must follow
// every root there ever was.
func (p *Publisher) Resign(ctx context.Context) (*View, error) {
	base, err := p.settled(ctx, func() (*View, error) { return p.Client.refresh(ctx, true, nil) })
	if err != nil {
		return nil, fmt.Errorf("resign: %w", err)
	}
	d, err := p.draft(base)
	if err != nil {
		return nil, fmt.Errorf("resign: %w", err)
	}
	p.renewStale(d, base)
	for _, file := range []string{releasesFile, channelsFile} {
		if _, err := d.signers(file); err == nil {
			d.touch(file)
		}
	}
	if err := d.ready(); err != nil {
		return nil, fmt.Errorf("resign: %w", err)
	}
	if err := p.renewRoot(ctx, base, d); err != nil {
		return nil, fmt.Errorf("resign: %w", err)
	}
	v, err := p.publish(ctx, base, d, Change{})
	if err != nil {
		return nil, fmt.Errorf("resign: %w", err)
	}
	return v, nil
}

// renewStale has the roles signed anew that are in the second half of their
// life, as far as the keys at hand go.
func (p *Publisher) renewStale(d *draft, base *View) {
	for i, file := range []string{targetsFile, releasesFile, channelsFile} {
		if _, err := d.signers(file); err == nil && base.set.lives()[1+i].half(d.now) {
			d.touch(file)
		}
	}
}

// renewRoot writes the next root, with the same keys, if it is time. A root
// counts as soon as it is there.
func (p *Publisher) renewRoot(ctx context.Context, base *View, d *draft) error {
	if _, err := d.signers(rootBase); err != nil || !base.set.lives()[0].half(d.now) {
		return nil
	}
	version := d.root.Signed.Version + 1
	b, err := sign(d, rootBase, d.root, version)
	if err != nil {
		return err
	}
	_, err = d.bucket.Put(ctx, metadataPrefix+rootFile(version), bytes.NewReader(b), bucket.Condition{IfAbsent: true})
	if errors.Is(err, bucket.ErrExists) {
		return fmt.Errorf("root version %d is there already: %w", version, ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("write root: %w", err)
	}
	d.files[rootFile(version)] = b
	return nil
}

// draft copies the metadata of base.
func (p *Publisher) draft(base *View) (*draft, error) {
	f := base.set.files
	d := &draft{bucket: p.Client.Bucket, keys: p.Keys, now: p.now(), life: p.Life, files: maps.Clone(f)}
	if d.life == 0 {
		d.life = base.set.lives()[5].whole
	}
	var errs [6]error
	d.root, errs[0] = metadata.Root().FromBytes(f[rootFile(f.roots())])
	d.timestamp, errs[1] = metadata.Timestamp().FromBytes(f[timestampFile])
	d.snapshot, errs[2] = metadata.Snapshot().FromBytes(f[snapshotFile])
	d.roles = map[string]*metadata.Metadata[metadata.TargetsType]{}
	for i, file := range []string{targetsFile, releasesFile, channelsFile} {
		d.roles[file], errs[3+i] = metadata.Targets().FromBytes(f[file])
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.comesAfter(base)
	return d, nil
}

// publish writes the objects of c and the draft, and commits.
func (p *Publisher) publish(ctx context.Context, base *View, d *draft, c Change) (*View, error) {
	if err := d.ready(); err != nil {
		return nil, err
	}
	if !p.atomic() && p.held == nil {
		unlock, err := p.Lock(ctx, "a publisher", commitTTL)
		if err != nil {
			return nil, err
		}
		defer func() {
			if err := unlock(context.WithoutCancel(ctx)); err != nil {
				p.log().Warn("lock was not given back", "err", err)
			}
		}()
	}
	s, err := p.writeObjects(ctx, base, d, c)
	if err != nil {
		return nil, err
	}
	etag, err := p.writeTimestamp(ctx, base, d.files[timestampFile])
	if err != nil {
		return nil, err
	}
	if err := p.Client.keep(context.WithoutCancel(ctx), s, etag); err != nil {
		p.log().Warn("published, but this machine could not keep what it verified", "err", err)
	}
	return p.Client.view(s, etag), nil
}

// putTarget writes one blob under its digest. What is there already is
// compared, since a half-trusted hand may have put something else.
func putTarget(ctx context.Context, b bucket.Bucket, name string, blob []byte) error {
	t := targetOf(name, blob)
	_, err := b.Put(ctx, t.Key(), bytes.NewReader(blob), bucket.Condition{IfAbsent: true})
	if errors.Is(err, bucket.ErrExists) {
		got, _, gerr := get(ctx, b, t.Key(), bucket.GetOptions{}, t.Size)
		if gerr == nil && bytes.Equal(got, blob) {
			return nil
		}
		_, err = b.Put(ctx, t.Key(), bytes.NewReader(blob), bucket.Condition{})
	}
	if err != nil {
		return fmt.Errorf("write target %s: %w", name, err)
	}
	return nil
}

// atomic reports whether the bucket itself keeps publishers apart.
func (p *Publisher) atomic() bool {
	c := p.Client.Bucket.Caps()
	return c.IfMatch && c.IfAbsent
}

// writeTimestamp is the commit. It returns the new ETag.
func (p *Publisher) writeTimestamp(ctx context.Context, base *View, ts []byte) (string, error) {
	b := p.Client.Bucket
	cond := bucket.Condition{IfMatch: base.etag}
	if !p.atomic() || base.etag == "" {
		if err := p.unchanged(ctx, base); err != nil {
			return "", err
		}
		cond = bucket.Condition{}
	}
	obj, err := p.putTimestamp(ctx, ts, cond)
	if err == nil && cond.IfMatch != "" {
		return obj.ETag, nil
	}
	if err == nil {
		p.wait(ctx) // cut short, the look below is still worth it
	}
	// An error may hide that the write was done and only its answer lost, and
	// without a condition another may have written over it.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	got, obj, gerr := get(look, b, metadataPrefix+timestampFile, bucket.GetOptions{}, maxTimestampBytes)
	switch {
	case gerr == nil && bytes.Equal(got, ts):
		return obj.ETag, nil
	case errors.Is(err, bucket.ErrPrecondition), errors.Is(err, bucket.ErrNotExist):
		return "", fmt.Errorf("timestamp.json was written meanwhile: %w", ErrConflict)
	case err != nil:
		return "", fmt.Errorf("write timestamp.json: %w", err)
	case gerr != nil:
		return "", fmt.Errorf("read timestamp.json back: %w", gerr)
	}
	return "", fmt.Errorf("timestamp.json was written over: %w", ErrConflict)
}

// putTimestamp writes on a condition. Where that does not hold under races, it
// tries no longer than the lock lasts: after that it could undo another's commit.
func (p *Publisher) putTimestamp(ctx context.Context, ts []byte, cond bucket.Condition) (bucket.Object, error) {
	put := ctx
	if !p.atomic() {
		var cancel context.CancelFunc
		put, cancel = context.WithTimeout(ctx, p.left())
		defer cancel()
	}
	obj, err := p.Client.Bucket.Put(put, metadataPrefix+timestampFile, bytes.NewReader(ts), cond)
	if put.Err() != nil && ctx.Err() == nil && err != nil {
		err = fmt.Errorf("no answer while the publishers' lock lasted: %w: %w", bucket.ErrUnavailable, err)
	}
	return obj, err
}

// unchanged reports ErrConflict unless the bucket still has base, and ErrLocked
// unless the lock still keeps it so.
func (p *Publisher) unchanged(ctx context.Context, base *View) error {
	if err := p.holding(ctx); err != nil && !p.atomic() {
		return err
	}
	got, _, err := get(ctx, p.Client.Bucket, metadataPrefix+timestampFile, bucket.GetOptions{}, maxTimestampBytes)
	if err != nil {
		return fmt.Errorf("read timestamp.json again: %w", err)
	}
	if !bytes.Equal(got, base.set.files[timestampFile]) {
		return fmt.Errorf("timestamp.json was written meanwhile: %w", ErrConflict)
	}
	return nil
}

func (p *Publisher) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

func (p *Publisher) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

func publicBytes(k crypto.PublicKey) ed25519.PublicKey {
	pub, _ := k.(ed25519.PublicKey)
	return pub
}
