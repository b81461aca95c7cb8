package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// maxSkew is how far the clocks may be apart before the agent warns.
const maxSkew = 24 * time.Hour

// A clockBucket notes how far the bucket's clock and this VM's are apart, from
// the times of objects that it sees anyway.
type clockBucket struct {
	bucket.Bucket
	now func() time.Time

	mu            sync.Mutex
	behind, ahead time.Duration // of this VM
}

// Get implements [bucket.Bucket]. An object that was written in this VM's
// future shows a clock that is behind.
func (c *clockBucket) Get(ctx context.Context, key string, o bucket.GetOptions) (io.ReadCloser, bucket.Object, error) {
	r, obj, err := c.Bucket.Get(ctx, key, o)
	if err == nil {
		c.saw(obj.Modified, false)
	}
	return r, obj, err
}

// Put implements [bucket.Bucket]. An object that was written just now shows
// both.
func (c *clockBucket) Put(ctx context.Context, key string, body io.ReadSeeker, cond bucket.Condition) (bucket.Object, error) {
	obj, err := c.Bucket.Put(ctx, key, body, cond)
	if err == nil {
		c.saw(obj.Modified, true)
	}
	return obj, err
}

// Unwrap returns the bucket without a look at its clock.
func (c *clockBucket) Unwrap() bucket.Bucket { return c.Bucket }

func (c *clockBucket) saw(server time.Time, fresh bool) {
	if server.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.now().Sub(server)
	c.behind = max(c.behind, -d)
	if fresh {
		c.ahead = max(c.ahead, d)
	}
}

// warning tells of clocks that are more than a day apart, or "".
func (c *clockBucket) warning() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	days := func(d time.Duration) string { return fmt.Sprintf("%.0f days", d.Hours()/24) }
	switch {
	case c.behind > maxSkew:
		return "this VM's clock is " + days(c.behind) + " behind the bucket's: set it, or signatures and schedules go wrong"
	case c.ahead > maxSkew:
		return "this VM's clock is " + days(c.ahead) + " ahead of the bucket's: set it, or signatures and schedules go wrong"
	}
	return ""
}
