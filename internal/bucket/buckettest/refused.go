package buckettest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A call is one way to use a bucket that holds key.
type call struct {
	name string
	call func(ctx context.Context, b bucket.Bucket, key string) error
}

func calls(b bucket.Bucket) []call {
	caps := b.Caps()
	list := []call{
		{"get", func(ctx context.Context, b bucket.Bucket, key string) error {
			_, _, err := bucket.ReadAll(ctx, b, key, bucket.GetOptions{}, 1<<20)
			return err
		}},
		{"get a range", func(ctx context.Context, b bucket.Bucket, key string) error {
			_, _, err := bucket.ReadAll(ctx, b, key, bucket.GetOptions{Length: 1}, 1<<20)
			return err
		}},
		{"get if changed", func(ctx context.Context, b bucket.Bucket, key string) error {
			_, _, err := bucket.ReadAll(ctx, b, key, bucket.GetOptions{IfNoneMatch: "another"}, 1<<20)
			return err
		}},
	}
	if !caps.NoList {
		list = append(list, call{"list", func(ctx context.Context, b bucket.Bucket, _ string) error {
			var last error
			for _, err := range b.List(ctx, "", "") {
				last = err
			}
			return last
		}})
	}
	if caps.ReadOnly {
		return list
	}
	return append(list,
		call{"put", func(ctx context.Context, b bucket.Bucket, key string) error {
			_, err := put(ctx, b, key, "x", bucket.Condition{})
			return err
		}},
		call{"put if absent", func(ctx context.Context, b bucket.Bucket, key string) error {
			_, err := put(ctx, b, key+"-new", "x", bucket.Condition{IfAbsent: true})
			return err
		}},
		call{"delete", func(ctx context.Context, b bucket.Bucket, key string) error { return b.Delete(ctx, key) }},
	)
}

// EveryCall makes every call that b has with key, an object, and returns their
// errors. The object is gone after that, and there is one of the name key-new.
func EveryCall(t testing.TB, b bucket.Bucket, key string) map[string]error {
	t.Helper()
	errs := map[string]error{}
	for _, c := range calls(b) {
		errs[c.name] = c.call(t.Context(), b, key)
	}
	return errs
}

// A Refusal is a bucket opened with credentials that the server does not accept,
// or not for everything.
type Refusal struct {
	Name    string
	Open    func(t testing.TB, via Via) bucket.Bucket
	Key     string   // used by the calls; "": k
	Calls   []string // refused, by the names of [EveryCall]; the others must not be; nil: all are refused
	Want    error    // also a cause, such as bucket.ErrExpired; nil: bucket.ErrPermission for want of a right alone
	Words   string   // in each error
	Secrets []string // in no error, in no encoding
}

// TestRefused checks that each call that is refused says so in the vocabulary,
// and that no error shows a secret, neither then nor when there is no
// connection.
func TestRefused(t *testing.T, cases []Refusal) {
	for _, c := range cases {
		if c.Key == "" {
			c.Key = "k"
		}
		if c.Want == nil {
			c.Want = bucket.ErrPermission
		}
		t.Run(c.Name, func(t *testing.T) {
			c.test(t)
			c.testNoConnection(t)
		})
	}
}

func (c Refusal) test(t *testing.T) {
	l := &line{}
	for op, err := range EveryCall(t, c.Open(t, l.via), c.Key) {
		c.hides(t, op, err)
		refused := c.Calls == nil || slices.Contains(c.Calls, op)
		switch {
		case refused && !errors.Is(err, c.Want):
			t.Errorf("%s: %v, want %#v", op, err, c.Want)
		case refused && c.Want == bucket.ErrPermission && !bucket.Refused(err):
			t.Errorf("%s: %v, want it refused for want of a right", op, err)
		case refused && slices.Contains(bucket.Causes(), c.Want) && !errors.Is(err, bucket.ErrPermission):
			t.Errorf("%s: %v, want %v", op, err, bucket.ErrPermission)
		case refused && !strings.Contains(err.Error(), c.Words):
			t.Errorf("%s: %v does not say %q", op, err, c.Words)
		case !refused && errors.Is(err, bucket.ErrPermission):
			t.Errorf("%s: %v, want it allowed", op, err)
		}
	}
}

func (c Refusal) testNoConnection(t *testing.T) {
	l := &line{}
	l.set(fault{kind: refuse})
	for op, err := range EveryCall(t, c.Open(t, l.via), c.Key) {
		c.hides(t, op+" without a connection", err)
		wantErr(t, op+" without a connection", err, bucket.ErrUnavailable)
	}
}

func (c Refusal) hides(t *testing.T, op string, err error) {
	t.Helper()
	text := fmt.Sprintf("%v %+v", err, err)
	for _, s := range c.Secrets {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s))} {
			if strings.Contains(text, form) {
				t.Errorf("%s: the error shows a secret: %v", op, err)
			}
		}
	}
}

// A Clock is how a kind of credentials meets a clock that is off.
type Clock struct {
	Want  error  // nil: bucket.ErrClock
	Words string // in the error
	Ahead bool   // a clock that is ahead does no harm

	// Open is called where time.Now is that clock, with an object of the name
	// k in the bucket; it may not use transports that were made before.
	Open func(t testing.TB, via Via) bucket.Bucket
}

// TestClock checks that a clock that is an hour off, to either side, is told,
// and that the right clock is not.
func TestClock(t *testing.T, c Clock) {
	if c.Want == nil {
		c.Want = bucket.ErrClock
	}
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			now := time.Now().Round(0)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(now.Add(skew)))
				b := c.Open(t, func(base *http.Transport) http.RoundTripper {
					if base == nil {
						base = &http.Transport{}
					}
					base.DisableKeepAlives = true
					return base
				})
				_, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{}, 1<<20)
				switch {
				case skew == 0 || c.Ahead && skew > 0:
					if err != nil {
						t.Errorf("a clock that is good enough: %v", err)
					}
				case !errors.Is(err, c.Want) || !errors.Is(err, bucket.ErrPermission):
					t.Errorf("get: %v, want %#v", err, c.Want)
				case !strings.Contains(err.Error(), c.Words):
					t.Errorf("%v does not say %q", err, c.Words)
				}
			})
		})
	}
}
