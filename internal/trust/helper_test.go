package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// start is when all test projects begin.
var start = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

// testKey returns the same key for the same name, so that tests repeat.
func testKey(name string) Key {
	seed := release.DigestOf([]byte(name)).Hex()[:ed25519.SeedSize]
	priv := ed25519.NewKeyFromSeed([]byte(seed))
	return Key{Name: name, Public: priv.Public().(ed25519.PublicKey), Private: priv}
}

// A world is a project in a bucket, with a clock that stands still.
type world struct {
	t      testing.TB
	bucket bucket.Bucket
	keys   Keys
	anchor release.Digest
	now    time.Time
	pub    *Publisher
	n      int
}

func newWorld(t testing.TB) *world { return newWorldIn(t, bucket.NewMem()) }

// newBareWorld is a project whose objects are only there one by one, so that
// no bundle makes up for what is done to them.
func newBareWorld(t testing.TB) *world { return newWorldIn(t, bare{bucket.NewMem()}) }

type bare struct{ bucket.Bucket }

func (b bare) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if strings.HasPrefix(key, bundlePrefix) {
		return bucket.Object{}, nil
	}
	return b.Bucket.Put(ctx, key, body, c)
}

func newWorldIn(t testing.TB, b bucket.Bucket) *world {
	t.Helper()
	w := &world{t: t, bucket: b, keys: Keys{testKey("ops"), testKey("online")}, now: start}
	anchor, err := Init(t.Context(), b, w.keys, w.now, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.anchor = anchor
	w.pub = w.publisher()
	return w
}

func (w *world) clock() time.Time { return w.now }

// client returns a new machine.
func (w *world) client() *Client {
	return &Client{Bucket: w.bucket, Dir: w.t.TempDir(), Anchor: w.anchor, Now: w.clock}
}

// publisher returns a new operator's machine.
func (w *world) publisher() *Publisher {
	return &Publisher{Client: w.client(), Keys: w.keys, Now: w.clock, settle: 10 * time.Millisecond}
}

// publish commits one more release and points the channel to it.
func (w *world) publish() *View {
	w.t.Helper()
	w.n++
	v, err := w.pub.View(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	v, err = w.pub.Commit(w.t.Context(), v, releaseChange(w.n))
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func releaseChange(n int) Change {
	return Change{Blobs: map[string][]byte{
		fmt.Sprintf("releases/r%d.json", n): fmt.Appendf(nil, "manifest %d", n),
		"channels/stable.json":              fmt.Appendf(nil, "pointer to r%d", n),
	}}
}

func (w *world) read(key string) []byte {
	w.t.Helper()
	b, _, err := bucket.ReadAll(w.t.Context(), w.bucket, key, bucket.GetOptions{}, 1<<24)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) write(key string, b []byte) { put(w.t, w.bucket, key, b) }

func put(t testing.TB, b bucket.Bucket, key string, data []byte) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, bytes.NewReader(data), bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) remove(key string) {
	w.t.Helper()
	if err := w.bucket.Delete(w.t.Context(), key); err != nil {
		w.t.Fatal(err)
	}
}

// copyBucket returns all objects of b.
func copyBucket(t testing.TB, b bucket.Bucket) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := bucket.ReadAll(t.Context(), b, o.Key, bucket.GetOptions{}, 1<<24)
		if err != nil {
			t.Fatal(err)
		}
		all[o.Key] = data
	}
	return all
}

// restore makes b hold exactly all.
func restore(t testing.TB, b bucket.Bucket, all map[string][]byte) {
	t.Helper()
	for key := range copyBucket(t, b) {
		if _, ok := all[key]; !ok {
			if err := b.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	for key, data := range all {
		put(t, b, key, data)
	}
}

func mustRefresh(t testing.TB, c *Client) *View {
	t.Helper()
	v, err := c.Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// current returns the parsed metadata that timestamp.json leads to.
func (w *world) current() *set {
	w.t.Helper()
	return mustRefresh(w.t, w.client()).set
}

// signedBy signs m with k whether k may or not, and returns its bytes.
func signedBy[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], ks ...Key) []byte {
	t.Helper()
	m.ClearSignatures()
	for _, k := range ks {
		s, err := signature.LoadED25519Signer(k.Private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Sign(s); err != nil {
			t.Fatal(err)
		}
	}
	b, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nextRoot writes the next root after change, signed by ks.
func (w *world) nextRoot(change func(*metadata.RootType), ks ...Key) string {
	w.t.Helper()
	m := w.current().root
	m.Signed.Version++
	change(&m.Signed)
	key := metadataPrefix + rootFile(m.Signed.Version)
	w.write(key, signedBy(w.t, m, ks...))
	return key
}

func tufKeyOf(t testing.TB, k Key) (*metadata.Key, string) {
	t.Helper()
	tk, id, err := tufKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return tk, id
}

// names returns the names of the view's targets.
func names(v *View) string {
	var s []string
	for _, t := range v.Targets("") {
		s = append(s, t.Name)
	}
	return strings.Join(s, " ")
}

// again asks once more after each failed write, as a retrying layer does.
type again struct{ bucket.Bucket }

func (b again) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	obj, err := b.Bucket.Put(ctx, key, body, c)
	if errors.Is(err, bucket.ErrUnavailable) {
		return b.Bucket.Put(ctx, key, body, c)
	}
	return obj, err
}

// discardTargets saves a test the bytes of thousands of targets.
type discardTargets struct{ bucket.Bucket }

func (b discardTargets) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if strings.HasPrefix(key, targetsPrefix) {
		return bucket.Object{}, nil
	}
	return b.Bucket.Put(ctx, key, body, c)
}
