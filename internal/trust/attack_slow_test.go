package trust

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A server that drips bytes holds nobody longer than the caller wants.
func TestAttack_SlowBodyEndsWithTheContext(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.Bucket = bucket.NewFaults(w.bucket, bucket.Fault{Kind: bucket.FaultHang, Key: metadataPrefix + "1.snapshot.json"})
	ctx, cancel := context.WithCancel(t.Context())
	c.Bucket.(*bucket.Faults).Set(bucket.Fault{Kind: bucket.FaultHang, Key: metadataPrefix + "1.snapshot.json", Before: cancel})
	if _, err := c.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("refresh: %v", err)
	}
}

func TestAttack_SlowServerIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := bucket.NewFaults(bucket.NewMem(), bucket.Fault{Kind: bucket.FaultHang})
		began := time.Now()
		_, _, err := get(t.Context(), hangs, "k", bucket.GetOptions{}, 1)
		if !errors.Is(err, bucket.ErrUnavailable) || time.Since(began) != fetchTimeout {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	})
}
