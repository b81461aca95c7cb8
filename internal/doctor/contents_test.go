package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

func TestSignatures(t *testing.T) {
	mem := bucket.NewMem()
	proj := newProject(t, mem)
	stranger := newProject(t, bucket.NewMem())
	days := func(n int) func() time.Time { return func() time.Time { return proj.start.AddDate(0, 0, n) } }
	target := Target{URL: "s3://fleet/prod", Bucket: mem, Anchor: proj.anchor}
	for _, c := range []struct {
		name   string
		probe  Probe
		target func(Target) Target
		status Status
		cause  string
	}{
		{"fresh", Probe{}, nil, OK, ""},
		{"before half of its life", Probe{Now: days(40)}, nil, OK, ""},
		{"past half of its life", Probe{Now: days(50)}, nil, Warning, "expires"},
		{"expired", Probe{Now: days(100)}, nil, Problem, "expired"},
		{"of another project", Probe{}, func(t Target) Target { t.Anchor = stranger.anchor; return t }, Problem, "untrusted"},
		{"no lock file", Probe{}, func(t Target) Target { t.Anchor = release.Digest{}; return t }, Warning, "no_anchor"},
		{"no project", Probe{}, func(t Target) Target { t.Bucket = bucket.NewMem(); return t }, Problem, "not_initialised"},
		{"no project, on a VM", Probe{For: VM}, func(t Target) Target { t.Bucket = bucket.NewMem(); return t }, Problem, "not_initialised"},
		{"another bucket", Probe{}, func(t Target) Target { t.Bucket, t.Other = bucket.NewMem(), true; return t }, Unknown, "not_initialised"},
		{"before init", Probe{}, func(t Target) Target { t.Bucket, t.Anchor = bucket.NewMem(), release.Digest{}; return t }, Unknown, "not_initialised"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tgt := target
			if c.target != nil {
				tgt = c.target(tgt)
			}
			fs := c.probe.Look(t.Context(), tgt)
			is(t, fs, "signatures", c.status, c.cause)
			golden(t, fs)
		})
	}
}

// TestRollback: the bucket was set back behind what this machine has seen. The
// state of this machine is only read.
func TestRollback(t *testing.T) {
	mem := bucket.NewMem()
	proj := newProject(t, mem)
	old, _ := buckettest.Get(t, mem, timestampKey)
	proj.resign(t, proj.start.AddDate(0, 0, 60))
	state := filepath.Join(t.TempDir(), "state")
	now := func() time.Time { return proj.start.AddDate(0, 0, 61) }
	c := &trust.Client{Bucket: mem, Dir: state, Anchor: proj.anchor, Now: now}
	if _, err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, mem, timestampKey, old)
	before := files(t, state)
	tgt := Target{URL: "s3://fleet/prod", Bucket: mem, Anchor: proj.anchor, State: state}
	is(t, (&Probe{Now: now}).Look(t.Context(), tgt), "signatures", Problem, "rollback")
	tgt.State = ""
	is(t, (&Probe{Now: now}).Look(t.Context(), tgt), "signatures", Warning, "expires")
	if after := files(t, state); !maps.Equal(before, after) {
		t.Errorf("the state had %v and has %v", before, after)
	}
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(p)
			all[p] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAgents(t *testing.T) {
	mem := bucket.NewMem()
	proj := newProject(t, mem)
	t.Run("before the first release", func(t *testing.T) {
		fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: mem, Anchor: proj.anchor, Agents: map[string]release.Digest{"amd64": release.DigestOf(nil)}})
		is(t, fs, "agents", Unknown, "not_published")
	})
	proj.publish(t)
	there, gone, empty := release.DigestOf([]byte("there")), release.DigestOf([]byte("gone")), release.DigestOf([]byte("empty"))
	buckettest.Put(t, mem, "agents/"+there.Hex(), []byte("an agent"))
	buckettest.Put(t, mem, "agents/"+empty.Hex(), nil)
	for _, c := range []struct {
		name   string
		agents map[string]release.Digest
		status Status
		cause  string
	}{
		{"all there", map[string]release.Digest{"amd64": there}, OK, ""},
		{"one missing", map[string]release.Digest{"amd64": there, "arm64": gone}, Problem, "agent_missing"},
		{"one empty", map[string]release.Digest{"amd64": empty}, Problem, "agent_missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: mem, Anchor: proj.anchor, Agents: c.agents})
			is(t, fs, "agents", c.status, c.cause)
			golden(t, fs)
		})
	}
}

func TestLag(t *testing.T) {
	first := bucket.NewMem()
	proj := newProject(t, first)
	copyTo := func(to bucket.Bucket) Target {
		for o, err := range first.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			b, _ := buckettest.Get(t, first, o.Key)
			buckettest.Put(t, to, o.Key, b)
		}
		return Target{Name: "mirror", URL: "s3://mirror", Bucket: to}
	}
	behind := copyTo(bucket.NewMem())
	proj.resign(t, proj.start.AddDate(0, 0, 60))
	same := copyTo(bucket.NewMem())
	empty := Target{URL: "s3://mirror", Bucket: bucket.NewMem()}
	away := Target{URL: "s3://mirror", Err: fmt.Errorf("open s3://mirror: %w", bucket.ErrUnavailable)}
	fs := (&Probe{}).Lag(t.Context(), Target{Bucket: first}, []Target{behind, same, empty, away})
	for i, want := range []string{"mirror_lags", "", "mirror_empty", "failed"} {
		if fs[i].Cause != want {
			t.Errorf("mirror %d: %+v, want %q", i, fs[i], want)
		}
	}
	if fs := (&Probe{}).Lag(t.Context(), behind, []Target{same}); fs[0].Cause != "mirror_ahead" {
		t.Errorf("%+v", fs[0])
	}
}

// TestSetup asks a real server about its buckets.
func TestSetup(t *testing.T) {
	srv := buckettest.StartVersityGW(t, buckettest.ServerConfig{Versioning: true})
	srv.CreateBucket("fleet")
	bare := s3At(t, srv.Endpoint(), buckettest.RootKey, buckettest.RootSecret, nil)
	t.Run("unversioned", func(t *testing.T) {
		fs := (&Probe{Setup: Setup}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: bare})
		is(t, fs, "versions", Warning, "unversioned")
		is(t, fs, "public", OK, "")
		golden(t, fs)
	})
	t.Run("public", func(t *testing.T) {
		srv.PutBucketPolicy("fleet", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::fleet/*"}]}`)
		fs := (&Probe{Setup: Setup}).Look(t.Context(), Target{URL: "s3://fleet/prod?endpoint=" + srv.Endpoint(), Bucket: bare})
		is(t, fs, "public", Warning, "public")
		golden(t, fs)
	})
	t.Run("as it should be", func(t *testing.T) {
		b, err := s3.Open(t.Context(), srv.URL("good", "prod"), s3.Options{Sources: []s3.Source{s3.Static(buckettest.RootKey, buckettest.RootSecret, "")}})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		fs := (&Probe{Setup: Setup}).Look(t.Context(), Target{URL: "s3://good/prod", Bucket: b})
		is(t, fs, "versions", OK, "")
		is(t, fs, "public", OK, "")
	})
	t.Run("may not be asked", func(t *testing.T) {
		srv.CreateUser("eve", "secret")
		fs := Setup(t.Context(), Target{URL: "s3://fleet/prod", Bucket: s3At(t, srv.Endpoint(), "eve", "secret", nil)})
		is(t, fs, "versions", Unknown, "not_told")
	})
}

func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bucket")
	open := func(path string) Target {
		b, err := file.Open(t.Context(), "file://"+path, file.Options{})
		if err != nil {
			return Target{URL: "file://" + path, Err: err}
		}
		return Target{URL: "file://" + path, Bucket: b}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("good", func(t *testing.T) { golden(t, (&Probe{Setup: Setup}).Look(t.Context(), open(dir))) })
	t.Run("near", func(t *testing.T) {
		fs := (&Probe{}).Look(t.Context(), open(dir+"s"))
		is(t, fs, "bucket", Problem, "no_bucket")
		if !strings.Contains(fs[0].Fix, "did you mean "+dir+"?") {
			t.Errorf("%q names no folder", fs[0].Fix)
		}
	})
	t.Run("no folder", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if fs := (&Probe{}).Look(t.Context(), open(name)); fs.Count(Problem) != 1 {
			t.Errorf("%+v", fs)
		}
	})
}

// TestWeb says what cannot be found out on a server that is only read.
func TestWeb(t *testing.T) {
	dir := t.TempDir()
	store, err := file.Open(t.Context(), "file://"+dir, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	proj := newProject(t, store)
	s := plain(t, http.FileServer(http.Dir(dir)))
	b, err := web.Open(t.Context(), s.URL, web.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []Audience{Publisher, Reader, VM} {
		t.Run(string(who), func(t *testing.T) {
			fs := (&Probe{For: who, VM: "vm1", Report: []byte("{}"), Setup: Setup}).Look(t.Context(), Target{URL: s.URL, Bucket: b, Anchor: proj.anchor})
			if (who == Publisher) != (fs.Count(Problem) > 0) {
				t.Error("a problem only for who wants to publish")
			}
			golden(t, fs)
		})
	}
}

// TestBlackHole is a bucket that accepts connections and says nothing. It ends
// by its deadlines, and at once when it is interrupted.
func TestBlackHole(t *testing.T) {
	hole := "http://" + blackHole(t)
	tgt := Target{URL: "s3://fleet/prod", Bucket: s3At(t, hole, "key", "secret", nil), Anchor: release.DigestOf(nil)}
	fs := (&Probe{Setup: Setup, Deadline: 300 * time.Millisecond}).Look(t.Context(), tgt)
	is(t, fs, "endpoint", Problem, "timeout")
	golden(t, fs)

	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan Findings)
	go func() { done <- (&Probe{Deadline: time.Hour}).Look(ctx, tgt) }()
	cancel(errors.New("Ctrl-C"))
	if fs := <-done; fs.Count(Unknown) != len(fs) {
		t.Errorf("interrupted, it says\n%s", fs.Text(0))
	}
}

func TestBadURL(t *testing.T) {
	_, err := s3.Open(t.Context(), "s3://fleet/prod?regoin=eu-west-1", s3.Options{})
	fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://key:topsecret@fleet/prod?regoin=eu-west-1", Err: err})
	is(t, fs, "bucket", Problem, "bad_url")
	if strings.Contains(fs.Text(0), "topsecret") {
		t.Error("the secret is shown")
	}
	golden(t, fs)
}

func TestText(t *testing.T) {
	fs := Findings{
		ok("version", "1.2.3"),
		bad("conditions", Problem, "x", "a long message that does not fit into one line of a terminal and goes on below itself", "do this"),
		bad("list", Warning, "x", "hostile \x1b[31mred\x00 text\nin two lines", "do this"),
		unknown("clock", "x", "not asked"),
	}
	fs[3].Bucket = "mirror 1: s3://other"
	text := fs.Text(60)
	for _, line := range strings.Split(text, "\n") {
		if utf8.RuneCountInString(line) > 60 {
			t.Errorf("%q is wider than 60 columns", line)
		}
	}
	if strings.ContainsAny(text, "\x1b\x00") {
		t.Errorf("%q has control characters", text)
	}
	golden(t, fs)
}

func FuzzTimestampVersion(f *testing.F) {
	for _, s := range []string{`{"signed":{"version":3}}`, `{}`, `[]`, `{"signed":{"version":-1}}`, `{"signed":{"version":1e99}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := timestampVersion(b); (err == nil) != (v > 0) {
			t.Errorf("%q: %d, %v", b, v, err)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2Jb\n\tc", 40)
	f.Add(strings.Repeat("ü ", 400), 30)
	f.Fuzz(func(t *testing.T, s string, width int) {
		got := clean(s)
		if len(got) > maxText+len("…") || strings.ContainsAny(got, "\n\x1b\x00") || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q", s, got)
		}
		if w := wrap(got, 10, width%200); strings.Join(strings.Fields(w), " ") != got {
			t.Errorf("%q is broken into %q", got, w)
		}
	})
}

// TestMirrors: a mirror that is away is a problem for who publishes, and a
// warning on a VM that has another bucket.
func TestMirrors(t *testing.T) {
	first := bucket.NewMem()
	proj := newProject(t, first)
	open := func(_ context.Context, url string) (bucket.Bucket, error) {
		if url == "s3://gone" {
			return nil, fmt.Errorf("open %s: %w: no route to host", url, bucket.ErrUnavailable)
		}
		return first, nil
	}
	targets := Targets(t.Context(), open, []string{"s3://fleet/prod?region=x", "s3://gone"}, Target{Anchor: proj.anchor})
	for who, want := range map[Audience]Status{Publisher: Problem, VM: Warning} {
		t.Run(string(who), func(t *testing.T) {
			fs := (&Probe{For: who}).LookAll(t.Context(), targets)
			is(t, fs, "endpoint", want, "unavailable")
			golden(t, fs)
		})
	}
}
