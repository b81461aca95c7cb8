package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// A fixture is a project in a bucket and a folder that is published to it.
type fixture struct {
	t      testing.TB
	b      bucket.Bucket
	dir    string
	keys   trust.Keys
	anchor release.Digest
	roles  map[string]release.Role
	now    func() time.Time
}

func newKey(t testing.TB, name string) trust.Key {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Key{Name: name, Public: pub, Private: priv}
}

func newFixture(t testing.TB, b bucket.Bucket) *fixture {
	t.Helper()
	f := &fixture{t: t, b: b, dir: t.TempDir(), keys: trust.Keys{Ops: newKey(t, "ops"), Online: newKey(t, "online")}, now: time.Now}
	anchor, err := trust.Init(context.Background(), b, f.keys, f.now(), trust.DefaultLifetime)
	if err != nil {
		t.Fatal(err)
	}
	f.anchor = anchor
	f.roles = map[string]release.Role{"web": {Steps: []release.Step{{Name: "go", Kind: release.KindRun, Run: "true", Rerun: release.RerunAlways, OnError: release.OnErrorStop, Reboot: release.RebootNever}}, Attempts: 2}}
	return f
}

func (f *fixture) client(b bucket.Bucket) *trust.Client {
	return &trust.Client{Bucket: b, Dir: f.t.TempDir(), Anchor: f.anchor, Now: f.now}
}

func (f *fixture) publisher(b bucket.Bucket) *trust.Publisher {
	return &trust.Publisher{Client: f.client(b), Keys: f.keys, Now: f.now}
}

func (f *fixture) options() PublishOptions {
	return PublishOptions{Dir: f.dir, Project: "acme", Roles: f.roles, Owner: "test", Source: release.Source{Tool: "test", By: "me"}}
}

// publish publishes the folder by way of b and returns what happened.
func (f *fixture) publishTo(b bucket.Bucket, o PublishOptions) (Published, error) {
	s := &Store{Bucket: b, Log: slog.New(slog.DiscardHandler)}
	return s.Publish(context.Background(), f.publisher(b), o)
}

func (f *fixture) publish() Published {
	f.t.Helper()
	p, err := f.publishTo(f.b, f.options())
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// manifest returns what the channel names.
func (f *fixture) manifest() *release.Manifest {
	f.t.Helper()
	m, err := f.tryManifest(f.b)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fixture) tryManifest(b bucket.Bucket) (*release.Manifest, error) {
	ctx, s := context.Background(), &Store{Bucket: b}
	v, err := f.client(b).Refresh(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.Channel(ctx, v, "acme", "stable")
	if err != nil {
		return nil, err
	}
	return s.Manifest(ctx, v, c.Release, nil)
}

func (f *fixture) write(name, content string) {
	f.t.Helper()
	write(f.t, f.dir, name, []byte(content), 0o644)
}

func write(t testing.TB, dir, name string, content []byte, mode fs.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// snapshot describes a tree: each path with its type, mode and content.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out[rel] = "dir"
			if ents, _ := os.ReadDir(p); len(ents) == 0 {
				out[rel] = fmt.Sprintf("empty %v", fi.Mode().Perm())
			}
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			out[rel] = "link " + target
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out[rel] = fmt.Sprintf("file %v %s", fi.Mode().Perm(), release.DigestOf(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t testing.TB, want, got map[string]string) {
	t.Helper()
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%q is %q, want %q", p, got[p], w)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q is there and should not be", p)
		}
	}
}

func stageDir(t testing.TB) string { return filepath.Join(t.TempDir(), "tree") }

func mustStage(t testing.TB, b bucket.Bucket, m *release.Manifest, o StageOptions) StageStats {
	t.Helper()
	st, err := (&Store{Bucket: b}).Stage(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyStaged(context.Background(), Staged{o.Dir, m}, o.Role); err != nil {
		t.Fatal(err)
	}
	return st
}

// content returns all objects of b, but locks.
func content(t testing.TB, b bucket.Bucket, prefix string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for o, err := range b.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(o.Key, "locks/") {
			continue
		}
		data, _, err := bucket.ReadAll(context.Background(), b, o.Key, bucket.GetOptions{}, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		out[o.Key] = string(data)
	}
	return out
}

func put(t testing.TB, b bucket.Bucket, key string, data []byte) {
	t.Helper()
	if _, err := b.Put(context.Background(), key, bytes.NewReader(data), bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
}
