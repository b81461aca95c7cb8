package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/workload"
)

// A peer is one way of bringing a folder of an operator to a VM.
type peer struct {
	name  string
	what  string   // how it publishes and fetches, for readers
	tools []string // what must be installed
	slow  bool     // is measured less often
	git   bool     // has no clean way to show content but a work tree with .git in it
	only  func(*workload.Size, op) bool

	// from names the peer whose published objects this one fetches; "": its own.
	// plain ones also publish the large tree through one of them, to save time.
	from  string
	plain bool

	setUp     func(ctx context.Context, s *site) error // the operator's side, once; not measured
	publish   func(s *site) command
	prepareVM func(s *site) error // a VM without content; not measured; may be nil
	fetch     func(s *site) command
	tree      func(s *site) string   // where content is on the VM
	stored    func(s *site) []string // folders of the server that hold content

	// ready tells when, since the boot of the machine, what the last fetch
	// brought could be used, if the process went on after it. May be nil.
	ready func(ctx context.Context, s *site) (time.Duration, error)
}

// A site is one peer's operator, bucket and VM.
type site struct {
	*bench
	peer   *peer
	source string // the tree that is published
	pub    string // home of the operator
	vm     string // home of the VM
	bucket string // name of the bucket, or of the folder on another server
}

func (b *bench) newSite(p *peer, workloadName, source string) *site {
	base := filepath.Join(b.dir, workloadName)
	s := &site{bench: b, peer: p, source: source, pub: filepath.Join(base, "pub-"+p.name), vm: filepath.Join(base, "vm-"+p.name)}
	s.bucket = bucketName(workloadName, p.name)
	return s
}

func bucketName(workloadName, peerName string) string {
	return "b-" + strings.ToLower(workloadName) + "-" + peerName
}

// folder is where the bucket's objects are on the server's disk.
func (s *site) folder() string { return filepath.Join(s.world.DataDir(), s.bucket) }

// shelf is a folder of the web server of the world.
func (s *site) shelf() string { return filepath.Join(s.web, s.bucket) }

func (s *site) url(object string) string {
	return s.world.Endpoint() + "/" + s.bucket + "/" + object
}

// resetOperator gives the peer an operator and a bucket without content.
func (s *site) resetOperator(ctx context.Context) error {
	for _, dir := range []string{s.pub, s.folder(), s.shelf()} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if s.peer.setUp == nil {
		return nil
	}
	if err := s.peer.setUp(ctx, s); err != nil {
		return fmt.Errorf("set up %s: %w", s.peer.name, err)
	}
	return nil
}

// resetVM gives the peer a VM without content.
func (s *site) resetVM() error {
	if err := s.putAway(s.vm); err != nil {
		return err
	}
	if err := os.MkdirAll(s.vm, 0o755); err != nil {
		return err
	}
	if s.peer.prepareVM == nil {
		return nil
	}
	return s.peer.prepareVM(s)
}

// do runs a command that is not measured.
func (s *site) do(ctx context.Context, c command) error {
	var ignored sample
	return s.run(ctx, c, &ignored)
}

// ignored is at the top of a source tree but is no content.
var ignored = []string{".git", ".gitignore", "bootwell.yaml", "bootwell.lock"}

func (s *site) check() (workload.Difference, error) {
	return workload.Compare(s.source, s.peer.tree(s), ignored...)
}

func below(names ...string) func(*site) string {
	return func(s *site) string { return filepath.Join(append([]string{s.vm}, names...)...) }
}

func inBucket(names ...string) func(*site) []string {
	return func(s *site) []string {
		var dirs []string
		for _, n := range names {
			dirs = append(dirs, filepath.Join(s.folder(), n))
		}
		return dirs
	}
}

// peers returns all, in the order of the tables.
func peers() []*peer {
	return []*peer{bootwellPeer(), floorPeer(), pipePeer(), etagPeer(), gitPeer(), resticPeer(), casyncPeer(),
		awsPeer(), rclonePeer("rclone", ""), rclonePeer("rclone-tuned", rcloneTuned), mcPeer(), ansiblePeer()}
}
