package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A farBucket answers after one second of a test's own time, and writes down
// what it was asked for in which second.
type farBucket struct {
	bucket.Bucket
	began time.Time
	mu    sync.Mutex
	asked []string
}

func (b *farBucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	b.mu.Lock()
	name := strings.TrimPrefix(strings.TrimPrefix(key, metadataPrefix), "tuf/")
	if i := strings.IndexByte(name, '-'); strings.HasPrefix(key, bundlePrefix) {
		name = "full bundle"
		if i > 0 {
			name = "next bundle"
		}
	}
	b.asked = append(b.asked, fmt.Sprintf("%d %s", int(time.Since(b.began)/time.Second)+1, name))
	b.mu.Unlock()
	time.Sleep(time.Second)
	return b.Bucket.Get(ctx, key, o)
}

// asks returns what do asks b for, sorted; each with the round trip in which.
func asks(t *testing.T, b bucket.Bucket, do func(bucket.Bucket)) string {
	t.Helper()
	var out string
	synctest.Test(t, func(t *testing.T) {
		far := &farBucket{Bucket: b, began: time.Now()}
		do(far)
		slices.Sort(far.asked)
		out = strings.Join(far.asked, ", ")
	})
	return out
}

// asksOf is asks of a poll of the machine c and, if there is reason for it, a
// refresh.
func asksOf(t *testing.T, c *Client) string {
	t.Helper()
	b := c.Bucket
	defer func() { c.Bucket = b }()
	return asks(t, b, func(far bucket.Bucket) {
		c.Bucket = far
		changed, err := c.Poll(t.Context())
		if err == nil && changed {
			_, err = c.Refresh(t.Context())
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRefresh_AsksInFewRoundTrips(t *testing.T) {
	const sideBySide = "1 timestamp.json, 2 2.root.json, 2 next bundle"
	w := newWorld(t)
	w.publish()
	cold := w.client()
	bare := newBareWorld(t)
	bare.publish()
	laggard, resigned, revised := w.client(), w.client(), w.client()
	mustRefresh(t, laggard)
	check := func(what string, c *Client, want string) {
		t.Helper()
		if got := asksOf(t, c); got != want {
			t.Errorf("%s: asked for %s; want %s", what, got, want)
		}
	}
	check("new machine", cold, "1 1.root.json, 1 2.root.json, 1 full bundle, 1 timestamp.json")
	stale := w.read(fullBundle)
	check("new machine without bundle", bare.client(), "1 1.root.json, 1 2.root.json, 1 full bundle, 1 timestamp.json, 2 2.snapshot.json, 3 1.targets.json, 4 2.releases.json, 5 2.channels.json")
	check("nothing new", cold, "1 timestamp.json")
	w.now = w.now.Add(rootInterval)
	check("look for a root", cold, "1 2.root.json, 1 timestamp.json")
	w.publish()
	check("one release", cold, sideBySide)
	mustRefresh(t, resigned)
	mustRefresh(t, revised)
	fresh := w.read(fullBundle)
	w.write(fullBundle, stale)
	check("new machine and a bundle of the state before", w.client(), "1 1.root.json, 1 2.root.json, 1 full bundle, 1 timestamp.json, 2 3.snapshot.json, 3 3.releases.json, 4 3.channels.json")
	w.write(fullBundle, fresh)
	check("new machine later", w.client(), "1 1.root.json, 1 2.root.json, 1 full bundle, 1 timestamp.json")
	check("a release later", laggard, "1 2.root.json, 1 timestamp.json, 2 next bundle")
	if _, err := w.pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("signed anew", resigned, sideBySide)
	w.publish()
	check("two states later", laggard, "1 timestamp.json, 2 2.root.json, 2 full bundle")
	w.nextRoot(func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(1, 0, 0) }, w.keys.Ops)
	w.publish()
	check("a release and a root", laggard, "1 timestamp.json, 2 2.root.json, 2 next bundle, 3 3.root.json")
}

func TestView_CarriesWhatTravelled(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	v, err := w.pub.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pack := []byte("a small pack")
	key := "packs/" + release.DigestOf(pack).Hex()
	whole, delta := "manifests/"+strings.Repeat("a", 64)+".zst", "manifests/"+strings.Repeat("a", 64)+"-"+strings.Repeat("b", 64)+".zst"
	change := releaseChange(2)
	change.Carry = Carry{
		Next: map[string][]byte{key: pack, delta: []byte("delta")},
		Full: map[string][]byte{key: pack, whole: []byte("whole")},
	}
	if _, err = w.pub.Commit(t.Context(), v, change); err != nil {
		t.Fatal(err)
	}
	held := func(c *Client, changed ...string) {
		t.Helper()
		v := mustRefresh(t, c)
		count := bucket.Count(c.Bucket)
		b := v.Over(count)
		for _, key := range changed {
			if _, _, err := bucket.ReadAll(t.Context(), b, key, bucket.GetOptions{}, 1<<20); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
		v.client.Bucket = count
		if got, err := v.Fetch(t.Context(), "channels/stable.json"); err != nil || string(got) != "pointer to r2" {
			t.Errorf("channel: %q, %v", got, err)
		}
		if n := count.Traffic().Requests(); n != 0 {
			t.Errorf("%d requests for what the bundle carries", n)
		}
	}
	held(c, key, delta)
	held(w.client(), key, whole)
	// It stays for new machines when the project is only signed again.
	if _, err := w.publisher().Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	held(w.client(), key, whole)
}

// A publish writes what is not seen yet in one round trip, and then what makes
// it so.
func TestCommit_WritesSideBySide(t *testing.T) {
	w := newWorld(t)
	v := w.publish()
	var puts []string
	synctest.Test(t, func(t *testing.T) {
		far := &farWrites{Bucket: w.bucket, began: time.Now()}
		w.pub.Client.Bucket = far
		change := releaseChange(2)
		change.Beside = func(ctx context.Context) error {
			_, err := far.Put(ctx, "manifests/x", strings.NewReader("x"), bucket.Condition{})
			return err
		}
		if _, err := w.pub.Commit(t.Context(), v, change); err != nil {
			t.Error(err)
		}
		puts = far.put
	})
	if n := len(puts); n != 9 || puts[n-1] != "2 "+metadataPrefix+timestampFile || strings.Count(strings.Join(puts, "\n"), "1 ") < n-1 {
		t.Errorf("written: %q", puts)
	}
	failed := errors.New("no room")
	v = mustRefresh(t, w.client())
	change := releaseChange(3)
	change.Beside = func(context.Context) error { return failed }
	if _, err := w.publisher().Commit(t.Context(), v, change); !errors.Is(err, failed) {
		t.Errorf("commit: %v", err)
	}
	if after := mustRefresh(t, w.client()); after.Timestamp != v.Timestamp {
		t.Error("visible although what belongs to it failed")
	}
}

type farWrites struct {
	bucket.Bucket
	began time.Time
	mu    sync.Mutex
	put   []string
}

func (b *farWrites) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	b.mu.Lock()
	b.put = append(b.put, fmt.Sprintf("%d %s", int(time.Since(b.began)/time.Second)+1, key))
	b.mu.Unlock()
	time.Sleep(time.Second)
	return b.Bucket.Put(ctx, key, body, c)
}

// Whatever a bundle holds, machines end up with the state that was signed, or
// with none.
func TestAttack_Bundle(t *testing.T) {
	w := newWorld(t)
	w.publish()
	old := copyBucket(t, w.bucket)
	held := w.client()
	mustRefresh(t, held)
	from := w.read(metadataPrefix + timestampFile)
	dict := dictionary(held.known.files)
	w.publish()
	all := copyBucket(t, w.bucket)
	to := w.read(metadataPrefix + timestampFile)
	want := w.current()
	other := newWorld(t)
	otherKeys := Keys{testKey("ops of another"), testKey("online of another")}
	other.bucket = bucket.NewMem()
	if _, err := Init(t.Context(), other.bucket, otherKeys, w.now, 0); err != nil {
		t.Fatal(err)
	}
	others := copyBucket(t, other.bucket)

	honest, err := unpackBundle(all[fullBundle], nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change map[string][]byte) map[string][]byte {
		m := maps.Clone(honest)
		maps.Copy(m, change)
		return m
	}
	meta := func(n int, file string) string { return versionedKey(file, int64(n)) }
	root := w.current().root
	root.Signed.Version++
	nextRoot := signedBy(t, root, testKey("thief"))
	bomb, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := func(objects map[string][]byte) [2][]byte {
		a, err := packBundle(objects, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := packBundle(objects, dict)
		if err != nil {
			t.Fatal(err)
		}
		return [2][]byte{a, b}
	}
	same := func(b []byte) [2][]byte { return [2][]byte{b, b} }
	torn := func(n int) [2][]byte {
		f := full(honest)
		return [2][]byte{f[0][:len(f[0])*n/4], f[1][:len(f[1])*n/4]}
	}
	for name, bundles := range map[string][2][]byte{
		"old metadata under the new names": full(with(map[string][]byte{
			meta(3, releasesFile): old[meta(2, releasesFile)], meta(3, channelsFile): old[meta(2, channelsFile)], meta(3, snapshotFile): old[meta(2, snapshotFile)],
		})),
		"an old snapshot": full(with(map[string][]byte{meta(3, snapshotFile): old[meta(2, snapshotFile)]})),
		"old releases":    full(with(map[string][]byte{meta(3, releasesFile): old[meta(2, releasesFile)]})),
		"another project": full(with(map[string][]byte{
			meta(3, releasesFile): others[meta(1, releasesFile)], meta(3, snapshotFile): others[meta(1, snapshotFile)],
			meta(1, targetsFile): others[meta(1, targetsFile)], metadataPrefix + timestampFile: others[metadataPrefix+timestampFile],
			metadataPrefix + rootFile(1): others[metadataPrefix+rootFile(1)],
		})),
		"a root":                 full(with(map[string][]byte{metadataPrefix + rootFile(2): nextRoot})),
		"a timestamp":            full(with(map[string][]byte{metadataPrefix + timestampFile: from})),
		"a wrong channel":        full(with(map[string][]byte{targetOf("channels/stable.json", []byte("pointer to r2")).Key(): []byte("pointer to r1")})),
		"a wrong manifest":       full(with(map[string][]byte{targetOf("releases/r2.json", []byte("manifest 2")).Key(): []byte("manifest 1")})),
		"releases of other size": full(with(map[string][]byte{meta(3, releasesFile): append(bytes.Clone(all[meta(3, releasesFile)]), ' ')})),
		"no metadata":            full(map[string][]byte{"packs/x": []byte("x"), "reports/vm/report.json": []byte("x")}),
		"nothing":                full(nil),
		"empty":                  same(nil),
		"garbage":                same(bytes.Repeat([]byte{0xa5}, 3000)),
		"torn in the middle":     torn(2),
		"torn near its end":      torn(3),
		"larger than its bounds": same(make([]byte, maxBundleBytes+1)),
		"a bomb":                 same(bomb.EncodeAll(make([]byte, 200<<20), nil)),
		"one for the other":      {full(honest)[1], full(honest)[0]},
	} {
		t.Run(name, func(t *testing.T) {
			mem := bucket.NewMem()
			for key, b := range all {
				put(t, mem, key, b)
			}
			put(t, mem, fullBundle, bundles[0])
			put(t, mem, nextBundleKey(from, to), bundles[1])
			hostile := copyBucket(t, mem)
			for what, c := range map[string]*Client{"new": w.client(), "held": cloneClient(t, held)} {
				c.Bucket = mem
				restore(t, mem, hostile)
				v := mustRefresh(t, c)
				if !v.set.files.equal(want.files) || v.set.root.Signed.Version != 1 {
					t.Errorf("%s machine: another state: %v", what, v.set.versions())
				}
				for name, text := range map[string]string{"channels/stable.json": "pointer to r2", "releases/r2.json": "manifest 2", "releases/r1.json": "manifest 1"} {
					if b, err := v.Fetch(t.Context(), name); err != nil || string(b) != text {
						t.Errorf("%s machine: %s is %q, %v", what, name, b, err)
					}
				}
				for _, key := range []string{metadataPrefix + timestampFile, metadataPrefix + rootFile(1), "reports/vm/report.json"} {
					if _, ok := v.held(key); ok {
						t.Errorf("%s machine: %s is taken from the bundle", what, key)
					}
				}
				// And where the bucket lies in the same way, nothing counts.
				restore(t, mem, old)
				put(t, mem, fullBundle, bundles[0])
				put(t, mem, nextBundleKey(from, to), bundles[1])
				refused(t, c, ErrRollback, "timestamp.json")
			}
		})
	}
}

// A bucket that holds half of the new state and a bundle with the other half is
// as good as whole; one with neither of an object is not.
func TestAttack_BundleAndBucketMixed(t *testing.T) {
	w := newWorld(t)
	w.publish()
	old := copyBucket(t, w.bucket)
	w.publish()
	want := w.current()
	for _, file := range []string{snapshotFile, releasesFile, channelsFile} {
		key := versionedKey(file, 3)
		w.write(key, old[versionedKey(file, 2)])
		if v := mustRefresh(t, w.client()); !v.set.files.equal(want.files) {
			t.Errorf("%s: another state", file)
		}
		objects, err := unpackBundle(w.read(fullBundle), nil)
		if err != nil {
			t.Fatal(err)
		}
		good := maps.Clone(objects)
		delete(objects, key)
		for _, lie := range [][]byte{nil, old[versionedKey(file, 2)]} {
			if lie != nil {
				objects[key] = lie
			}
			b, err := packBundle(objects, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.write(fullBundle, b)
			refused(t, w.client(), ErrUntrusted, strings.TrimSuffix(file, ".json"))
		}
		b, err := packBundle(good, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.write(fullBundle, b)
		w.write(key, want.files[file])
	}
}

// A root that is written between the answers for timestamp.json and the next
// root makes the first of them useless, and is no attack.
func TestRefresh_RootChangesBetweenTwoAnswers(t *testing.T) {
	w := newWorld(t)
	w.publish()
	c := w.client()
	mustRefresh(t, c)
	w.publish()
	if changed, err := c.Poll(t.Context()); !changed || err != nil {
		t.Fatal(changed, err)
	}
	fresh := testKey("online2")
	w.nextRoot(func(r *metadata.RootType) {
		k, _ := tufKeyOf(t, fresh)
		_, old := tufKeyOf(t, w.keys.Online)
		for _, role := range []string{"snapshot", "timestamp"} {
			r.AddKey(k, role)
			r.RevokeKey(old, role)
		}
	}, w.keys.Ops)
	s, err := verify(w.anchor, c.known.files, w.now)
	if err != nil {
		t.Fatal(err)
	}
	sn, ts := s.snapshot, s.timestamp
	sn.Signed.Version, ts.Signed.Version = 9, 9
	b := signedBy(t, sn, fresh)
	w.write(versionedKey(snapshotFile, 9), b)
	ts.Signed.Meta[snapshotFile] = describe(b, 9)
	w.write(metadataPrefix+timestampFile, signedBy(t, ts, fresh))
	if v := mustRefresh(t, c); v.Timestamp != 9 || v.set.root.Signed.Version != 2 {
		t.Errorf("timestamp %d, root %d", v.Timestamp, v.set.root.Signed.Version)
	}
}

func cloneClient(t *testing.T, c *Client) *Client {
	t.Helper()
	n := &Client{Bucket: c.Bucket, Dir: t.TempDir(), Anchor: c.Anchor, Now: c.Now}
	d := &durable{disk: osDisk{n.Dir}, anchor: n.Anchor}
	if err := d.commit(d.load(), c.known, "", c.now(), c.now()); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUnpackBundle_TakesNoMoreThanItMay(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	const many = 64 << 20
	bomb := e.EncodeAll(make([]byte, many), nil)
	var stream bytes.Buffer // without its size in front
	sw, err := zstd.NewWriter(&stream, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	sw.Write(make([]byte, many))
	sw.Close()
	for _, b := range [][]byte{bomb, stream.Bytes(), append(e.EncodeAll(nil, nil), bomb...)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := unpackBundle(b, nil)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, errBundle) {
			t.Errorf("a bomb unpacks: %v", err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 3*maxBundleUnpacked {
			t.Errorf("a bomb of %d bytes took %d bytes", len(b), n)
		}
	}
}

func TestParseBundle(t *testing.T) {
	long := strings.Repeat("k", bucket.MaxKey)
	manifest := "manifests/" + strings.Repeat("a", 64) + ".zst"
	for text, want := range map[string]map[string][]byte{
		"":                                                  {},
		manifest + " 2\nab" + manifest + " 1\nc":            {manifest: []byte("c")},
		"tuf/metadata/7.snapshot.json 0\n":                  {"tuf/metadata/7.snapshot.json": {}},
		"tuf/metadata/7.root.json 1\nx":                     {},
		"tuf/metadata/timestamp.json 1\nx":                  {},
		"tuf/metadata/0.snapshot.json 1\nx":                 {},
		"tuf/metadata/../7.snapshot.json 1\nx":              nil,
		"reports/a 1\nx":                                    {},
		"packs/" + strings.Repeat("a", 64) + " 1\nx":        {},
		manifest + " 3\nab":                                 nil,
		manifest + " -1\nab":                                nil,
		manifest + " 99999999999999999999\nab":              nil,
		manifest + " 2":                                     nil,
		manifest + "\nab":                                   nil,
		long + "k 1\nx":                                     nil,
		"\n":                                                nil,
		strings.Repeat(manifest+" 0\n", maxBundleObjects):   {manifest: {}},
		strings.Repeat(manifest+" 0\n", maxBundleObjects+1): nil,
	} {
		got, err := parseBundle([]byte(text))
		if (err == nil) != (want != nil) || err != nil && !errors.Is(err, errBundle) || err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%.80q: %q, %v", text, got, err)
		}
	}
}

// FuzzBundle puts any bytes in the place of both bundles. A machine always ends
// up with what was signed.
func FuzzBundle(f *testing.F) {
	w := newWorld(f)
	w.publish()
	held := w.client()
	mustRefresh(f, held)
	from := w.read(metadataPrefix + timestampFile)
	w.publish()
	objects := copyBucket(f, w.bucket)
	to := w.read(metadataPrefix + timestampFile)
	want := w.current()
	plain, err := unpackBundle(objects[fullBundle], nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(objects[fullBundle], false)
	f.Add(objects[nextBundleKey(from, to)], false)
	for key, b := range plain {
		f.Add(fmt.Appendf(nil, "%s %d\n%s", key, len(b), b), true)
		f.Add(fmt.Appendf(nil, "%s %d\n%s", key, len(b)-1, b), true)
	}
	encoder := func(more ...zstd.EOption) *zstd.Encoder {
		e, err := zstd.NewWriter(nil, append(more, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))...)
		if err != nil {
			f.Fatal(err)
		}
		return e
	}
	full, onward := encoder(), encoder(zstd.WithEncoderDictRaw(bundleDict, dictionary(held.known.files)))
	f.Fuzz(func(t *testing.T, b []byte, pack bool) {
		next := b
		if pack {
			b, next = full.EncodeAll(b, nil), onward.EncodeAll(b, nil)
		}
		mem := bucket.NewMem()
		for key, data := range objects {
			put(t, mem, key, data)
		}
		put(t, mem, fullBundle, b)
		put(t, mem, nextBundleKey(from, to), next)
		c := &Client{Bucket: mem, Dir: t.TempDir(), Anchor: w.anchor, Now: w.clock}
		d := &durable{disk: osDisk{c.Dir}, anchor: c.Anchor}
		if len(b)%2 == 0 {
			if err := d.commit(d.load(), held.known, "", start, start); err != nil {
				t.Fatal(err)
			}
		}
		if v := mustRefresh(t, c); !v.set.files.equal(want.files) {
			t.Fatalf("another state: %v", v.set.versions())
		}
	})
}

// Readers of a mirror find the bundles there; a mirror that skips states has
// only those for new readers.
func TestCopyTo_BundlesGoAlong(t *testing.T) {
	w := newWorld(t)
	mirror := bucket.NewMem()
	to := &Client{Bucket: mirror, Dir: t.TempDir(), Anchor: w.anchor, Now: w.clock}
	copyState := func(have *View) *View {
		t.Helper()
		v := mustRefresh(t, w.client())
		for _, tg := range v.Targets("") {
			b, err := v.Fetch(t.Context(), tg.Name)
			if err == nil {
				err = PutTarget(t.Context(), mirror, tg.Name, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := v.CopyTo(t.Context(), to, have, "test"); err != nil {
			t.Fatal(err)
		}
		return mustRefresh(t, to)
	}
	w.publish()
	have := copyState(nil)
	reader := &Client{Bucket: mirror, Dir: t.TempDir(), Anchor: w.anchor, Now: w.clock}
	is := func(want string) {
		t.Helper()
		if got := asksOf(t, reader); got != want {
			t.Errorf("asked for %s; want %s", got, want)
		}
	}
	is("1 1.root.json, 1 2.root.json, 1 full bundle, 1 timestamp.json")
	w.publish()
	have = copyState(have)
	is("1 timestamp.json, 2 2.root.json, 2 next bundle")
	w.publish()
	w.publish()
	copyState(have)
	is("1 timestamp.json, 2 2.root.json, 2 full bundle")
}
