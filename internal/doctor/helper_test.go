package doctor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

var update = flag.Bool("update", false, "rewrite the expected texts")

func TestMain(m *testing.M) {
	os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Exit(m.Run())
}

// masks are what differs from run to run.
var masks = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`127\.\d+\.\d+\.\d+:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`localhost:\d+`), "localhost:PORT"},
	{regexp.MustCompile(`\btx[0-9a-f]{21}-[0-9a-f]{10}\b`), "TX"},
	{regexp.MustCompile(`\b\d+ ms\b`), "N ms"},
	{regexp.MustCompile(`within \d s of`), "within N s of"},
	{regexp.MustCompile(` \(\d+s (ahead of|behind) the server's\)`), ""},
	{regexp.MustCompile(`\b(1h0m0s|59m5\ds)`), "1h0m0s"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?Z?)?`), "DATE"},
	{regexp.MustCompile(`/\S*/\d{3}/`), "TMP/"},
	{regexp.MustCompile(`doctor-[A-Z0-9]{20,}`), "doctor-RANDOM"},
	{regexp.MustCompile(`[0-9a-f]{64}`), "DIGEST"},
	{regexp.MustCompile(`race \d of 4`), "race N of 4"},
	{regexp.MustCompile(`\b(19|20)m\d+s`), "20m0s"},
}

// golden holds the text of findings, as it is without a terminal.
func golden(t *testing.T, fs Findings) {
	t.Helper()
	got := fs.Text(0)
	for _, m := range masks {
		got = m.re.ReplaceAllString(got, m.by)
	}
	name := filepath.Join("testdata", "golden", strings.ReplaceAll(strings.ReplaceAll(t.Name(), "/", "."), " ", "_")+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// find returns the finding of a check.
func find(t *testing.T, fs Findings, check string) Finding {
	t.Helper()
	for _, f := range fs {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding %q in\n%s", check, fs.Text(0))
	return Finding{}
}

func is(t *testing.T, fs Findings, check string, s Status, cause string) {
	t.Helper()
	if f := find(t, fs, check); f.Status != s || f.Cause != cause {
		t.Errorf("%s: %s %s (%s), want %s %s", check, f.Status, f.Cause, f.Message, s, cause)
	}
}

// A far bucket says where it is, as those over a network do.
type far struct {
	bucket.Bucket
	url, ca string
}

func (f far) Endpoint() (url, ca string) { return f.url, f.ca }
func (f far) Unwrap() bucket.Bucket      { return f.Bucket }

// at makes a target whose bucket says that it is at an address. Retry around
// it is what the commands' wiring does.
func at(b bucket.Bucket, url, ca string) Target {
	return Target{URL: "s3://fleet/prod", Bucket: keep{far{b, url, ca}}}
}

// keep hides Unwrap, so that the address is not taken off with the decorators.
type keep struct{ far }

func (keep) Unwrap() {}

// s3At opens a bucket over S3 with a key, in the region of the test server.
func s3At(t *testing.T, endpoint, user, secret string, via http.RoundTripper) bucket.Bucket {
	t.Helper()
	var sources []s3.Source
	if user != "" {
		sources = append(sources, s3.Static(user, secret, ""))
	}
	b, err := s3.Open(t.Context(), "s3://fleet/prod?region=us-east-1&endpoint="+url.QueryEscape(endpoint), s3.Options{Sources: sources, Transport: via})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A project is one that was initialised in a bucket.
type project struct {
	bucket bucket.Bucket
	anchor release.Digest
	keys   trust.Keys
	start  time.Time
}

func newKey(t testing.TB, name string) trust.Key {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Key{Name: name, Public: pub, Private: priv}
}

func newProject(t testing.TB, b bucket.Bucket) *project {
	t.Helper()
	p := &project{bucket: b, keys: trust.Keys{Ops: newKey(t, "ops"), Online: newKey(t, "online")}, start: time.Now()}
	var err error
	if p.anchor, err = trust.Init(t.Context(), b, p.keys, p.start, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *project) resign(t testing.TB, now time.Time) {
	t.Helper()
	pub := &trust.Publisher{Client: &trust.Client{Bucket: p.bucket, Dir: t.TempDir(), Anchor: p.anchor, Now: func() time.Time { return now }}, Keys: p.keys, Now: func() time.Time { return now }}
	if _, err := pub.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// publish signs a release without content.
func (p *project) publish(t testing.TB) {
	t.Helper()
	pub := &trust.Publisher{Client: &trust.Client{Bucket: p.bucket, Dir: t.TempDir(), Anchor: p.anchor}, Keys: p.keys}
	v, err := pub.View(t.Context())
	if err == nil {
		_, err = pub.Commit(t.Context(), v, trust.Change{Blobs: map[string][]byte{"releases/r1.json": []byte("{}")}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// contents is every object and its ETag.
func contents(t testing.TB, b bucket.Bucket) map[string]string {
	t.Helper()
	all := map[string]string{}
	for o, err := range b.List(context.WithoutCancel(t.Context()), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all[o.Key] = o.ETag + " " + o.Modified.String()
	}
	return all
}

func newSilentLog() *log.Logger { return log.New(io.Discard, "", 0) }
