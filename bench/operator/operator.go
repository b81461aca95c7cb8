// Package operator is what an operator does with a project, for benchmarks that
// measure the VMs' side of it from inside.
package operator

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // cuts large files when publishing

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// The names of the project and of its only role.
const (
	Name     = "bench"
	RoleName = "web"
)

// A Project is a folder with a tree to publish, keys, and the bucket. It is not
// safe for concurrent use.
type Project struct {
	Bucket   bucket.Bucket
	Anchor   release.Digest
	Role     release.Role // in the next release
	Releases int          // so far

	dir    string
	now    func() time.Time
	signer *trust.Publisher
}

// New starts a project in b with an empty tree; dir holds all that stays on the
// operator's machine. now is the time of what is signed; nil: the machine's.
func New(ctx context.Context, b bucket.Bucket, dir string, now func() time.Time) (*Project, error) {
	if now == nil {
		now = time.Now
	}
	p := &Project{Bucket: b, dir: dir, now: now}
	for _, d := range []string{p.Tree(), p.cache()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	keys := trust.Keys{Ops: key("ops"), Online: key("online")}
	var err error
	if p.Anchor, err = trust.Init(ctx, b, keys, now(), 0); err != nil {
		return nil, err
	}
	p.signer = &trust.Publisher{Client: p.Client(filepath.Join(dir, "verified")), Keys: keys, Now: now}
	return p, nil
}

// key is the same one each time: what is measured hides nothing from anybody.
func key(name string) trust.Key {
	seed := release.DigestOf([]byte(name)).Hex()[:ed25519.SeedSize]
	k := ed25519.NewKeyFromSeed([]byte(seed))
	return trust.Key{Name: name, Private: k, Public: k.Public().(ed25519.PublicKey)}
}

// Tree is the folder that is published.
func (p *Project) Tree() string { return filepath.Join(p.dir, "tree") }

func (p *Project) cache() string { return filepath.Join(p.dir, "cache") }

// Client returns one that trusts the project and keeps in dir what it verified.
func (p *Project) Client(dir string) *trust.Client {
	return &trust.Client{Bucket: p.Bucket, Dir: dir, Anchor: p.Anchor, Now: p.now}
}

// Publish makes the next release of the tree. That it is none is an error.
func (p *Project) Publish(ctx context.Context) error {
	got, err := (&store.Store{Bucket: p.Bucket}).Publish(ctx, p.signer, store.PublishOptions{
		Dir: p.Tree(), Project: Name, Roles: map[string]release.Role{RoleName: p.Role}, Owner: "bench", Cache: p.cache(),
		Source: release.Source{Time: p.now().UTC().Truncate(time.Second), Tool: "bench", By: "bench"},
	})
	if err != nil {
		return err
	}
	if p.Releases++; !got.New || got.Release != release.Name(p.Releases) {
		return fmt.Errorf("published %s, want %s", got.Release, release.Name(p.Releases))
	}
	return nil
}

// Collect deletes all that is not needed in this very moment.
func (p *Project) Collect(ctx context.Context) error {
	_, err := (&store.Store{Bucket: p.Bucket}).Collect(ctx, p.signer, store.CollectOptions{})
	return err
}
