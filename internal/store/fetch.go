package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	fetches    = 6         // in parallel
	maxGap     = 128 << 10 // bytes that are read in vain rather than asked around
	wholeShare = 0.6       // of a pack needed: it is read whole
	fetchTries = 4         // of one span, without getting further

	batchBytes  = 256 << 10 // of small frames that are read at once
	memoryBytes = 8 << 20   // of frames and blobs between the network and the disk
)

// A want is one blob to be got, and the places in files it goes to.
type want struct {
	release.Blob
	dst []dest
}

// A dest is a place in a file of the plan.
type dest struct {
	file int // index of the plan's files
	at   int64
}

// A span is one request: a run of bytes of one pack, and the wanted frames in
// it in their order.
type span struct {
	pack     release.Pack
	off, end int64
	frames   []*want
}

// checkStored refuses a frame larger than any honest one: the reader buffers
// whole frames.
func checkStored(b release.Blob) error {
	if b.Stored > maxStored(b.Size) {
		return fmt.Errorf("a blob of %d bytes is stored in %d: %w", b.Size, b.Stored, release.ErrFormat)
	}
	return nil
}

// plan turns wants into requests: neighbours share one, and a pack that is
// mostly wanted is read whole.
func plan(packs []release.Pack, wants []*want) []span {
	wants = slices.Clone(wants)
	slices.SortFunc(wants, func(a, b *want) int {
		return cmp.Or(cmp.Compare(a.Pack, b.Pack), cmp.Compare(a.Offset, b.Offset))
	})
	var out []span
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && wants[n].Pack == wants[0].Pack {
			n++
		}
		out = append(out, planPack(packs[wants[0].Pack], wants[:n])...)
		wants = wants[n:]
	}
	return out
}

func planPack(p release.Pack, wants []*want) []span {
	var out []span
	var sum int64
	for _, w := range wants {
		sum += w.Stored
		last := len(out) - 1
		if last >= 0 && w.Offset >= out[last].end && w.Offset-out[last].end <= maxGap {
			out[last].frames = append(out[last].frames, w)
			out[last].end = w.Offset + w.Stored
			continue
		}
		out = append(out, span{p, w.Offset, w.Offset + w.Stored, []*want{w}})
	}
	overlap := false
	for i := 1; i < len(out); i++ {
		overlap = overlap || out[i].off < out[i-1].end
	}
	if overlap || float64(sum) < wholeShare*float64(p.Size) {
		return out
	}
	return []span{{p, out[0].off, out[len(out)-1].end, wants}}
}

// fetchBytes returns how many bytes of packs bring a VM that has the files
// have to those in files.
func fetchBytes(m *release.Manifest, files, have []release.File) int64 {
	known := map[release.Digest]bool{}
	for _, f := range have {
		for _, b := range f.Blobs {
			known[b.Digest] = true
		}
	}
	var wants []*want
	for _, f := range files {
		for _, b := range f.Blobs {
			if !known[b.Digest] {
				known[b.Digest] = true
				wants = append(wants, &want{Blob: b})
			}
		}
	}
	var n int64
	for _, s := range plan(m.Packs, wants) {
		n += s.end - s.off
	}
	return n
}

// A fetcher gets spans in parallel, and unpacks them while it reads on. sink
// takes each verified blob; it is called from several goroutines.
type fetcher struct {
	bucket bucket.Bucket
	coders *coders
	name   func(*want) string // of a file, for messages
	sink   func(w *want, data []byte) error
	meter  *meter

	ready chan struct{}        // closed when sink may be called; nil: from the beginning
	idle  func() (bool, error) // does a bit of what has to be done while nothing comes; false: no more of it

	loads   chan load
	memory  *semaphore.Weighted
	buffers sync.Pool // of *[]byte

	mu       sync.Mutex
	requests int
	bytes    int64
}

// A load is what was read of a pack and is to be taken apart.
type load struct {
	key    string
	off    int64 // of data in the pack
	data   *[]byte
	frames []*want
	memory int64
}

func (f *fetcher) run(ctx context.Context, spans []span) error {
	var total int64
	for _, s := range spans {
		total += s.end - s.off
	}
	f.meter.phase("fetch", total)
	f.loads, f.memory = make(chan load), semaphore.NewWeighted(memoryBytes)
	both, ctx := errgroup.WithContext(ctx)
	for range min(len(spans), 1) * runtime.GOMAXPROCS(0) {
		both.Go(func() error { return f.unpack(ctx) })
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetches)
	both.Go(func() error {
		defer close(f.loads)
		for _, s := range spans {
			if gctx.Err() != nil {
				break
			}
			g.Go(func() error { return f.span(gctx, s) })
		}
		return errors.Join(g.Wait(), ctx.Err())
	})
	return both.Wait()
}

func (l *load) end() int64 {
	last := l.frames[len(l.frames)-1]
	return last.Offset + last.Stored
}

// span gets all frames of s, and goes on at the frame it had come to when a
// connection breaks.
func (f *fetcher) span(ctx context.Context, s span) error {
	for tries := 1; ; tries++ {
		n, broken, err := f.read(ctx, s)
		if err == nil {
			return nil
		}
		if n > 0 {
			tries = 1
		}
		if !broken || tries == fetchTries || ctx.Err() != nil {
			return err
		}
		if s.frames = s.frames[n:]; len(s.frames) == 0 {
			return nil
		}
		s.off = s.frames[0].Offset
		if err := pause(ctx, time.Duration(tries)*100*time.Millisecond); err != nil {
			return err
		}
	}
}

// read makes one request and returns how many frames were read, and whether
// it was the connection that ended it. That a request cannot begin is not
// tried again here: the bucket does so itself.
func (f *fetcher) read(ctx context.Context, s span) (done int, broken bool, err error) {
	key := packKey(s.pack.Digest)
	o := bucket.GetOptions{Offset: s.off, Length: s.end - s.off}
	if s.off == 0 && s.end == s.pack.Size {
		o.Length = 0
	}
	r, obj, err := f.bucket.Get(ctx, key, o)
	f.count(1, 0)
	if err != nil {
		return 0, false, fmt.Errorf("get %s for %s: %w", key, f.name(s.frames[0]), err)
	}
	defer r.Close()
	switch {
	case obj.Size < s.pack.Size:
		return 0, false, fmt.Errorf("get %s for %s: it has %d of %d bytes: %w", key, f.name(s.frames[0]), obj.Size, s.pack.Size, bucket.ErrTruncated)
	case obj.Size > s.pack.Size:
		return 0, false, fmt.Errorf("get %s for %s: it has %d bytes, not %d: %w", key, f.name(s.frames[0]), obj.Size, s.pack.Size, trust.ErrUntrusted)
	}
	for pos := s.off; done < len(s.frames); {
		l := load{key: key, frames: batch(s.frames[done:])}
		l.off = l.frames[0].Offset
		err := f.take(ctx, r, &l, l.off-pos)
		if len(l.frames) > 0 {
			select {
			case f.loads <- l:
			case <-ctx.Done():
				return done, false, ctx.Err()
			}
			done += len(l.frames)
			pos = l.end()
		}
		if err != nil {
			err = short(err)
			broken := errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrTruncated)
			return done, broken, fmt.Errorf("get %s for %s: %w", key, f.name(s.frames[min(done, len(s.frames)-1)]), err)
		}
	}
	return done, false, nil
}

// batch returns those of the frames that are read at once: small neighbours,
// or one that is large.
func batch(frames []*want) []*want {
	n, size := 1, frames[0].Size
	for n < len(frames) {
		w := frames[n]
		if size += w.Size; size > batchBytes || w.Offset+w.Stored-frames[0].Offset > batchBytes {
			break
		}
		n++
	}
	return frames[:n]
}

// take reads the frames of l, which come after a gap, once there is memory for
// them and for what comes out of them. After an error, l is left with those
// that were read whole.
func (f *fetcher) take(ctx context.Context, r io.Reader, l *load, gap int64) error {
	n := l.end() - l.off
	if l.memory = n; len(l.frames) == 1 {
		l.memory += l.frames[0].Size
	}
	l.memory = min(l.memory, memoryBytes)
	if err := f.memory.Acquire(ctx, l.memory); err != nil {
		l.frames = nil
		return err
	}
	b, _ := f.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	*b, l.data = grow(*b, n), b
	_, err := io.CopyN(io.Discard, r, gap)
	got := 0
	if err == nil {
		got, err = io.ReadFull(r, *b)
	}
	for err != nil && len(l.frames) > 0 && l.end()-l.off > int64(got) {
		l.frames = l.frames[:len(l.frames)-1]
	}
	if len(l.frames) == 0 {
		f.memory.Release(l.memory)
		return err
	}
	f.count(0, gap+l.end()-l.off)
	return err
}

// unpack takes apart what was read, until no more comes.
func (f *fetcher) unpack(ctx context.Context) error {
	if f.ready != nil {
		select {
		case <-f.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var out []byte
	for {
		l, ok, err := f.next(ctx)
		if err != nil || !ok {
			return err
		}
		for _, w := range l.frames {
			out = grow(out, w.Size)
			blob, err := f.coders.unpack((*l.data)[w.Offset-l.off:][:w.Stored], out, w.Blob)
			if err != nil {
				return fmt.Errorf("get %s for %s: %w", l.key, f.name(w), err)
			}
			if err := f.sink(w, blob); err != nil {
				return err
			}
		}
		if cap(*l.data) <= 2*batchBytes {
			f.buffers.Put(l.data)
		}
		if cap(out) > 2*batchBytes {
			out = nil
		}
		f.memory.Release(l.memory)
	}
}

// next returns what was read next, false at the end. It makes use of the wait.
func (f *fetcher) next(ctx context.Context) (load, bool, error) {
	for more := f.idle != nil; more; {
		select {
		case l, ok := <-f.loads:
			return l, ok, ctx.Err()
		default:
		}
		err := ctx.Err()
		if err == nil {
			more, err = f.idle()
		}
		if err != nil {
			return load{}, false, err
		}
	}
	l, ok := <-f.loads
	return l, ok, ctx.Err()
}

func (f *fetcher) count(requests int, bytes int64) {
	f.mu.Lock()
	f.requests += requests
	f.bytes += bytes
	f.mu.Unlock()
	f.meter.add(bytes, requests)
}

// short makes an early end of a body what it means here.
func short(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return bucket.ErrTruncated
	}
	return err
}

// grow returns b with length n, made anew when it is too small.
func grow(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n, n+n/4)
	}
	return b[:n]
}
