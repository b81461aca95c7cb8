package s3

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

func keysOf(t *testing.T, b *Bucket) (keys []string, err error) {
	t.Helper()
	for o, e := range b.List(t.Context(), "", "") {
		if e != nil {
			return keys, e
		}
		keys = append(keys, o.Key)
	}
	return keys, nil
}

// Pages follow each other by the token, names come escaped or not, and a list
// that breaks off or does not say how it goes on is an error.
func TestPages(t *testing.T) {
	page := func(more, encoding string, keys ...string) string {
		text := "<ListBucketResult><EncodingType>" + encoding + "</EncodingType>" + more
		for _, k := range keys {
			text += "<Contents><Key>" + k + `</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>"e"</ETag><Size>7</Size></Contents>`
		}
		return text + "</ListBucketResult>"
	}
	const more = "<IsTruncated>true</IsTruncated>"
	const next = more + "<NextContinuationToken>a+b/c=</NextContinuationToken>"
	for name, c := range map[string]struct {
		first, second string
		want          []string
		err           error
	}{
		"one page":       {first: page("", "url", "a%20b", "c%2Bd+e"), want: []string{"a b", "c+d e"}},
		"not escaped":    {first: page("", "", "a%20b", "c+d"), want: []string{"a%20b", "c+d"}},
		"two pages":      {first: page(next, "url", "a"), second: page("", "url", "b"), want: []string{"a", "b"}},
		"no token":       {first: page(more, "url", "a"), err: bucket.ErrUnsupported},
		"broken escape":  {first: page("", "url", "%zz"), err: bucket.ErrUnsupported},
		"folder marks":   {first: page("", "url", "a/", "a/b"), want: []string{"a/b"}},
		"cut off":        {first: page("", "url", "a")[:60], err: bucket.ErrUnavailable},
		"second cut off": {first: page(next, "url", "a"), second: "<ListBucketResult><Cont", want: []string{"a"}, err: bucket.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.RawQuery, "continuation-token="+url.QueryEscape("a+b/c=")) {
					fmt.Fprint(w, c.second)
					return
				}
				fmt.Fprint(w, c.first)
			})
			got, err := keysOf(t, b)
			if !slices.Equal(got, c.want) || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

// FuzzPage reads what a server says of its objects.
func FuzzPage(f *testing.F) {
	for _, s := range []string{
		`<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a%2Fb</Key><Size>1</Size></Contents></ListBucketResult>`,
		`<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`, `<Error/>`, `<a><Contents><LastModified>x</LastModified></Contents></a>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var p page
		if err := parsePage(strings.NewReader(text), &p); err == nil && p.IsTruncated && p.NextContinuationToken == "" {
			t.Errorf("%q goes on nowhere", text)
		}
	})
}

// Whatever is in a key, the path that is sent is the one that is signed.
func TestPathEscape(t *testing.T) {
	for path, want := range map[string]string{
		"/b/a b+c":          "/b/a%20b%2Bc",
		"/b/-_.~/ä":         "/b/-_.~/%C3%A4",
		"/b/!*'();:@&=,?#[": "/b/%21%2A%27%28%29%3B%3A%40%26%3D%2C%3F%23%5B",
		"/b/100%":           "/b/100%25",
	} {
		u := &url.URL{Path: path, RawPath: wire.PathEscape(path)}
		if got := u.EscapedPath(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
