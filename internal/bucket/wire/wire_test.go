package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

func TestContentRange(t *testing.T) {
	for _, c := range []struct {
		header            string
		first, last, size int64
		ok                bool
	}{
		{"bytes 0-0/1", 0, 0, 1, true},
		{"bytes 5-9/100", 5, 9, 100, true},
		{"bytes 5-9/*", 5, 9, -1, true},
		{"bytes */100", 0, 0, 0, false},
		{"bytes 9-5/100", 0, 0, 0, false},
		{"bytes 5-100/100", 0, 0, 0, false},
		{"bytes -5-9/100", 0, 0, 0, false},
		{"bytes +5-9/100", 0, 0, 0, false},
		{"5-9/100", 0, 0, 0, false},
		{"bytes 5-9", 0, 0, 0, false},
		{"bytes 5-99999999999999999999/*", 0, 0, 0, false},
		{"", 0, 0, 0, false},
	} {
		first, last, size, err := ContentRange(c.header)
		if (err == nil) != c.ok || first != c.first || last != c.last || size != c.size {
			t.Errorf("%q: %d-%d/%d, %v", c.header, first, last, size, err)
		}
	}
}

func TestClassify(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	broken := fmt.Errorf("broken: %w", io.ErrUnexpectedEOF)
	for _, c := range []struct {
		ctx       context.Context
		err, want error
	}{
		{t.Context(), broken, bucket.ErrUnavailable},
		{t.Context(), &url.Error{Op: "Get", URL: "http://h/?sig=SECRET", Err: broken}, bucket.ErrUnavailable},
		{t.Context(), io.EOF, bucket.ErrUnavailable},
		{done, broken, context.Canceled},
	} {
		err := Classify(c.ctx, c.err)
		if !errors.Is(err, c.want) || errors.Is(err, bucket.ErrTruncated) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v: %v, want %v", c.err, err, c.want)
		}
	}
}

func TestRange(t *testing.T) {
	for o, want := range map[bucket.GetOptions]string{
		{}:                     "",
		{Offset: 5}:            "bytes=5-",
		{Length: 3}:            "bytes=0-2",
		{Offset: 5, Length: 1}: "bytes=5-5",
	} {
		if got, ok := Range(o); got != want || ok != (want != "") {
			t.Errorf("%+v: %q, %v", o, got, ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/100")
	f.Add("bytes */5")
	f.Fuzz(func(t *testing.T, header string) {
		first, last, size, err := ContentRange(header)
		if err == nil && (first < 0 || last < first || size != -1 && last >= size) {
			t.Errorf("%q: %d-%d/%d", header, first, last, size)
		}
	})
}

func TestPrivate(t *testing.T) {
	for url, want := range map[string]bool{
		"https://h": true, "https://10.0.0.1:9": true, "http://localhost:1/x": true, "http://127.0.0.1": true, "http://127.9.9.9:80": true, "http://[::1]:5": true,
		"http://h": false, "http://10.0.0.1": false, "http://127.0.0.1.example": false, "http://localhost.example": false, "http://[fd00::1]": false, "%": false, "": false,
	} {
		if Private(url) != want {
			t.Errorf("%s: %v", url, !want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	const date = "Mon, 01 Mar 2027 12:00:00 GMT"
	for text, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "0": 0, "-5": 0, "1.5": 0, "99999999999999": 0, "later": 0,
		"Mon, 01 Mar 2027 12:00:30 GMT": 30 * time.Second, "Mon, 01 Mar 2027 11:00:00 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {text}, "Date": {date}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := RetryAfter(http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}); got < 50*time.Minute || got > time.Hour {
		t.Errorf("without the server's clock: %v", got)
	}
}
