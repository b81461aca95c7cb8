package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"
)

// quickly is the patience with a bucket that others can stand in for: one that
// answers nothing, not even a refusal, is given up within nine seconds.
var quickly = RetryPolicy{Tries: 2, Pause: 250 * time.Millisecond, Limit: 250 * time.Millisecond, Wait: 4 * time.Second}

// restTime is how long a bucket that was away is left alone.
const restTime = time.Minute

// Impatient returns b, whatever [Retry] is around it, with the patience for a
// bucket that others can stand in for: ErrUnavailable comes within nine seconds.
func Impatient(b Bucket) Bucket {
	if r, ok := b.(*retrier); ok {
		b = r.b
	}
	return Retry(b, quickly)
}

// A Mirror is one of several buckets with the same objects.
type Mirror struct {
	URL    string
	Bucket Bucket // nil: it could not be opened, see Err
	Err    error
}

// Mirrored is one bucket made of several that hold the same objects, in the
// order in which they are asked.
//
//   - A read goes to the next bucket when one is away, not there or refuses, and
//     when it lacks an object that it must have. What worked is asked first
//     from then on, so that a bucket that is away costs its time once.
//   - A write, a delete and a list go to the first bucket that takes them; a
//     write and a delete to no second one. The first time that a bucket refuses
//     a write the caller hears of it, who may know another name that it is
//     allowed to write; when it refuses again, the next bucket is asked.
//   - ETags tell the buckets apart: a condition with the ETag of one never
//     holds for another.
//
// Nothing that it returns is more current or more to be trusted than what the
// buckets hold: one that lags or lies is found out by what is signed, and left
// with [Mirrored.Leave].
type Mirrored struct {
	optional func(key string) bool
	now      func() time.Time
	*mirrorSources
	patience []patience // with each source
}

// mirrorSources are what is known of the buckets.
type mirrorSources struct {
	mu      sync.Mutex
	sources []*mirrorSource
	at      int // read from first
}

// A patience is one bucket with little patience and with all that there is; nil
// where it could not be opened.
type patience struct{ quick, patient Bucket }

type mirrorSource struct {
	url, tag string
	caps     Caps
	trouble  error     // why it is of no use; nil: nothing is known against it
	away     time.Time // when it was away last; zero: it is there
	unread   bool      // its content is of no use; it still takes writes
	refused  bool      // it refused a write
}

// Mirrors returns the buckets of list as one. optional reports whether a bucket
// that is whole may lack an object: then the first answer counts, also a
// refusal, which is how some servers say that there is none. It may be nil.
func Mirrors(list []Mirror, optional func(key string) bool) *Mirrored {
	if optional == nil {
		optional = func(string) bool { return false }
	}
	m := &Mirrored{optional: optional, now: time.Now, mirrorSources: &mirrorSources{}}
	for _, l := range list {
		sum := sha256.Sum256([]byte(l.URL))
		s := &mirrorSource{url: l.URL, tag: hex.EncodeToString(sum[:4]) + "."}
		var p patience
		if l.Bucket == nil {
			s.caps = Caps{ReadOnly: true, NoList: true}
			s.trouble = orUnavailable(l.Err)
			s.unread = true
		} else {
			p, s.caps = patience{Impatient(l.Bucket), l.Bucket}, l.Bucket.Caps()
		}
		m.sources, m.patience = append(m.sources, s), append(m.patience, p)
	}
	return m
}

// cautious is m for [Cautious]: an answer to either patience with a bucket is
// the bucket's.
func (m *Mirrored) cautious() *Mirrored {
	c := *m
	c.patience = nil
	for _, p := range m.patience {
		p = patience{Cautious(p.quick), Cautious(p.patient)}
		if patient, ok := p.patient.(*retrier); ok {
			patient.unsure = p.quick.(*retrier).unsure
		}
		c.patience = append(c.patience, p)
	}
	return &c
}

func orUnavailable(err error) error {
	if err == nil {
		return ErrUnavailable
	}
	return err
}

// A MirrorTrouble says what is wrong with one of several buckets.
type MirrorTrouble struct {
	Index int // in the list of [Mirrors]
	URL   string
	Err   error
}

// Troubles returns what was found wrong with the buckets so far, in their order.
func (m *Mirrored) Troubles() []MirrorTrouble {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []MirrorTrouble
	for i, s := range m.sources {
		if s.trouble != nil {
			out = append(out, MirrorTrouble{i, s.url, s.trouble})
		}
	}
	return out
}

// Reading returns the index and the URL of the bucket that is read from.
func (m *Mirrored) Reading() (int, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at, m.sources[m.at].url
}

// Leave stops reading from the bucket that was read from last, because err was
// found in what it holds. It reports whether another one is left to read from.
func (m *Mirrored) Leave(err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sources[m.at]; s.away.IsZero() {
		s.trouble, s.unread = err, true
	}
	for i := range m.sources {
		n := (m.at + i) % len(m.sources)
		if s := m.sources[n]; s.away.IsZero() && !s.unread {
			m.at = n
			return true
		}
	}
	return false
}

// First returns the error of the first bucket, if something was found wrong
// with it, else err: it is the one that the project goes by.
func (m *Mirrored) First(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first := m.sources[0]; first.trouble != nil && err != nil {
		return first.trouble
	}
	return err
}

// Unwrap returns the first bucket that could be opened.
func (m *Mirrored) Unwrap() Bucket {
	for _, p := range m.patience {
		if p.patient != nil {
			return p.patient
		}
	}
	return nil
}

// Caps implements [Bucket]: what all buckets promise that can be written to.
func (m *Mirrored) Caps() Caps {
	c := Caps{IfAbsent: true, IfMatch: true, ReadOnly: true, NoList: true}
	for _, s := range m.sources {
		if !s.caps.ReadOnly {
			c.ReadOnly, c.IfAbsent, c.IfMatch = false, c.IfAbsent && s.caps.IfAbsent, c.IfMatch && s.caps.IfMatch
		}
		c.NoList = c.NoList && s.caps.NoList
	}
	if c.ReadOnly {
		c.IfAbsent, c.IfMatch = false, false
	}
	return c
}

// ETags of a source have its tag inside of their quotes, if they have any, so
// that they stay what HTTP takes for an ETag.
func (s *mirrorSource) tagged(etag string) string {
	if etag == "" {
		return ""
	}
	i := strings.IndexByte(etag, '"') + 1
	return etag[:i] + s.tag + etag[i:]
}

// untagged returns the source's own form of an ETag, and whether it is one of it.
func (s *mirrorSource) untagged(etag string) (string, bool) {
	i := strings.IndexByte(etag, '"') + 1
	rest, ok := strings.CutPrefix(etag[i:], s.tag)
	return etag[:i] + rest, ok
}

// gone reports whether err says that nothing can be had of a bucket now.
func gone(err error) bool { return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoBucket) }

// A choice is one source to ask, with the patience for it: all of it for the
// last one.
type choice struct {
	n int
	*mirrorSource
	bucket Bucket
}

// choices returns the sources to ask, beginning with the one numbered first,
// and those that wanted lets through.
func (m *Mirrored) choices(first int, wanted func(*mirrorSource) bool) []choice {
	var out []choice
	for i := range m.sources {
		n := (first + i) % len(m.sources)
		s, p := m.sources[n], m.patience[n]
		rests := !s.away.IsZero() && m.now().Sub(s.away) < restTime
		if p.quick != nil && !rests && wanted(s) {
			out = append(out, choice{n, s, p.quick})
		}
	}
	if len(out) > 0 {
		last := &out[len(out)-1]
		last.bucket = m.patience[last.n].patient
	}
	return out
}

func (m *Mirrored) readers() []choice {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.choices(m.at, func(s *mirrorSource) bool { return !s.unread })
}

func (m *Mirrored) others(wanted func(*mirrorSource) bool) []choice {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.choices(0, wanted)
}

// lost notes that nothing can be had of source n.
func (m *Mirrored) lost(n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sources[n].trouble, m.sources[n].away = err, m.now()
}

// refusedBefore notes that source n refused a write, and reports whether that
// was not the first time.
func (m *Mirrored) refusedBefore(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.sources[n].refused
	m.sources[n].refused = true
	return was
}

// answered makes source n the one to read from, after the sources in lacking
// could not give what it gave.
func (m *Mirrored) answered(n int, lacking map[int]error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = n
	m.sources[n].trouble, m.sources[n].away = nil, time.Time{}
	for i, err := range lacking {
		if m.sources[i].trouble == nil {
			m.sources[i].trouble = err
		}
	}
}

// failed makes one error of those that the sources gave in this call or were
// left for before. It is of the kind of the first one in their order: a mirror
// that lacks an object says nothing while the bucket itself is away.
func (m *Mirrored) failed(what string, fails map[int]error, wanted func(*mirrorSource) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &mirrorError{}
	var words []string
	for i, s := range m.sources {
		err := fails[i]
		if err == nil && wanted(s) {
			err = s.trouble
		}
		if err == nil {
			continue
		}
		if e.first == nil {
			e.first = err
		}
		words = append(words, fmt.Sprintf("%s: %v", withoutOptions(s.url), err))
	}
	if e.first == nil {
		return fmt.Errorf("%s: %w", what, ErrUnsupported)
	}
	e.text = strings.Join(words, "; ")
	return e
}

func withoutOptions(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}

// A mirrorError tells what each bucket said and is of the kind of the first.
type mirrorError struct {
	text  string
	first error
}

func (e *mirrorError) Error() string { return e.text }
func (e *mirrorError) Unwrap() error { return e.first }

// Get implements [Bucket].
func (m *Mirrored) Get(ctx context.Context, key string, o GetOptions) (io.ReadCloser, Object, error) {
	fails := map[int]error{}
	for _, c := range m.readers() {
		own := o
		if etag, ok := c.untagged(o.IfNoneMatch); ok {
			own.IfNoneMatch = etag
		} else {
			own.IfNoneMatch = ""
		}
		body, obj, err := c.bucket.Get(ctx, key, own)
		obj.ETag = c.tagged(obj.ETag)
		switch {
		case err == nil:
			m.answered(c.n, fails)
			return &mirrorBody{body, m, c.n, ctx}, obj, nil
		case errors.Is(err, ErrNotModified):
			m.answered(c.n, fails)
			return nil, obj, err
		case ctx.Err() != nil:
			return nil, obj, err
		case gone(err):
			m.lost(c.n, err)
		case m.optional(key) || !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrPermission):
			return nil, obj, err
		}
		fails[c.n] = err
	}
	return nil, Object{Key: key}, m.failed("get "+key, fails, func(*mirrorSource) bool { return true })
}

// A mirrorBody tells when its source broke off.
type mirrorBody struct {
	io.ReadCloser
	m   *Mirrored
	n   int
	ctx context.Context
}

func (b *mirrorBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ctx.Err() == nil && (gone(err) || errors.Is(err, ErrTruncated)) {
		b.m.lost(b.n, err)
	}
	return n, err
}

// Put implements [Bucket].
func (m *Mirrored) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	wanted := func(s *mirrorSource) bool {
		_, own := s.untagged(c.IfMatch)
		return !s.caps.ReadOnly && (c.IfMatch == "" || own)
	}
	var obj Object
	err := m.change(ctx, "put "+key, wanted, func(s choice) (err error) {
		own := c
		if own.IfMatch != "" {
			own.IfMatch, _ = s.untagged(c.IfMatch)
		}
		obj, err = s.bucket.Put(ctx, key, body, own)
		obj.ETag = s.tagged(obj.ETag)
		return err
	})
	if errors.Is(err, ErrUnsupported) && c.IfMatch != "" && !m.Caps().ReadOnly {
		return obj, fmt.Errorf("put %s: the ETag is of no bucket here: %w", key, ErrPrecondition)
	}
	return obj, err
}

// Delete implements [Bucket].
func (m *Mirrored) Delete(ctx context.Context, key string) error {
	return m.change(ctx, "delete "+key, func(s *mirrorSource) bool { return !s.caps.ReadOnly }, func(s choice) error {
		return s.bucket.Delete(ctx, key)
	})
}

// change lets the first source do it that takes it.
func (m *Mirrored) change(ctx context.Context, what string, wanted func(*mirrorSource) bool, do func(choice) error) error {
	fails := map[int]error{}
	for _, c := range m.others(wanted) {
		err := do(c)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case gone(err):
			m.lost(c.n, err)
		case errors.Is(err, ErrPermission) && m.refusedBefore(c.n):
		case !errors.Is(err, ErrUnsupported):
			return err
		}
		fails[c.n] = err
	}
	return m.failed(what, fails, wanted)
}

// List implements [Bucket]. A listing that has begun stays with its bucket.
func (m *Mirrored) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		wanted := func(s *mirrorSource) bool { return !s.caps.NoList }
		fails := map[int]error{}
		for _, c := range m.others(wanted) {
			err, done := c.list(ctx, prefix, after, yield)
			if done {
				return
			}
			if ctx.Err() != nil || !gone(err) && !errors.Is(err, ErrPermission) && !errors.Is(err, ErrUnsupported) {
				yield(Object{}, err)
				return
			}
			if gone(err) {
				m.lost(c.n, err)
			}
			fails[c.n] = err
		}
		yield(Object{}, m.failed("list "+prefix, fails, wanted))
	}
}

// list returns the error that came before any object; otherwise it is done.
func (c choice) list(ctx context.Context, prefix, after string, yield func(Object, error) bool) (err error, done bool) {
	begun := false
	for obj, err := range c.bucket.List(ctx, prefix, after) {
		if err != nil && !begun {
			return err, false
		}
		begun = true
		obj.ETag = c.tagged(obj.ETag)
		if !yield(obj, err) || err != nil {
			break
		}
	}
	return nil, true
}
