package s3

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

// TestAnswers has the answers that the server of the other tests never gives,
// as AWS documents them.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func TestAnswers(t *testing.T) {
	absent, match := bucket.Condition{IfAbsent: true}, bucket.Condition{IfMatch: "e"}
	for _, c := range []struct {
		status int
		code   string
		cond   bucket.Condition
		want   error
		words  string
	}{
		{400, "ExpiredToken", absent, bucket.ErrExpired, "credentials have expired"},
		{400, "InvalidToken", match, bucket.ErrCredentials, "InvalidToken"},
		{403, "RequestTimeTooSkewed", absent, bucket.ErrClock, "clock"},
		{403, "AccessDenied", absent, bucket.ErrPermission, "AccessDenied: the words"},
		{403, "SignatureDoesNotMatch", absent, bucket.ErrCredentials, "secret key"},
		{401, "Unauthorized", absent, bucket.ErrCredentials, "Unauthorized"},
		{409, "ConditionalRequestConflict", absent, bucket.ErrExists, "ConditionalRequestConflict"},
		{409, "ConditionalRequestConflict", match, bucket.ErrPrecondition, "ConditionalRequestConflict"},
		{409, "OperationAborted", match, bucket.ErrUnavailable, "OperationAborted"},
		{412, "PreconditionFailed", absent, bucket.ErrExists, ""},
		{412, "PreconditionFailed", match, bucket.ErrPrecondition, ""},
		{404, "NoSuchKey", match, bucket.ErrNotExist, ""},
		{404, "NoSuchBucket", match, bucket.ErrNoBucket, ""},
		{503, "SlowDown", absent, bucket.ErrUnavailable, "SlowDown"},
		{500, "InternalError", match, bucket.ErrUnavailable, ""},
		{400, "RequestTimeout", match, bucket.ErrUnavailable, ""},
		{429, "TooManyRequests", match, bucket.ErrUnavailable, ""},
		{502, "", match, bucket.ErrUnavailable, ""},
		{504, "", match, bucket.ErrUnavailable, ""},
		{501, "NotImplemented", match, bucket.ErrUnsupported, ""},
		{301, "PermanentRedirect", absent, bucket.ErrRegion, "region=eu-central-1"},
		{400, "AuthorizationHeaderMalformed", absent, bucket.ErrRegion, "region=eu-central-1"},
		{400, "EntityTooLarge", absent, nil, "status 400: EntityTooLarge"},
	} {
		t.Run(fmt.Sprint(c.status, c.code, c.cond), func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("x-amz-bucket-region", "eu-central-1")
				w.WriteHeader(c.status)
				if c.code != "" {
					fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>the words%s</Message></Error>`, c.code, "\n")
				}
			}))
			defer srv.Close()
			b, err := Open(t.Context(), "s3://bkt?endpoint="+srv.URL, Options{Sources: []Source{Static("k", "s", "")}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Put(t.Context(), "k", strings.NewReader("x"), c.cond)
			if region := (*bucket.RegionError)(nil); c.want == bucket.ErrRegion && (!errors.As(err, &region) || region.Region != "eu-central-1") {
				t.Errorf("%v tells no region", err)
			}
			if c.want == bucket.ErrPermission && !bucket.Refused(err) {
				t.Errorf("%v is not for want of a right alone", err)
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v with %q", err, c.want, c.words)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has two lines", err)
			}
		})
	}
}

func TestSessionTokenIsSigned(t *testing.T) {
	var auth, token string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth, token = r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token")
		w.Header().Set("ETag", `"e"`)
	}))
	defer srv.Close()
	b, err := Open(t.Context(), "s3://bkt/p?region=eu-west-1&endpoint="+srv.URL, Options{Sources: []Source{Static("KEY", "s", "the token")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "k", strings.NewReader("x"), bucket.Condition{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	if token != "the token" || !strings.Contains(auth, "x-amz-security-token") || !strings.Contains(auth, "KEY/") || !strings.Contains(auth, "/eu-west-1/s3/") {
		t.Errorf("token %q, authorization %q", token, auth)
	}
	if !strings.Contains(auth, "if-none-match") {
		t.Errorf("the condition is not signed: %q", auth)
	}
}

func TestIgnoredRange(t *testing.T) {
	for _, header := range []string{"", "bytes 0-4/10", "bytes 3-9/*"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
			if header != "" {
				w.Header().Set("Content-Range", header)
				w.WriteHeader(http.StatusPartialContent)
			}
			w.Write([]byte("01234"))
		}))
		b, err := Open(t.Context(), "s3://bkt?endpoint="+srv.URL, Options{Sources: []Source{Static("k", "s", "")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{Offset: 3, Length: 5}); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("%q: %v", header, err)
		}
		srv.Close()
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url  string
		want Location
	}{
		{"s3://bkt", Location{Bucket: "bkt"}},
		{"s3://bkt/", Location{Bucket: "bkt"}},
		{"s3://my.bkt/a/b/?region=eu-west-1", Location{Bucket: "my.bkt", Prefix: "a/b", Region: "eu-west-1"}},
		{"s3://bkt/a%20b?endpoint=minio.lan:9000", Location{Bucket: "bkt", Prefix: "a b", Endpoint: "minio.lan:9000", PathStyle: true}},
		{"s3://bkt?endpoint=http://127.0.0.1:7070/", Location{Bucket: "bkt", Endpoint: "127.0.0.1:7070", Insecure: true, PathStyle: true}},
		{"s3://bkt?endpoint=https%3A%2F%2Fx&path_style=false", Location{Bucket: "bkt", Endpoint: "x"}},
		{"s3://bkt?path_style=true&dualstack=true&anonymous=1&ca=/c.pem", Location{Bucket: "bkt", PathStyle: true, Dualstack: true, Anonymous: true, CA: "/c.pem"}},
	} {
		if got, err := Parse(c.url); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.url, got, err)
		}
	}
	for url, words := range map[string]string{
		"http://bkt":                               "scheme",
		"s3://":                                    "bucket name",
		"s3:bkt":                                   "s3://BUCKET",
		"s3://ab":                                  "bucket name",
		"s3://bkt/../x":                            "prefix",
		"s3://bkt/a//b":                            "prefix",
		"s3://AKIAKEY:topsecret@bkt":               "keys do not belong",
		"s3://bkt:80/x":                            "endpoint=URL",
		"s3://bkt?regoin=x":                        "option \"regoin\" is not known; there are",
		"s3://bkt?region=":                         "needs one value",
		"s3://bkt?region=a&region=b":               "needs one value",
		"s3://bkt?region=a/b":                      "region",
		"s3://bkt?path_style=maybe":                "true or false",
		"s3://bkt?endpoint=ftp://x":                "endpoint",
		"s3://bkt?endpoint=https://x/path":         "endpoint",
		"s3://bkt?endpoint=https://u:topsecret@x/": "endpoint",
		"s3://bkt?endpoint=http://":                "endpoint",
		"s3://bkt#x":                               "s3://BUCKET",
		"s3://bkt?%zz":                             "cannot be read",
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
	for _, s := range []string{"s3://bkt/p?endpoint=http://h:1&region=r&path_style=true", "s3://bkt?ca=x&anonymous=1", "s3://%41", "s3://b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			return
		}
		if l.Prefix != "" && bucket.CheckKey(l.Prefix) != nil || strings.ContainsAny(l.Endpoint, "/@?# ") {
			t.Errorf("%q: %+v", s, l)
		}
		again, err := Parse("s3://" + l.Bucket + "?region=r")
		if err != nil || again.Bucket != l.Bucket {
			t.Errorf("%q: bucket %q is not valid by itself: %v", s, l.Bucket, err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	buckettest.TestRetryAfter(t, func(h http.HandlerFunc) bucket.Bucket { return serve(t, h) })
}

func serve(t *testing.T, h http.HandlerFunc) *Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	b, err := Open(t.Context(), "s3://bkt?endpoint="+srv.URL, Options{Sources: []Source{Static("k", "s", "")}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
