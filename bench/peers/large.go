package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/bootwell/bootwell/bench/workload"
)

// oneGB names a tree with one file of so much: what a fetch holds in memory
// must not depend on it.
const oneGB = "1 GB"

// largeFile measures one cold fetch of ours of a tree with one large file.
func (b *bench) largeFile(ctx context.Context) error {
	base := filepath.Join(b.dir, "large")
	clean, err := b.freshDisk(ctx, base)
	if err != nil {
		return err
	}
	defer clean()
	source := filepath.Join(base, "source")
	if _, err := workload.Generate(source, workload.S); err != nil {
		return err
	}
	if err := writeNoise(filepath.Join(source, "image.bin"), 1_000_000_000); err != nil {
		return err
	}
	b.world.SetRTT(0)
	for _, p := range b.peers {
		if p.name != us {
			continue
		}
		s := b.newSite(p, "large", source)
		defer os.RemoveAll(s.folder())
		if err := s.resetOperator(ctx); err != nil {
			return err
		}
		if err := s.do(ctx, p.publish(s)); err != nil {
			return err
		}
		if err := s.resetVM(); err != nil {
			return err
		}
		got, err := b.measure(ctx, p.fetch(s))
		if err != nil {
			return err
		}
		k := key{oneGB, us, cold, 0}
		b.samples[k] = append(b.samples[k], got)
		d, err := s.check()
		if err != nil {
			return err
		}
		b.wrong[k] = short(d)
	}
	fmt.Fprintf(b.story, "peers: %s done\n", oneGB)
	return nil
}

// writeNoise writes size bytes that do not compress, the same each time.
func writeNoise(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{1}), size); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
