package swift

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	pageSize = 1000
	maxPage  = 16 << 20 // a page of names of 1,024 bytes, each escaped, has 7 MiB
)

// List implements [bucket.Bucket]: one request for each thousand objects. Names
// that cannot be keys, such as the folder marks of web consoles, are left out.
// A new object may be missing from it for a while, and a deleted one be there.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		marker := ""
		if after != "" {
			marker = b.prefix + after
		}
		for {
			page, err := b.page(ctx, b.prefix+prefix, marker)
			if err != nil {
				yield(bucket.Object{}, b.fail(ctx, "list", prefix, err))
				return
			}
			for _, o := range page {
				key, ok := strings.CutPrefix(o.Key, b.prefix)
				if !ok || key <= after || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil {
					continue
				}
				o.Key = key
				if !yield(o, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			marker = page[len(page)-1].Key
		}
	}
}

// page returns up to pageSize objects whose full names come after marker.
func (b *Bucket) page(ctx context.Context, prefix, marker string) ([]bucket.Object, error) {
	q := url.Values{"format": {"json"}, "limit": {strconv.Itoa(pageSize)}}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	if marker != "" {
		q.Set("marker", marker)
	}
	resp, err := b.do(ctx, call{method: http.MethodGet, query: q})
	if err != nil {
		return nil, err
	}
	defer wire.Finish(resp)
	switch resp.StatusCode {
	case http.StatusNoContent:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, b.refusal("list", resp, bucket.Condition{})
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return nil, wire.Classify(ctx, err)
	}
	return parsePage(data, marker)
}

// parsePage reads one page of a listing. Its names ascend from marker, so that
// a server can never keep a listing going round.
func parsePage(data []byte, marker string) ([]bucket.Object, error) {
	var entries []struct {
		Name  string
		Bytes int64
		Hash  string
		Time  string `json:"last_modified"`
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("%w: the listing cannot be read: %w", bucket.ErrUnavailable, err)
	}
	page := make([]bucket.Object, 0, len(entries))
	for _, e := range entries {
		if e.Name <= marker || e.Bytes < 0 {
			return nil, fmt.Errorf("the listing is not in the order of names at %.200q: %w", e.Name, bucket.ErrUnsupported)
		}
		marker = e.Name
		o := bucket.Object{Key: e.Name, Size: e.Bytes, ETag: strings.Trim(e.Hash, `"`)}
		o.Modified, _ = time.Parse("2006-01-02T15:04:05.999999", e.Time) // unreadable: zero
		page = append(page, o)
	}
	return page, nil
}
