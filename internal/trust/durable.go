package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// The names in a client's folder. The metadata verified last are in one of
// the files a and b; the other one is what was before, or torn. currentFile
// says which, and floorFile holds the floor once more. All begin with a line that
// has the digest of the rest, so that a flipped bit makes them absent and not
// wrong.
const (
	currentFile = "cur"
	floorFile   = "floor.json"
)

func generations() []string { return []string{"a", "b"} }

// A floor is the lowest state that a machine accepts.
type floor struct {
	Anchor  release.Digest       `json:"anchor"` // of the project it speaks of
	Root    int64                `json:"root"`
	Roles   map[string]roleFloor `json:"roles"` // by file name
	Time    time.Time            `json:"time"`
	Release int                  `json:"release"` // number of the highest release accepted
}

// A roleFloor is the lowest version of a role signed by Keys. It ends when one
// of the keys is revoked, since a stolen key can have signed any version.
type roleFloor struct {
	Version int64    `json:"version"`
	Keys    []string `json:"keys"`
}

// current is the content of currentFile.
type current struct {
	Generation string         `json:"generation"`
	Timestamp  release.Digest `json:"timestamp"` // of the timestamp.json that ETag is of
	Version    int64          `json:"version"`   // of it
	ETag       string         `json:"etag"`
	Checked    time.Time      `json:"checked"`    // by the machine's clock: the last whole refresh
	LookAfter  time.Duration  `json:"look_after"` // since then: when to look for a new root
	Expires    time.Time      `json:"expires"`    // the soonest of the generation's metadata
	Floor      floor          `json:"floor"`
}

// A glance is what a poll reads of a current: to learn all its types takes
// encoding/json longer than all else that comes before the request.
type glance struct {
	Version   int64         `json:"version"`
	ETag      string        `json:"etag"`
	Checked   time.Time     `json:"checked"`
	LookAfter time.Duration `json:"look_after"`
	Expires   time.Time     `json:"expires"`
	Floor     moment        `json:"floor"`
}

// A moment is what a poll reads of a floor.
type moment struct {
	Anchor release.Digest `json:"anchor"`
	Time   time.Time      `json:"time"`
}

// A state is what a client's folder holds.
type state struct {
	generation string // of set
	set        *set   // nil: nothing usable
	etag       string // of the set's timestamp.json; "" if not known
	floors     []floor
}

// durable keeps verified metadata through power cuts: a generation is whole on
// the disk before cur names it, and nothing that is named is written to.
type durable struct {
	disk   disk
	anchor release.Digest
	known  *set // verified before in this process; may be nil
}

// load reads what is there and leaves out what is torn, forged or of another
// project. The set it returns was verified again, from the anchor on, unless it
// is byte for byte the one that this process has verified. The generation that
// is not named counts only where the other one does not.
func (d *durable) load() *state {
	st := &state{}
	cur, ok := d.current()
	if ok {
		st.floors = append(st.floors, cur.Floor)
	}
	if f, ok := d.floorFile(); ok {
		st.floors = append(st.floors, f)
	}
	order := generations()
	if cur.Generation == order[1] {
		slices.Reverse(order)
	}
	for _, g := range order {
		s, err := d.verified(g)
		if err != nil {
			continue
		}
		st.floors = append(st.floors, floorOf(s, d.anchor))
		if st.set == nil || s.newer(st.set) {
			st.generation, st.set = g, s
		}
		if ok && g == cur.Generation {
			break
		}
	}
	if st.set != nil && release.DigestOf(st.set.files[timestampFile]) == cur.Timestamp {
		st.etag = cur.ETag
	}
	return st
}

// named returns the files of the generation that cur names, as they lie there.
func (d *durable) named() files {
	cur, ok := d.current()
	if !ok || !slices.Contains(generations(), cur.Generation) {
		return nil
	}
	return d.read(cur.Generation)
}

func (d *durable) verified(gen string) (*set, error) {
	f := d.read(gen)
	if d.known != nil && d.known.files.equal(f) {
		return d.known, checkAnchor(d.anchor, f[rootFile(1)])
	}
	return verify(d.anchor, f, time.Time{})
}

func (s *set) newer(t *set) bool {
	return s.timestamp.Signed.Version > t.timestamp.Signed.Version || s.root.Signed.Version > t.root.Signed.Version
}

// floors returns the recorded floors without looking at the metadata.
func (d *durable) floors() []floor {
	var fs []floor
	if cur, ok := d.current(); ok {
		fs = append(fs, cur.Floor)
	}
	if f, ok := d.floorFile(); ok {
		fs = append(fs, f)
	}
	return fs
}

func (d *durable) current() (current, bool) {
	var c current
	ok := d.unseal(currentFile, &c) && c.Floor.Anchor == d.anchor
	if !ok {
		c = current{}
	}
	return c, ok
}

// glance reads what a poll needs. The time is the latest on record; false says
// that there is no current of this project.
func (d *durable) glance() (g glance, recorded time.Time, ok bool) {
	if ok = d.unseal(currentFile, &g) && g.Floor.Anchor == d.anchor; !ok {
		g = glance{}
	}
	recorded = g.Floor.Time
	var m moment
	if d.unseal(floorFile, &m) && m.Anchor == d.anchor && m.Time.After(recorded) {
		recorded = m.Time
	}
	return g, recorded, ok
}

func (d *durable) floorFile() (floor, bool) {
	var f floor
	ok := d.unseal(floorFile, &f) && f.Anchor == d.anchor
	return f, ok
}

// A generation is one file, summed, as joinObjects writes it.
const maxGenerationBytes = maxRoots*maxRootBytes + maxTimestampBytes + maxSnapshotBytes + 3*maxTargetsBytes + 1<<20

// read returns the files of one generation, none if it is torn.
func (d *durable) read(gen string) files {
	b, err := d.disk.Read(gen, maxGenerationBytes)
	if err != nil {
		return nil
	}
	rest, ok := whole(b)
	if !ok {
		return nil
	}
	f, err := splitObjects(rest, maxRoots+len(nonRoot()))
	if err != nil {
		return nil
	}
	return f
}

func (f files) generation() []byte { return summed(joinObjects(f)) }

// commit makes s what the folder holds. A zero ref says that s may have been
// expired: then it tells nothing about the time.
func (d *durable) commit(st *state, s *set, etag string, ref, now time.Time) error {
	fl := merge(st.floors, s, d.anchor)
	if !ref.IsZero() && now.After(fl.Time) {
		fl.Time = now
	}
	gen, more := st.generation, map[string][]byte{}
	if st.set == nil || !st.set.files.equal(s.files) {
		gen = other(st.generation)
		more[gen] = s.files.generation()
	}
	c := current{Generation: gen, Version: s.timestamp.Signed.Version, ETag: etag, Timestamp: release.DigestOf(s.files[timestampFile]), Checked: now, Floor: fl,
		LookAfter: rootInterval - rand.N(rootInterval/4)}
	for _, l := range s.lives() {
		if c.Expires.IsZero() || l.expires.Before(c.Expires) {
			c.Expires = l.expires
		}
	}
	return d.seal(c, fl, more)
}

// raised reports whether both places have number, or a higher one, on record.
func (d *durable) raised(number int) bool {
	c, ok := d.current()
	f, fok := d.floorFile()
	return ok && fok && c.Floor.Release >= number && f.Release >= number
}

// raise records the number of an accepted release.
func (d *durable) raise(number int) error {
	st := d.load()
	fl := floor{Anchor: d.anchor}
	if st.set != nil {
		fl = merge(st.floors, st.set, d.anchor)
	} else {
		for _, f := range st.floors {
			fl.join(f)
		}
	}
	fl.Release = max(fl.Release, number)
	c, ok := d.current()
	if !ok {
		return d.seal(nil, fl, nil)
	}
	c.Floor = fl
	return d.seal(c, fl, nil)
}

func other(gen string) string {
	if gen == generations()[0] {
		return generations()[1]
	}
	return generations()[0]
}

func (f files) equal(g files) bool {
	if len(f) != len(g) {
		return false
	}
	for name, b := range f {
		if !bytes.Equal(b, g[name]) {
			return false
		}
	}
	return true
}

const maxSealedBytes = 256 << 10

// seal replaces currentFile with c (unless that is nil) and floorFile with fl,
// each as JSON, whole or not at all, after it has written more, which nothing
// names yet.
func (d *durable) seal(c any, fl floor, more map[string][]byte) error {
	files := map[string][]byte{}
	maps.Copy(files, more)
	var names []string
	for name, v := range map[string]any{currentFile: c, floorFile: fl} {
		if v == nil {
			continue
		}
		b, err := sealedBytes(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		files[name+".new"] = b
		names = append(names, name)
	}
	if err := d.disk.Write(files); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := d.disk.Rename(name+".new", name); err != nil {
			return err
		}
	}
	return d.disk.Sync()
}

func sealedBytes(v any) ([]byte, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return summed(value), nil
}

// unseal reports whether the file is there, whole and fits v.
func (d *durable) unseal(name string, v any) bool {
	b, err := d.disk.Read(name, maxSealedBytes)
	if err != nil {
		return false
	}
	value, ok := whole(b)
	return ok && json.Unmarshal(value, v) == nil
}

// summed puts a line with the digest of b before b.
func summed(b []byte) []byte { return append([]byte(release.DigestOf(b).String()+"\n"), b...) }

// whole returns what follows the first line of b, if that has its digest.
func whole(b []byte) ([]byte, bool) {
	sum, rest, _ := bytes.Cut(b, []byte("\n"))
	return rest, string(sum) == release.DigestOf(rest).String()
}

// floorOf returns the floor that s itself is.
func floorOf(s *set, anchor release.Digest) floor {
	f := floor{Anchor: anchor, Root: s.root.Signed.Version, Roles: map[string]roleFloor{}}
	for name, v := range s.versions() {
		f.Roles[name] = roleFloor{Version: v, Keys: s.keyIDs(name)}
	}
	return f
}

// latest is the highest time that the floors have on record.
func latest(floors []floor) time.Time {
	var t time.Time
	for _, f := range floors {
		if f.Time.After(t) {
			t = f.Time
		}
	}
	return t
}

// join raises f to g.
func (f *floor) join(g floor) {
	f.Root, f.Release = max(f.Root, g.Root), max(f.Release, g.Release)
	if g.Time.After(f.Time) {
		f.Time = g.Time
	}
	for name, r := range g.Roles {
		if f.Roles == nil {
			f.Roles = map[string]roleFloor{}
		}
		if r.Version > f.Roles[name].Version {
			f.Roles[name] = r
		}
	}
}

// merge returns the floor of a machine that holds s and remembers floors.
func merge(floors []floor, s *set, anchor release.Digest) floor {
	m := floorOf(s, anchor)
	for _, f := range floors {
		g := f
		g.Roles = map[string]roleFloor{}
		for name, r := range f.Roles {
			if r.binds(s, name) {
				g.Roles[name] = r
			}
		}
		m.join(g)
	}
	return m
}

// binds reports whether r still counts: none of its keys was revoked since
// (TUF specification 5.3.11, recovery from fast-forward).
func (r roleFloor) binds(s *set, name string) bool {
	now := s.keyIDs(name)
	for _, id := range r.Keys {
		if !slices.Contains(now, id) {
			return false
		}
	}
	return true
}

// checkFloors refuses a set below what this machine has seen.
func checkFloors(floors []floor, s *set) error {
	have := s.versions()
	for _, f := range floors {
		if s.root.Signed.Version < f.Root {
			return fmt.Errorf("the bucket offers root version %d, and this machine has seen %d: %w", s.root.Signed.Version, f.Root, ErrRollback)
		}
		for _, name := range nonRoot() {
			if r := f.Roles[name]; have[name] < r.Version && r.binds(s, name) {
				return fmt.Errorf("the bucket offers version %d of %s, and this machine has seen %d: %w", have[name], name, r.Version, ErrRollback)
			}
		}
	}
	return nil
}
