package trust

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// Whoever deletes from a bucket must not delete what a publisher has just
// found there and is about to refer to, nor what it uploaded a moment ago. So a
// collector marks the state whose garbage it deletes, and a publisher builds on
// no marked state: what it found on an older one fails with ErrConflict, and on
// a newer one it looks again, when nothing is deleted any more.

const (
	// baseField is our field in snapshot.json: the version of the snapshot that
	// it took the place of.
	baseField = "x-bootwell-base"

	// collectField is our field in timestamp.json: until when a collector may
	// be deleting what this state does not name.
	collectField = "x-bootwell-collecting"

	// collectTTL is how long a mark counts, as the one who made it has it.
	collectTTL = 2 * time.Minute

	// maxSkew is by how much the clock of another publisher may differ.
	maxSkew = 5 * time.Minute

	settlePause = 50 * time.Millisecond // before the second look of who waits for the end of a collection

	maxPast = 100_000 // states before the present one that are followed

	pastReads = 8 // objects of them, side by side
)

// CollectTime is how long after [Publisher.BeginCollect] was called its caller
// may delete. A delete that is under way then has until the mark runs out.
const CollectTime = collectTTL - 3*inFlight

// BeginCollect makes a state with the targets of base that keeps publishers
// away until EndCollect, or for two minutes. Objects that base does not need may
// be deleted for [CollectTime]. ErrConflict when base is not the present state.
func (p *Publisher) BeginCollect(ctx context.Context, base *View) (*View, error) {
	v, err := p.recommit(ctx, base, p.now().Add(collectTTL))
	if err != nil {
		return nil, fmt.Errorf("begin to collect garbage: %w", err)
	}
	return v, nil
}

// EndCollect lets publishers go on after BeginCollect returned base.
// ErrConflict says that they did so already, since the mark ran out.
func (p *Publisher) EndCollect(ctx context.Context, base *View) (*View, error) {
	v, err := p.recommit(ctx, base, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("end collecting garbage: %w", err)
	}
	return v, nil
}

// recommit makes a new state with the targets of base.
func (p *Publisher) recommit(ctx context.Context, base *View, mark time.Time) (*View, error) {
	d, err := p.draft(base)
	if err != nil {
		return nil, err
	}
	if !mark.IsZero() {
		setExtra(headOf(d.timestamp).extra, collectField, mark.UTC().Format(time.RFC3339))
	}
	p.renewStale(d, base)
	return p.publish(ctx, base, d, Change{}) // what base carries comes along
}

// collecting returns until when base is marked; zero: it is not.
func (v *View) collecting() time.Time {
	text, _ := v.set.timestamp.Signed.UnrecognizedFields[collectField].(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// settled looks until nobody collects garbage in the state that look returns. A
// mark that a killed collector has left counts as long as it would have lived,
// by this machine's clock and maxSkew, or in the time that passes here.
func (p *Publisher) settled(ctx context.Context, look func() (*View, error)) (*View, error) {
	var first time.Time
	seen := int64(-1)
	for pause := settlePause; ; pause = min(2*pause, 40*settlePause) {
		v, err := look()
		if err != nil {
			return nil, err
		}
		until := v.collecting()
		if until.IsZero() || p.now().After(until.Add(maxSkew)) {
			return v, nil
		}
		if v.Timestamp != seen { // a collection of its own
			first, seen, pause = time.Now(), v.Timestamp, settlePause
		} else if time.Since(first) > collectTTL {
			return v, nil
		}
		if pause == 32*settlePause {
			p.log().Warn("somebody collects garbage in the bucket, or was cut off: waiting for the end of it, two minutes at most")
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the end of a garbage collection: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// comesAfter writes down in the next snapshot which one it comes after. What
// comes after a state that is marked is not marked by itself.
func (d *draft) comesAfter(base *View) {
	setExtra(headOf(d.snapshot).extra, baseField, strconv.FormatInt(base.set.snapshot.Signed.Version, 10))
	setExtra(headOf(d.timestamp).extra, collectField, "")
}

func setExtra(extra *map[string]any, field, value string) {
	m := maps.Clone(*extra)
	if m == nil {
		m = map[string]any{}
	}
	delete(m, field)
	if value != "" {
		m[field] = value
	}
	*extra = m
}

// Kept is what readers of some states need below tuf/.
type Kept struct {
	Objects map[string]bool // keys, without bundles
	Targets []Target        // each once, those of the present state first
	State   release.Digest  // of the present timestamp.json, by which bundles are named
}

// Kept returns what the bucket must keep for readers of v, and of the states
// that v took the place of since the time given. Those older states are read
// from the bucket as they are: a forged one keeps too little or too much for
// readers who are behind, and never too little for v. What is gone of them is
// left out.
func (v *View) Kept(ctx context.Context, since time.Time) (Kept, error) {
	k := v.Own()
	earlier, err := v.earlier(ctx, since)
	if err == nil {
		err = v.readPast(ctx, earlier, &k)
	}
	if err != nil {
		return k, fmt.Errorf("look at earlier states: %w", err)
	}
	return k, nil
}

// Own returns what readers of v alone need.
func (v *View) Own() Kept {
	k := Kept{Objects: map[string]bool{}, State: release.DigestOf(v.set.files[timestampFile])}
	k.Objects[metadataPrefix+timestampFile] = true
	for n := int64(1); n <= v.set.files.roots(); n++ {
		k.Objects[metadataPrefix+rootFile(n)] = true
	}
	versions := v.set.versions()
	for _, file := range []string{snapshotFile, targetsFile, releasesFile, channelsFile} {
		k.Objects[versionedKey(file, versions[file])] = true
	}
	for _, t := range v.Targets("") {
		k.add(t)
	}
	return k
}

func (k *Kept) add(t Target) {
	if !k.Objects[t.Key()] {
		k.Objects[t.Key()] = true
		k.Targets = append(k.Targets, t)
	}
}

// Drop leaves out the targets that which names.
func (k *Kept) Drop(which func(Target) bool) {
	k.Targets = slices.DeleteFunc(k.Targets, func(t Target) bool {
		if !which(t) {
			return false
		}
		delete(k.Objects, t.Key())
		return true
	})
}

// earlier returns the snapshots of the states that v took the place of since
// the time given, the newest first. Versions follow each other, so that the next
// ones are read ahead: one, two, four, up to pastReads of them.
func (v *View) earlier(ctx context.Context, since time.Time) ([]pastFile, error) {
	version := v.set.versions()[snapshotFile]
	base, _ := strconv.ParseInt(fmt.Sprint(v.set.snapshot.Signed.UnrecognizedFields[baseField]), 10, 64)
	last := v.snapshots(ctx, version, 1)[version]
	var found []pastFile
	read, ahead := map[int64]pastFile{}, 1
	for len(found) < maxPast && last.err == nil && last.modified.After(since) && base > 0 && base < version {
		version = base
		if _, ok := read[version]; !ok {
			read = v.snapshots(ctx, version, ahead)
			ahead = min(2*ahead, pastReads)
		}
		if last = read[version]; last.err == nil {
			found, base = append(found, last), last.base
		}
	}
	if last.err != nil && !errors.Is(last.err, bucket.ErrNotExist) {
		return nil, last.err
	}
	return found, nil
}

// snapshots reads the n snapshots up to version side by side.
func (v *View) snapshots(ctx context.Context, version int64, n int) map[int64]pastFile {
	files := make([]pastFile, min(int64(n), version))
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			key := versionedKey(snapshotFile, version-int64(i))
			b, obj, err := get(ctx, v.client.Bucket, key, bucket.GetOptions{}, maxSnapshotBytes)
			files[i] = parsePast(b)
			files[i].key, files[i].modified, files[i].err = key, obj.Modified, err
		})
	}
	wg.Wait()
	out := map[int64]pastFile{}
	for i, f := range files {
		out[version-int64(i)] = f
	}
	return out
}

// readPast adds what the states of some snapshots need.
func (v *View) readPast(ctx context.Context, snapshots []pastFile, k *Kept) error {
	var keys []string
	for _, s := range snapshots {
		k.Objects[s.key] = true
		for _, file := range []string{targetsFile, releasesFile, channelsFile} {
			if key := versionedKey(file, s.versions[file]); !k.Objects[key] {
				k.Objects[key] = true
				keys = append(keys, key)
			}
		}
	}
	var mu sync.Mutex // guards k
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pastReads)
	for _, key := range keys {
		g.Go(func() error {
			b, _, err := get(gctx, v.client.Bucket, key, bucket.GetOptions{}, maxTargetsBytes)
			if errors.Is(err, bucket.ErrNotExist) {
				return nil
			}
			targets := parsePast(b).targets
			mu.Lock()
			defer mu.Unlock()
			for _, t := range targets {
				k.add(t)
			}
			return err
		})
	}
	return g.Wait()
}

// A pastFile is what an earlier snapshot or targets file names.
type pastFile struct {
	base     int64
	versions map[string]int64
	targets  []Target

	key      string // what follows is of a snapshot that was read
	modified time.Time
	err      error
}

// parsePast reads what it can of a file that nobody vouches for.
func parsePast(b []byte) pastFile {
	var m struct {
		Signed struct {
			Base string `json:"x-bootwell-base"`
			Meta map[string]struct {
				Version int64 `json:"version"`
			} `json:"meta"`
			Targets map[string]struct {
				Length int64 `json:"length"`
				Hashes struct {
					SHA256 string `json:"sha256"`
				} `json:"hashes"`
			} `json:"targets"`
		} `json:"signed"`
	}
	p := pastFile{versions: map[string]int64{}}
	if json.Unmarshal(b, &m) != nil {
		return p
	}
	p.base, _ = strconv.ParseInt(m.Signed.Base, 10, 64)
	for file, f := range m.Signed.Meta {
		p.versions[file] = f.Version
	}
	for _, name := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
		t := m.Signed.Targets[name]
		sum, err := hex.DecodeString(t.Hashes.SHA256)
		if err == nil && len(sum) == 32 && targetName().MatchString(name) && t.Length >= 0 && t.Length <= maxTargetBytes {
			p.targets = append(p.targets, Target{Name: name, Size: t.Length, Digest: release.DigestFromSum([32]byte(sum))})
		}
	}
	return p
}
