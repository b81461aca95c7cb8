package gcs

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

// List implements [bucket.Bucket]: one request for each thousand objects. Names
// that cannot be keys, such as the folder marks of web consoles, are left out.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		q := url.Values{"maxResults": {"1000"}, "projection": {"noAcl"}, "fields": {"nextPageToken,items(" + fieldsOfOne + ")"}}
		if b.prefix+prefix != "" {
			q.Set("prefix", b.prefix+prefix)
		}
		if after != "" {
			q.Set("startOffset", b.prefix+after)
		}
		for more := true; more; {
			objects, next, err := b.page(ctx, q, prefix, &after)
			for _, obj := range objects {
				if !yield(obj, nil) {
					return
				}
			}
			if err != nil {
				yield(bucket.Object{}, b.fail(ctx, opList, prefix, bucket.Condition{}, err))
				return
			}
			q.Set("pageToken", next)
			more = next != ""
		}
	}
}

// page returns the objects of one page and moves after on.
func (b *Bucket) page(ctx context.Context, q url.Values, prefix string, after *string) (objects []bucket.Object, next string, err error) {
	var page struct {
		NextPageToken string     `json:"nextPageToken"`
		Items         []resource `json:"items"`
	}
	if err := b.ask(ctx, request{method: http.MethodGet, path: b.objects(""), query: q}, maxPage, &page); err != nil {
		return nil, "", err
	}
	for _, item := range page.Items {
		key, ok := strings.CutPrefix(item.Name, b.prefix)
		if !ok || !strings.HasPrefix(key, prefix) || bucket.CheckKey(key) != nil || key == *after {
			continue
		}
		if key < *after {
			return objects, "", fmt.Errorf("the server does not list in the order of names: %w", bucket.ErrUnsupported)
		}
		obj, err := item.object(key)
		if err != nil {
			return objects, "", err
		}
		objects, *after = append(objects, obj), key
	}
	if page.NextPageToken != "" && page.NextPageToken == q.Get("pageToken") {
		return objects, "", fmt.Errorf("the server gives the same page again: %w", bucket.ErrUnsupported)
	}
	return objects, page.NextPageToken, nil
}
