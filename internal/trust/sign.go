package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A draft is the next state of a project's metadata while it is written. Its
// metadata are its own copies.
type draft struct {
	bucket bucket.Bucket
	keys   Keys
	now    time.Time
	life   time.Duration // of what is signed anew, but root and targets

	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	roles     map[string]*metadata.Metadata[metadata.TargetsType] // by file: targets, releases, channels
	dirty     []string                                            // files of roles to sign anew
	next      int64                                               // version of the timestamp; 0: not signed yet
	files     files
}

// head gives the fields that all kinds of metadata share.
type head struct {
	version *int64
	expires *time.Time
	extra   *map[string]any
}

func headOf[T metadata.Roles](m *metadata.Metadata[T]) head {
	switch s := any(&m.Signed).(type) {
	case *metadata.RootType:
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields}
	case *metadata.TimestampType:
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields}
	case *metadata.SnapshotType:
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields}
	case *metadata.TargetsType:
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields}
	}
	return head{}
}

// lifeFor returns how long a role's new metadata is to live.
func (d *draft) lifeFor(file string) time.Duration {
	if file == targetsFile || file == rootBase {
		return max(d.life, RootLifetime)
	}
	return d.life
}

// tufKey returns k as TUF names it, and its id.
func tufKey(k Key) (*metadata.Key, string, error) {
	tk, err := metadata.KeyFromPublicKey(k.Public)
	if err != nil {
		return nil, "", fmt.Errorf("key %s: %w: %w", k.Name, ErrKey, err)
	}
	id, err := tk.ID()
	return tk, id, err
}

// signers returns those of the keys given that may sign a role's file, or
// ErrKey if they are too few.
func (d *draft) signers(file string) ([]Key, error) {
	ids, threshold := signersOf(d.root, d.roles[targetsFile], file)
	var ks []Key
	for _, k := range []Key{d.keys.Ops, d.keys.Online} {
		if k.Private == nil {
			continue
		}
		_, id, err := tufKey(k)
		if err != nil {
			return nil, err
		}
		same := func(o Key) bool { return o.Public.Equal(k.Public) }
		if slices.Contains(ids, id) && !slices.ContainsFunc(ks, same) {
			ks = append(ks, k)
		}
	}
	if len(ks) < threshold || threshold < 1 {
		return nil, d.notOurs(file, len(ks), threshold, ids)
	}
	return ks, nil
}

func (d *draft) notOurs(file string, have, threshold int, ids []string) error {
	var given, want []string
	for _, k := range []Key{d.keys.Ops, d.keys.Online} {
		if k.Private != nil {
			given = append(given, k.Name+" "+k.Fingerprint())
		}
	}
	for _, id := range ids {
		if k, ok := d.root.Signed.Keys[id]; ok {
			if pub, err := k.ToPublicKey(); err == nil {
				want = append(want, Key{Public: publicBytes(pub)}.Fingerprint())
			}
		}
	}
	if len(given) == 0 {
		given = []string{"none"}
	}
	return fmt.Errorf("sign %s: it takes %d signature(s) of %s, and %d of the keys given (%s) may sign it: %w",
		file, threshold, strings.Join(want, ", "), have, strings.Join(given, ", "), ErrKey)
}

// sign gives m its version, a new life and the signatures of its role, and
// returns its bytes.
func sign[T metadata.Roles](d *draft, file string, m *metadata.Metadata[T], version int64) ([]byte, error) {
	h := headOf(m)
	*h.version = version
	*h.expires = d.now.Add(d.lifeFor(file)).UTC().Truncate(time.Second)
	extra := map[string]any{}
	for k, v := range *h.extra {
		extra[k] = v
	}
	extra[lifeField] = d.lifeFor(file).String()
	*h.extra = extra
	ks, err := d.signers(file)
	if err != nil {
		return nil, err
	}
	m.ClearSignatures()
	for _, k := range ks {
		s, err := signature.LoadED25519Signer(k.Private)
		if err != nil {
			return nil, fmt.Errorf("sign %s with %s: %w: %w", file, k.Name, ErrKey, err)
		}
		if _, err := m.Sign(s); err != nil {
			return nil, fmt.Errorf("sign %s with %s: %w", file, k.Name, err)
		}
	}
	b, err := m.ToBytes(false)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", file, err)
	}
	return b, nil
}

// writeNew signs m with the next free version after its own and writes it
// where no object was. Versions that publishers who were killed or lost a race
// have left behind are skipped, so that they block nobody: a version needs to
// grow, not to be the next.
func writeNew[T metadata.Roles](ctx context.Context, d *draft, file string, m *metadata.Metadata[T], limit int) error {
	version := *headOf(m).version
	for try := range maxTries {
		version++
		if try == triesBeforeList {
			var err error
			if version, err = d.freeVersion(ctx, file, version); err != nil {
				return err
			}
		}
		b, err := sign(d, file, m, version)
		if err != nil {
			return err
		}
		if len(b) > limit {
			return tooLong(file, len(b), limit)
		}
		_, err = d.bucket.Put(ctx, versionedKey(file, version), bytes.NewReader(b), bucket.Condition{IfAbsent: true})
		if errors.Is(err, bucket.ErrExists) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write version %d of %s: %w", version, file, err)
		}
		d.files[file] = b
		return nil
	}
	return fmt.Errorf("write %s: others take each version up to %d: %w", file, version, ErrConflict)
}

// How writeNew looks for a free version: a few tries, then it asks the bucket
// which are taken, and tries on from there, as others may be doing.
const (
	triesBeforeList = 4
	maxTries        = 64
)

// freeVersion returns the first version of file from lowest on that no object
// has. A bucket that cannot list has to be tried.
func (d *draft) freeVersion(ctx context.Context, file string, lowest int64) (int64, error) {
	taken := map[int64]bool{}
	for o, err := range d.bucket.List(ctx, metadataPrefix, "") {
		if errors.Is(err, bucket.ErrUnsupported) || errors.Is(err, bucket.ErrPermission) {
			return lowest, nil
		}
		if err != nil {
			return 0, fmt.Errorf("look for a free version of %s: %w", file, err)
		}
		v, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, metadataPrefix), "."+file)
		if n, err := strconv.ParseInt(v, 10, 64); ok && err == nil {
			taken[n] = true
		}
	}
	for taken[lowest] {
		lowest++
	}
	return lowest, nil
}

// ready reports early, before anything is written, that a signature will be
// missing.
func (d *draft) ready() error {
	for _, file := range append([]string{snapshotFile, timestampFile}, d.dirty...) {
		if _, err := d.signers(file); err != nil {
			return err
		}
	}
	return nil
}

// signAll signs the dirty roles, the snapshot over them and the timestamp, each
// with the version after its own, and returns the first two by their keys.
func (d *draft) signAll() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, file := range []string{targetsFile, releasesFile, channelsFile} {
		if !slices.Contains(d.dirty, file) {
			continue
		}
		if err := signNext(d, file, d.roles[file], maxTargetsBytes, out); err != nil {
			return nil, err
		}
		d.snapshot.Signed.Meta[file] = describe(d.files[file], *headOf(d.roles[file]).version)
	}
	if err := signNext(d, snapshotFile, d.snapshot, maxSnapshotBytes, out); err != nil {
		return nil, err
	}
	return out, d.signTimestamp()
}

func signNext[T metadata.Roles](d *draft, file string, m *metadata.Metadata[T], limit int, out map[string][]byte) error {
	version := *headOf(m).version + 1
	b, err := sign(d, file, m, version)
	if err != nil {
		return err
	}
	if len(b) > limit {
		return tooLong(file, len(b), limit)
	}
	d.files[file] = b
	out[versionedKey(file, version)] = b
	return nil
}

func tooLong(file string, size, limit int) error {
	return fmt.Errorf("sign %s: %d bytes is over the limit of %d; remove old releases first", file, size, limit)
}

// signTimestamp signs the timestamp over the snapshot. Its version is the one
// after the state before, however often it is signed.
func (d *draft) signTimestamp() error {
	if d.next == 0 {
		d.next = d.timestamp.Signed.Version + 1
	}
	d.timestamp.Signed.Meta[snapshotFile] = describe(d.files[snapshotFile], d.snapshot.Signed.Version)
	b, err := sign(d, timestampFile, d.timestamp, d.next)
	d.files[timestampFile] = b
	return err
}

// write signs and writes the dirty roles and the snapshot over them one after
// the other, past the versions that are taken, and signs the timestamp, which
// it does not write.
func (d *draft) write(ctx context.Context) error {
	for _, file := range []string{targetsFile, releasesFile, channelsFile} {
		if !slices.Contains(d.dirty, file) {
			continue
		}
		if err := writeNew(ctx, d, file, d.roles[file], maxTargetsBytes); err != nil {
			return err
		}
		d.snapshot.Signed.Meta[file] = describe(d.files[file], *headOf(d.roles[file]).version)
	}
	if err := writeNew(ctx, d, snapshotFile, d.snapshot, maxSnapshotBytes); err != nil {
		return err
	}
	return d.signTimestamp()
}

// describe returns what a snapshot or timestamp says of another file.
func describe(b []byte, version int64) *metadata.MetaFiles {
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: hashOf(b)}
}

func hashOf(b []byte) metadata.Hashes {
	sum := sha256.Sum256(b)
	return metadata.Hashes{"sha256": sum[:]}
}

// apply changes the targets as c says and reports whether that changed any.
func (d *draft) apply(c Change) (bool, error) {
	changed := false
	targets := slices.Clone(c.Elsewhere)
	for name, b := range c.Blobs {
		targets = append(targets, targetOf(name, b))
	}
	for _, target := range targets {
		name := target.Name
		if !targetName().MatchString(name) {
			return false, fmt.Errorf("target name %.200q is not releases/NAME.json or channels/NAME.json", name)
		}
		if target.Size > maxTargetBytes {
			return false, fmt.Errorf("target %s: %d bytes is over the limit of %d", name, target.Size, maxTargetBytes)
		}
		file := roleFile(name)
		ts := d.roles[file].Signed.Targets
		sum := target.Digest.Sum()
		t := &metadata.TargetFiles{Length: target.Size, Hashes: metadata.Hashes{"sha256": sum[:]}, Path: name}
		if old, ok := ts[name]; ok && old.Length == t.Length && bytes.Equal(old.Hashes["sha256"], t.Hashes["sha256"]) {
			continue
		}
		ts[name], changed = t, true
		d.touch(file)
	}
	for _, name := range c.Remove {
		file := roleFile(name)
		if d.roles[file] == nil {
			return false, fmt.Errorf("target name %.200q is not releases/NAME.json or channels/NAME.json", name)
		}
		if _, ok := d.roles[file].Signed.Targets[name]; ok {
			delete(d.roles[file].Signed.Targets, name)
			d.touch(file)
			changed = true
		}
	}
	return changed, nil
}

// roleFile returns the file of the role that signs the target called name.
func roleFile(name string) string {
	dir, _, _ := strings.Cut(name, "/")
	return dir + ".json"
}

func (d *draft) touch(file string) {
	if !slices.Contains(d.dirty, file) {
		d.dirty = append(d.dirty, file)
	}
}
