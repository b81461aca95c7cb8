package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
)

// loseCache takes c's verified metadata away; the floor stays.
func loseCache(c *Client) {
	for _, g := range generations() {
		os.Remove(filepath.Join(c.Dir, g))
	}
}

// refused asserts that c refuses the bucket with want, in words, and keeps
// the view it had.
func refused(t *testing.T, c *Client, want error, words string) {
	t.Helper()
	before, _ := c.Last()
	_, err := c.Refresh(t.Context())
	if !errors.Is(err, want) {
		t.Fatalf("refresh: %v, want %v", err, want)
	}
	if !strings.Contains(err.Error(), words) {
		t.Fatalf("error does not say %q: %v", words, err)
	}
	after, lerr := c.Last()
	switch {
	case before == nil && !errors.Is(lerr, ErrNoRelease):
		t.Fatalf("a refused state was kept: %v", lerr)
	case before != nil && (lerr != nil || after.Timestamp != before.Timestamp || names(after) != names(before)):
		t.Fatalf("the view from before is gone: %v", lerr)
	}
}

func TestAttack_TargetOfEqualLengthAltered(t *testing.T) {
	w := newBareWorld(t)
	v := w.publish()
	tg, _ := v.Target("releases/r1.json")
	w.write(tg.Key(), []byte("MANIFEST 1"))
	if _, err := v.Fetch(t.Context(), tg.Name); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "digest is") {
		t.Fatalf("fetch: %v", err)
	}
}

func TestAttack_EndlessTarget(t *testing.T) {
	w := newBareWorld(t)
	v := w.publish()
	tg, _ := v.Target("releases/r1.json")
	w.write(tg.Key(), make([]byte, 1<<20))
	count := bucket.Count(w.bucket)
	v.client.Bucket = count
	if _, err := v.Fetch(t.Context(), tg.Name); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "more than the signed 10 bytes") {
		t.Fatalf("fetch: %v", err)
	}
	if down := count.Traffic().Down; down != 11 {
		t.Fatalf("read %d bytes of a target of 10", down)
	}
}

func TestAttack_ShortTarget(t *testing.T) {
	w := newBareWorld(t)
	v := w.publish()
	tg, _ := v.Target("releases/r1.json")
	w.write(tg.Key(), []byte("manifest"))
	if _, err := v.Fetch(t.Context(), tg.Name); !errors.Is(err, ErrUntrusted) {
		t.Fatalf("fetch: %v", err)
	}
}

func TestAttack_EndlessMetadata(t *testing.T) {
	for name, limit := range map[string]int64{
		"1.root.json": maxRootBytes, "2.root.json": maxRootBytes, timestampFile: maxTimestampBytes,
		"2.snapshot.json": 0, "1.targets.json": 0, "2.releases.json": 0, "2.channels.json": 0, // as signed
	} {
		t.Run(name, func(t *testing.T) {
			w := newBareWorld(t)
			w.publish()
			if limit == 0 {
				limit = int64(len(w.read(metadataPrefix + name)))
			}
			w.write(metadataPrefix+name, bytes.Repeat([]byte(" "), 4<<20))
			c := w.client()
			count := bucket.Count(w.bucket)
			c.Bucket = count
			refused(t, c, ErrUntrusted, name+" is over")
			if down := count.Traffic().Down; down > limit+1+8<<10 {
				t.Fatalf("read %d bytes", down)
			}
		})
	}
}

func TestAttack_MetadataEdited(t *testing.T) {
	for _, name := range []string{"1.root.json", timestampFile, "2.snapshot.json", "1.targets.json", "2.releases.json", "2.channels.json"} {
		t.Run(name, func(t *testing.T) {
			w := newBareWorld(t)
			w.publish()
			b := w.read(metadataPrefix + name)
			w.write(metadataPrefix+name, bytes.Replace(b, []byte(`"version":`), []byte(`"version":1`), 1))
			refused(t, w.client(), ErrUntrusted, strings.TrimLeft(name, "12."))
		})
	}
}

func TestAttack_OlderRepositoryRestored(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := copyBucket(t, w.bucket)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	restore(t, w.bucket, old)
	refused(t, c, ErrRollback, "timestamp.json")
}

func TestAttack_OlderRepositoryRestoredAfterTheCacheWasLost(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := copyBucket(t, w.bucket)
	w.publish()
	for _, lost := range [][]string{{"a", "b"}, {"a", "b", currentFile}, {"a", "b", floorFile}} {
		c := w.client()
		mustRefresh(t, c)
		now := copyBucket(t, w.bucket)
		for _, name := range lost {
			if err := os.Remove(filepath.Join(c.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		restore(t, w.bucket, old)
		refused(t, c, ErrRollback, "this machine has seen 3")
		restore(t, w.bucket, now)
		mustRefresh(t, c)
	}
}

func TestAttack_NewTimestampOverOldSnapshot(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := w.current()
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	forge := func() {
		m := w.current().timestamp
		m.Signed.Version++
		m.Signed.Meta[snapshotFile] = old.timestamp.Signed.Meta[snapshotFile]
		w.write(metadataPrefix+timestampFile, signedBy(t, m, w.keys.Online))
	}
	forge()
	refused(t, c, ErrRollback, "snapshot version 2 must be >= 3")
	loseCache(c)
	refused(t, c, ErrRollback, "this machine has seen")
}

// The thief of the online key signs a new snapshot over the roles' old files.
func TestAttack_NewSnapshotOverOldReleases(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := w.current()
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	forgeSnapshot(w, func(s *metadata.SnapshotType) { s.Meta[releasesFile] = old.snapshot.Signed.Meta[releasesFile] })
	refused(t, c, ErrRollback, releasesFile)
	loseCache(c)
	refused(t, c, ErrRollback, "this machine has seen")
}

// forgeSnapshot publishes a snapshot with change, signed by the online key.
func forgeSnapshot(w *world, change func(*metadata.SnapshotType)) {
	s := w.current()
	s.snapshot.Signed.Version++
	change(&s.snapshot.Signed)
	b := signedBy(w.t, s.snapshot, w.keys.Online)
	w.write(metadataPrefix+"9.snapshot.json", b)
	s.snapshot.Signed.Version = 9
	b = signedBy(w.t, s.snapshot, w.keys.Online)
	w.write(metadataPrefix+"9.snapshot.json", b)
	s.timestamp.Signed.Version++
	s.timestamp.Signed.Meta[snapshotFile] = describe(b, 9)
	w.write(metadataPrefix+timestampFile, signedBy(w.t, s.timestamp, w.keys.Online))
}

func TestAttack_FreezeUntilTheTimestampExpires(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.now = start.Add(DefaultLifetime + time.Hour)
	refused(t, c, ErrExpired, "timestamp.json was good until 2031-05-30 12:00:00 UTC")
	refused(t, w.client(), ErrExpired, "this machine's time is 2031-05-30 13:00:00")
	if _, err := w.pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := mustRefresh(t, c); names(v) != "channels/stable.json releases/r1.json" {
		t.Fatalf("targets after the project was signed again: %q", names(v))
	}
}

func TestAttack_FreezeByNotModified(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.publish()
	c.Bucket = notModified{w.bucket}
	if v := mustRefresh(t, c); names(v) != "channels/stable.json releases/r1.json" {
		t.Fatalf("targets: %q", names(v))
	}
	w.now = start.Add(DefaultLifetime + time.Second)
	refused(t, c, ErrExpired, "timestamp.json was good until")
}

// notModified answers each conditional GET with "not modified".
type notModified struct{ bucket.Bucket }

func (b notModified) Get(ctx context.Context, key string, o bucket.GetOptions) (r io.ReadCloser, obj bucket.Object, err error) {
	if o.IfNoneMatch != "" {
		return nil, bucket.Object{}, bucket.ErrNotModified
	}
	return b.Bucket.Get(ctx, key, o)
}

func TestAttack_RootExpired(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.now = start.Add(RootLifetime + time.Hour)
	refused(t, c, ErrExpired, "newest root.json is past its date")
	if _, err := w.pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := mustRefresh(t, c); v.set.root.Signed.Version != 2 {
		t.Fatalf("root is version %d", v.set.root.Signed.Version)
	}
}

func TestAttack_ClockSetBack(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	old := copyBucket(t, w.bucket)
	w.now = start.Add(DefaultLifetime - time.Hour)
	if _, err := w.pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.now = start.Add(DefaultLifetime + time.Hour)
	mustRefresh(t, c)
	w.now = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := c.Time(); !got.Equal(start.Add(DefaultLifetime + time.Hour)) {
		t.Fatalf("reference time is %v", got)
	}
	restore(t, w.bucket, old)
	refused(t, c, ErrRollback, "timestamp.json")

	// The build's own time is the floor of a machine that has seen nothing.
	fresh := w.client()
	if got := fresh.Time(); !got.Equal(buildTime()) || got.Year() < 2026 {
		t.Fatalf("reference time of a new machine is %v", got)
	}
	ancient := &world{t: t, bucket: bucket.NewMem(), keys: w.keys, now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	anchor, err := Init(t.Context(), ancient.bucket, ancient.keys, ancient.now, 0)
	if err != nil {
		t.Fatal(err)
	}
	ancient.anchor = anchor
	refused(t, ancient.client(), ErrExpired, "past its date")
}

// A clock in the far future makes metadata look expired; it must not be
// remembered as the time.
func TestAttack_ClockSetForwardIsNotRemembered(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.now = start.Add(50 * 365 * 24 * time.Hour)
	refused(t, c, ErrExpired, "")
	w.now = start.Add(time.Hour)
	mustRefresh(t, c)
}

func TestAttack_MixAndMatch(t *testing.T) {
	for _, name := range []string{"snapshot.json", "releases.json", "channels.json"} {
		t.Run("an old "+name+" served as the new one", func(t *testing.T) {
			w := newBareWorld(t)
			w.publish()
			w.publish()
			w.write(metadataPrefix+"3."+name, w.read(metadataPrefix+"2."+name))
			refused(t, w.client(), ErrUntrusted, name)
		})
	}
	t.Run("channels.json served as releases.json", func(t *testing.T) {
		w := newBareWorld(t)
		w.publish()
		w.write(metadataPrefix+"2.releases.json", w.read(metadataPrefix+"2.channels.json"))
		refused(t, w.client(), ErrUntrusted, "releases.json")
	})
	t.Run("snapshot names channels.json as releases.json", func(t *testing.T) {
		w := newBareWorld(t)
		w.publish()
		w.write(metadataPrefix+"2.releases.json", w.read(metadataPrefix+"2.channels.json"))
		b := w.read(metadataPrefix + "2.channels.json")
		forgeSnapshotRaw(w, func(m *metadata.SnapshotType) { m.Meta[releasesFile] = describe(b, 2) })
		// One key signs both roles here, so that only the paths keep them apart.
		v := mustRefresh(t, w.client())
		if names(v) != "channels/stable.json" {
			t.Fatalf("targets: %q", names(v))
		}
	})
}

// forgeSnapshotRaw is forgeSnapshot for a bucket that no client accepts now.
func forgeSnapshotRaw(w *world, change func(*metadata.SnapshotType)) {
	w.t.Helper()
	sn, err := metadata.Snapshot().FromBytes(w.read(metadataPrefix + "2.snapshot.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	ts, err := metadata.Timestamp().FromBytes(w.read(metadataPrefix + timestampFile))
	if err != nil {
		w.t.Fatal(err)
	}
	sn.Signed.Version = 9
	change(&sn.Signed)
	b := signedBy(w.t, sn, w.keys.Online)
	w.write(metadataPrefix+"9.snapshot.json", b)
	ts.Signed.Version++
	ts.Signed.Meta[snapshotFile] = describe(b, 9)
	w.write(metadataPrefix+timestampFile, signedBy(w.t, ts, w.keys.Online))
}

func TestAttack_SignedByAnUnknownKey(t *testing.T) {
	thief := testKey("thief")
	t.Run("timestamp", func(t *testing.T) {
		w := newBareWorld(t)
		m := w.current().timestamp
		m.Signed.Version++
		w.write(metadataPrefix+timestampFile, signedBy(t, m, thief))
		refused(t, w.client(), ErrUntrusted, "timestamp.json: Verifying timestamp failed, not enough signatures")
	})
	t.Run("timestamp by the ops key", func(t *testing.T) {
		w := newBareWorld(t)
		m := w.current().timestamp
		m.Signed.Version++
		w.write(metadataPrefix+timestampFile, signedBy(t, m, w.keys.Ops))
		refused(t, w.client(), ErrUntrusted, "timestamp.json")
	})
	t.Run("releases by the online key", func(t *testing.T) {
		w := newBareWorld(t)
		w.publish()
		m := w.current().releases
		m.Signed.Version = 9
		m.Signed.Targets["releases/evil.json"] = &metadata.TargetFiles{Length: 4, Hashes: hashOf([]byte("evil"))}
		b := signedBy(t, m, w.keys.Online)
		w.write(metadataPrefix+"9.releases.json", b)
		forgeSnapshot(w, func(s *metadata.SnapshotType) { s.Meta[releasesFile] = describe(b, 9) })
		refused(t, w.client(), ErrUntrusted, "releases.json")
	})
	t.Run("snapshot", func(t *testing.T) {
		w := newBareWorld(t)
		s := w.current()
		b := signedBy(t, s.snapshot, thief)
		w.write(metadataPrefix+"1.snapshot.json", b)
		s.timestamp.Signed.Version++
		s.timestamp.Signed.Meta[snapshotFile] = describe(b, 1)
		w.write(metadataPrefix+timestampFile, signedBy(t, s.timestamp, w.keys.Online))
		refused(t, w.client(), ErrUntrusted, "snapshot.json")
	})
}

func TestAttack_RootWithTooFewSignatures(t *testing.T) {
	w := newBareWorld(t)
	second := testKey("second")
	w.nextRoot(func(r *metadata.RootType) {
		k, _ := tufKeyOf(t, second)
		r.AddKey(k, metadata.ROOT)
		r.Roles[metadata.ROOT].Threshold = 2
	}, w.keys.Ops, second)
	c := w.client()
	mustRefresh(t, c)
	key := w.nextRoot(func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(1, 0, 0) }, w.keys.Ops)
	refused(t, c, ErrUntrusted, "3.root.json")
	refused(t, w.client(), ErrUntrusted, "3.root.json")
	w.remove(key)
	w.nextRoot(func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(1, 0, 0) }, w.keys.Ops, second)
	if v := mustRefresh(t, c); v.set.root.Signed.Version != 3 {
		t.Fatalf("root is version %d", v.set.root.Signed.Version)
	}
}

func TestAttack_RootOfAnUnknownKey(t *testing.T) {
	w := newBareWorld(t)
	c := w.client()
	mustRefresh(t, c)
	thief := testKey("thief")
	w.nextRoot(func(r *metadata.RootType) {
		k, id := tufKeyOf(t, thief)
		r.Keys[id] = k
		for _, role := range r.Roles {
			role.KeyIDs = []string{id}
		}
	}, thief)
	refused(t, c, ErrUntrusted, "2.root.json")
}

func TestAttack_RootSkipsAVersion(t *testing.T) {
	w := newBareWorld(t)
	c := w.client()
	mustRefresh(t, c)
	w.nextRoot(func(r *metadata.RootType) { r.Version = 2; r.Version++ }, w.keys.Ops)
	b := w.read(metadataPrefix + "3.root.json")
	w.remove(metadataPrefix + "3.root.json")
	w.write(metadataPrefix+"2.root.json", b)
	refused(t, c, ErrUntrusted, "2.root.json")
}

func TestAttack_OtherProjectsRoot(t *testing.T) {
	w := newBareWorld(t)
	other := bucket.NewMem()
	if _, err := Init(t.Context(), other, Keys{testKey("other"), testKey("online")}, w.now, 0); err != nil {
		t.Fatal(err)
	}
	c := w.client()
	c.Bucket = other
	refused(t, c, ErrUntrusted, "this machine was told to trust "+w.anchor.String())
}

func TestAttack_NewerRootsHidden(t *testing.T) {
	w := newBareWorld(t)
	key := w.nextRoot(func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(1, 0, 0) }, w.keys.Ops)
	c := w.client()
	mustRefresh(t, c)
	w.remove(key)
	mustRefresh(t, c) // it has the root
	loseCache(c)
	refused(t, c, ErrRollback, "root version 1, and this machine has seen 2")
}

// After the online key was stolen, its thief fast-forwards to a version that
// nobody reaches. A root that revokes the key ends that.
func TestAttack_FastForwardEndsWithTheRevokedKey(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	m := w.current().timestamp
	m.Signed.Version = 1_000_000
	w.write(metadataPrefix+timestampFile, signedBy(t, m, w.keys.Online))
	c := w.client()
	if v := mustRefresh(t, c); v.Timestamp != 1_000_000 {
		t.Fatalf("timestamp %d", v.Timestamp)
	}
	fresh := testKey("online2")
	w.nextRoot(func(r *metadata.RootType) {
		k, _ := tufKeyOf(t, fresh)
		_, old := tufKeyOf(t, w.keys.Online)
		for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
			r.AddKey(k, role)
			r.RevokeKey(old, role)
		}
	}, w.keys.Ops)
	refused(t, c, ErrUntrusted, "timestamp.json")

	sn, err := metadata.Snapshot().FromBytes(w.read(metadataPrefix + "2.snapshot.json"))
	if err != nil {
		t.Fatal(err)
	}
	sn.Signed.Version = 3
	b := signedBy(t, sn, fresh)
	w.write(metadataPrefix+"3.snapshot.json", b)
	m.Signed.Version = 4
	m.Signed.Meta[snapshotFile] = describe(b, 3)
	w.write(metadataPrefix+timestampFile, signedBy(t, m, fresh))
	if v := mustRefresh(t, c); v.Timestamp != 4 {
		t.Fatalf("timestamp %d", v.Timestamp)
	}
	// From here on the floor is that of the new key.
	m.Signed.Version = 3
	w.write(metadataPrefix+timestampFile, signedBy(t, m, fresh))
	refused(t, c, ErrRollback, "timestamp.json")
	loseCache(c)
	refused(t, c, ErrRollback, "version 3 of timestamp.json, and this machine has seen 4")
}

func TestAttack_ForbiddenIsNoWayToHideARoot(t *testing.T) {
	w := newBareWorld(t)
	c := w.client()
	mustRefresh(t, c)
	w.nextRoot(func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(1, 0, 0) }, w.keys.Ops)
	c.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Key: metadataPrefix + "2.root.json", Err: bucket.ErrPermission})
	if v := mustRefresh(t, c); v.set.root.Signed.Version != 1 {
		t.Fatalf("root %d", v.set.root.Signed.Version)
	}
	c.Bucket = w.bucket
	if v := mustRefresh(t, c); v.set.root.Signed.Version != 2 {
		t.Fatalf("root %d", v.set.root.Signed.Version)
	}
}

// Well-signed nulls make go-tuf itself panic.
func TestAttack_SignedNullDoesNotPanic(t *testing.T) {
	t.Run("snapshot in timestamp", func(t *testing.T) {
		w := newBareWorld(t)
		c := w.client()
		mustRefresh(t, c)
		m := w.current().timestamp
		m.Signed.Version++
		m.Signed.Meta[snapshotFile] = nil
		w.write(metadataPrefix+timestampFile, signedBy(t, m, w.keys.Online))
		refused(t, c, ErrUntrusted, "malformed")
		refused(t, w.client(), ErrUntrusted, "malformed")
	})
	for _, file := range []string{targetsFile, releasesFile, channelsFile} {
		t.Run(file+" in snapshot", func(t *testing.T) {
			w := newBareWorld(t)
			forgeSnapshot(w, func(s *metadata.SnapshotType) { s.Meta[file] = nil })
			refused(t, w.client(), ErrUntrusted, "")
		})
	}
	t.Run("a target", func(t *testing.T) {
		w := newBareWorld(t)
		publishRole(w, releasesFile, func(r *metadata.TargetsType) { r.Targets["releases/r7.json"] = nil })
		refused(t, w.client(), ErrUntrusted, "malformed")
	})
	t.Run("a key of root", func(t *testing.T) {
		w := newBareWorld(t)
		w.nextRoot(func(r *metadata.RootType) {
			r.Keys["x"] = nil
			r.Roles[metadata.TIMESTAMP].KeyIDs = []string{"x"}
		}, w.keys.Ops)
		refused(t, w.client(), ErrUntrusted, "")
	})
	t.Run("a role of root", func(t *testing.T) {
		w := newBareWorld(t)
		w.nextRoot(func(r *metadata.RootType) { r.Roles[metadata.TIMESTAMP] = nil }, w.keys.Ops)
		refused(t, w.client(), ErrUntrusted, "")
	})
}

// publishRole publishes a role's file after change, signed as it must be.
func publishRole(w *world, file string, change func(*metadata.TargetsType)) {
	w.t.Helper()
	s := w.current()
	m := map[string]*metadata.Metadata[metadata.TargetsType]{targetsFile: s.targets, releasesFile: s.releases, channelsFile: s.channels}[file]
	m.Signed.Version = 9
	change(&m.Signed)
	b := signedBy(w.t, m, w.keys.Ops)
	w.write(metadataPrefix+"9."+file, b)
	forgeSnapshot(w, func(s *metadata.SnapshotType) { s.Meta[file] = describe(b, 9) })
}

func TestAttack_RoleSignsOutsideItsPaths(t *testing.T) {
	bad := &metadata.TargetFiles{Length: 4, Hashes: hashOf([]byte("evil"))}
	for _, name := range []string{"releases/evil.json", "channels/../releases/r1.json", "channels/a/b.json", "/etc/passwd", "channels/.json", "stable.json", "channels/x", "channels/\x00.json"} {
		w := newBareWorld(t)
		w.publish()
		publishRole(w, channelsFile, func(r *metadata.TargetsType) { r.Targets[name] = bad })
		v := mustRefresh(t, w.client())
		if _, ok := v.Target(name); ok || names(v) != "channels/stable.json releases/r1.json" {
			t.Errorf("%q counts: %q", name, names(v))
		}
	}
	for what, tg := range map[string]*metadata.TargetFiles{
		"other digest": {Length: 4, Hashes: metadata.Hashes{"sha512": make([]byte, 64)}},
		"short digest": {Length: 4, Hashes: metadata.Hashes{"sha256": []byte{1}}},
		"huge":         {Length: maxTargetBytes + 1, Hashes: hashOf([]byte("evil"))},
		"negative":     {Length: -1, Hashes: hashOf([]byte("evil"))},
	} {
		w := newBareWorld(t)
		publishRole(w, channelsFile, func(r *metadata.TargetsType) { r.Targets["channels/x.json"] = tg })
		if v := mustRefresh(t, w.client()); names(v) != "" {
			t.Errorf("%s: counts", what)
		}
	}
}

// go-tuf takes a role that it has loaded through one parent for verified
// under any other.
func TestAttack_RoleDelegatesFurther(t *testing.T) {
	thief := testKey("thief")
	w := newBareWorld(t)
	k, id := tufKeyOf(t, thief)
	publishRole(w, releasesFile, func(r *metadata.TargetsType) {
		r.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{id: k}, Roles: []metadata.DelegatedRole{
			{Name: roleChannels, KeyIDs: []string{id}, Threshold: 1, Paths: []string{"releases/*", "channels/*"}},
		}}
	})
	refused(t, w.client(), ErrUntrusted, "delegates to other roles")
}

func TestAttack_TargetsDelegatesElsewhere(t *testing.T) {
	w := newBareWorld(t)
	publishRole(w, targetsFile, func(r *metadata.TargetsType) { r.Delegations.Roles[0].Paths = []string{"other/*"} })
	refused(t, w.client(), ErrUntrusted, "releases")
	w = newBareWorld(t)
	publishRole(w, targetsFile, func(r *metadata.TargetsType) {
		r.Delegations.Roles[0], r.Delegations.Roles[1] = r.Delegations.Roles[1], r.Delegations.Roles[0]
		r.Delegations.Roles[0].Paths = []string{"channels/*", "releases/*"}
	})
	refused(t, w.client(), ErrUntrusted, "")
}

func TestAttack_ThresholdOfZero(t *testing.T) {
	w := newBareWorld(t)
	w.nextRoot(func(r *metadata.RootType) { r.Roles[metadata.TIMESTAMP].Threshold = 0 }, w.keys.Ops)
	refused(t, w.client(), ErrUntrusted, "insufficient threshold (0)")
}

// One key under two ids is one signature.
func TestAttack_OneKeyUnderTwoNames(t *testing.T) {
	w := newBareWorld(t)
	k, id := tufKeyOf(t, w.keys.Online)
	w.nextRoot(func(r *metadata.RootType) {
		twin := *k
		r.Keys["twin"] = &twin
		r.Roles[metadata.TIMESTAMP].KeyIDs = []string{id, "twin"}
		r.Roles[metadata.TIMESTAMP].Threshold = 2
	}, w.keys.Ops)
	m, err := metadata.Timestamp().FromBytes(w.read(metadataPrefix + timestampFile))
	if err != nil {
		t.Fatal(err)
	}
	m.Signatures = append(m.Signatures, metadata.Signature{KeyID: "twin", Signature: m.Signatures[0].Signature})
	b, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	w.write(metadataPrefix+timestampFile, b)
	refused(t, w.client(), ErrUntrusted, "not enough signatures, got 1, want 2")
}

// The same version signed twice with different content: the bucket's counts,
// within the floor.
func TestAttack_TwoTimestampsOfOneVersion(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	old := w.current()
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	m := w.current().timestamp
	m.Signed.Meta[snapshotFile] = old.timestamp.Signed.Meta[snapshotFile]
	w.write(metadataPrefix+timestampFile, signedBy(t, m, w.keys.Online))
	refused(t, c, ErrRollback, "")
}

func TestRefresh_TakesTimestampWrittenAnewByHand(t *testing.T) {
	w := newBareWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, w.read(metadataPrefix+timestampFile), "", "  "); err != nil {
		t.Fatal(err)
	}
	w.write(metadataPrefix+timestampFile, pretty.Bytes())
	mustRefresh(t, c)
	if changed, err := c.Poll(t.Context()); changed || err != nil {
		t.Fatalf("poll: %v, %v", changed, err)
	}
	w.publish()
	mustRefresh(t, c)
}
