// Package buckettest holds what every bucket provider must do, as tests, and
// real servers to do it against.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Options adapt the suite to a bucket.
type Options struct {
	Objects int           // in the long listing; 0: 2,600, and a large object of 300 MB where BOOTWELL_TEST_LARGE is set
	Settle  time.Duration // after a write until the bucket gives a firm ETag; 0: at once
}

// Test runs the whole suite. open returns an empty bucket each time.
func Test(t *testing.T, open func(t testing.TB) bucket.Bucket, o Options) {
	pair := func(t testing.TB) (bucket.Bucket, bucket.Bucket) { b := open(t); return b, b }
	TestReading(t, pair, o)
	for _, c := range []struct {
		name string
		test func(*testing.T, bucket.Bucket)
	}{
		{"put replaces and changes the ETag", testReplace},
		{"put reads the body from its start", testBodyFromStart},
		{"put if absent", testIfAbsent},
		{"put if match", testIfMatch},
		{"one of 16 wins if absent", testRaceAbsent},
		{"one of 16 wins if match", testRaceMatch},
		{"no increment is lost", testIncrement},
		{"delete", testDelete},
		{"a key and a folder of that name", testClash},
		{"bad keys are refused", testBadKeys},
		{"readers see old or new", testAtomic},
		{"a done context ends every call", testDone},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// TestReading runs the part of the suite that only reads. open returns the
// bucket under test and a writer of the same objects; both are empty.
func TestReading(t *testing.T, open func(t testing.TB) (b, writer bucket.Bucket), o Options) {
	large := int64(30 << 20)
	if o.Objects == 0 {
		o.Objects = 2600
		if os.Getenv("BOOTWELL_TEST_LARGE") != "" {
			large = 300 << 20
		}
	}
	for _, c := range []struct {
		name string
		test func(t *testing.T, b, w bucket.Bucket)
	}{
		{"content", testContent},
		{"ranges", testRanges},
		{"odd keys", testOddKeys},
		{"not modified", func(t *testing.T, b, w bucket.Bucket) { testNotModified(t, b, w, o.Settle) }},
		{"missing object", testMissing},
		{"large object", func(t *testing.T, b, w bucket.Bucket) { testLarge(t, b, w, large) }},
		{"closed early", testClosedEarly},
		{"cancelled while reading", testCancelBody},
		{"list by prefix and after", testListPrefix},
		{"a long list is in order", func(t *testing.T, b, w bucket.Bucket) { testListLong(t, b, w, o.Objects) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, w := open(t)
			c.test(t, b, w)
		})
	}
}

// Put writes or fails the test.
func Put(t testing.TB, b bucket.Bucket, key string, data []byte) bucket.Object {
	t.Helper()
	obj, err := b.Put(t.Context(), key, bytes.NewReader(data), bucket.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// Get reads the whole object or fails the test.
func Get(t testing.TB, b bucket.Bucket, key string) ([]byte, bucket.Object) {
	t.Helper()
	data, obj, err := bucket.ReadAll(t.Context(), b, key, bucket.GetOptions{}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data, obj
}

// Keys lists or fails the test.
func Keys(t testing.TB, b bucket.Bucket, prefix, after string) []string {
	t.Helper()
	keys := []string{}
	for obj, err := range b.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, obj.Key)
	}
	return keys
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// noise returns n bytes that do not repeat.
func noise(n int) []byte {
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	rng.Read(data)
	return data
}

func testContent(t *testing.T, b, w bucket.Bucket) {
	for _, n := range []int{0, 1, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1<<20 + 3} {
		key := fmt.Sprintf("content/%d", n)
		want := noise(n)
		put := Put(t, w, key, want)
		got, obj := Get(t, b, key)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes that differ", key, len(got))
		}
		if obj.Key != key || obj.Size != int64(n) || obj.ETag == "" || obj.Modified.IsZero() {
			t.Errorf("get %s: object %+v", key, obj)
		}
		if put.Key != key || put.Size != int64(n) || put.ETag == "" || b == w && put.ETag != obj.ETag {
			t.Errorf("put %s: object %+v", key, put)
		}
		if _, again := Get(t, b, key); again.ETag != obj.ETag {
			t.Errorf("%s: the ETag changed without a write: %s, %s", key, obj.ETag, again.ETag)
		}
	}
}

func testRanges(t *testing.T, b, w bucket.Bucket) {
	data := noise(200_000)
	Put(t, w, "packs/p", data)
	Put(t, w, "empty", nil)
	for _, c := range []struct {
		key            string
		offset, length int64
		want           []byte
		err            error
	}{
		{"packs/p", 0, 1, data[:1], nil},
		{"packs/p", 0, 200_000, data, nil},
		{"packs/p", 1, 0, data[1:], nil},
		{"packs/p", 1000, 70_000, data[1000:71_000], nil},
		{"packs/p", 199_999, 1, data[199_999:], nil},
		{"packs/p", 199_999, 0, data[199_999:], nil},
		{"packs/p", 199_990, 100, data[199_990:], nil},
		{"packs/p", 0, 1 << 40, data, nil},
		{"packs/p", 200_000, 0, nil, bucket.ErrTruncated},
		{"packs/p", 200_000, 1, nil, bucket.ErrTruncated},
		{"packs/p", 1 << 40, 5, nil, bucket.ErrTruncated},
		{"empty", 0, 0, []byte{}, nil},
		{"empty", 0, 1, nil, bucket.ErrTruncated},
	} {
		name := fmt.Sprintf("%s %d+%d", c.key, c.offset, c.length)
		got, obj, err := bucket.ReadAll(t.Context(), b, c.key, bucket.GetOptions{Offset: c.offset, Length: c.length}, 1<<20)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
		if c.err != nil {
			continue
		}
		if !bytes.Equal(got, c.want) {
			t.Errorf("%s: got %d bytes that differ from the %d wanted", name, len(got), len(c.want))
		}
		if c.key == "packs/p" && obj.Size != 200_000 {
			t.Errorf("%s: size %d is not the whole object's", name, obj.Size)
		}
	}
	for _, o := range []bucket.GetOptions{{Offset: -1}, {Length: -1}, {Offset: 1 << 62, Length: 1 << 62}} {
		if r, _, err := b.Get(t.Context(), "packs/p", o); err == nil {
			r.Close()
			t.Errorf("range %+v was accepted", o)
		}
	}
}

// oddKeys are in byte order.
func oddKeys() []string {
	keys := []string{
		"odd/ lead", "odd/a b c", "odd/a&b=c?d#e", "odd/a%2Fb", "odd/a+b", "odd/a:b@c", "odd/b;c,d!e$f'g(h)*",
		"odd/c%", "odd/d~e", "odd/e_f-g.h", "odd/f[g]", "odd/grün/ß", "odd/日本語", "odd/🚀", "odd/…", "odd/x=y/z",
		"odd/" + strings.Repeat("n", 200), "odd/.dot", "odd/..two", "odd/q\"r'", "odd/<t>",
	}
	slices.Sort(keys)
	return keys
}

func testOddKeys(t *testing.T, b, w bucket.Bucket) {
	for _, key := range oddKeys() {
		Put(t, w, key, []byte("at "+key))
	}
	for _, key := range oddKeys() {
		if got, obj := Get(t, b, key); string(got) != "at "+key || obj.Key != key {
			t.Errorf("%q: got %q of %q", key, got, obj.Key)
		}
	}
	if b.Caps().NoList {
		return
	}
	if got := Keys(t, b, "odd/", ""); !slices.Equal(got, oddKeys()) {
		t.Errorf("list:\n%q\nwant\n%q", got, oddKeys())
	}
}

func testNotModified(t *testing.T, b, w bucket.Bucket, settle time.Duration) {
	for _, n := range []int{10, 200_000} {
		key := fmt.Sprintf("tuf/metadata/%d", n)
		Put(t, w, key, noise(n))
		time.Sleep(settle)
		_, obj := Get(t, b, key)
		r, _, err := b.Get(t.Context(), key, bucket.GetOptions{IfNoneMatch: obj.ETag})
		wantErr(t, "get the same again", err, bucket.ErrNotModified)
		if err == nil {
			r.Close()
		}
		changed := noise(n)
		changed[0]++
		Put(t, w, key, changed)
		got, now, err := bucket.ReadAll(t.Context(), b, key, bucket.GetOptions{IfNoneMatch: obj.ETag}, 1<<20)
		if err != nil || !bytes.Equal(got, changed) || now.ETag == obj.ETag {
			t.Errorf("get after a change of the same length: %d bytes, ETag %s then %s, %v", len(got), obj.ETag, now.ETag, err)
		}
	}
}

func testMissing(t *testing.T, b, w bucket.Bucket) {
	for _, key := range []string{"missing", "missing/deeper/still"} {
		_, _, err := b.Get(t.Context(), key, bucket.GetOptions{})
		wantErr(t, "get "+key, err, bucket.ErrNotExist)
		_, _, err = b.Get(t.Context(), key, bucket.GetOptions{IfNoneMatch: "x", Offset: 3})
		wantErr(t, "conditional get "+key, err, bucket.ErrNotExist)
	}
	Put(t, w, "folder/object", []byte("x"))
	_, _, err := b.Get(t.Context(), "folder", bucket.GetOptions{})
	wantErr(t, "get a folder", err, bucket.ErrNotExist)
	_, _, err = b.Get(t.Context(), "folder/object/below", bucket.GetOptions{})
	wantErr(t, "get below an object", err, bucket.ErrNotExist)
}

func testLarge(t *testing.T, b, w bucket.Bucket, size int64) {
	want := pattern(size)
	if _, err := w.Put(t.Context(), "packs/large", want, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	r, obj, err := b.Get(t.Context(), "packs/large", bucket.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if obj.Size != size {
		t.Errorf("size %d, want %d", obj.Size, size)
	}
	if !sameBytes(t, r, pattern(size)) {
		t.Error("the content differs")
	}
	last := make([]byte, 5)
	if _, err := want.ReadAt(last, size-5); err != nil {
		t.Fatal(err)
	}
	got, _, err := bucket.ReadAll(t.Context(), b, "packs/large", bucket.GetOptions{Offset: size - 5, Length: 5}, 5)
	if err != nil || !bytes.Equal(got, last) {
		t.Errorf("the last bytes: %x, %v", got, err)
	}
}

// pattern is n bytes of which no two blocks are the same, without the memory
// for them.
func pattern(n int64) *io.SectionReader {
	return io.NewSectionReader(patternBytes(noise(patternBlock)), 0, n)
}

const patternBlock = 1 << 20

type patternBytes []byte // one block; in each, the first bytes are its number

// ReadAt implements [io.ReaderAt] of a pattern without end.
func (b patternBytes) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		block, at := (off+int64(done))/patternBlock, (off+int64(done))%patternBlock
		n := copy(p[done:], b[at:])
		for i := at; i < 8 && i-at < int64(n); i++ {
			p[done+int(i-at)] = byte(block >> (8 * i))
		}
		done += n
	}
	return len(p), nil
}

// sameBytes reports whether r yields what want does.
func sameBytes(t *testing.T, r, want io.Reader) bool {
	t.Helper()
	got, expected := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(r, got)
		m, _ := io.ReadFull(want, expected)
		if !bytes.Equal(got[:n], expected[:m]) {
			return false
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func testClosedEarly(t *testing.T, b, w bucket.Bucket) {
	Put(t, w, "packs/p", noise(8<<20))
	for range 3 {
		r, _, err := b.Get(t.Context(), "packs/p", bucket.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("read after close: %d, %v", n, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
	}
	if got, _ := Get(t, b, "packs/p"); len(got) != 8<<20 {
		t.Errorf("after that: %d bytes", len(got))
	}
}

func testCancelBody(t *testing.T, b, w bucket.Bucket) {
	Put(t, w, "packs/p", noise(8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _, err := b.Get(ctx, "packs/p", bucket.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.Copy(io.Discard, r)
	wantErr(t, "read after cancel", err, context.Canceled)
}

func testListPrefix(t *testing.T, b, w bucket.Bucket) {
	if b.Caps().NoList {
		for _, err := range b.List(t.Context(), "", "") {
			wantErr(t, "list", err, bucket.ErrUnsupported)
			return
		}
		t.Fatal("list of a bucket without listing ended without an error")
	}
	if got := Keys(t, b, "", ""); len(got) != 0 {
		t.Fatalf("an empty bucket lists %q", got)
	}
	keys := []string{ // in byte order, which is not the order of a walk over folders
		"a", "d!x", "d.x", "d/y", "d/z/1", "d/z/2", "d/z0", "d0", "reports/vm1/report.json", "reports/vm10/report.json", "reports/vm2/report.json", "z",
	}
	for _, key := range keys {
		Put(t, w, key, []byte(key))
	}
	for _, prefix := range []string{"", "a", "d", "d/", "d/z", "d/z/", "d/z/1", "d.", "reports/", "reports/vm1", "reports/vm1/", "nothing", "nothing/", "d/nothing/", "a/", "zz"} {
		afters := []string{"", "d/", "d/z", "d/z/1"}
		if slices.Contains([]string{"", "d", "d/", "reports/"}, prefix) {
			afters = append(afters, "0", "a", "d", "d.x", "d/y", "d/z/", "d/z0", "d0", "reports/vm1/report.json", "reports/vm1/z", "zz")
		}
		for _, after := range afters {
			var want []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			if got := Keys(t, b, prefix, after); !slices.Equal(got, want) {
				t.Errorf("list %q after %q:\n%q, want\n%q", prefix, after, got, want)
			}
		}
	}
	for obj, err := range b.List(t.Context(), "reports/", "") {
		_, got := Get(t, b, obj.Key)
		if err != nil || obj.ETag != got.ETag || obj.Size != got.Size || obj.Modified.IsZero() {
			t.Errorf("list says %+v (%v), get %+v", obj, err, got)
		}
	}
}

func testListLong(t *testing.T, b, w bucket.Bucket, n int) {
	if b.Caps().NoList {
		t.Skip("this bucket cannot list")
	}
	var want []string
	patient := bucket.Retry(w, bucket.RetryPolicy{}) // a server may be slow to write so many
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for i := range n {
		key := fmt.Sprintf("reports/vm-%03d/log-%04d", i/100, i)
		want = append(want, key)
		g.Go(func() error {
			_, err := patient.Put(ctx, key, strings.NewReader(key), bucket.Condition{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := Keys(t, b, "reports/", ""); !slices.Equal(got, want) {
		t.Errorf("got %d keys in another order or number than the %d written", len(got), len(want))
	}
	mid := want[n/2]
	if got := Keys(t, b, "reports/", mid); !slices.Equal(got, want[n/2+1:]) {
		t.Errorf("after %s: got %d keys, want %d", mid, len(got), n-n/2-1)
	}
	seen := 0
	for _, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 3 {
			break
		}
	}
	if seen != 3 {
		t.Errorf("stopped after %d, want 3", seen)
	}
}
