package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A notebook is a bucket that writes down what it is asked for.
type notebook struct {
	bucket.Bucket
	mu    sync.Mutex
	notes []string
}

func (b *notebook) note(what, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, what+" "+key)
}

func (b *notebook) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	b.note("GET", key)
	return b.Bucket.Get(ctx, key, o)
}

func (b *notebook) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	b.note("PUT", key)
	return b.Bucket.Put(ctx, key, body, c)
}

var longHex = regexp.MustCompile("[0-9a-f]{64}")

// requests returns what a call of the agent asks the bucket for, sorted, with
// digests left out.
func (w *world) requests() string {
	w.t.Helper()
	n := &notebook{Bucket: w.count}
	w.agent.Bucket = n
	defer func() { w.agent.Bucket = w.count }()
	w.good()
	for i := range n.notes {
		n.notes[i] = strings.NewReplacer("tuf/metadata/", "", "tuf/", "").Replace(longHex.ReplaceAllString(n.notes[i], "*"))
	}
	slices.Sort(n.notes)
	return strings.Join(n.notes, ", ")
}

// many fills the project with files of a workload: n of 11 kB that do not
// compress.
func (w *world) many(n int) {
	w.t.Helper()
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range n {
		b := make([]byte, 11<<10)
		rnd.Read(b)
		w.write(w.path("project", "files", fmt.Sprintf("d%d", i%20), fmt.Sprintf("f%d", i)), string(b))
	}
}

const (
	reported = "PUT logs/i-0abc/%d.zst, PUT reports/i-0abc/report.json"
	update   = "GET 2.root.json, GET bundles/*-*.zst, GET timestamp.json, "
)

// What a VM asks for, and how much comes of it, in a project of a thousand
// files and fifty releases.
func TestRequests_AreFewAndSmall(t *testing.T) {
	w := newWorld(t)
	w.many(1000)
	releases := 50
	if testing.Short() {
		releases = 5
	}
	for i := range releases {
		w.publish(role(w.put("f", fmt.Sprint(i))))
	}
	is := func(what, want string) int64 {
		t.Helper()
		before := w.count.Traffic()
		if got := w.requests(); got != want {
			t.Errorf("%s:\n asked for %s\n     want %s", what, got, want)
		}
		return w.count.Traffic().Sub(before).Down
	}
	is("new VM", "GET 1.root.json, GET 2.root.json, GET bundles/full.zst, GET packs/*, GET packs/*, GET timestamp.json, "+fmt.Sprintf(reported, 0))
	w.pass(5 * time.Minute)
	if n := is("nothing new", "GET timestamp.json"); n != 0 {
		t.Errorf("a poll reads %d bytes", n)
	}

	content := make([]byte, 11<<10)
	rand.NewChaCha8([32]byte{2}).Read(content)
	w.write(w.path("project", "files", "d3", "f3"), string(content))
	w.publish(role(w.put("f", "one file")))
	w.pass(5 * time.Minute)
	n := is("one file", update+fmt.Sprintf(reported, 1))
	if t.Logf("%d bytes beside the content", n-int64(len(content))); n > int64(len(content))+7<<10 {
		t.Errorf("one file of %d bytes took %d", len(content), n)
	}
	w.pass(5 * time.Minute)
	w.resign()
	if n := is("signed anew", strings.TrimSuffix(update, ", ")); n > 6<<10 {
		t.Errorf("metadata signed anew took %d bytes", n)
	}
}

// Without a bundle, and with one that is of no use, a VM comes to the same by
// asking for each object.
func TestRequests_WithoutAGoodBundle(t *testing.T) {
	const (
		metadata = "GET 3.channels.json, GET 3.releases.json, GET 3.snapshot.json, "
		content  = "GET manifests/*-*.zst, GET packs/*, "
		channel  = "GET targets/channels/*.stable.json, GET timestamp.json, "
	)
	for name, tt := range map[string]struct {
		spoil func(b []byte) []byte
		next  bool // only the form for those who hold the state before
		want  string
	}{
		"gone":      {func([]byte) []byte { return nil }, false, "GET 2.root.json, " + metadata + "GET bundles/*-*.zst, GET bundles/full.zst, " + content + "PUT logs/i-0abc/1.zst, PUT reports/i-0abc/report.json, " + channel},
		"torn":      {func(b []byte) []byte { return b[:len(b)*2/3] }, false, "GET 2.root.json, " + metadata + "GET bundles/*-*.zst, GET bundles/full.zst, " + content + "PUT logs/i-0abc/1.zst, PUT reports/i-0abc/report.json, " + channel},
		"next gone": {func([]byte) []byte { return nil }, true, "GET 2.root.json, GET bundles/*-*.zst, GET bundles/full.zst, GET manifests/*-*.zst, PUT logs/i-0abc/1.zst, PUT reports/i-0abc/report.json, GET timestamp.json, "},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish(role(w.put("f", "one")))
			w.good()
			w.write(w.path("project", "more.txt"), "more\n")
			w.publish(role(w.put("f", "two")))
			w.spoil(tt.next, tt.spoil)
			w.pass(5 * time.Minute)
			want := strings.Split(strings.TrimSuffix(tt.want, ", "), ", ")
			slices.Sort(want)
			if got := w.requests(); got != strings.Join(want, ", ") || w.text("f") != "two" {
				t.Errorf("asked for %s\n     want %s", got, strings.Join(want, ", "))
			}
		})
	}
}

// A bundle that lies about the manifest, which only the signed metadata can
// tell, costs the request for the true one.
func TestRequests_BundleLiesAboutTheManifest(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("f", "one")))
	w.good()
	w.publish(role(w.put("f", "two")))
	zd, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zd.Close()
	ze, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var lies, honest []byte
	for o, err := range w.inner.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(o.Key, "manifests/") {
			lies = fmt.Appendf(lies, "%s 4\nlies", o.Key)
		}
	}
	full, _, err := bucket.ReadAll(t.Context(), w.inner, "tuf/bundles/full.zst", bucket.GetOptions{}, 1<<24)
	if err == nil {
		honest, err = zd.DecodeAll(full, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.spoil(true, func([]byte) []byte { return ze.EncodeAll(append(bytes.Clone(honest), lies...), nil) })
	w.pass(5 * time.Minute)
	want := "GET 2.root.json, GET bundles/*-*.zst, GET manifests/*.zst, GET timestamp.json, " + fmt.Sprintf(reported, 1)
	if got := w.requests(); got != want || w.text("f") != "two" {
		t.Errorf("asked for %s\n     want %s", got, want)
	}
}

// spoil puts what f makes of them in the place of bundles; nothing for nil.
func (w *world) spoil(next bool, f func([]byte) []byte) {
	w.t.Helper()
	for o, err := range w.inner.List(w.t.Context(), "tuf/bundles/", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		if next && !strings.Contains(o.Key, "-") {
			continue
		}
		b, _, err := bucket.ReadAll(w.t.Context(), w.inner, o.Key, bucket.GetOptions{}, 1<<24)
		if err != nil {
			w.t.Fatal(err)
		}
		if b = f(b); b == nil {
			err = w.inner.Delete(w.t.Context(), o.Key)
		} else {
			_, err = w.inner.Put(w.t.Context(), o.Key, bytes.NewReader(b), bucket.Condition{})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) resign() {
	w.t.Helper()
	if _, err := w.publisher().Resign(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}
