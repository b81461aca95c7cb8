package bucket_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func TestRetry_KeepsTheContract(t *testing.T) {
	buckettest.Test(t, func(testing.TB) bucket.Bucket {
		return bucket.Count(bucket.Retry(bucket.NewFaults(bucket.NewMem()), bucket.RetryPolicy{}))
	}, buckettest.Options{Objects: 2600})
}

// rig is a bucket in memory below faults, a counter of attempts and retries.
type rig struct {
	mem    *bucket.Mem
	faults *bucket.Faults
	count  *bucket.Counter
	bucket.Bucket
}

func newRig(p bucket.RetryPolicy, faults ...bucket.Fault) rig {
	mem := bucket.NewMem()
	f := bucket.NewFaults(mem, faults...)
	c := bucket.Count(f)
	return rig{mem, f, c, bucket.Retry(c, p)}
}

// calls are one call of each method; the object k is there.
var calls = map[string]func(ctx context.Context, b bucket.Bucket) error{
	"Get": func(ctx context.Context, b bucket.Bucket) error {
		_, _, err := bucket.ReadAll(ctx, b, "k", bucket.GetOptions{}, 100)
		return err
	},
	"Put": func(ctx context.Context, b bucket.Bucket) error {
		_, err := b.Put(ctx, "k", strings.NewReader("x"), bucket.Condition{})
		return err
	},
	"Delete": func(ctx context.Context, b bucket.Bucket) error { return b.Delete(ctx, "none") },
	"List": func(ctx context.Context, b bucket.Bucket) (err error) {
		for _, err = range b.List(ctx, "", "") {
		}
		return err
	},
}

func TestRetry_WhatIsTriedAgain(t *testing.T) {
	cert := fmt.Errorf("%w: %w", bucket.ErrUnavailable, &tls.CertificateVerificationError{Err: errors.New("unknown authority")})
	for _, c := range []struct {
		name     string
		fault    bucket.Fault
		attempts int64
		want     error
	}{
		{"once unavailable", bucket.Fault{Times: 1}, 2, nil},
		{"four times unavailable", bucket.Fault{Times: 4}, 5, nil},
		{"always unavailable", bucket.Fault{}, 5, bucket.ErrUnavailable},
		{"not allowed", bucket.Fault{Err: bucket.ErrPermission}, 1, bucket.ErrPermission},
		{"missing", bucket.Fault{Err: bucket.ErrNotExist}, 1, bucket.ErrNotExist},
		{"no bucket", bucket.Fault{Err: bucket.ErrNoBucket}, 1, bucket.ErrNoBucket},
		{"bad certificate", bucket.Fault{Err: cert}, 1, bucket.ErrUnavailable},
		{"never answered", bucket.Fault{Kind: bucket.FaultHang}, 5, bucket.ErrUnavailable},
		{"once never answered", bucket.Fault{Kind: bucket.FaultHang, Times: 1}, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for method, call := range calls {
					r := newRig(bucket.RetryPolicy{}, c.fault)
					buckettest.Put(t, r.mem, "k", []byte("x"))
					if err := call(t.Context(), r); !errors.Is(err, c.want) {
						t.Errorf("%s: %v, want %v", method, err, c.want)
					}
					if n := r.count.Traffic().Requests(); n != c.attempts {
						t.Errorf("%s: %d attempts, want %d", method, n, c.attempts)
					}
				}
			})
		})
	}
}

func TestRetry_Pauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		start := time.Now()
		r := newRig(bucket.RetryPolicy{Tries: 8, Pause: time.Second, Limit: 10 * time.Second},
			bucket.Fault{Before: func() { times = append(times, time.Since(start)) }})
		_, _, err := r.Get(t.Context(), "k", bucket.GetOptions{})
		if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "attempt 8") {
			t.Errorf("error: %v", err)
		}
		limits := []time.Duration{1, 2, 4, 8, 10, 10, 10}
		for i, limit := range limits {
			if pause := times[i+1] - times[i]; pause < 0 || pause > limit*time.Second+time.Millisecond {
				t.Errorf("pause %d is %v, limit %vs", i, pause, int(limit))
			}
		}
	})
}

func TestRetry_EndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(bucket.RetryPolicy{Tries: 1000, Pause: time.Minute, Limit: time.Minute}, bucket.Fault{})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		start := time.Now()
		_, _, err := r.Get(ctx, "k", bucket.GetOptions{})
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("%v, want the deadline and what the bucket said", err)
		}
		if took := time.Since(start); took != 3*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

func TestRetry_BodyIsReadOn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	for _, c := range []struct {
		name   string
		o      bucket.GetOptions
		faults []bucket.Fault
		want   []byte
		gets   int64
		err    error
	}{
		{"cut once", bucket.GetOptions{}, []bucket.Fault{{Kind: bucket.FaultCut, Bytes: 50_001, Times: 1}}, data, 2, nil},
		{"cut in a range", bucket.GetOptions{Offset: 7, Length: 90_000}, []bucket.Fault{{Kind: bucket.FaultCut, Bytes: 5, Times: 1}}, data[7:90_007], 2, nil},
		{"cut at the very end", bucket.GetOptions{}, []bucket.Fault{{Kind: bucket.FaultCut, Bytes: 160_000, Times: 1}}, data, 1, nil},
		{"cut every 10,000 bytes", bucket.GetOptions{}, []bucket.Fault{{Kind: bucket.FaultCut, Bytes: 10_000}}, data, 16, nil},
		{"no progress", bucket.GetOptions{}, []bucket.Fault{{Kind: bucket.FaultCut, Bytes: 3, Times: 0}}, data[:15], 5, bucket.ErrTruncated},
		{"cut, then unavailable twice", bucket.GetOptions{Offset: 1}, []bucket.Fault{
			{Kind: bucket.FaultCut, Bytes: 9, Times: 1}, {Times: 2},
		}, data[1:], 4, nil},
		{"cut, then gone", bucket.GetOptions{}, []bucket.Fault{
			{Kind: bucket.FaultCut, Bytes: 9, Times: 1}, {Err: bucket.ErrNotExist},
		}, data[:9], 2, bucket.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(bucket.RetryPolicy{}, c.faults...)
				buckettest.Put(t, r.mem, "p", data)
				body, _, err := r.Get(t.Context(), "p", c.o)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				got, err := io.ReadAll(body)
				if !errors.Is(err, c.err) || !bytes.Equal(got, c.want) {
					t.Errorf("%d bytes and %v, want %d and %v", len(got), err, len(c.want), c.err)
				}
				if n := r.count.Traffic().Gets; n != c.gets {
					t.Errorf("%d gets, want %d", n, c.gets)
				}
			})
		})
	}
}

func TestRetry_ReplacedObjectIsNotReadOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(bucket.RetryPolicy{}, bucket.Fault{Kind: bucket.FaultCut, Bytes: 10, Times: 1})
		buckettest.Put(t, r.mem, "k", bytes.Repeat([]byte("a"), 100))
		body, _, err := r.Get(t.Context(), "k", bucket.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		buckettest.Put(t, r.mem, "k", bytes.Repeat([]byte("b"), 100))
		got, err := io.ReadAll(body)
		if !errors.Is(err, bucket.ErrPrecondition) || string(got) != strings.Repeat("a", 10) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// drip gives a body of one byte a second.
type drip struct{ bucket.Bucket }

func (d drip) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	r, obj, err := d.Bucket.Get(ctx, key, o)
	return dripBody{ctx, r}, obj, err
}

type dripBody struct {
	ctx context.Context
	io.ReadCloser
}

func (d dripBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return d.ReadCloser.Read(p[:1])
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func TestRetry_DrippingServerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := bucket.NewMem()
		buckettest.Put(t, mem, "p", make([]byte, 100_000))
		count := bucket.Count(drip{mem})
		b := bucket.Retry(count, bucket.RetryPolicy{Tries: 3})
		start := time.Now()
		data, _, err := bucket.ReadAll(t.Context(), b, "p", bucket.GetOptions{}, 1<<20)
		if !errors.Is(err, bucket.ErrUnavailable) || data != nil {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		if took := time.Since(start); took > 3*30*time.Second+2*time.Second || count.Traffic().Gets != 3 {
			t.Errorf("%d attempts took %v", count.Traffic().Gets, took)
		}
	})
}

func TestRetry_SlowCallerIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(bucket.RetryPolicy{})
		buckettest.Put(t, r.mem, "p", make([]byte, 100))
		body, _, err := r.Get(t.Context(), "p", bucket.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		for range 10 {
			time.Sleep(time.Hour)
			if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRetry_ListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(bucket.RetryPolicy{},
			bucket.Fault{Kind: bucket.FaultCut, Err: bucket.ErrUnavailable, Bytes: 3, Times: 2}, bucket.Fault{Times: 1})
		var want []string
		for i := range 10 {
			want = append(want, fmt.Sprintf("k%d", i))
			buckettest.Put(t, r.mem, want[i], nil)
		}
		if got := buckettest.Keys(t, r, "k", ""); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if n := r.count.Traffic().Lists; n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
	})
}

func TestRetry_LostAnswers(t *testing.T) {
	lost := bucket.Fault{Kind: bucket.FaultLost, Method: "Put", Times: 1}
	for _, c := range []struct {
		name   string
		cond   func(first bucket.Object) bucket.Condition
		before string // what the key holds; "": nothing
		faults []bucket.Fault
		other  string // written by another between the attempts
		want   error
		holds  string
	}{
		{"if absent, written by us", absent, "", []bucket.Fault{lost}, "", nil, "mine"},
		{"if absent, written twice by us", absent, "", []bucket.Fault{lost, {Method: "Put", Times: 1}}, "", nil, "mine"},
		{"if absent, not written and taken by another", absent, "", []bucket.Fault{{Method: "Put", Times: 1}}, "other", bucket.ErrExists, "other"},
		{"if absent, another with as many bytes", absent, "", []bucket.Fault{{Method: "Put", Times: 1}}, "ours", bucket.ErrExists, "ours"},
		{"if absent, exists and nothing was lost", absent, "mine", nil, "", bucket.ErrExists, "mine"},
		{"if match, written by us", match, "old", []bucket.Fault{lost}, "", nil, "mine"},
		{"if match, written by us and replaced", match, "old", []bucket.Fault{lost}, "other", bucket.ErrPrecondition, "other"},
		{"if match, stale and nothing was lost", func(bucket.Object) bucket.Condition { return bucket.Condition{IfMatch: "x"} }, "mine", nil, "", bucket.ErrPrecondition, "mine"},
		{"if absent, written by us but not readable", absent, "", []bucket.Fault{lost, {Method: "Get", Err: bucket.ErrPermission}}, "", bucket.ErrExists, "mine"},
		{"no condition", func(bucket.Object) bucket.Condition { return bucket.Condition{} }, "old", []bucket.Fault{lost}, "", nil, "mine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(bucket.RetryPolicy{})
				var first bucket.Object
				if c.before != "" {
					first = buckettest.Put(t, r.mem, "k", []byte(c.before))
				}
				if c.other != "" { // on the second attempt
					c.faults = append(c.faults, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Times: 1, Before: func() {
						buckettest.Put(t, r.mem, "k", []byte(c.other))
					}})
				}
				r.faults.Set(c.faults...)
				obj, err := r.Put(t.Context(), "k", strings.NewReader("mine"), c.cond(first))
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				got, now := buckettest.Get(t, r.mem, "k")
				if string(got) != c.holds {
					t.Errorf("the object holds %q, want %q", got, c.holds)
				}
				if err == nil && obj.ETag != now.ETag {
					t.Errorf("returned ETag %q, the object has %q", obj.ETag, now.ETag)
				}
			})
		})
	}
}

func absent(bucket.Object) bucket.Condition      { return bucket.Condition{IfAbsent: true} }
func match(first bucket.Object) bucket.Condition { return bucket.Condition{IfMatch: first.ETag} }

func TestRetry_HonoursThePauseAServerAsksFor(t *testing.T) {
	for _, c := range []struct {
		asked    time.Duration
		attempts int64
	}{
		{10 * time.Second, 3}, {30 * time.Second, 3}, {31 * time.Second, 1}, {0, 3}, {-time.Second, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(bucket.RetryPolicy{Tries: 3, Pause: time.Second, Limit: 10 * time.Second},
				bucket.Fault{Err: bucket.Later(fmt.Errorf("slow down: %w", bucket.ErrUnavailable), c.asked)})
			start := time.Now()
			_, _, err := r.Get(t.Context(), "k", bucket.GetOptions{})
			if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "slow down") {
				t.Errorf("%v: %v", c.asked, err)
			}
			least := max(c.asked, 0) * time.Duration(c.attempts-1)
			took, n := time.Since(start), r.count.Traffic().Gets
			if n != c.attempts || took < least || took > least+3*time.Second {
				t.Errorf("asked for %v: %d attempts in %v", c.asked, n, took)
			}
		})
	}
}

func TestCautious(t *testing.T) {
	for name, call := range calls {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(bucket.RetryPolicy{})
			buckettest.Put(t, r.mem, "k", []byte("x"))
			b := bucket.Cautious(r.Bucket)
			for _, kind := range []bucket.FaultKind{bucket.FaultHang, bucket.FaultFail} {
				r.faults.Set(bucket.Fault{Kind: kind})
				if err := call(t.Context(), b); !errors.Is(err, bucket.ErrUnavailable) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if n := r.count.Traffic().Requests(); n != 2 {
				t.Errorf("%s: %d attempts of two calls that nobody answered", name, n)
			}
			r.faults.Set()
			if err := call(t.Context(), b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			r.faults.Set(bucket.Fault{Times: 4})
			if err := call(t.Context(), b); err != nil {
				t.Errorf("%s: not patient after an answer: %v", name, err)
			}
		})
	}
	mem := bucket.NewMem()
	if bucket.Cautious(mem) != bucket.Bucket(mem) {
		t.Error("a bucket without patience became another one")
	}
}
