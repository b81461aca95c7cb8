package buckettest

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestRetryAfter has a server that asks for more time than a caller gives it,
// and servers that ask for none. serve opens a bucket on a server that answers
// all requests with h.
func TestRetryAfter(t *testing.T, serve func(h http.HandlerFunc) bucket.Bucket) {
	for after, want := range map[string]int64{"3600": 1, "0": 2, "soon": 2, "": 2} {
		var asked atomic.Int64
		b := serve(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		patient := bucket.Retry(b, bucket.RetryPolicy{Tries: 2, Pause: time.Millisecond, Limit: time.Millisecond})
		if _, _, err := patient.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrUnavailable) || asked.Load() != want {
			t.Errorf("Retry-After %q: %d requests, want %d: %v", after, asked.Load(), want, err)
		}
	}
}
