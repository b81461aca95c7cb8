package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bootwell/bootwell/bench/workload"
)

// A verdict is what one peer gets right.
type verdict struct {
	peer    string
	columns []string // as verdictColumns
}

var verdictColumns = []string{"content", "modes", "symlinks", "empty folder", "deletions", "same-size change", "corrupted object", "a reader during the update sees"}

// correctness looks at each peer on the small tree, without delay.
func (b *bench) correctness(ctx context.Context) ([]verdict, error) {
	b.world.SetRTT(0)
	var all []verdict
	for _, p := range b.peers {
		if p.only != nil {
			continue
		}
		v, err := b.judge(ctx, p)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	fmt.Fprintln(b.story, "peers: correctness done")
	return all, nil
}

// A trial is one peer before the judge.
type trial struct {
	*site
	tree  *workload.Tree
	pub   *site    // publishes what is fetched
	extra []string // files that this peer makes of links to folders
}

func (b *bench) judge(ctx context.Context, p *peer) (verdict, error) {
	const name = "judge"
	base := filepath.Join(b.dir, name)
	defer os.RemoveAll(base)
	t := trial{site: b.newSite(p, name, filepath.Join(base, "source"))}
	t.pub = t.site
	for _, other := range b.peers {
		if p.from == other.name {
			t.pub = b.newSite(other, name, t.source)
			t.bucket = t.pub.bucket
		}
	}
	var err error
	if t.tree, err = workload.Generate(t.source, workload.S); err != nil {
		return verdict{}, err
	}
	if err := t.tree.Pair(pairBytes); err != nil {
		return verdict{}, err
	}
	if err := t.pub.resetOperator(ctx); err != nil {
		return verdict{}, err
	}
	if err := t.resetVM(); err != nil {
		return verdict{}, err
	}
	v := verdict{peer: p.name}
	for _, part := range []func(context.Context) ([]string, error){t.delivers, t.deletes, t.sameSize, t.corruption, t.reading} {
		words, err := part(ctx)
		if err := ctx.Err(); err != nil {
			return verdict{}, err
		}
		if err != nil {
			fmt.Fprintf(b.story, "peers: correctness of %s: %v\n", p.name, err)
			break
		}
		v.columns = append(v.columns, words...)
	}
	for len(v.columns) < len(verdictColumns) {
		v.columns = append(v.columns, "failed")
	}
	return v, nil
}

// pairBytes is large enough that writing it in place is not one moment.
const pairBytes = 4 << 20

// take publishes the tree and fetches it.
func (t *trial) take(ctx context.Context) error {
	if err := t.pub.do(ctx, t.pub.peer.publish(t.pub)); err != nil {
		return fmt.Errorf("publish of %s: %w", t.pub.peer.name, err)
	}
	return t.do(ctx, t.peer.fetch(t.site))
}

func yes(right bool) string {
	if right {
		return "yes"
	}
	return "NO"
}

func (t *trial) delivers(ctx context.Context) ([]string, error) {
	if err := t.take(ctx); err != nil {
		return nil, err
	}
	d, err := t.check()
	t.extra = d.Extra
	return []string{yes(len(d.Content) == 0), yes(len(d.Modes) == 0), yes(len(d.Links) == 0), yes(len(d.Empty) == 0)}, err
}

// after changes the tree and tells how what is taken of it then differs.
func (t *trial) after(ctx context.Context, change func() (workload.Change, error)) (workload.Difference, error) {
	if _, err := change(); err != nil {
		return workload.Difference{}, err
	}
	if err := t.take(ctx); err != nil {
		return workload.Difference{}, err
	}
	return t.check()
}

func (t *trial) deletes(ctx context.Context) ([]string, error) {
	d, err := t.after(ctx, t.tree.Delete)
	return []string{yes(len(d.Extra) <= len(t.extra))}, err
}

func (t *trial) sameSize(ctx context.Context) ([]string, error) {
	d, err := t.after(ctx, t.tree.SameSize)
	return []string{yes(len(d.Content) == 0)}, err
}

// corruption turns a byte in the middle of each object that holds content, lets
// a VM that has nothing fetch it, and turns the bytes back.
func (t *trial) corruption(ctx context.Context) ([]string, error) {
	turned, err := t.turn()
	if err != nil {
		return nil, err
	}
	if turned == 0 {
		return nil, fmt.Errorf("%s: no object to corrupt", t.peer.name)
	}
	if err := t.resetVM(); err != nil {
		return nil, err
	}
	failed := t.do(ctx, t.peer.fetch(t.site))
	if errors.Is(failed, errStart) || ctx.Err() != nil {
		return nil, failed
	}
	d, err := t.check()
	if err != nil {
		return nil, err
	}
	if _, err := t.turn(); err != nil {
		return nil, err
	}
	word := ""
	_, shown := os.Stat(t.peer.tree(t.site))
	left, _ := os.ReadDir(t.peer.tree(t.site))
	switch {
	case failed == nil && len(d.Content) > 0:
		word = "NOT noticed"
	case failed == nil:
		word = "not read"
	case shown == nil && len(left) > 0:
		word = "noticed, leaves a half tree"
	default:
		word = "refused"
	}
	// Whatever was left, the next part begins with a good tree.
	if err := t.resetVM(); err != nil {
		return nil, err
	}
	return []string{word}, t.do(ctx, t.peer.fetch(t.site))
}

func (t *trial) turn() (turned int, err error) {
	for _, dir := range t.peer.stored(t.site) {
		err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(p, ".lock") {
				return err
			}
			n, err := turnByte(p)
			turned += n
			return err
		})
		if err != nil {
			return turned, err
		}
	}
	return turned, nil
}

// turnByte keeps the file's rights: git makes its objects read-only.
func turnByte(p string) (int, error) {
	info, err := os.Stat(p)
	if err != nil || info.Size() < 16 {
		return 0, err
	}
	if err := os.Chmod(p, info.Mode()|0o200); err != nil {
		return 0, err
	}
	defer os.Chmod(p, info.Mode())
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], info.Size()/2); err != nil {
		return 0, err
	}
	b[0] ^= 0xff
	_, err = f.WriteAt(b[:], info.Size()/2)
	return 1, err
}

// What a reader can see, from good to bad.
const (
	seenClean   = iota // both files, of one version
	seenMixed          // one of each version
	seenMissing        // a file is not there
	seenTorn           // a file is made of two versions, or is cut
)

var seenWords = [...]string{"clean", "mixed versions", "missing files", "torn files"}

// reading lets a reader look at two files that belong together, again and again
// while they are updated. It enters the tree once for each look.
func (t *trial) reading(ctx context.Context) ([]string, error) {
	worst := seenClean
	for range 4 {
		if err := t.tree.Pair(pairBytes); err != nil {
			return nil, err
		}
		if err := t.pub.do(ctx, t.pub.peer.publish(t.pub)); err != nil {
			return nil, err
		}
		stop := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			for {
				worst = max(worst, lookAtPair(t.peer.tree(t.site)))
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		err := t.do(ctx, t.peer.fetch(t.site))
		close(stop)
		reader.Wait()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.peer.name, err)
		}
	}
	return []string{seenWords[worst]}, nil
}

func lookAtPair(tree string) int {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return seenMissing
	}
	defer root.Close()
	var content [2][]byte
	for i, name := range workload.PairNames {
		if content[i], err = root.ReadFile(name); err != nil {
			return seenMissing
		}
		c := content[i]
		if len(c) != pairBytes || !bytes.Equal(c[8:], c[:len(c)-8]) {
			return seenTorn
		}
	}
	if !bytes.Equal(content[0][:8], content[1][:8]) {
		return seenMixed
	}
	return seenClean
}
