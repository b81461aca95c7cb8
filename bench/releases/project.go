package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	files    = 40
	fileSize = 5 << 10
)

// A project is a small one whose releases differ in one file, its publisher and
// a VM that follows it, all in one folder.
type project struct {
	bucket bucket.Bucket
	dir    string
	anchor release.Digest
	keys   trust.Keys
	signer *trust.Publisher
	vm     vm
	n      int // releases so far
}

// A vm is what an agent keeps of the bucket.
type vm struct {
	client *trust.Client
	have   store.Staged
	last   store.Staged // the one before, which the next release is made of
}

func newProject(ctx context.Context, b bucket.Bucket, dir string) (*project, error) {
	p := &project{bucket: b, dir: dir}
	for _, k := range []struct {
		name string
		to   *trust.Key
	}{{"ops", &p.keys.Ops}, {"online", &p.keys.Online}} {
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		*k.to = trust.Key{Name: k.name, Public: pub, Private: priv}
	}
	var err error
	if p.anchor, err = trust.Init(ctx, b, p.keys, time.Now(), trust.DefaultLifetime); err != nil {
		return nil, err
	}
	for _, d := range []string{"tree", "trees", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	noise := make([]byte, fileSize/2)
	for i := range files {
		if _, err := rand.Read(noise); err != nil {
			return nil, err
		}
		text := fmt.Appendf(nil, "file %d\n%x\n", i, noise)
		if err := os.WriteFile(p.path(i), text, 0o644); err != nil {
			return nil, err
		}
	}
	p.signer = &trust.Publisher{Client: p.client("publisher"), Keys: p.keys}
	p.vm.client = p.client("vm")
	return p, nil
}

func (p *project) client(name string) *trust.Client {
	return &trust.Client{Bucket: p.bucket, Dir: filepath.Join(p.dir, name), Anchor: p.anchor}
}

func (p *project) path(i int) string {
	return filepath.Join(p.dir, "tree", fmt.Sprintf("file%02d", i))
}

// publish changes one file and publishes.
func (p *project) publish(ctx context.Context) error {
	p.n++
	f, err := os.OpenFile(p.path(p.n%files), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "release %06d", p.n)
	if cerr := f.Close(); err != nil || cerr != nil {
		return fmt.Errorf("change a file: %w", firstOf(err, cerr))
	}
	step := release.Step{Name: "go", Kind: release.KindRun, Run: "true", Rerun: release.RerunAlways, OnError: release.OnErrorStop, Reboot: release.RebootNever}
	s := &store.Store{Bucket: p.bucket}
	got, err := s.Publish(ctx, p.signer, store.PublishOptions{
		Dir: filepath.Join(p.dir, "tree"), Project: "bench", Owner: "bench", Cache: filepath.Join(p.dir, "cache"),
		Roles: map[string]release.Role{"web": {Steps: []release.Step{step}, Attempts: 2}}, Source: release.Source{Tool: "bench", By: "bench"},
	})
	if err == nil && (!got.New || got.Release != release.Name(p.n)) {
		err = fmt.Errorf("published %s, want %s", got.Release, release.Name(p.n))
	}
	return err
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// poll asks whether there is a new state, as an agent's timer does.
func (p *project) poll(ctx context.Context) (bool, error) { return p.vm.client.Poll(ctx) }

// update brings the VM to the newest release, as far as its tree, and checks
// every byte of that.
func (p *project) update(ctx context.Context) error {
	changed, err := p.poll(ctx)
	if err != nil || !changed {
		return err
	}
	v, err := p.vm.client.Refresh(ctx)
	if err != nil {
		return err
	}
	s := &store.Store{Bucket: v.Over(p.bucket)}
	c, err := s.Channel(ctx, v, "bench", store.DefaultChannel)
	if err != nil {
		return err
	}
	m, err := s.Manifest(ctx, v, c.Release, p.vm.have.Manifest)
	if err != nil {
		return err
	}
	next := store.Staged{Dir: filepath.Join(p.dir, "trees", m.Name()), Manifest: m}
	o := store.StageOptions{Dir: next.Dir}
	if p.vm.have.Manifest != nil {
		o.Reuse = []store.Staged{p.vm.have}
	}
	if _, err := s.Stage(ctx, m, o); err != nil {
		return err
	}
	if err := store.VerifyStaged(ctx, next, ""); err != nil {
		return err
	}
	if m.Number != p.n {
		return fmt.Errorf("the VM has %s, want %s", m.Name(), release.Name(p.n))
	}
	if p.vm.last.Dir != "" {
		if err := os.RemoveAll(p.vm.last.Dir); err != nil {
			return err
		}
	}
	p.vm.last, p.vm.have = p.vm.have, next
	return nil
}

// A size is what a bucket holds.
type size struct {
	objects int
	bytes   int64
}

func (p *project) size(ctx context.Context) (s size, err error) {
	for o, err := range p.bucket.List(ctx, "", "") {
		if err != nil {
			return s, err
		}
		s.objects++
		s.bytes += o.Size
	}
	return s, nil
}

// collect deletes all that is not needed in this very moment.
func (p *project) collect(ctx context.Context) error {
	_, err := (&store.Store{Bucket: p.bucket}).Collect(ctx, p.signer, store.CollectOptions{})
	return err
}
