package gcs

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

func against(t *testing.T, h http.HandlerFunc) *Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	b, err := Open(t.Context(), "gs://bkt/p?endpoint="+srv.URL, Options{Sources: []Source{Static("token")}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAnswers has the answers that the server of the other tests never gives,
// as Google documents them.
// https://cloud.google.com/storage/docs/json_api/v1/status-codes
func TestAnswers(t *testing.T) {
	absent, match := bucket.Condition{IfAbsent: true}, bucket.Condition{IfMatch: "g5"}
	for _, c := range []struct {
		status int
		reason string
		cond   bucket.Condition
		want   error
		words  string
	}{
		{429, "rateLimitExceeded", absent, bucket.ErrUnavailable, "rateLimitExceeded: the words"},
		{403, "rateLimitExceeded", match, bucket.ErrUnavailable, "rateLimitExceeded"},
		{403, "userRateLimitExceeded", match, bucket.ErrUnavailable, ""},
		{403, "forbidden", absent, bucket.ErrPermission, "forbidden: the words"},
		{403, "accountDisabled", match, bucket.ErrPermission, "accountDisabled"},
		{401, "authError", absent, bucket.ErrCredentials, "not accepted"},
		{412, "conditionNotMet", absent, bucket.ErrExists, "conditionNotMet"},
		{404, "notFound", match, bucket.ErrNoBucket, ""},
		{500, "backendError", absent, bucket.ErrUnavailable, ""},
		{502, "", match, bucket.ErrUnavailable, ""},
		{503, "backendError", match, bucket.ErrUnavailable, ""},
		{504, "", match, bucket.ErrUnavailable, ""},
		{408, "", match, bucket.ErrUnavailable, ""},
		{501, "notImplemented", match, bucket.ErrUnsupported, ""},
		{400, "invalid", absent, nil, "status 400 invalid: the words"},
		{302, "", absent, nil, "status 302"},
	} {
		t.Run(fmt.Sprint(c.status, c.reason, c.cond), func(t *testing.T) {
			requests := 0
			b := against(t, func(w http.ResponseWriter, r *http.Request) {
				requests++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				if c.reason != "" {
					fmt.Fprintf(w, `{"error":{"code":%d,"message":"the words\n","errors":[{"message":"the words","domain":"global","reason":%q}]}}`, c.status, c.reason)
				}
			})
			_, err := b.Put(t.Context(), "k", strings.NewReader("x"), c.cond)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v with %q", err, c.want, c.words)
			}
			if c.want == bucket.ErrPermission && !bucket.Refused(err) {
				t.Errorf("%v is not for want of a right alone", err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has two lines", err)
			}
			if requests != 1 {
				t.Errorf("%d requests", requests)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	b := against(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "Provided scope(s) are not authorized")
	})
	_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{})
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "storage-rw") {
		t.Errorf("%v", err)
	}
}

// TestEcho has a server say the token.
func TestEcho(t *testing.T) {
	b := against(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, r.Header.Get("Authorization")+" is not good")
	})
	_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{})
	if err == nil || strings.Contains(err.Error(), "token") || !strings.Contains(err.Error(), "Bearer … is not good") {
		t.Errorf("%v", err)
	}
}

func TestInTheClear(t *testing.T) {
	for url, warned := range map[string]bool{
		"gs://bkt": false, "gs://bkt?endpoint=http://127.0.0.1:1": false, "gs://bkt?endpoint=http://gcs.lan": true,
		"gs://bkt?endpoint=http://gcs.lan&anonymous=true": false,
	} {
		var said bytes.Buffer
		if _, err := Open(t.Context(), url, Options{Logger: slog.New(slog.NewTextHandler(&said, nil))}); err != nil {
			t.Fatal(err)
		}
		if (said.Len() > 0) != warned {
			t.Errorf("%s: %q", url, said.String())
		}
	}
}

// TestGarbage answers each call with what no bucket says.
func TestGarbage(t *testing.T) {
	huge := `{"items":[{"name":"` + strings.Repeat("x", maxPage) + `"}]}`
	for name, body := range map[string]string{
		"nothing": "", "HTML": "<html>", "null": "null", "a list": "[]", "other types": `{"generation":5,"size":true,"items":7}`,
		"no generation": `{"name":"p/k","size":"1","items":[{"name":"p/k","size":"1"}]}`,
		"zero":          `{"name":"p/k","size":"1","generation":"0","items":[{"name":"p/k","size":"1","generation":"0"}]}`,
		"negative size": `{"name":"p/k","size":"-1","generation":"7","items":[{"name":"p/k","size":"-1","generation":"7"}]}`,
		"out of order":  `{"items":[{"name":"p/b","size":"1","generation":"7"},{"name":"p/a","size":"1","generation":"7"}]}`,
		"the same page": `{"nextPageToken":"again"}`,
		"oversize":      huge,
	} {
		t.Run(name, func(t *testing.T) {
			b := against(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
			_, err := b.Put(t.Context(), "k", strings.NewReader("x"), bucket.Condition{})
			if !errors.Is(err, bucket.ErrUnsupported) {
				t.Errorf("put: %v", err)
			}
			err = nil
			n := 0
			for _, err = range b.List(t.Context(), "", "") {
				n++
			}
			if !errors.Is(err, bucket.ErrUnsupported) && !(name == "null" && n == 0) {
				t.Errorf("list: %d objects, %v", n, err)
			}
			if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrUnsupported) {
				t.Errorf("get: %v", err)
			}
		})
	}
}

func TestList_SkipsWhatIsNoKey(t *testing.T) {
	b := against(t, func(w http.ResponseWriter, r *http.Request) {
		item := func(name string) map[string]string {
			return map[string]string{"name": name, "generation": "3", "size": "1", "updated": "2024-05-06T07:08:09.123Z"}
		}
		page := map[string]any{"nextPageToken": "2", "items": []any{item("p/"), item("p/a"), item("p/a/"), item("p/a//b")}}
		switch r.URL.Query().Get("pageToken") {
		case "2":
			page = map[string]any{"nextPageToken": "3"}
		case "3":
			page = map[string]any{"items": []any{item("p/z"), item("q")}}
		}
		json.NewEncoder(w).Encode(page)
	})
	var got []string
	for obj, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, obj.Key)
		if want := time.Date(2024, 5, 6, 7, 8, 9, 123e6, time.UTC); obj.ETag != "g3" || obj.Size != 1 || !obj.Modified.Equal(want) {
			t.Errorf("%+v", obj)
		}
	}
	if fmt.Sprint(got) != "[a z]" {
		t.Errorf("got %q", got)
	}
}

// TestBytesAsStored covers what compression on the way can do to an object.
// https://cloud.google.com/storage/docs/transcoding
func TestBytesAsStored(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, "plain text")
	z.Close()
	for _, c := range []struct {
		name, sent, stored string
		body               []byte
		want               error
	}{
		{"as it is", "", "identity", []byte("plain text"), nil},
		{"without the header", "", "", []byte("plain text"), nil},
		{"stored compressed", "gzip", "gzip", packed.Bytes(), nil},
		{"decompressed by the server", "", "gzip", []byte("plain text"), bucket.ErrUnsupported},
		{"compressed by the server", "gzip", "identity", packed.Bytes(), bucket.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := against(t, func(w http.ResponseWriter, r *http.Request) {
				h := w.Header()
				h.Set("X-Goog-Generation", "7")
				if c.stored != "" {
					h.Set("X-Goog-Stored-Content-Encoding", c.stored)
				}
				if c.sent != "" {
					h.Set("Content-Encoding", c.sent)
				}
				if r.Header.Get("Accept-Encoding") != "gzip" {
					w.WriteHeader(http.StatusBadRequest)
				}
				w.Write(c.body)
			})
			got, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{}, 1000)
			if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, c.body) {
				t.Errorf("%q, %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestIgnoredRange(t *testing.T) {
	for _, header := range []string{"", "bytes 0-4/10", "bytes 3-9/*", "bytes 3-9/10"} {
		b := against(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Goog-Generation", "7")
			if header != "" {
				w.Header().Set("Content-Range", header)
				w.WriteHeader(http.StatusPartialContent)
			}
			io.WriteString(w, "01234")
		})
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{Offset: 3, Length: 5}); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("%q: %v", header, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url  string
		want Location
	}{
		{"gs://bkt", Location{Bucket: "bkt", Endpoint: google}},
		{"gs://bkt/", Location{Bucket: "bkt", Endpoint: google}},
		{"gs://my_bkt.example/a/b/", Location{Bucket: "my_bkt.example", Prefix: "a/b", Endpoint: google}},
		{"gs://bkt/a%20b?endpoint=gcs.lan:9000", Location{Bucket: "bkt", Prefix: "a b", Endpoint: "https://gcs.lan:9000"}},
		{"gs://bkt?endpoint=http://127.0.0.1:4443/&ca=/c.pem", Location{Bucket: "bkt", Endpoint: "http://127.0.0.1:4443", CA: "/c.pem"}},
		{"gs://bkt?anonymous=1&project=acme-1&location=EU", Location{Bucket: "bkt", Endpoint: google, Anonymous: true, Project: "acme-1", Place: "EU"}},
	} {
		if got, err := Parse(c.url); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.url, got, err)
		}
	}
	for url, words := range map[string]string{
		"s3://bkt":                         "scheme",
		"gs://":                            "bucket name",
		"gs:bkt":                           "gs://BUCKET",
		"gs://ab":                          "bucket name",
		"gs://BKT":                         "bucket name",
		"gs://-bkt":                        "bucket name",
		"gs://a..b":                        "bucket name",
		"gs://" + strings.Repeat("b", 64):  "bucket name",
		"gs://bkt/../x":                    "prefix",
		"gs://bkt/a//b":                    "prefix",
		"gs://me:topsecret@bkt":            "keys do not belong",
		"gs://bkt:80/x":                    "endpoint=URL",
		"gs://bkt?regoin=x":                "option \"regoin\" is not known; there are",
		"gs://bkt?ca=":                     "needs one value",
		"gs://bkt?ca=a&ca=b":               "needs one value",
		"gs://bkt?anonymous=maybe":         "true or false",
		"gs://bkt?project=a/b":             "option project",
		"gs://bkt?endpoint=ftp://x":        "endpoint",
		"gs://bkt?endpoint=https://x/path": "endpoint",
		"gs://bkt?endpoint=https://u:topsecret@x/": "endpoint",
		"gs://bkt?endpoint=http://":                "endpoint",
		"gs://bkt#x":                               "gs://BUCKET",
		"gs://bkt?%zz":                             "cannot be read",
	} {
		_, err := Parse(url)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want words %q", url, err, words)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error shows the secret: %v", url, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"gs://bkt/p?endpoint=http://h:1&ca=x&project=y", "gs://bkt?ca=x&anonymous=1", "gs://%41", "gs://b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			return
		}
		if l.Prefix != "" && bucket.CheckKey(l.Prefix) != nil || strings.Count(l.Endpoint, "/") != 2 || strings.ContainsAny(l.Endpoint, "@?# ") {
			t.Errorf("%q: %+v", s, l)
		}
		again, err := Parse("gs://" + l.Bucket + "?ca=r")
		if err != nil || again.Bucket != l.Bucket {
			t.Errorf("%q: bucket %q is not valid by itself: %v", s, l.Bucket, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(404, []byte(`{"error":{"code":404,"message":"No such object","errors":[{"reason":"notFound"}]}}`))
	f.Add(403, []byte("plain words\n"))
	f.Add(503, []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		text := parseRefusal(status, body).Error()
		if strings.ContainsAny(text, "\n\r\x00\x1b") || len(text) > 800 {
			t.Errorf("%q", text)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"nextPageToken":"x","items":[{"name":"p/a","generation":"5","size":"1","updated":"2024-05-06T07:08:09Z"},{"name":"p/b/c","generation":"1","size":"0"}]}`))
	f.Add([]byte(`{"items":[{"name":"p/a","generation":"-5","size":"1"}]}`))
	f.Fuzz(func(t *testing.T, page []byte) {
		b, err := Open(t.Context(), "gs://bkt/p?anonymous=true", Options{Transport: fixed(page)})
		if err != nil {
			t.Fatal(err)
		}
		last := "a"
		for obj, err := range b.List(t.Context(), "", last) {
			if err != nil {
				return
			}
			if obj.Key <= last || bucket.CheckKey(obj.Key) != nil || obj.Size < 0 || generation(obj.ETag) == "" {
				t.Errorf("after %q: %+v", last, obj)
			}
			last = obj.Key
		}
	})
}

// fixed answers everything with the same.
type fixed []byte

func (f fixed) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req,
		Body: io.NopCloser(bytes.NewReader(f)), ContentLength: int64(len(f))}, nil
}

func TestRetryAfter(t *testing.T) {
	buckettest.TestRetryAfter(t, func(h http.HandlerFunc) bucket.Bucket { return against(t, h) })
}
