package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	// packBytes is the size at which a pack is closed. One more blob at most
	// goes over it, so that a pack stays small enough for a single PUT.
	packBytes = 8 << 20
)

// A packer turns pieces into packs and hands them to the outbox. The places it
// has written stay known, for the next try of a publish.
type packer struct {
	out   *outbox
	dir   string
	meter *meter
	made  index
	packs map[release.Pack]bool // those of made
	fresh fresh
	spare sync.Pool // of *[]byte: packs that have gone out
}

// keep forgets the places in packs that the bucket has not any more.
func (p *packer) keep(holds func(release.Pack) bool) {
	for pack := range p.packs {
		if holds(pack) {
			continue
		}
		p.out.forget(packKey(pack.Digest))
		delete(p.packs, pack)
		maps.DeleteFunc(p.made, func(_ release.Digest, at place) bool { return at.pack == pack })
	}
}

// A tally counts what a publish wrote.
type tally struct {
	uploaded, present int
	bytes             int64
}

func (t *tally) add(u tally) {
	t.uploaded += u.uploaded
	t.present += u.present
	t.bytes += u.bytes
}

// A framed is a piece and its zstd frame.
type framed struct {
	piece
	frame []byte
}

// A parcel is a pack while it is filled.
type parcel struct {
	data   []byte
	blobs  []framed // their frames are in data
	source int64    // bytes before compression
}

// pack writes all pieces to new packs. Packs go out while later ones are made,
// and the last ones after it has returned; memory holds a few packs and frames
// at most.
func (p *packer) pack(ctx context.Context, pieces []piece) error {
	c, err := sharedCoders()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	frames := p.compress(ctx, g, c, pieces)
	g.Go(func() error { return p.assemble(ctx, frames) })
	return g.Wait()
}

// compress yields the frames of pieces in their order, made in parallel.
func (p *packer) compress(ctx context.Context, g *errgroup.Group, c *coders, pieces []piece) <-chan chan framed {
	n := runtime.GOMAXPROCS(0)
	queue := make(chan chan framed, 2*n)
	type job struct {
		piece
		out chan framed
	}
	jobs := make(chan job)
	g.Go(func() error {
		defer close(jobs)
		defer close(queue)
		for _, pc := range pieces {
			out := make(chan framed, 1)
			select {
			case queue <- out:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case jobs <- job{pc, out}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range n {
		g.Go(func() error {
			buf := make([]byte, maxCDCBlock)
			for j := range jobs {
				b, err := p.read(j.piece, buf)
				if err != nil {
					return err
				}
				f := framed{j.piece, c.compress(b)}
				f.blob.Stored = int64(len(f.frame))
				j.out <- f
			}
			return nil
		})
	}
	return queue
}

// read returns the content of a piece, which must still be what was hashed.
func (p *packer) read(pc piece, buf []byte) ([]byte, error) {
	f, err := openRegular(filepath.Join(p.dir, pc.path))
	if err != nil {
		return nil, fmt.Errorf("pack %q: %w", pc.path, err)
	}
	defer f.Close()
	buf = buf[:pc.blob.Size]
	if _, err := f.ReadAt(buf, pc.at); err != nil {
		return nil, fmt.Errorf("pack: %q %w: %w", pc.path, errChanged, ErrTree)
	}
	if release.DigestOf(buf) != pc.blob.Digest {
		return nil, fmt.Errorf("pack: %q %w: %w", pc.path, errChanged, ErrTree)
	}
	return buf, nil
}

// assemble fills packs with frames in their order.
func (p *packer) assemble(ctx context.Context, frames <-chan chan framed) error {
	var cur parcel
	for out := range frames {
		var f framed
		select {
		case f = <-out:
		case <-ctx.Done():
			return ctx.Err()
		}
		if cur.data == nil {
			if b, ok := p.spare.Get().(*[]byte); ok {
				cur.data = (*b)[:0]
			}
		}
		cur.data = append(cur.data, f.frame...)
		cur.source += f.blob.Size
		f.frame = nil
		cur.blobs = append(cur.blobs, f)
		if len(cur.data) >= packBytes {
			if err := p.flush(cur); err != nil {
				return err
			}
			cur = parcel{}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(cur.blobs) == 0 {
		return nil
	}
	return p.flush(cur)
}

// flush sends a pack.
func (p *packer) flush(pa parcel) error {
	pack := release.Pack{Digest: release.DigestOf(pa.data), Size: int64(len(pa.data))}
	if p.packs == nil {
		p.packs = map[release.Pack]bool{}
	}
	p.packs[pack] = true
	p.fresh.add(pack, smallCopy(pa.data))
	var at int64
	for _, f := range pa.blobs {
		p.made[f.blob.Digest] = place{pack, at, f.blob.Stored}
		at += f.blob.Stored
	}
	return p.out.send(packKey(pack.Digest), pa.data, func() {
		p.meter.add(pa.source, 1)
		p.spare.Put(&pa.data)
	})
}

// putNamed writes an object whose name is made of its content: one that
// exists is the same. The name of a manifest is of what it unpacks to; nothing
// else holds it, so what somebody has put there does not stay. A nil bucket
// counts without writing.
func putNamed(ctx context.Context, b bucket.Bucket, key string, data []byte) (tally, error) {
	t := tally{uploaded: 1, bytes: int64(len(data))}
	if b == nil {
		return t, nil
	}
	once := b.Caps().IfAbsent && !strings.HasPrefix(key, manifestPrefix)
	_, err := b.Put(ctx, key, bytes.NewReader(data), bucket.Condition{IfAbsent: once})
	if errors.Is(err, bucket.ErrExists) {
		return tally{present: 1}, nil
	}
	if err != nil {
		return tally{}, fmt.Errorf("upload %s: %w", key, err)
	}
	return t, nil
}
