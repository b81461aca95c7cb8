package agent

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A meeting is a bucket that takes a log and a report only together.
type meeting struct {
	bucket.Bucket
	both sync.WaitGroup
}

func (b *meeting) Put(ctx context.Context, key string, body io.ReadSeeker, c bucket.Condition) (bucket.Object, error) {
	if strings.HasPrefix(key, "logs/") || strings.HasPrefix(key, "reports/") {
		b.both.Done()
		met := make(chan struct{})
		go func() { b.both.Wait(); close(met) }()
		select {
		case <-met:
		case <-time.After(time.Minute):
			return bucket.Object{}, bucket.ErrUnavailable
		}
	}
	return b.Bucket.Put(ctx, key, body, c)
}

func TestReport_GoesBesideTheLog(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("f", "one")))
	b := &meeting{Bucket: w.count}
	b.both.Add(2)
	w.agent.Bucket = b
	if r := w.good(); r.Run.Log != "0.zst" {
		t.Errorf("log %q", r.Run.Log)
	}
}
