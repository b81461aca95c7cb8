package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	writes = 16 // side by side

	// maxCarriedChannels bounds the channels that travel in a bundle.
	maxCarriedChannels = 64
)

// errTaken says that a version has an object already.
var errTaken = errors.New("version is taken")

// writeObjects writes all that a commit needs but for timestamp.json, side by
// side, and returns the state that the latter will make visible. Versions that
// are taken are left to [draft.write], which looks for free ones.
func (p *Publisher) writeObjects(ctx context.Context, base *View, d *draft, c Change) (*set, error) {
	versioned, err := d.signAll()
	if err != nil {
		return nil, err
	}
	if len(c.Blobs)+len(c.Elsewhere) == 0 {
		c.Carry = p.inherited(ctx, base)
	}
	channels := p.channels(ctx, base, c)
	s, err := verify(p.Client.Anchor, d.files, p.Client.Time())
	if err != nil {
		return nil, fmt.Errorf("what was signed does not verify: %w", err)
	}
	err = p.writeBeside(ctx, d, c, versioned, bundles(base, s, channels, c))
	if !errors.Is(err, errTaken) {
		return s, err
	}
	if err := d.write(ctx); err != nil {
		return nil, err
	}
	if s, err = verify(p.Client.Anchor, d.files, p.Client.Time()); err != nil {
		return nil, fmt.Errorf("what was signed does not verify: %w", err)
	}
	return s, p.writeBeside(ctx, d, Change{}, nil, bundles(base, s, channels, c))
}

// writeBeside writes blobs, metadata and bundles side by side. It is errTaken
// when all went well but that a version was taken.
func (p *Publisher) writeBeside(ctx context.Context, d *draft, c Change, versioned map[string][]byte, bundles []unpacked) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writes)
	if c.Beside != nil {
		g.Go(func() error { return c.Beside(gctx) })
	}
	for name, blob := range c.Blobs {
		g.Go(func() error { return putTarget(gctx, d.bucket, name, blob) })
	}
	taken := make(chan error, len(versioned))
	for key, b := range versioned {
		g.Go(func() error {
			_, err := d.bucket.Put(gctx, key, bytes.NewReader(b), bucket.Condition{IfAbsent: true})
			switch {
			case errors.Is(err, bucket.ErrExists):
				taken <- fmt.Errorf("write %s: %w", key, errTaken)
			case err != nil:
				return fmt.Errorf("write %s: %w", key, err)
			}
			return nil
		})
	}
	for _, u := range bundles { // one that would be too large is left out
		g.Go(func() error {
			b, err := packBundle(u.objects, u.dict)
			if err != nil {
				p.log().Debug("no bundle is written", "object", u.key, "err", err)
				return nil
			}
			// Readers do without a bundle that is not there.
			if _, err := d.bucket.Put(gctx, u.key, bytes.NewReader(b), bucket.Condition{}); err != nil && gctx.Err() == nil {
				p.log().Warn("bundle not written; readers will make more requests", "object", u.key, "err", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	close(taken)
	return <-taken
}

// channels returns the content of the channels of the state that c makes of
// base, by key: what c brings, and what base has, as far as it can be had.
func (p *Publisher) channels(ctx context.Context, base *View, c Change) map[string][]byte {
	out := map[string][]byte{}
	for name, b := range c.Blobs {
		if strings.HasPrefix(name, roleChannels+"/") {
			out[targetOf(name, b).Key()] = b
		}
	}
	old := base.Targets(roleChannels + "/")
	if len(old)+len(out) > maxCarriedChannels {
		return out
	}
	got := make([][]byte, len(old))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writes)
	for i, t := range old {
		if _, ok := c.Blobs[t.Name]; ok || slices.Contains(c.Remove, t.Name) {
			continue
		}
		g.Go(func() error {
			b, err := base.Fetch(gctx, t.Name)
			if err != nil {
				p.log().Debug("channel does not travel in the bundle", "target", t.Name, "err", err)
			}
			got[i] = b
			return nil
		})
	}
	g.Wait()
	for i, t := range old {
		if got[i] != nil {
			out[t.Key()] = got[i]
		}
	}
	return out
}

// An unpacked is what goes into a bundle, see [packBundle].
type unpacked struct {
	key     string
	objects map[string][]byte
	dict    []byte
}

// bundles returns what goes into both bundles of s.
func bundles(base *View, s *set, channels map[string][]byte, c Change) []unpacked {
	next, full := maps.Clone(channels), maps.Clone(channels)
	old, versions := base.set.files, s.versions()
	for _, file := range []string{targetsFile, releasesFile, channelsFile, snapshotFile} {
		key := versionedKey(file, versions[file])
		full[key] = s.files[file]
		if !bytes.Equal(old[file], s.files[file]) {
			next[key] = s.files[file]
		}
	}
	maps.Copy(next, c.Carry.Next)
	maps.Copy(full, c.Carry.Full)
	return []unpacked{
		{fullBundle, full, nil},
		{nextBundleKey(old[timestampFile], s.files[timestampFile]), next, dictionary(old)},
	}
}

// inherited returns what the bundle of base carries for new readers beside
// metadata, for a state that brings nothing of its own.
func (p *Publisher) inherited(ctx context.Context, base *View) Carry {
	packed, _, err := get(ctx, p.Client.Bucket, fullBundle, bucket.GetOptions{}, maxBundleBytes)
	if err != nil {
		return Carry{}
	}
	objects, err := unpackBundle(packed, nil)
	if err != nil {
		return Carry{}
	}
	snapshot := versionedKey(snapshotFile, base.set.versions()[snapshotFile])
	if !bytes.Equal(objects[snapshot], base.set.files[snapshotFile]) {
		return Carry{} // of another state
	}
	base.carry(objects)
	maps.DeleteFunc(objects, func(key string, _ []byte) bool {
		return !bundledManifest().MatchString(key) && !bundledPack().MatchString(key)
	})
	return Carry{Full: objects}
}
