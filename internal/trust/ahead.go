package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// An ahead is what was asked for ahead of the updater, side by side, on the
// strength of a state that need not be verified: it decides only what to ask.
type ahead struct {
	of      files                  // the state
	carried chan map[string][]byte // gets what the bundle holds; nil: not asked for
	root    chan *answer           // gets the answer for the next root; nil: not asked for
}

// headStart is what the bundle is asked for before the next root is: the bundle
// gets the connection that is open, and the root, which is waited for last,
// another.
const headStart = time.Millisecond

// askAheadOf asks for what a state leads to: the bundle of the timestamp.json
// that the bucket has, and the next root unless its answer is here.
func (u *update) askAheadOf(local files, timestamp *answer) *ahead {
	a := &ahead{of: local}
	wait := time.Duration(0)
	if timestamp.err == nil && !bytes.Equal(timestamp.data, local[timestampFile]) {
		a.carried = make(chan map[string][]byte, 1)
		go func() { a.carried <- u.bundle(local[timestampFile], timestamp.data, dictionary(local)) }()
		wait = headStart
	}
	if next := rootFile(local.roots() + 1); u.early[next] == nil {
		a.root = make(chan *answer, 1)
		time.AfterFunc(wait, func() { a.root <- u.ask(next, maxRootBytes) })
	}
	return a
}

// askAhead asks for what the updater begins with.
func (u *update) askAhead() {
	if u.local.roots() == 0 {
		var wg sync.WaitGroup
		wg.Go(func() { u.carried = u.readBundle(fullBundle, nil) })
		u.askFor(timestampFile, rootFile(1), rootFile(2))
		wg.Wait()
		return
	}
	if u.polled == nil {
		u.askFor(timestampFile, u.nextRoot())
	} else {
		u.early[timestampFile] = u.polled
	}
	u.awaitBundle()
}

// awaitBundle waits for the bundle that the state at hand leads to.
func (u *update) awaitBundle() {
	a := u.sent
	if u.sent = nil; a == nil || !a.of.equal(u.local) {
		a = u.askAheadOf(u.local, u.early[timestampFile])
	}
	if a.carried != nil {
		u.carried = <-a.carried
	}
	u.root = a.root
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
// for the state of have if this is the one before, which is dict, else in the
// form for all. Without a bundle that can be read there is nothing in it.
func (u *update) bundle(have, timestamp, dict []byte) map[string][]byte {
	if have != nil && versionIn(timestamp) == versionIn(have)+1 {
		if objects := u.readBundle(nextBundleKey(have, timestamp), dict); objects != nil {
			return objects
		}
	}
	return u.readBundle(fullBundle, nil)
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
