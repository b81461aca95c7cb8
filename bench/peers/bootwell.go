package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

func arch() string { return runtime.GOARCH }

// projectFile has no steps: what is measured is delivery, not what a user's
// scripts take.
const projectFile = `version: 1
project: bench
bucket: %q
roles:
  vm:
    steps: []
`

// playbook is for ansible-pull, which applies a playbook of the repository.
const playbook = `- hosts: localhost
  gather_facts: false
  tasks: []
`

func bootwellPeer() *peer {
	p := &peer{
		name: "bootwell",
		what: "`bootwell publish`; `bootwell-agent apply --timer`, signatures and digests verified, the tree flushed to the disk; a report to the bucket follows",
		tree: below("var", "lib", "bootwell", "current"), stored: inBucket("packs", "tuf/bundles"),
	}
	p.setUp = bootwellSetUp
	p.publish = func(s *site) command {
		return command{argv: []string{s.operator, "-C", s.source, "--quiet", "publish", "--keys", s.keys()}, env: []string{"HOME=" + s.pub}}
	}
	p.prepareVM = bootwellVM
	p.ready = bootwellReady
	p.fetch = func(s *site) command {
		return command{argv: []string{s.agent, "apply", "--timer"}, env: []string{"BOOTWELL_ROOT=" + s.vm, "HOME=" + s.vm}}
	}
	return p
}

// keys and lock are those of the first set-up: the tree and the anchor in it
// stay the same when the bucket starts again.
func (s *site) keys() string  { return s.pub + ".keys" }
func (s *site) fresh() string { return s.pub + ".fresh" }

// bootwellSetUp makes the project once, and later goes back to its bucket as
// it was then.
func bootwellSetUp(ctx context.Context, s *site) error {
	if _, err := os.Stat(s.fresh()); err == nil {
		if err := copyTree(ctx, filepath.Join(s.fresh(), "pub"), s.pub); err != nil {
			return err
		}
		return copyTree(ctx, filepath.Join(s.fresh(), "bucket"), s.folder())
	}
	file := filepath.Join(s.source, "bootwell.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, projectFile, s.world.URL(s.bucket, "")), 0o644); err != nil {
		return err
	}
	init := command{argv: []string{s.operator, "-C", s.source, "init", "--no-passphrase", "--keys", s.keys()}, env: []string{"HOME=" + s.pub}}
	if err := s.do(ctx, init); err != nil {
		return err
	}
	if err := os.Mkdir(s.fresh(), 0o755); err != nil {
		return err
	}
	if err := copyTree(ctx, s.pub, filepath.Join(s.fresh(), "pub")); err != nil {
		return err
	}
	return copyTree(ctx, s.folder(), filepath.Join(s.fresh(), "bucket"))
}

// copyTree keeps the attributes in which the server has what it knows of objects.
func copyTree(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "-T", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// bootwellReady is when the last run was about to start its first step: the
// tree is whole and current, and the report is still to be written.
func bootwellReady(ctx context.Context, s *site) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, s.agent, "logs", "--timing", "--json")
	cmd.Env = []string{"BOOTWELL_ROOT=" + s.vm, "HOME=" + s.vm}
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("ask for the timing of a run: %w", err)
	}
	var t struct {
		Began  float64 `json:"began"`
		Phases []struct {
			Name           string
			Start, Seconds float64
		} `json:"phases"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return 0, fmt.Errorf("read the timing of a run: %w", err)
	}
	for _, p := range t.Phases {
		if p.Name == "begin" {
			return time.Duration((t.Began + p.Start + p.Seconds) * 1e9), nil
		}
	}
	return 0, fmt.Errorf("the timing of a run has no part %q", "begin")
}

func bootwellVM(s *site) error {
	text, err := os.ReadFile(filepath.Join(s.source, "bootwell.lock"))
	if err != nil {
		return err
	}
	var lock struct{ Root string }
	if err := json.Unmarshal(text, &lock); err != nil {
		return err
	}
	if err := s.mountRun(); err != nil {
		return err
	}
	dir := filepath.Join(s.vm, "etc", "bootwell")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("project: bench\nbucket: %q\nrole: vm\nchannel: stable\nroot: %s\n", s.world.URL(s.bucket, ""), lock.Root)
	return os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(config), 0o644)
}
