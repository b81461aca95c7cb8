package trust

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// Init writes the metadata of a new, empty project to b and returns the
// anchor. It is create-only: ErrInit when there is a project already. One that
// was interrupted goes on where it was when called again with the same keys.
// A life of 0 is DefaultLifetime.
func Init(ctx context.Context, b bucket.Bucket, k Keys, now time.Time, life time.Duration) (release.Digest, error) {
	if life == 0 {
		life = DefaultLifetime
	}
	d := &draft{bucket: b, keys: k, now: now, life: life, files: files{},
		timestamp: metadata.Timestamp(now), snapshot: metadata.Snapshot(now)}
	d.timestamp.Signed.Version, d.snapshot.Signed.Version = 0, 0
	if err := d.newRoles(); err != nil {
		return release.Digest{}, fmt.Errorf("init: %w", err)
	}
	root, err := d.claim(ctx)
	if err != nil {
		return release.Digest{}, fmt.Errorf("init: %w", err)
	}
	if err := d.write(ctx); err != nil {
		return release.Digest{}, fmt.Errorf("init: %w", err)
	}
	d.files[rootFile(1)] = root
	anchor := release.DigestOf(root)
	if _, err := verify(anchor, d.files, now); err != nil {
		return release.Digest{}, fmt.Errorf("init: what was signed does not verify: %w", err)
	}
	ts := d.files[timestampFile]
	_, err = b.Put(ctx, metadataPrefix+timestampFile, bytes.NewReader(ts), bucket.Condition{IfAbsent: true})
	if errors.Is(err, bucket.ErrExists) {
		if got, _, gerr := get(ctx, b, metadataPrefix+timestampFile, bucket.GetOptions{}, maxTimestampBytes); gerr != nil || !bytes.Equal(got, ts) {
			return release.Digest{}, fmt.Errorf("init: another one was faster: %w", ErrInit)
		}
		err = nil // our own, whose answer was lost
	}
	if err != nil {
		return release.Digest{}, fmt.Errorf("init: write timestamp.json: %w", err)
	}
	return anchor, nil
}

// newRoles makes the root and the empty roles of a project with these keys.
func (d *draft) newRoles() error {
	if d.keys.Ops.Private == nil || d.keys.Online.Private == nil {
		return fmt.Errorf("it takes both keys, ops and online: %w", ErrKey)
	}
	ops, opsID, err := tufKey(d.keys.Ops)
	if err != nil {
		return err
	}
	online, _, err := tufKey(d.keys.Online)
	if err != nil {
		return err
	}
	d.root = metadata.Root(d.now)
	d.root.Signed.UnrecognizedFields = map[string]any{idField: rand.Text()}
	for role, k := range map[string]*metadata.Key{metadata.ROOT: ops, metadata.TARGETS: ops, metadata.SNAPSHOT: online, metadata.TIMESTAMP: online} {
		if err := d.root.Signed.AddKey(k, role); err != nil {
			return fmt.Errorf("add key to %s: %w", role, err)
		}
	}
	targets := metadata.Targets(d.now)
	targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{opsID: ops}}
	d.roles = map[string]*metadata.Metadata[metadata.TargetsType]{targetsFile: targets}
	for _, role := range []string{roleReleases, roleChannels} {
		targets.Signed.Delegations.Roles = append(targets.Signed.Delegations.Roles, metadata.DelegatedRole{
			Name: role, KeyIDs: []string{opsID}, Threshold: 1, Terminating: true, Paths: []string{role + "/*"},
		})
		d.roles[role+".json"] = metadata.Targets(d.now)
	}
	for file, m := range d.roles {
		m.Signed.Version = 0
		d.touch(file)
	}
	return nil
}

// claim writes 1.root.json, which makes the bucket this project's, or takes
// up the one that an interrupted Init with the same keys has left.
func (d *draft) claim(ctx context.Context) ([]byte, error) {
	root, err := sign(d, rootBase, d.root, 1)
	if err != nil {
		return nil, err
	}
	_, err = d.bucket.Put(ctx, metadataPrefix+rootFile(1), bytes.NewReader(root), bucket.Condition{IfAbsent: true})
	if err == nil {
		return root, nil
	}
	if !errors.Is(err, bucket.ErrExists) {
		return nil, fmt.Errorf("write root: %w", err)
	}
	_, _, err = get(ctx, d.bucket, metadataPrefix+timestampFile, bucket.GetOptions{}, maxTimestampBytes)
	if !errors.Is(err, bucket.ErrNotExist) {
		if err != nil && !errors.Is(err, bucket.ErrTooLarge) {
			return nil, fmt.Errorf("look for timestamp.json: %w", err)
		}
		return nil, ErrInit
	}
	old, _, err := get(ctx, d.bucket, metadataPrefix+rootFile(1), bucket.GetOptions{}, maxRootBytes)
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	m, err := metadata.Root().FromBytes(old)
	if err != nil {
		return nil, fmt.Errorf("%s1.root.json is no root metadata: %w", metadataPrefix, ErrInit)
	}
	d.root = m
	if err := d.ready(); err != nil {
		return nil, fmt.Errorf("an init with other keys was interrupted here; use its keys, or remove %s: %w: %w", metadataPrefix, ErrInit, err)
	}
	return old, nil
}
