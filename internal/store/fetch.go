package store

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

const (
	fetches    = 6         // in parallel
	maxGap     = 128 << 10 // bytes that are read in vain rather than asked around
	wholeShare = 0.6       // of a pack needed: it is read whole
	fetchTries = 4         // of one span, without getting further
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

// A fetcher gets spans in parallel. sink takes each verified blob; it is
// called from several goroutines.
type fetcher struct {
	bucket bucket.Bucket
	coders *coders
	name   func(*want) string // of a file, for messages
	sink   func(w *want, data []byte) error
	meter  *meter

	mu       sync.Mutex
	requests int
	bytes    int64
}

func (f *fetcher) run(ctx context.Context, spans []span) error {
	var total int64
	for _, s := range spans {
		total += s.end - s.off
	}
	f.meter.phase("fetch", total)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetches)
	for _, s := range spans {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return f.span(ctx, s) })
	}
	return g.Wait()
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

// read makes one request and returns how many frames came of it, and whether
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
	br := bufio.NewReaderSize(r, 64<<10)
	var frame, out []byte
	pos := s.off
	for _, w := range s.frames {
		frame, out = grow(frame, w.Stored), grow(out, w.Size)
		err := skip(br, w.Offset-pos)
		if err == nil {
			_, err = io.ReadFull(br, frame)
		}
		if err != nil {
			err = short(err)
			broken := errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrTruncated)
			return done, broken, fmt.Errorf("get %s for %s: %w", key, f.name(w), err)
		}
		f.count(0, w.Offset+w.Stored-pos)
		pos = w.Offset + w.Stored
		blob, err := f.coders.unpack(frame, out, w.Blob)
		if err != nil {
			return done, false, fmt.Errorf("get %s for %s: %w", key, f.name(w), err)
		}
		if err := f.sink(w, blob); err != nil {
			return done, false, err
		}
		done++
	}
	return done, false, nil
}

func (f *fetcher) count(requests int, bytes int64) {
	f.mu.Lock()
	f.requests += requests
	f.bytes += bytes
	f.mu.Unlock()
	f.meter.add(bytes, requests)
}

func skip(r *bufio.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return err
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
