package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"sync"

	"github.com/bootwell/bootwell/internal/bucket"
)

// askAhead asks for what the updater begins with, side by side. A machine that
// holds nothing needs the first root before anything else counts.
func (u *update) askAhead() {
	if u.local.roots() == 0 {
		u.askFor(timestampFile, rootFile(1))
		return
	}
	if u.polled == nil {
		u.askFor(timestampFile, u.nextRoot())
	} else {
		u.early[timestampFile] = u.polled
	}
	u.askAheadOfState()
}

// askAheadOfState asks for what else the state at hand leads to: the next root,
// and the bundle of the timestamp.json that the bucket has.
func (u *update) askAheadOfState() {
	var wg sync.WaitGroup
	if a := u.early[timestampFile]; a.err == nil && !bytes.Equal(a.data, u.local[timestampFile]) {
		wg.Go(func() { u.carried = u.bundle(a.data) })
	}
	if next := u.nextRoot(); u.early[next] == nil {
		u.root = make(chan *answer, 1)
		go func() { u.root <- u.ask(next, maxRootBytes) }()
	}
	wg.Wait()
}

// awaited reports whether the answer for the next root, called name, is still
// on its way.
func (u *update) awaited(name string) bool { return u.root != nil && name == u.nextRoot() }

// settle waits for the answer for the next root, and reports whether it is
// another than that there is none, which is what the updater was told.
func (u *update) settle() bool {
	if u.root == nil {
		return false
	}
	a := <-u.root
	u.root, u.early[u.nextRoot()] = nil, a
	return !errors.Is(a.err, bucket.ErrNotExist) && !errors.Is(a.err, bucket.ErrPermission)
}

func (u *update) nextRoot() string { return rootFile(u.local.roots() + 1) }

// askFor keeps the answers for files side by side.
func (u *update) askFor(names ...string) {
	answers := make([]*answer, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		limit := int64(maxRootBytes)
		if name == timestampFile {
			limit = maxTimestampBytes
		}
		wg.Go(func() { answers[i] = u.ask(name, limit) })
	}
	wg.Wait()
	for i, name := range names {
		u.early[name] = answers[i]
	}
}

// bundle returns what the bundle of the state of timestamp holds, in the form
// for the state at hand if this is the one before, else in the form for all.
// Without a bundle that can be read there is nothing in it.
func (u *update) bundle(timestamp []byte) map[string][]byte {
	have := u.local[timestampFile]
	if have != nil && versionIn(timestamp) == versionIn(have)+1 {
		if objects := u.readBundle(nextBundleKey(have, timestamp), dictionary(u.local)); objects != nil {
			return objects
		}
	}
	return u.readBundle(bundleKey(timestamp), nil)
}

// readBundle returns what is in a bundle, or nil.
func (u *update) readBundle(key string, dict []byte) map[string][]byte {
	packed, _, err := get(u.ctx, u.client.Bucket, key, bucket.GetOptions{}, maxBundleBytes)
	if err == nil {
		var objects map[string][]byte
		if objects, err = unpackBundle(packed, dict); err == nil {
			return objects
		}
	}
	u.client.log().Debug("no bundle; the objects are read one by one", "object", key, "err", err)
	return nil
}

// versionIn returns the version that a timestamp.json claims, 0 if none. It is
// good for a guess only.
func versionIn(timestamp []byte) int64 {
	var m struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if json.Unmarshal(timestamp, &m) != nil {
		return 0
	}
	return m.Signed.Version
}
