package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// copyTTL is the life of the lock on a mirror that needs one.
const copyTTL = 30 * time.Second

// Present is [Client.Refresh] that also accepts metadata that have expired. It
// is for looking at a bucket that lags behind, not for applying what it says.
func (c *Client) Present(ctx context.Context) (*View, error) { return c.refresh(ctx, true, nil) }

// Holds reports whether the bucket has the root of c's project. It has another
// project's, or a forgery, if the error is ErrUntrusted.
func (c *Client) Holds(ctx context.Context) (bool, error) {
	b, _, err := get(ctx, c.Bucket, metadataPrefix+rootFile(1), bucket.GetOptions{}, maxRootBytes)
	if errors.Is(err, bucket.ErrNotExist) {
		return false, nil
	}
	if err != nil && !errors.Is(err, bucket.ErrTooLarge) {
		return false, fmt.Errorf("read %s: %w", rootFile(1), err)
	}
	return err == nil, checkAnchor(c.Anchor, b)
}

// Same reports whether v and w are one state of one project, byte for byte.
func (v *View) Same(w *View) bool { return v.set.files.equal(w.set.files) }

// PutTarget writes a target to a bucket under the name that its digest gives
// it. No metadata name it before [View.CopyTo].
func PutTarget(ctx context.Context, b bucket.Bucket, name string, blob []byte) error {
	return putTarget(ctx, b, name, blob)
}

// CopyTo writes the metadata of v to the bucket of to, in which all targets
// of v must be already. Readers of that bucket see what it had before or v,
// each whole: timestamp.json comes last. have is what the bucket holds; nil when
// that is nothing, or of no use. ErrConflict says that another wrote there
// meanwhile, ErrLocked that another is at it: look again. owner is shown to
// others where the bucket has no conditions and is locked.
func (v *View) CopyTo(ctx context.Context, to *Client, have *View, owner string) error {
	if err := v.copyVersions(ctx, to.Bucket, have); err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	p := &Publisher{Client: to, Now: to.Now, Log: to.Log}
	if !p.atomic() {
		unlock, err := p.Lock(ctx, owner, copyTTL)
		if err != nil {
			return fmt.Errorf("copy metadata: %w", err)
		}
		defer func() {
			short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if err := unlock(short); err != nil {
				p.log().Warn("lock was not given back", "err", err)
			}
		}()
	}
	v.copyBundles(ctx, to, have)
	etag, err := v.copyTimestamp(ctx, to, have, p.atomic())
	if err != nil {
		return fmt.Errorf("copy metadata: %w", err)
	}
	if err := to.keep(context.WithoutCancel(ctx), v.set, etag); err != nil {
		p.log().Warn("copied, but this machine could not keep what it knows of the copy", "err", err)
	}
	return nil
}

// copyBundles copies the bundles that readers of the other bucket will ask for,
// if v's bucket has them. They are as little to be trusted there as here.
func (v *View) copyBundles(ctx context.Context, to *Client, have *View) {
	ts := v.set.files[timestampFile]
	keys := []string{fullBundle}
	if have != nil {
		keys = append(keys, nextBundleKey(have.set.files[timestampFile], ts))
	}
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			b, _, err := get(ctx, v.client.Bucket, key, bucket.GetOptions{}, maxBundleBytes)
			if err == nil {
				_, err = to.Bucket.Put(ctx, key, bytes.NewReader(b), bucket.Condition{})
			}
			if err != nil {
				v.client.log().Debug("bundle is not copied", "object", key, "err", err)
			}
		})
	}
	wg.Wait()
}

// copyVersions writes what is named by version: the roots in their order, then
// the rest.
func (v *View) copyVersions(ctx context.Context, to bucket.Bucket, have *View) error {
	var old files
	if have != nil {
		old = have.set.files
	}
	f := v.set.files
	for n := int64(1); n <= f.roots(); n++ {
		if err := putVersion(ctx, to, metadataPrefix+rootFile(n), f[rootFile(n)], old[rootFile(n)]); err != nil {
			return err
		}
	}
	versions := v.set.versions()
	for _, file := range []string{targetsFile, releasesFile, channelsFile, snapshotFile} {
		if err := putVersion(ctx, to, versionedKey(file, versions[file]), f[file], old[file]); err != nil {
			return err
		}
	}
	return nil
}

// putVersion writes one file unless it is known to be there. One that has its
// name and another content is no publisher's work and is written over.
func putVersion(ctx context.Context, to bucket.Bucket, key string, b, known []byte) error {
	if bytes.Equal(b, known) {
		return nil
	}
	_, err := to.Put(ctx, key, bytes.NewReader(b), bucket.Condition{IfAbsent: true})
	if errors.Is(err, bucket.ErrExists) {
		got, _, gerr := get(ctx, to, key, bucket.GetOptions{}, int64(len(b)))
		if gerr == nil && bytes.Equal(got, b) {
			return nil
		}
		_, err = to.Put(ctx, key, bytes.NewReader(b), bucket.Condition{})
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// copyTimestamp makes v what the bucket holds, unless another wrote its
// timestamp.json meanwhile.
func (v *View) copyTimestamp(ctx context.Context, to *Client, have *View, atomic bool) (etag string, err error) {
	cond := bucket.Condition{}
	if have != nil && atomic && have.etag != "" {
		cond.IfMatch = have.etag
	} else if cond, err = v.whatToReplace(ctx, to, have); err != nil {
		return "", err
	}
	if !atomic {
		cond = bucket.Condition{}
	}
	obj, err := to.Bucket.Put(ctx, metadataPrefix+timestampFile, bytes.NewReader(v.set.files[timestampFile]), cond)
	if errors.Is(err, bucket.ErrPrecondition) || errors.Is(err, bucket.ErrExists) || errors.Is(err, bucket.ErrNotExist) {
		return "", fmt.Errorf("timestamp.json was written meanwhile: %w", ErrConflict)
	}
	if err != nil {
		return "", fmt.Errorf("write %s: %w", timestampFile, err)
	}
	return obj.ETag, nil
}

// whatToReplace looks at the timestamp.json that is there, and returns the
// condition that it still is.
func (v *View) whatToReplace(ctx context.Context, to *Client, have *View) (bucket.Condition, error) {
	conflict := fmt.Errorf("timestamp.json was written meanwhile: %w", ErrConflict)
	got, obj, err := get(ctx, to.Bucket, metadataPrefix+timestampFile, bucket.GetOptions{}, maxTimestampBytes)
	switch {
	case errors.Is(err, bucket.ErrNotExist) && have == nil:
		return bucket.Condition{IfAbsent: true}, nil
	case errors.Is(err, bucket.ErrNotExist):
		return bucket.Condition{}, conflict
	case err != nil && !errors.Is(err, bucket.ErrTooLarge):
		return bucket.Condition{}, err
	case have != nil && !bytes.Equal(got, have.set.files[timestampFile]):
		return bucket.Condition{}, conflict
	}
	if have == nil {
		// What was of no use a moment ago may be another publisher's by now.
		if _, err := to.Present(ctx); err == nil {
			return bucket.Condition{}, conflict
		}
	}
	return bucket.Condition{IfMatch: obj.ETag}, nil
}

// Digest returns the digest of a target's content, zero if v has none of that name.
func (v *View) Digest(name string) release.Digest { return v.targets[name].Digest }
