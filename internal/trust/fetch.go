package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	metadataPrefix = "tuf/metadata/"
	targetsPrefix  = "tuf/targets/"

	// baseURL is what go-tuf puts before names; it never leaves this process.
	baseURL = "bucket:///"

	// fetchTimeout bounds one request with all its retries, so that a server
	// that drips bytes cannot hold the agent.
	fetchTimeout = time.Minute
)

// get reads one object of at most max bytes within fetchTimeout. Running out
// of that time is bucket.ErrUnavailable; the end of ctx is ctx's own error.
func get(ctx context.Context, b bucket.Bucket, key string, o bucket.GetOptions, max int64) ([]byte, bucket.Object, error) {
	short, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	data, obj, err := bucket.ReadAll(short, b, key, o, max)
	return data, obj, late(ctx, short, key, err)
}

// late makes an err that comes from the end of short, but not of ctx, say so.
func late(ctx, short context.Context, key string, err error) error {
	if err == nil || ctx.Err() != nil || short.Err() == nil || errors.Is(err, bucket.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("read %s: no end within %v: %w: %w", key, fetchTimeout, bucket.ErrUnavailable, err)
}

// A fetchError carries a failure of the bucket through go-tuf unharmed.
type fetchError struct{ err error }

func (e *fetchError) Error() string { return e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// An answer is what the bucket said to one request.
type answer struct {
	data []byte
	etag string
	err  error
}

// An update is one run of the TUF client workflow (specification 5) by
// go-tuf's updater. It works in a scratch folder, because the updater writes
// its cache without fsync and cannot live with a torn one.
//
// The updater asks for one object after the other. What it will ask for is
// known or guessed before: it is had ahead, side by side, and as a bundle.
type update struct {
	ctx    context.Context // go-tuf's Fetcher knows no context
	client *Client
	ref    time.Time
	floors []floor
	local  files   // verified before
	etag   string  // of local's timestamp.json; afterwards of the one that was verified
	polled *answer // timestamp.json as it was found a moment ago; nil: not asked for

	sent    *ahead             // asked for before local was verified; nil: nothing was
	early   map[string]*answer // what was asked for ahead, by name
	root    chan *answer       // for the next root, asked for ahead; nil: no such answer is awaited
	carried map[string][]byte  // objects of a bundle, by key

	meanwhile func(*View) // of [Client.Refresh]; may be nil
	shown     *View       // what it was called with

	fetched   files  // in this pass, by name without version, but for roots
	timestamp []byte // as fetched in this run
	last      string // name of the file that was asked for last
	lastBytes []byte
}

// run returns the new state. What was had ahead is not worth a refusal: then
// each object is asked for once more, by itself and in the updater's order.
func (u *update) run() (*set, error) {
	local, etag := u.local, u.etag
	s, err := u.workflow(true)
	if err == nil || !u.worthAnother(err) {
		return s, err
	}
	if len(u.carried) > 0 {
		u.client.log().Warn("metadata were refused; reading them without the bundle", "err", err)
	}
	u.local, u.etag, u.polled, u.carried = local, etag, nil, nil
	return u.workflow(false)
}

// worthAnother reports whether err can come of a bundle, or of a root that was
// written between two answers.
func (u *update) worthAnother(err error) bool {
	if errors.Is(err, bucket.ErrTooLarge) {
		return false
	}
	refused := errors.Is(err, ErrUntrusted) || errors.Is(err, ErrRollback) || errors.Is(err, ErrExpired)
	return refused && len(u.carried) > 0 || errors.Is(err, ErrUntrusted) && len(u.local) > 0
}

func (u *update) workflow(ahead bool) (*set, error) {
	u.fetched, u.early, u.timestamp = files{}, map[string]*answer{}, nil
	if ahead {
		u.askAhead()
	}
	if u.local.roots() == 0 {
		b, err := u.DownloadFile(baseURL+metadataPrefix+rootFile(1), maxRootBytes, 0)
		if err != nil {
			return nil, refusal(u.last, nil, u.ref, err)
		}
		if err := checkAnchor(u.client.Anchor, b); err != nil {
			return nil, err
		}
		u.local = files{rootFile(1): b}
	}
	// Most often there is no other root. Metadata are verified, and what they
	// name is got ready, as if it were so while the bucket is asked; they are
	// verified once more if it has one.
	s, err := u.pass(u.local)
	if err == nil && u.root != nil && bytes.Equal(s.files[timestampFile], u.timestamp) {
		u.show(s)
	}
	if u.settle() {
		s, err = u.pass(u.local)
	}
	if err != nil || bytes.Equal(s.files[timestampFile], u.timestamp) {
		return s, err
	}
	// The bucket has another timestamp.json of the version known here: it was
	// written anew by hand, or two publishers raced where the bucket has no
	// conditions. The bucket's counts; the floor still bounds it.
	local := maps.Clone(u.local)
	delete(local, timestampFile)
	return u.pass(local)
}

// show lets the caller begin with what s names. s counts if the answer that is
// still awaited is that there is no other root.
func (u *update) show(s *set) {
	if u.meanwhile == nil || checkFloors(u.floors, s) != nil {
		return
	}
	u.shown = u.view(s)
	u.meanwhile(u.shown)
}

// view is the view of s, with what came along.
func (u *update) view(s *set) *View {
	if u.shown != nil && u.shown.set == s {
		return u.shown
	}
	v := u.client.view(s, u.etag)
	v.carry(u.carried)
	return v
}

// pass runs the updater once on top of local. What it has verified is the
// result: all of it comes down from the newest root in local, which was
// verified from the anchor on.
func (u *update) pass(local files) (s *set, err error) {
	defer recovered(&err)
	u.fetched = files{}
	dir := filepath.Join(u.client.Dir, "scratch")
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	for _, name := range nonRoot() {
		if b := local[name]; b != nil {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				return nil, fmt.Errorf("write scratch file: %w", err)
			}
		}
	}
	t, err := u.refresh(local, dir)
	if err != nil {
		return nil, u.refusal(err)
	}
	s = &set{files: u.collect(local, t), root: t.Root, timestamp: t.Timestamp, snapshot: t.Snapshot,
		targets: t.Targets[metadata.TARGETS], releases: t.Targets[roleReleases], channels: t.Targets[roleChannels]}
	return s, s.checkDelegations()
}

// refresh lets the updater verify the top level and both delegated roles.
func (u *update) refresh(local files, dir string) (*trustedmetadata.TrustedMetadata, error) {
	cfg, err := config.New(baseURL+metadataPrefix, local[rootFile(local.roots())])
	if err != nil {
		return nil, err
	}
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, dir
	cfg.DisableLocalCache = true // it reads what is in dir, and writes nothing
	cfg.RootMaxLength, cfg.TimestampMaxLength = maxRootBytes, maxTimestampBytes
	cfg.SnapshotMaxLength, cfg.TargetsMaxLength = maxSnapshotBytes, maxTargetsBytes
	cfg.MaxRootRotations, cfg.MaxDelegations = maxRoots, 4
	cfg.Fetcher = u
	up, err := updater.New(cfg)
	if err != nil {
		return nil, err
	}
	up.UnsafeSetRefTime(u.ref)
	if err := up.Refresh(); err != nil {
		return nil, err
	}
	// The updater loads a delegated role only on the way to a target; asking
	// for one that no role can have loads it and then finds nothing.
	for _, role := range []string{roleReleases, roleChannels} {
		_, err := up.GetTargetInfo(role + "/x.json")
		if up.GetTrustedMetadataSet().Targets[role] == nil {
			return nil, fmt.Errorf("load role %s: %w", role, err)
		}
	}
	t := up.GetTrustedMetadataSet()
	return &t, nil
}

// refusal names the file that was refused: the one asked for last, but an
// expired timestamp of a known version shows only when the snapshot is there.
func (u *update) refusal(err error) error {
	if errors.Is(err, &metadata.ErrExpiredMetadata{}) && strings.HasPrefix(message(err), timestampFile) {
		return refusal(timestampFile, u.timestamp, u.ref, err)
	}
	return refusal(u.last, u.lastBytes, u.ref, err)
}

// collect returns the bytes of what was verified: the updater asks the bucket
// for a file only when the local one does not count, and then takes what it
// gets or fails. But a timestamp.json of the version that it holds it drops.
func (u *update) collect(local files, t *trustedmetadata.TrustedMetadata) files {
	got := files{}
	for n := int64(1); n <= t.Root.Signed.Version; n++ {
		name := rootFile(n)
		if got[name] = local[name]; got[name] == nil {
			got[name] = u.fetched[name]
		}
	}
	for _, name := range nonRoot() {
		if got[name] = u.fetched[name]; got[name] == nil {
			got[name] = local[name]
		}
	}
	if old := local[timestampFile]; old != nil && versionIn(old) == t.Timestamp.Signed.Version {
		got[timestampFile] = old
	}
	return got
}

// DownloadFile implements go-tuf's fetcher.Fetcher over what was had ahead and
// the bucket.
func (u *update) DownloadFile(url string, max int64, _ time.Duration) ([]byte, error) {
	key := strings.TrimPrefix(url, baseURL)
	name := strings.TrimPrefix(key, metadataPrefix)
	u.last, u.lastBytes = name, nil
	if b, ok := u.carried[key]; ok && int64(len(b)) <= max {
		return u.got(name, b), nil
	}
	if u.awaited(name) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	}
	a := u.early[name]
	if a == nil {
		a = u.ask(name, max)
	}
	if a.err != nil {
		return nil, u.failed(name, max, a.err)
	}
	if name == timestampFile {
		u.early[name] = a // another pass sees the same
		u.timestamp, u.etag = a.data, a.etag
	}
	return u.got(name, a.data), nil
}

// got notes what the updater is given.
func (u *update) got(name string, b []byte) []byte {
	u.lastBytes = b
	if version, base, ok := strings.Cut(name, "."); ok && base != rootBase && version+"."+base != timestampFile {
		name = base
	}
	u.fetched[name] = b
	return b
}

// ask reads one metadata file from the bucket: timestamp.json only if it is
// another than the one verified last. A false "not modified" is no more than a
// freeze: the old bytes are verified again, and expire.
func (u *update) ask(name string, max int64) *answer {
	var o bucket.GetOptions
	if name == timestampFile {
		o.IfNoneMatch = u.etag
	}
	b, obj, err := get(u.ctx, u.client.Bucket, metadataPrefix+name, o, max)
	if o.IfNoneMatch != "" && errors.Is(err, bucket.ErrNotModified) {
		return &answer{data: u.local[timestampFile], etag: u.etag}
	}
	return &answer{b, obj.ETag, err}
}

// failed turns the bucket's error into what go-tuf expects, or carries it
// through. A bucket may answer "not allowed" for an object that is not there
// to a reader who may not list; for the next root that is as good as "none".
func (u *update) failed(name string, max int64, err error) error {
	next := strings.HasSuffix(name, ".root.json") && name != rootFile(1)
	switch {
	case next && errors.Is(err, bucket.ErrNotExist):
		return &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	case next && errors.Is(err, bucket.ErrPermission):
		u.client.log().Debug("bucket refuses the next root; taken as not there", "object", name, "err", err)
		return &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	case errors.Is(err, bucket.ErrNotExist):
		err = missing(name, u.local[timestampFile] != nil)
	case errors.Is(err, bucket.ErrTooLarge):
		err = fmt.Errorf("%s is over %s bytes: %w: %w", name, strconv.FormatInt(max, 10), ErrUntrusted, err)
	}
	return &fetchError{err}
}
