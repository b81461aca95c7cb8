package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// damages are what can become of a file.
func damages() map[string]func(path string) error {
	edit := func(f func([]byte) []byte) func(string) error {
		return func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, f(b), 0o600)
		}
	}
	return map[string]func(string) error{
		"missing": os.Remove,
		"empty":   edit(func([]byte) []byte { return nil }),
		"half":    edit(func(b []byte) []byte { return b[:len(b)/2] }),
		"garbage": edit(func(b []byte) []byte { return bytes.Repeat([]byte{0xa5, 0}, len(b)/2) }),
		"bit flip": edit(func(b []byte) []byte {
			// In the first version, which stays JSON and becomes a higher one.
			i := bytes.Index(b, []byte(`"version":`)) + len(`"version":`)
			b[i] ^= 4
			return b
		}),
	}
}

// localFiles are the files of a client whose active generation is gen, and of
// that what is in it.
func localFiles(gen string) []string {
	fs := []string{currentFile, floorFile, gen, gen + "/" + rootFile(1)}
	for _, name := range nonRoot() {
		fs = append(fs, gen+"/"+name)
	}
	return fs
}

// hurt damages a file of dir. What is in a generation is damaged as if it had
// been written so.
func hurt(t *testing.T, dir, file, how string) {
	t.Helper()
	gen, member, inside := strings.Cut(file, "/")
	p := filepath.Join(dir, file)
	if inside {
		f := (&durable{disk: osDisk{dir}}).read(gen)
		p = filepath.Join(t.TempDir(), member)
		if err := os.WriteFile(p, f[member], 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			b, err := os.ReadFile(p)
			if f[member] = b; err != nil {
				delete(f, member)
			}
			if err := os.WriteFile(filepath.Join(dir, gen), f.generation(), 0o600); err != nil {
				t.Fatal(err)
			}
		}()
	}
	if err := damages()[how](p); err != nil {
		t.Fatal(err)
	}
}

// Every local file, damaged in every way: 9 × 5 cases. Each time the machine
// has a verified view without network, refuses the older repository, takes
// the present one, and is whole again afterwards.
func TestDamage_EachFileInEachWay(t *testing.T) {
	w := newWorld(t)
	w.publish()
	older := copyBucket(t, w.bucket)
	template := w.client()
	mustRefresh(t, template)
	w.publish()
	now := copyBucket(t, w.bucket)
	mustRefresh(t, template)
	if err := template.RaiseFloor(2); err != nil {
		t.Fatal(err)
	}
	cur, _ := template.durable().current()
	cases := 0
	for _, file := range localFiles(cur.Generation) {
		for how := range damages() {
			cases++
			t.Run(fmt.Sprintf("%s %s", strings.ReplaceAll(file, "/", " "), how), func(t *testing.T) {
				c := &Client{Bucket: bucket.NewMem(), Dir: filepath.Join(t.TempDir(), "trust"), Anchor: w.anchor, Now: w.clock}
				if err := os.CopyFS(c.Dir, os.DirFS(template.Dir)); err != nil {
					t.Fatal(err)
				}
				hurt(t, c.Dir, file, how)
				checkHeals(t, c, older, now)
			})
		}
	}
	if cases != 45 {
		t.Fatalf("%d cases", cases)
	}
}

func checkHeals(t *testing.T, c *Client, older, now map[string][]byte) {
	t.Helper()
	v, err := c.Last()
	if err != nil || v.Timestamp < 2 || v.Timestamp > 3 {
		t.Fatalf("last: %v", err)
	}
	if n, err := c.Floor(); n != 2 || err != nil {
		t.Fatalf("floor is %d: %v", n, err)
	}
	restore(t, c.Bucket, older)
	if _, err := c.Refresh(t.Context()); !errors.Is(err, ErrRollback) {
		t.Fatalf("older repository: %v", err)
	}
	restore(t, c.Bucket, now)
	if _, err := c.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := mustRefresh(t, c); v.Timestamp != 3 {
		t.Fatalf("timestamp %d", v.Timestamp)
	}
	cur, ok := c.durable().current()
	if !ok || cur.Floor.Release != 2 {
		t.Fatalf("cur is %+v, %v", cur, ok)
	}
	if _, ok := c.durable().floorFile(); !ok {
		t.Fatal("floor.json is not whole again")
	}
	if _, err := verify(c.Anchor, c.durable().read(cur.Generation), start); err != nil {
		t.Fatalf("generation %s is not whole again: %v", cur.Generation, err)
	}
	if changed, err := c.Poll(t.Context()); changed || err != nil {
		t.Fatalf("poll of a healed machine: %v, %v", changed, err)
	}
}

// The names that a machine's own metadata are known by in the literature of
// such failures.
func TestDamage_TornTimestamp(t *testing.T) { oneDamage(t, timestampFile, "half") }
func TestDamage_EmptySnapshot(t *testing.T) { oneDamage(t, snapshotFile, "empty") }
func TestDamage_EmptyRoot(t *testing.T)     { oneDamage(t, rootFile(1), "empty") }

// oneDamage hurts a file of the only generation there is.
func oneDamage(t *testing.T, file, how string) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	hurt(t, c.Dir, "a/"+file, how)
	if _, err := c.Last(); !errors.Is(err, ErrNoRelease) {
		t.Fatalf("last: %v", err)
	}
	if v := mustRefresh(t, c); v.Timestamp != 2 {
		t.Fatalf("timestamp %d", v.Timestamp)
	}
}

func TestDamage_EverythingAtOnce(t *testing.T) {
	for how, damage := range damages() {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			mustRefresh(t, c)
			w.publish()
			mustRefresh(t, c)
			err := filepath.WalkDir(c.Dir, func(p string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() || e.Name() == "lock" {
					return err
				}
				return damage(p)
			})
			if err != nil {
				t.Fatal(err)
			}
			if v := mustRefresh(t, c); v.Timestamp != 2 {
				t.Fatalf("timestamp %d", v.Timestamp)
			}
		})
	}
}

func TestDamage_FoldersWhereFilesBelong(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, name := range []string{currentFile, currentFile + ".new", floorFile, "scratch", "a", "b"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mustRefresh(t, c)
	if _, err := c.Last(); err != nil {
		t.Fatal(err)
	}
}

func TestDamage_ReadOnlyFolder(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	mustRefresh(t, c)
	c.Dir = filepath.Join(c.Dir, "lock") // a file: nothing can be made below it
	_, err := c.Refresh(t.Context())
	if err == nil || errors.Is(err, ErrUntrusted) {
		t.Fatalf("refresh: %v", err)
	}
}

// FuzzDamage puts any bytes in the place of any local file.
func FuzzDamage(f *testing.F) {
	w := newWorld(f)
	w.publish()
	template := w.client()
	mustRefresh(f, template)
	w.publish()
	mustRefresh(f, template)
	cur, _ := template.durable().current()
	all := []string{currentFile, floorFile, cur.Generation}
	for i, name := range all {
		b, err := os.ReadFile(filepath.Join(template.Dir, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Add(uint8(0), summed([]byte("null")))
	f.Add(uint8(1), summed([]byte("{}")))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := &Client{Bucket: w.bucket, Dir: filepath.Join(t.TempDir(), "trust"), Anchor: w.anchor, Now: w.clock}
		if err := os.CopyFS(c.Dir, os.DirFS(template.Dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.Dir, all[int(which)%len(all)]), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := c.Last(); err != nil || v.Timestamp < 2 {
			t.Fatalf("last: %v", err)
		}
		if _, err := c.Poll(t.Context()); err != nil {
			t.Fatalf("poll: %v", err)
		}
		if v := mustRefresh(t, c); v.Timestamp != 3 {
			t.Fatalf("timestamp %d", v.Timestamp)
		}
	})
}

var errPower = errors.New("the power is off")

// A powerDisk is a disk that loses power. What was not synced survives by
// chance: content in part or as zeros, names each for itself.
type powerDisk struct {
	rnd     *rand.Rand
	left    int // steps until the power goes; negative: never
	now     map[string]*inode
	durable map[string]*inode
}

type inode struct{ data, synced []byte }

func newPowerDisk(seed uint64) *powerDisk {
	return &powerDisk{rnd: rand.New(rand.NewPCG(seed, 1)), left: -1, now: map[string]*inode{}, durable: map[string]*inode{}}
}

// step is one thing that the disk does, or errPower.
func (d *powerDisk) step() error {
	if d.left == 0 {
		return errPower
	}
	if d.left > 0 {
		d.left--
	}
	return nil
}

func (d *powerDisk) Read(name string, max int64) ([]byte, error) {
	n := d.now[name]
	if n == nil || int64(len(n.data)) > max {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(n.data), nil
}

func (d *powerDisk) Write(files map[string][]byte) error {
	names := slices.Sorted(maps.Keys(files))
	d.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		if err := d.write(name, files[name]); err != nil {
			return err
		}
	}
	return nil
}

func (d *powerDisk) write(name string, b []byte) error {
	if err := d.step(); err != nil {
		return err
	}
	n := d.now[name]
	if n == nil {
		n = &inode{}
		d.now[name] = n
	}
	n.data = nil
	if err := d.step(); err != nil {
		return err
	}
	n.data = bytes.Clone(b)
	if err := d.step(); err != nil {
		return err
	}
	n.synced = n.data
	return nil
}

func (d *powerDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.now[to] = d.now[from]
	delete(d.now, from)
	return nil
}

func (d *powerDisk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	d.durable = maps.Clone(d.now)
	return nil
}

// restart returns the disk as it is found after the power came back.
func (d *powerDisk) restart() *powerDisk {
	all := map[string]bool{}
	for p := range d.now {
		all[p] = true
	}
	for p := range d.durable {
		all[p] = true
	}
	e := newPowerDisk(d.rnd.Uint64())
	for _, p := range slices.Sorted(maps.Keys(all)) {
		n := d.durable[p]
		if d.rnd.IntN(2) == 0 {
			n = d.now[p]
		}
		if n == nil {
			continue
		}
		data := d.survives(n)
		e.now[p] = &inode{data: data, synced: data}
	}
	e.durable = maps.Clone(e.now)
	return e
}

func (d *powerDisk) survives(n *inode) []byte {
	if bytes.Equal(n.data, n.synced) {
		return n.data
	}
	switch d.rnd.IntN(4) {
	case 0:
		return n.data
	case 1:
		return n.synced
	case 2:
		return n.data[:d.rnd.IntN(len(n.data)+1)]
	}
	return make([]byte, len(n.data))
}

// The power goes at each step of three commits. After each one the machine
// has the last whole state or the one being written, never goes below what a
// finished commit has shown it, and goes on.
func TestDamage_PowerCutAtEachStep(t *testing.T) {
	w := newWorld(t)
	var sets []*set
	for range 4 {
		sets = append(sets, w.current())
		w.publish()
	}
	last := sets[3]
	for seed := range uint64(3) {
		for cut := 0; ; cut++ {
			disk := newPowerDisk(seed<<32 | uint64(cut))
			disk.left = cut
			d := &durable{disk: disk, anchor: w.anchor}
			done := 0
			for _, s := range sets[:3] {
				if err := d.commit(d.load(), s, "etag", start, start); err != nil {
					if !errors.Is(err, errPower) {
						t.Fatal(err)
					}
					break
				}
				done++
			}
			d = &durable{disk: disk.restart(), anchor: w.anchor}
			checkAfterPowerCut(t, d, sets, done)
			if err := d.commit(d.load(), last, "etag", start, start); err != nil {
				t.Fatal(err)
			}
			if st := d.load(); st.set == nil || !st.set.files.equal(last.files) || st.etag != "etag" {
				t.Fatalf("seed %d cut %d: the next commit did not last", seed, cut)
			}
			if done == 3 {
				break
			}
		}
	}
}

func checkAfterPowerCut(t *testing.T, d *durable, sets []*set, done int) {
	t.Helper()
	st := d.load()
	if done == 0 {
		return
	}
	if st.set == nil {
		t.Fatalf("after %d commits nothing is left", done)
	}
	if got := int(st.set.timestamp.Signed.Version); got != done && got != done+1 {
		t.Fatalf("after %d commits version %d is left", done, got)
	}
	for i, s := range sets {
		err := checkFloors(st.floors, s)
		if i+1 < done && !errors.Is(err, ErrRollback) {
			t.Fatalf("after %d commits version %d would count: %v", done, i+1, err)
		}
		if i+1 > done && err != nil {
			t.Fatalf("after %d commits version %d is refused: %v", done, i+1, err)
		}
	}
}
