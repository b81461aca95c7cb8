package buckettest

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestLine runs what every bucket over HTTP must do when the network or the
// service behaves badly, by itself and below [bucket.Retry]. open returns the
// bucket under test, opened with a transport that via made, and another way to
// the same objects; both are empty. A bucket that is only read is tested so.
func TestLine(t *testing.T, open func(t testing.TB, via Via) (b, direct bucket.Bucket)) {
	for _, c := range []struct {
		name   string
		test   func(*testing.T, *badLine)
		writes bool
	}{
		{"a body that breaks off", testBodyBreaks, false},
		{"a body that stalls", testBodyStalls, false},
		{"no answer", testNoAnswer, false},
		{"throttled", testThrottled, false},
		{"throttled from the first request on", testThrottledCold, false},
		{"a listing that breaks off", testListBreaks, true},
		{"an upload that breaks off", testUploadBreaks, true},
		{"the answer to a write is lost", testAnswerLost, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &badLine{}
			l.b, l.direct = open(t, l.via)
			if c.writes && l.b.Caps().ReadOnly {
				t.Skip("this bucket is only read")
			}
			c.test(t, l)
		})
	}
}

type badLine struct {
	line
	b, direct bucket.Bucket
}

// retry is the bucket with patience, as the commands use it.
func (l *badLine) retry() bucket.Bucket {
	return bucket.Retry(l.b, bucket.RetryPolicy{Pause: time.Millisecond, Limit: time.Millisecond, Wait: time.Minute})
}

// hasty has no patience with what stalls.
func (l *badLine) hasty() bucket.Bucket {
	return bucket.Retry(l.b, bucket.RetryPolicy{Pause: time.Millisecond, Limit: time.Millisecond, Wait: time.Second, Tries: 20})
}

// warm lets the bucket get what it keeps between calls, such as a token, so
// that faults meet the call and not that.
func (l *badLine) warm(t *testing.T) {
	t.Helper()
	Put(t, l.direct, "warm", []byte("x"))
	Get(t, l.b, "warm")
}

var uploads = []string{http.MethodPut, http.MethodPost, http.MethodPatch}

func testBodyBreaks(t *testing.T, l *badLine) {
	data := noise(1 << 20)
	Put(t, l.direct, "packs/p", data)
	l.warm(t)
	l.set(fault{kind: cutDown, bytes: 200_000})
	got, _, err := bucket.ReadAll(t.Context(), l.b, "packs/p", bucket.GetOptions{}, 2<<20)
	if !errors.Is(err, bucket.ErrTruncated) && !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("by itself: %d bytes, %v", len(got), err)
	}
	before := l.requests.Load()
	got, _, err = bucket.ReadAll(t.Context(), l.retry(), "packs/p", bucket.GetOptions{Offset: 16}, 2<<20)
	if err != nil || !bytes.Equal(got, data[16:]) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(data)-16, err)
	}
	if n := l.requests.Load() - before; n < 6 || n > 12 {
		t.Errorf("%d requests of at most 200,000 bytes carried 1 MiB", n)
	}
}

func testBodyStalls(t *testing.T, l *badLine) {
	data := noise(1 << 20)
	Put(t, l.direct, "packs/p", data)
	l.warm(t)
	l.set(fault{kind: cutDown, bytes: 300_000, stall: true, times: 1})
	got, _, err := bucket.ReadAll(t.Context(), l.hasty(), "packs/p", bucket.GetOptions{}, 2<<20)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
	}
}

func testNoAnswer(t *testing.T, l *badLine) {
	l.warm(t)
	for name, f := range map[string]fault{
		"no connection": {kind: refuse}, "the connection ends": {kind: cutDown}, "half a header": {kind: cutDown, bytes: 12},
	} {
		l.set(f)
		for op, err := range EveryCall(t, l.b, "warm") {
			if !errors.Is(err, bucket.ErrUnavailable) {
				t.Errorf("%s: %s: %v, want %v", name, op, err, bucket.ErrUnavailable)
			}
		}
	}
	l.everyCallWorks(t, "no answer", l.retry(), fault{kind: cutDown})
	l.set(fault{kind: cutDown, stall: true, times: 1})
	if got, _ := Get(t, l.hasty(), "warm"); string(got) != "x" {
		t.Errorf("after a stall: %q", got)
	}
}

// everyCallWorks has f happen twice in each call of a bucket with patience.
func (l *badLine) everyCallWorks(t *testing.T, name string, b bucket.Bucket, f fault) {
	t.Helper()
	f.times = 2
	for _, op := range calls(b) {
		l.set()
		Put(t, l.direct, "warm", []byte("x"))
		if err := l.direct.Delete(t.Context(), "warm-new"); err != nil {
			t.Fatal(err)
		}
		l.set(f)
		if err := op.call(t.Context(), b, "warm"); err != nil {
			t.Errorf("%s, then well again: %s: %v", name, op.name, err)
		}
	}
	l.set()
	Put(t, l.direct, "warm", []byte("x"))
}

func testThrottled(t *testing.T, l *badLine) {
	l.warm(t)
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		l.set(fault{kind: throttle, status: status})
		for op, err := range EveryCall(t, l.b, "warm") {
			if !errors.Is(err, bucket.ErrUnavailable) {
				t.Errorf("%d: %s: %v, want %v", status, op, err, bucket.ErrUnavailable)
			}
		}
	}
	l.everyCallWorks(t, "throttled", l.retry(), fault{kind: throttle, status: http.StatusServiceUnavailable})
}

func testThrottledCold(t *testing.T, l *badLine) {
	Put(t, l.direct, "k", []byte("x"))
	l.set(fault{kind: throttle, status: http.StatusTooManyRequests, times: 2})
	// It takes seconds: that there is no token is remembered.
	patient := bucket.Retry(l.b, bucket.RetryPolicy{Tries: 1000, Pause: 50 * time.Millisecond, Limit: 50 * time.Millisecond, Wait: time.Minute})
	if got, _ := Get(t, patient, "k"); string(got) != "x" {
		t.Errorf("got %q", got)
	}
}

func testListBreaks(t *testing.T, l *badLine) {
	if l.b.Caps().NoList {
		t.Skip("this bucket cannot list")
	}
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("list/%02d", i))
		Put(t, l.direct, want[i], nil)
	}
	l.warm(t)
	l.set(fault{kind: cutDown, bytes: 2000})
	var err error
	for _, err = range l.b.List(t.Context(), "list/", "") {
	}
	if !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("by itself: %v, want %v", err, bucket.ErrUnavailable)
	}
	l.set(fault{kind: cutDown, bytes: 2000, times: 2})
	if got := Keys(t, l.retry(), "list/", ""); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func testUploadBreaks(t *testing.T, l *badLine) {
	l.warm(t)
	data := noise(1 << 20)
	Put(t, l.direct, "packs/p", []byte("old"))
	for _, stall := range []bool{false, true} {
		f := fault{kind: cutUp, bytes: 300_000, methods: uploads, stall: stall}
		if !stall {
			l.set(f)
			for _, key := range []string{"packs/p", "packs/new"} {
				_, err := l.b.Put(t.Context(), key, bytes.NewReader(data), bucket.Condition{})
				wantErr(t, "by itself: put "+key, err, bucket.ErrUnavailable)
			}
			if got, _ := Get(t, l.direct, "packs/p"); string(got) != "old" {
				t.Errorf("half an upload replaced the object: %d bytes", len(got))
			}
			_, _, err := l.direct.Get(t.Context(), "packs/new", bucket.GetOptions{})
			wantErr(t, "get what was half uploaded", err, bucket.ErrNotExist)
		}
		f.times = 1
		l.set(f)
		if _, err := l.hasty().Put(t.Context(), "packs/p", bytes.NewReader(data), bucket.Condition{}); err != nil {
			t.Errorf("put, stalled: %v: %v", stall, err)
		}
		if got, _ := Get(t, l.direct, "packs/p"); !bytes.Equal(got, data) {
			t.Errorf("put, stalled: %v: the object has %d bytes", stall, len(got))
		}
		data[0]++
	}
}

func testAnswerLost(t *testing.T, l *badLine) {
	l.warm(t)
	lost := fault{kind: lose, methods: uploads, times: 1}
	l.set(lost)
	_, err := put(t.Context(), l.b, "by itself", "x", bucket.Condition{})
	wantErr(t, "by itself", err, bucket.ErrUnavailable)
	l.set(lost)
	obj, err := put(t.Context(), l.retry(), "locks/publish", "me", bucket.Condition{IfAbsent: true})
	if err != nil {
		t.Fatalf("put if absent: %v", err)
	}
	if _, now := Get(t, l.b, "locks/publish"); obj.ETag != now.ETag {
		t.Errorf("returned %+v, stored %+v", obj, now)
	}
	_, err = put(t.Context(), l.retry(), "locks/publish", "you", bucket.Condition{IfAbsent: true})
	wantErr(t, "put over it", err, bucket.ErrExists)
	l.set(lost)
	next, err := put(t.Context(), l.retry(), "locks/publish", "me, later", bucket.Condition{IfMatch: obj.ETag})
	if err != nil {
		t.Fatalf("put if match: %v", err)
	}
	got, now := Get(t, l.b, "locks/publish")
	if string(got) != "me, later" || next.ETag != now.ETag {
		t.Errorf("returned %+v, stored %q %+v", next, got, now)
	}
	_, err = put(t.Context(), l.retry(), "locks/publish", "you", bucket.Condition{IfMatch: obj.ETag})
	wantErr(t, "put over what was replaced", err, bucket.ErrPrecondition)
	l.set(fault{kind: lose, methods: []string{http.MethodDelete}, times: 1})
	if err := l.retry().Delete(t.Context(), "locks/publish"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if !l.b.Caps().NoList && strings.Contains(strings.Join(Keys(t, l.b, "", ""), " "), "locks/") {
		t.Error("the deleted object is still there")
	}
}
