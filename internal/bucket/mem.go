package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a bucket in memory. It keeps every promise, unless it is made to keep
// fewer. Its ETags depend on the content alone.
type Mem struct {
	// Now is the clock behind Object.Modified; nil means time.Now. Set it
	// before the first Put.
	Now func() time.Time

	caps    Caps
	mu      sync.Mutex
	objects map[string]memObject
}

type memObject struct {
	data []byte // never changed
	Object
}

// NewMem returns an empty bucket with atomic conditions.
func NewMem() *Mem { return NewMemWith(Caps{IfAbsent: true, IfMatch: true}) }

// NewMemWith returns an empty bucket that keeps only the promises in caps.
// Without IfAbsent or IfMatch that condition is looked at some time before the
// write, so that writers which race can both win.
func NewMemWith(caps Caps) *Mem {
	return &Mem{caps: caps, objects: make(map[string]memObject)}
}

// Caps returns what NewMem or NewMemWith was told.
func (m *Mem) Caps() Caps { return m.caps }

// Get implements [Bucket].
func (m *Mem) Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error) {
	if err := CheckGet(key, o); err != nil {
		return nil, Object{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	m.mu.Lock()
	obj, ok := m.objects[key]
	m.mu.Unlock()
	if !ok {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, ErrNotExist)
	}
	if o.IfNoneMatch != "" && o.IfNoneMatch == obj.ETag {
		return nil, obj.Object, fmt.Errorf("get %s: %w", key, ErrNotModified)
	}
	n, err := o.Within(obj.Size)
	if err != nil {
		return nil, Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	r := bytes.NewReader(obj.data[o.Offset : o.Offset+n])
	return NewBody(ctx, io.NopCloser(r), n, nil), obj.Object, nil
}

// Put implements [Bucket].
func (m *Mem) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	if err := CheckPut(key, c); err != nil {
		return Object{}, err
	}
	if m.caps.ReadOnly {
		return Object{}, fmt.Errorf("put %s: %w", key, ErrUnsupported)
	}
	if _, err := Size(body); err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	if err := ctx.Err(); err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(key, c); err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	if c.IfAbsent && !m.caps.IfAbsent || c.IfMatch != "" && !m.caps.IfMatch {
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
	}
	return m.store(key, data), nil
}

func (m *Mem) check(key string, c Condition) error {
	old, ok := m.objects[key]
	switch {
	case c.IfAbsent && ok:
		return ErrExists
	case c.IfMatch != "" && !ok:
		return ErrNotExist
	case c.IfMatch != "" && c.IfMatch != old.ETag:
		return ErrPrecondition
	}
	return nil
}

func (m *Mem) store(key string, data []byte) Object {
	now := time.Now
	if m.Now != nil {
		now = m.Now
	}
	obj := Object{Key: key, Size: int64(len(data)), ETag: contentETag(data), Modified: now()}
	m.objects[key] = memObject{data: data, Object: obj}
	return obj
}

func contentETag(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// List implements [Bucket].
func (m *Mem) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if m.caps.NoList {
			yield(Object{}, fmt.Errorf("list %s: %w", prefix, ErrUnsupported))
			return
		}
		m.mu.Lock()
		var found []Object
		for key, obj := range m.objects {
			if strings.HasPrefix(key, prefix) && key > after {
				found = append(found, obj.Object)
			}
		}
		m.mu.Unlock()
		slices.SortFunc(found, func(a, b Object) int { return strings.Compare(a.Key, b.Key) })
		for _, obj := range found {
			if err := ctx.Err(); err != nil {
				yield(Object{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !yield(obj, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Object{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// Delete implements [Bucket].
func (m *Mem) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if m.caps.ReadOnly {
		return fmt.Errorf("delete %s: %w", key, ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}
