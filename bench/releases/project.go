package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bootwell/bootwell/bench/operator"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	files    = 40
	fileSize = 5 << 10
)

// A project is a small one whose releases differ in one file, and a VM that
// follows it, all in one folder.
type project struct {
	*operator.Project
	dir string
	vm  vm
}

// A vm is what an agent keeps of the bucket.
type vm struct {
	client *trust.Client
	have   store.Staged
	last   store.Staged // the one before, which the next release is made of
}

func newProject(ctx context.Context, b bucket.Bucket, dir string) (*project, error) {
	op, err := operator.New(ctx, b, dir, nil)
	if err != nil {
		return nil, err
	}
	p := &project{Project: op, dir: dir, vm: vm{client: op.Client(filepath.Join(dir, "vm"))}}
	step := release.Step{Name: "go", Kind: release.KindRun, Run: "true", Rerun: release.RerunAlways, OnError: release.OnErrorStop, Reboot: release.RebootNever}
	p.Role = release.Role{Steps: []release.Step{step}, Attempts: 2}
	if err := os.Mkdir(filepath.Join(dir, "trees"), 0o755); err != nil {
		return nil, err
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
	return p, nil
}

func (p *project) path(i int) string { return filepath.Join(p.Tree(), fmt.Sprintf("file%02d", i)) }

// publish changes one file and publishes.
func (p *project) publish(ctx context.Context) error {
	n := p.Releases + 1
	f, err := os.OpenFile(p.path(n%files), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "release %06d", n)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("change a file: %w", err)
	}
	return p.Publish(ctx)
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
	s := &store.Store{Bucket: v.Over(p.Bucket)}
	c, err := s.Channel(ctx, v, operator.Name, store.DefaultChannel)
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
	if m.Number != p.Releases {
		return fmt.Errorf("the VM has %s, want %s", m.Name(), release.Name(p.Releases))
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
	for o, err := range p.Bucket.List(ctx, "", "") {
		if err != nil {
			return s, err
		}
		s.objects++
		s.bytes += o.Size
	}
	return s, nil
}
