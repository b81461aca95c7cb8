package web_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/needs"
)

func open(t testing.TB, url string) *web.Bucket {
	t.Helper()
	b, err := web.Open(t.Context(), url, web.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func folder(t testing.TB) *file.Bucket {
	t.Helper()
	b, err := file.OpenDir(t.TempDir(), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withETags serves a folder as net/http does, which leaves ETags to its user.
func withETags(b *file.Bucket) http.Handler {
	files := http.FileServer(http.Dir(b.Dir()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, obj, err := b.Get(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), bucket.GetOptions{})
		if err != nil {
			http.NotFound(w, r)
			return
		}
		body.Close()
		w.Header().Set("ETag", `"`+obj.ETag+`"`)
		files.ServeHTTP(w, r)
	})
}

func TestBucket_NetHTTP(t *testing.T) {
	buckettest.TestReading(t, func(t testing.TB) (bucket.Bucket, bucket.Bucket) {
		dir := folder(t)
		srv := httptest.NewServer(withETags(dir))
		t.Cleanup(srv.Close)
		return open(t, srv.URL+"/"), dir
	}, buckettest.Options{})
}

func TestBucket_Nginx(t *testing.T) {
	nginx := needs.Tool(t, "nginx")
	buckettest.TestReading(t, func(t testing.TB) (bucket.Bucket, bucket.Bucket) {
		dir := folder(t)
		return open(t, startNginx(t, nginx, dir.Dir())+"/prod/x"), dir
	}, buckettest.Options{Settle: 2100 * time.Millisecond})
}

// nginx's ETags are made of the second of the last change and the size.
func TestNginx_TwoChangesInOneSecond(t *testing.T) {
	dir := folder(t)
	b := open(t, startNginx(t, needs.Tool(t, "nginx"), dir.Dir())+"/prod/x")
	for i := range 30 {
		want := fmt.Sprintf("change %02d", i)
		buckettest.Put(t, dir, "k", []byte(want))
		_, obj := buckettest.Get(t, b, "k")
		buckettest.Put(t, dir, "k", []byte("Change after it"[:len(want)]))
		got, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{IfNoneMatch: obj.ETag}, 100)
		if err != nil || string(got) == want {
			t.Fatalf("%q: the change after it was not seen: %q, %v", want, got, err)
		}
	}
}

func TestETagOfTheSecond(t *testing.T) {
	const second = 1763812800
	for _, c := range []struct {
		etag string
		age  int
		want string
	}{
		{fmt.Sprintf(`"%x-a"`, second), 0, fmt.Sprintf(`"%x-a";young`, second)},
		{fmt.Sprintf(`"%x-a"`, second), 1, fmt.Sprintf(`"%x-a";young`, second)},
		{fmt.Sprintf(`"%x-a"`, second), 2, fmt.Sprintf(`"%x-a"`, second)},
		{fmt.Sprintf(`W/"%d"`, second), 0, fmt.Sprintf(`W/"%d";young`, second)},
		{`"d41d8cd98f00b204e9800998ecf8427e"`, 0, `"d41d8cd98f00b204e9800998ecf8427e"`},
		{"", 0, ""},
	} {
		b := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", time.Unix(second, 0).UTC().Format(http.TimeFormat))
			w.Header().Set("Date", time.Unix(second+int64(c.age), 0).UTC().Format(http.TimeFormat))
			w.Header().Set("ETag", c.etag)
			io.WriteString(w, r.Header.Get("If-None-Match"))
		})
		_, obj := buckettest.Get(t, b, "k")
		if obj.ETag != c.want {
			t.Errorf("%s after %d s: %s, want %s", c.etag, c.age, obj.ETag, c.want)
		}
		if !strings.HasSuffix(c.want, ";young") {
			continue
		}
		if sent, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{IfNoneMatch: obj.ETag}, 100); err != nil || len(sent) != 0 {
			t.Errorf("%s: asked with %q, %v", c.etag, sent, err)
		}
	}
}

func startNginx(t testing.TB, nginx, root string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	work := t.TempDir()
	conf := filepath.Join(work, "nginx.conf")
	text := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 1; user root;
events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
server { listen %[2]s; location /prod/x/ { alias %[3]s/; } location /denied/ { deny all; } } }`, work, addr, root)
	if os.Geteuid() != 0 {
		text = strings.Replace(text, "user root;", "", 1)
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-c", conf, "-p", work, "-e", filepath.Join(work, "start.log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() })
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return "http://" + addr
		}
		time.Sleep(10 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(work, "start.log"))
	t.Fatalf("nginx did not start: %s", log)
	return ""
}

// serve answers every request with h.
func serve(t *testing.T, h http.HandlerFunc) *web.Bucket {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return open(t, srv.URL)
}

func TestStatus(t *testing.T) {
	for status, want := range map[int]error{
		400: bucket.ErrUnsupported, 401: bucket.ErrPermission, 403: bucket.ErrPermission, 404: bucket.ErrNotExist,
		407: bucket.ErrPermission, 408: bucket.ErrUnavailable, 410: bucket.ErrNotExist, 416: bucket.ErrTruncated,
		429: bucket.ErrUnavailable, 500: bucket.ErrUnavailable, 501: bucket.ErrUnsupported, 502: bucket.ErrUnavailable,
		503: bucket.ErrUnavailable, 504: bucket.ErrUnavailable, 304: bucket.ErrNotModified, 204: bucket.ErrUnsupported,
	} {
		b := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
	}
}

func TestServerWithoutRanges(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, chunked := range []bool{false, true} {
		b := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if !chunked {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			}
			w.(http.Flusher).Flush()
			w.Write(data)
		})
		for _, o := range []bucket.GetOptions{{}, {Offset: 5}, {Offset: 50_000, Length: 7}, {Length: 3}} {
			want := data[o.Offset:]
			if o.Length > 0 {
				want = want[:o.Length]
			}
			got, _, err := bucket.ReadAll(t.Context(), b, "k", o, 1<<20)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%+v, chunked %v: %d bytes, %v", o, chunked, len(got), err)
			}
		}
		_, _, err := b.Get(t.Context(), "k", bucket.GetOptions{Offset: 200_000})
		if !errors.Is(err, bucket.ErrTruncated) {
			t.Errorf("past the end, chunked %v: %v", chunked, err)
		}
	}
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(data); err != nil {
				return
			}
		}
	})
	if _, _, err := endless.Get(t.Context(), "k", bucket.GetOptions{Offset: 1 << 40}); !errors.Is(err, bucket.ErrUnsupported) {
		t.Errorf("far into an endless body: %v", err)
	}
}

func TestWrongRange(t *testing.T) {
	for _, header := range []string{"", "bytes 0-4/10", "bytes 3-9/10", "bytes 3-4/*", "nonsense"} {
		b := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", header)
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "01234")
		})
		if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{Offset: 3, Length: 5}); !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("Content-Range %q: %v", header, err)
		}
	}
}

func TestBrokenBody(t *testing.T) {
	for name, head := range map[string]string{
		"by length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
		"by chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
	} {
		b := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			buf.WriteString(head)
			buf.Flush()
			conn.Close()
		})
		if _, _, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{}, 1000); !errors.Is(err, bucket.ErrTruncated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerWithoutConditions(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `W/"1"`)
		io.WriteString(w, "x")
	})
	_, obj := buckettest.Get(t, b, "k")
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{IfNoneMatch: obj.ETag}); !errors.Is(err, bucket.ErrNotModified) {
		t.Errorf("got %v", err)
	}
}

func TestRedirects(t *testing.T) {
	var plain, secure *httptest.Server
	mux := http.NewServeMux()
	mux.HandleFunc("/k", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "content "+r.Header.Get("Range")) })
	mux.HandleFunc("/once", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/k", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL+"/k", http.StatusFound) })
	mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, secure.URL+"/k", http.StatusFound) })
	plain = httptest.NewServer(mux)
	defer plain.Close()
	secure = httptest.NewTLSServer(mux)
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	withCA := "?ca=" + url.QueryEscape(ca)
	for _, c := range []struct {
		base, key string
		want      error
	}{
		{plain.URL, "once", nil},
		{plain.URL, "loop", bucket.ErrUnavailable},
		{plain.URL + withCA, "up", nil},
		{secure.URL + withCA, "once", nil},
		{secure.URL + withCA, "down", bucket.ErrPermission},
	} {
		if _, _, err := bucket.ReadAll(t.Context(), open(t, c.base), c.key, bucket.GetOptions{}, 100); !errors.Is(err, c.want) {
			t.Errorf("%s/%s: %v, want %v", c.base, c.key, err, c.want)
		}
	}
	_, _, err := open(t, secure.URL).Get(t.Context(), "k", bucket.GetOptions{})
	var bad *tls.CertificateVerificationError
	if !errors.Is(err, bucket.ErrUnavailable) || !errors.As(err, &bad) || !strings.Contains(err.Error(), "?ca=FILE") {
		t.Errorf("unknown authority: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	b := open(t, "http://127.0.0.1:1/")
	if caps := b.Caps(); caps != (bucket.Caps{ReadOnly: true, NoList: true}) {
		t.Errorf("caps %+v", caps)
	}
	_, err := b.Put(t.Context(), "k", strings.NewReader("x"), bucket.Condition{})
	if !errors.Is(err, bucket.ErrUnsupported) {
		t.Errorf("put: %v", err)
	}
	if err := b.Delete(t.Context(), "k"); !errors.Is(err, bucket.ErrUnsupported) {
		t.Errorf("delete: %v", err)
	}
	if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("get where nobody listens: %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ url, base, ca, words string }{
		{"https://h", "https://h", "", ""},
		{"https://h/", "https://h", "", ""},
		{"http://h:8080/a/b/", "http://h:8080/a/b", "", ""},
		{"https://h/a%20b?ca=/etc/ca.pem", "https://h/a%20b", "/etc/ca.pem", ""},
		{"https://", "", "", "no host"},
		{"ftp://h/", "", "", "scheme"},
		{"https://u:secret@h/", "", "", "password"},
		{"https://h/?token=x", "", "", "token"},
		{"https://h/?ca=", "", "", "ca"},
		{"https://h/#f", "", "", "fragment"},
		{"https://h\x7f/", "", "", "invalid"},
	} {
		base, ca, err := web.Parse(c.url)
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v, want words %q", c.url, err, c.words)
			}
			continue
		}
		if err != nil || base.String() != c.base || ca != c.ca {
			t.Errorf("%s: %v, %q, %v", c.url, base, ca, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"https://h/p?ca=x", "http://[::1]:80/", "https://u:p@h", "://", "https://h/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base, _, err := web.Parse(s)
		if err != nil {
			return
		}
		if base.Host == "" || base.User != nil || base.RawQuery != "" || strings.HasSuffix(base.Path, "/") {
			t.Errorf("%q: %#v", s, base)
		}
		if _, err := http.NewRequest("GET", base.String()+"/k", nil); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	buckettest.TestRetryAfter(t, func(h http.HandlerFunc) bucket.Bucket { return serve(t, h) })
}
