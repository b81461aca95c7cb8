package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// The names of the project that all simulated VMs belong to.
const (
	projectName = "bench"
	roleName    = "web"
)

// A project is what an operator has: a folder, keys, and the bucket.
type project struct {
	dir    string
	bucket bucket.Bucket
	now    func() time.Time
	anchor release.Digest
	role   release.Role
	made   int
}

func newProject(ctx context.Context, dir string, b bucket.Bucket, now func() time.Time, s release.Schedule) (*project, error) {
	p := &project{dir: dir, bucket: b, now: now}
	// No steps: what is measured is what the agent asks its bucket for.
	p.role = release.Role{Attempts: 3, Schedule: s}
	var err error
	p.anchor, err = trust.Init(ctx, b, benchKeys(), now(), 0)
	return p, err
}

func benchKeys() trust.Keys {
	key := func(name string) trust.Key {
		seed := release.DigestOf([]byte(name)).Hex()[:ed25519.SeedSize]
		k := ed25519.NewKeyFromSeed([]byte(seed))
		return trust.Key{Name: name, Private: k, Public: k.Public().(ed25519.PublicKey)}
	}
	return trust.Keys{Ops: key("ops"), Online: key("online")}
}

// publish makes one more release, with one small file that is new in it.
func (p *project) publish(ctx context.Context) error {
	p.made++
	tree := filepath.Join(p.dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("release %d\n", p.made)
	if err := os.WriteFile(filepath.Join(tree, "motd"), []byte(text), 0o644); err != nil {
		return err
	}
	publisher := &trust.Publisher{
		Client: &trust.Client{Bucket: p.bucket, Dir: filepath.Join(p.dir, "verified"), Anchor: p.anchor, Now: p.now},
		Keys:   benchKeys(), Now: p.now,
	}
	_, err := (&store.Store{Bucket: p.bucket}).Publish(ctx, publisher, store.PublishOptions{
		Dir: tree, Project: projectName, Roles: map[string]release.Role{roleName: p.role}, Owner: "bench",
		Source: release.Source{Time: p.now().UTC().Truncate(time.Second), Tool: "bench"},
	})
	return err
}
