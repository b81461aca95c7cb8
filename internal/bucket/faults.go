package bucket

import (
	"context"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// A FaultKind is what goes wrong.
type FaultKind int

// What can go wrong with a call.
const (
	FaultFail  FaultKind = iota // Err, and the bucket is not asked
	FaultLost                   // Put, Delete: it is done, but the answer is Err
	FaultCut                    // Get: the body breaks off after Bytes bytes with Err
	FaultFlip                   // Get: the body's byte number Bytes is another one
	FaultStale                  // Get, List: the answer from before the last write through this decorator
	FaultHang                   // nothing until ctx is done
	FaultDelay                  // only the Delay
)

// A Fault is one thing that goes wrong with some of the calls.
type Fault struct {
	Kind   FaultKind
	Method string // Get, Put, List or Delete; "": any
	Key    string // path.Match pattern for the key, or a folder with a slash at its end; "": any. List: its prefix
	Skip   int    // matching calls that go well first
	Times  int    // matching calls that then go wrong; 0: all
	Err    error  // nil: ErrUnavailable, for FaultCut ErrTruncated
	Bytes  int64
	Delay  time.Duration // before the call; ends early when ctx is done
	Before func()        // called before the call, for example to change the bucket or kill the caller; may be nil
}

// Faults is a bucket in which things go wrong, for tests. Of several faults that
// match a call the first one that is not used up counts.
type Faults struct {
	Bucket

	mu     sync.Mutex
	faults []*Fault
	hits   int
	before map[string]*memObject // what a key held before its last write; nil: nothing
}

// NewFaults returns b with faults.
func NewFaults(b Bucket, faults ...Fault) *Faults {
	f := &Faults{Bucket: b, before: map[string]*memObject{}}
	f.Set(faults...)
	return f
}

// Set replaces the faults and their counts.
func (f *Faults) Set(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
	for _, fault := range faults {
		f.faults = append(f.faults, &fault)
	}
}

// Hits returns how many calls went wrong.
func (f *Faults) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// next returns the fault of this call; its zero value with FaultDelay is none.
func (f *Faults) next(ctx context.Context, method, key string) (Fault, error) {
	fault := f.pick(method, key)
	if fault.Before != nil {
		fault.Before()
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if fault.Kind == FaultHang {
		<-ctx.Done()
	}
	err := ctx.Err()
	if err == nil && fault.Kind == FaultFail {
		err = fault.Err
	}
	if err != nil {
		return fault, fmt.Errorf("%s %s: %w", strings.ToLower(method), key, err)
	}
	return fault, nil
}

func (f *Faults) pick(method, key string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.faults {
		if !fault.matches(method, key) {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		switch fault.Times {
		case -1:
			continue
		case 1:
			fault.Times = -1
		case 0:
		default:
			fault.Times--
		}
		f.hits++
		hit := *fault
		if hit.Err == nil {
			hit.Err = ErrUnavailable
			if hit.Kind == FaultCut {
				hit.Err = ErrTruncated
			}
		}
		return hit
	}
	return Fault{Kind: FaultDelay}
}

func (fault *Fault) matches(method, key string) bool {
	if fault.Method != "" && fault.Method != method {
		return false
	}
	switch {
	case fault.Key == "":
		return true
	case strings.HasSuffix(fault.Key, "/"):
		return strings.HasPrefix(key, fault.Key)
	}
	ok, err := path.Match(fault.Key, key)
	return ok && err == nil
}

// Get implements [Bucket].
func (f *Faults) Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error) {
	fault, err := f.next(ctx, "Get", key)
	if err != nil {
		return nil, Object{}, err
	}
	if fault.Kind == FaultStale {
		if r, obj, err, ok := f.stale(ctx, key, o); ok {
			return r, obj, err
		}
	}
	r, obj, err := f.Bucket.Get(ctx, key, o)
	if err != nil {
		return nil, obj, err
	}
	switch fault.Kind {
	case FaultCut:
		r = &cutBody{r, fault.Bytes, fmt.Errorf("read %s: %w", key, fault.Err)}
	case FaultFlip:
		r = &flipBody{r, fault.Bytes}
	}
	return r, obj, nil
}

func (f *Faults) stale(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error, bool) {
	f.mu.Lock()
	old, ok := f.before[key]
	f.mu.Unlock()
	if !ok {
		return nil, Object{}, nil, false
	}
	past := NewMem()
	if old != nil {
		past.objects[key] = *old
	}
	r, obj, err := past.Get(ctx, key, o)
	return r, obj, err, true
}

type cutBody struct {
	io.ReadCloser
	left int64
	err  error
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

type flipBody struct {
	io.ReadCloser
	at int64
}

func (b *flipBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.at >= 0 && b.at < int64(n) {
		p[b.at] ^= 0xff
	}
	b.at -= int64(n)
	return n, err
}

// Put implements [Bucket].
func (f *Faults) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	fault, err := f.next(ctx, "Put", key)
	if err != nil {
		return Object{}, err
	}
	keep := f.remember(ctx, key)
	obj, err := f.Bucket.Put(ctx, key, body, c)
	if err != nil {
		return obj, err
	}
	keep()
	if fault.Kind == FaultLost {
		return Object{}, fmt.Errorf("put %s: %w", key, fault.Err)
	}
	return obj, nil
}

// Delete implements [Bucket].
func (f *Faults) Delete(ctx context.Context, key string) error {
	fault, err := f.next(ctx, "Delete", key)
	if err != nil {
		return err
	}
	keep := f.remember(ctx, key)
	if err := f.Bucket.Delete(ctx, key); err != nil {
		return err
	}
	keep()
	if fault.Kind == FaultLost {
		return fmt.Errorf("delete %s: %w", key, fault.Err)
	}
	return nil
}

// remember reads what key holds, if a fault will ever ask for it; keep stores
// that once the write is done.
func (f *Faults) remember(ctx context.Context, key string) (keep func()) {
	f.mu.Lock()
	wanted := slices.ContainsFunc(f.faults, func(fault *Fault) bool { return fault.Kind == FaultStale })
	f.mu.Unlock()
	if !wanted {
		return func() {}
	}
	var old *memObject
	if data, obj, err := ReadAll(ctx, f.Bucket, key, GetOptions{}, 1<<30); err == nil {
		old = &memObject{data, obj}
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.before[key] = old
	}
}

// List implements [Bucket]. FaultFail and FaultCut let Bytes objects pass first.
// A stale list has no objects that were deleted.
func (f *Faults) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		fault, err := f.next(ctx, "List", prefix)
		if err == nil && fault.Kind == FaultCut {
			err = fmt.Errorf("list %s: %w", prefix, fault.Err)
		}
		left := fault.Bytes
		for obj, e := range f.Bucket.List(ctx, prefix, after) {
			if err != nil && left <= 0 {
				break
			}
			left--
			show := true
			if e == nil && fault.Kind == FaultStale {
				obj, show = f.staleObject(obj)
			}
			if show && !yield(obj, e) {
				return
			}
		}
		if err != nil {
			yield(Object{}, err)
		}
	}
}

func (f *Faults) staleObject(obj Object) (Object, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, ok := f.before[obj.Key]
	switch {
	case !ok:
		return obj, true
	case old == nil:
		return Object{}, false
	}
	return old.Object, true
}
