package azblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
)

// TestAnswers has the answers that the server of the other tests never gives,
// as Azure documents them.
// https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
func TestAnswers(t *testing.T) {
	absent, match := bucket.Condition{IfAbsent: true}, bucket.Condition{IfMatch: "e"}
	for _, c := range []struct {
		status int
		code   string
		cond   bucket.Condition
		want   error
		words  string
	}{
		{401, "InvalidAuthenticationInfo", absent, bucket.ErrCredentials, "the key the one of this storage account"},
		{401, "NoAuthenticationInformation", absent, bucket.ErrCredentials, "NoAuthenticationInformation: the words"},
		{403, "AuthenticationFailed", match, bucket.ErrCredentials, "the key the one of this storage account"},
		{403, "AuthorizationPermissionMismatch", absent, bucket.ErrPermission, "lacks this right"},
		{403, "AuthorizationFailure", absent, bucket.ErrPermission, "network rules"},
		{403, "KeyBasedAuthenticationNotPermitted", absent, bucket.ErrCredentials, "use a managed identity"},
		{403, "UnauthorizedBlobOverwrite", absent, bucket.ErrExists, ""},
		{403, "UnauthorizedBlobOverwrite", match, bucket.ErrPermission, ""},
		{400, "AccountRequiresHttps", absent, bucket.ErrPermission, "use https"},
		{409, "PublicAccessNotPermitted", absent, bucket.ErrPermission, ""},
		{409, "BlobImmutableDueToPolicy", absent, bucket.ErrPermission, ""},
		{409, "BlobAlreadyExists", absent, bucket.ErrExists, "BlobAlreadyExists: the words"},
		{409, "ContainerBeingDeleted", absent, bucket.ErrUnavailable, ""},
		{409, "BlobAlreadyExists", bucket.Condition{}, nil, "status 409"},
		{412, "ConditionNotMet", match, bucket.ErrPrecondition, ""},
		{412, "LeaseIdMissing", match, bucket.ErrUnavailable, "holds a lease"},
		{404, "ContainerNotFound", match, bucket.ErrNoBucket, ""},
		{404, "BlobNotFound", match, bucket.ErrNotExist, ""},
		{404, "", match, bucket.ErrNotExist, ""},
		{503, "ServerBusy", absent, bucket.ErrUnavailable, "ServerBusy"},
		{500, "OperationTimedOut", match, bucket.ErrUnavailable, ""},
		{429, "TooManyRequests", absent, bucket.ErrUnavailable, ""},
		{502, "", match, bucket.ErrUnavailable, ""},
		{413, "RequestBodyTooLarge", absent, nil, "status 413: RequestBodyTooLarge"},
		{200, "", absent, nil, "status 200: the words"}, // of somebody on the way
	} {
		t.Run(fmt.Sprint(c.status, c.code, c.cond), func(t *testing.T) {
			b := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead { // what is there, after a conflict
					return
				}
				if c.code != "" {
					w.Header().Set("x-ms-error-code", c.code)
				}
				w.WriteHeader(c.status)
				fmt.Fprintf(w, "\ufeff"+`<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>the words.%s</Message></Error>`, c.code, "\nRequestId:5")
			})
			_, err := b.Put(t.Context(), "k", strings.NewReader("x"), c.cond)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("%v, want %v with %q", err, c.want, c.words)
			}
			if c.want == bucket.ErrPermission && !bucket.Refused(err) {
				t.Errorf("%v is not for want of a right alone", err)
			}
			if strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "RequestId") {
				t.Errorf("%q says too much", err)
			}
			if c.want == nil && classified(err) {
				t.Errorf("%v is in the vocabulary", err)
			}
		})
	}
}

// TestUnauthenticated has what Azure says of a SAS token or bearer token that it
// does not accept.
// https://learn.microsoft.com/rest/api/storageservices/status-and-error-codes2
func TestUnauthenticated(t *testing.T) {
	sas := func(se string) Source { return SAS("sv=1&sr=c&sig=x" + se) }
	token := TokenSource("test", func(context.Context) (string, time.Time, error) { return "a.b.c", time.Time{}, nil })
	const frame = "Signature not valid in the specified time frame: Start [Thu, 01 Jan 2026 00:00:00 GMT] - Expiry [Fri, 02 Jan 2026 00:00:00 GMT] - Current [Sat, 03 Jan 2026 00:00:00 GMT]"
	day := func(n int) string { return "&se=" + time.Now().AddDate(0, 0, n).UTC().Format(time.RFC3339) }
	for name, c := range map[string]struct {
		source Source
		detail string
		skew   time.Duration // of the server's clock
		want   error
		words  string
	}{
		"SAS that ended":                {sas(day(-1)), frame, 0, bucket.ErrExpired, "the SAS token ended at 20"},
		"SAS that ended there":          {sas(day(1)), frame, 48 * time.Hour, bucket.ErrExpired, "the SAS token ended at 20"},
		"SAS that has not begun":        {sas(day(1)), frame, 0, bucket.ErrCredentials, "not valid yet"},
		"SAS of a policy":               {sas(""), frame, 0, bucket.ErrExpired, "stored access policy"},
		"forged SAS":                    {sas(day(1)), "Signature did not match.", 0, bucket.ErrCredentials, "is the SAS token whole"},
		"forged SAS, and another clock": {sas(day(9)), "Signature did not match.", time.Hour, bucket.ErrCredentials, "is the SAS token whole"},
		"token that ended":              {token, "Lifetime validation failed. The token is expired.", 0, bucket.ErrExpired, "the token has expired"},
		"token for another":             {token, "Audience validation failed.", 0, bucket.ErrCredentials, "not valid for this storage account"},
		"key, and another clock":        {SharedKey("a2V5"), "Request date header too old.", time.Hour, bucket.ErrClock, "(1h0m0s behind the server's)"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(c.skew).UTC().Format(http.TimeFormat))
				w.Header().Set("x-ms-error-code", "AuthenticationFailed")
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprintf(w, "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.</Message><AuthenticationErrorDetail>%s</AuthenticationErrorDetail></Error>", c.detail)
			}))
			defer srv.Close()
			b, err := Open(t.Context(), "az://acct/fleet?endpoint="+srv.URL, Options{Sources: []Source{c.source}, Transport: srv.Client().Transport})
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
			if !errors.Is(err, c.want) || !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %#v with %q", err, c.want, c.words)
			}
		})
	}
}

// serve returns a bucket on a server that answers so.
func serve(t testing.TB, answer http.HandlerFunc) *Bucket {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	b, err := Open(t.Context(), "az://acct/fleet?endpoint="+srv.URL, Options{Sources: []Source{SharedKey("a2V5")}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOddAnswers has what no server of Azure gives.
func TestOddAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		get    bucket.GetOptions
		want   error
	}{
		"not modified without a word": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }, bucket.GetOptions{IfNoneMatch: "e"}, bucket.ErrNotModified},
		"no length": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			io.WriteString(w, "x")
		}, bucket.GetOptions{}, bucket.ErrUnsupported},
		"range ignored": {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "01234") }, bucket.GetOptions{Offset: 3, Length: 5}, bucket.ErrUnsupported},
		"another range": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-4/10")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "01234")
		}, bucket.GetOptions{Offset: 3, Length: 5}, bucket.ErrUnsupported},
		"past the end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-ms-error-code", "InvalidRange")
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}, bucket.GetOptions{Offset: 3}, bucket.ErrTruncated},
		"a page of somebody else": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "<html>"+strings.Repeat("x", 100_000))
		}, bucket.GetOptions{}, bucket.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, err := serve(t, c.answer).Get(t.Context(), "k", c.get)
			if err == nil {
				r.Close()
			}
			if !errors.Is(err, c.want) || len(err.Error()) > 500 {
				t.Errorf("%.600v, want %v", err, c.want)
			}
		})
	}
	for text, want := range map[string]error{"<html>no list</html>": bucket.ErrUnsupported, "{}": bucket.ErrUnavailable} {
		b := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) })
		var last error
		for _, last = range b.List(t.Context(), "", "") {
		}
		if !errors.Is(last, want) {
			t.Errorf("list of %q: %v, want %v", text, last, want)
		}
	}
}

// TestSecretsAreHidden has a server that tells what it was sent.
func TestSecretsAreHidden(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>AuthenticationFailed</Code><Message>%s %s</Message><AuthenticationErrorDetail>%s String to sign used was x</AuthenticationErrorDetail></Error>",
			r.Header.Get("Authorization"), strings.ReplaceAll(r.URL.RawQuery, "&", "&amp;"), r.URL.Query().Get("sig"))
	}))
	defer srv.Close()
	for name, source := range map[string]Source{
		"token": TokenSource("test", func(context.Context) (string, time.Time, error) { return "SECRET.a.b", time.Time{}, nil }),
		"SAS":   SAS("sv=1&sig=SECRET%2Fx%3D"),
	} {
		b, err := Open(t.Context(), "az://acct/fleet?endpoint="+srv.URL, Options{Sources: []Source{source}, Transport: srv.Client().Transport})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
		if !errors.Is(err, bucket.ErrPermission) || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "…") || strings.Contains(err.Error(), "String to sign") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAzureDropsDots refuses a key that would become another one.
func TestAzureDropsDots(t *testing.T) {
	var asked atomic.Int64
	b := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	for _, key := range []string{"a.", "a./b", strings.Repeat("d/", 254) + "k"} {
		_, err := b.Put(t.Context(), key, strings.NewReader("x"), bucket.Condition{})
		if !errors.Is(err, bucket.ErrUnsupported) {
			t.Errorf("put %.20s: %v", key, err)
		}
		if _, _, err := b.Get(t.Context(), key, bucket.GetOptions{}); !errors.Is(err, bucket.ErrNotExist) {
			t.Errorf("get %.20s: %v", key, err)
		}
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %.20s: %v", key, err)
		}
	}
	if asked.Load() != 0 {
		t.Error("the server was asked")
	}
}

func TestSetup_Versions(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("x-ms-error-code", "PublicAccessNotPermitted")
			w.WriteHeader(http.StatusConflict)
		case q.Get("comp") == "list" && q.Get("include") == "versions":
			io.WriteString(w, `<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>k</Name><VersionId>2026-01-01T00:00:00.0000000Z</VersionId><IsCurrentVersion>true</IsCurrentVersion><Properties/></Blob></Blobs><NextMarker/></EnumerationResults>`)
		case q.Get("restype") == "account":
			w.Header().Set("x-ms-is-hns-enabled", "true")
		}
	})
	s, err := b.Setup(t.Context())
	if err != nil || s.Public != bucket.No || s.Versions != bucket.Yes || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "hierarchical") {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url  string
		want Location
		base string
	}{
		{"az://acct/fleet", Location{Account: "acct", Container: "fleet"}, "https://acct.blob.core.windows.net"},
		{"az://acct/fleet/", Location{Account: "acct", Container: "fleet"}, "https://acct.blob.core.windows.net"},
		{"az://acct/my-fleet/a%20b/c/?client_id=0f3-A", Location{Account: "acct", Container: "my-fleet", Prefix: "a b/c", ClientID: "0f3-A"}, "https://acct.blob.core.windows.net"},
		{"az://acct/fleet?endpoint=acct.blob.core.chinacloudapi.cn/", Location{Account: "acct", Container: "fleet", Endpoint: "https://acct.blob.core.chinacloudapi.cn"}, "https://acct.blob.core.chinacloudapi.cn"},
		{"az://acct/fleet?endpoint=http%3A%2F%2F127.0.0.1%3A10000%2Fdevstoreaccount1&ca=/c.pem", Location{Account: "acct", Container: "fleet", Endpoint: "http://127.0.0.1:10000/devstoreaccount1", CA: "/c.pem"}, "http://127.0.0.1:10000/devstoreaccount1"},
	} {
		got, err := Parse(c.url)
		if err != nil || got != c.want || got.base() != c.base {
			t.Errorf("%s: %+v, %v, base %s", c.url, got, err, got.base())
		}
	}
	for url, words := range map[string]string{
		"http://acct/fleet":                               "scheme",
		"az://":                                           "storage account",
		"az:acct/fleet":                                   "az://ACCOUNT",
		"az://acct":                                       "container",
		"az://Acct/fleet":                                 "storage account",
		"az://my-acct/fleet":                              "storage account",
		"az://acct/Fleet":                                 "container",
		"az://acct/a--b":                                  "container",
		"az://acct/-ab":                                   "container",
		"az://acct/$web":                                  "container",
		"az://acct/fleet/../x":                            "prefix",
		"az://acct/fleet/a//b":                            "prefix",
		"az://acct/fleet/a./b":                            "prefix",
		"az://acct:topsecret@x/fleet":                     "keys do not belong",
		"az://acct:80/fleet":                              "endpoint=URL",
		"az://acct/fleet#x":                               "az://ACCOUNT",
		"az://acct/fleet?sv=2020&sig=topsecret":           "AZURE_STORAGE_SAS_TOKEN",
		"az://acct/fleet?clientid=x":                      "option \"clientid\" is not known; there are",
		"az://acct/fleet?client_id=":                      "needs one value",
		"az://acct/fleet?client_id=a&client_id=b":         "needs one value",
		"az://acct/fleet?client_id=a/b":                   "client_id",
		"az://acct/fleet?endpoint=ftp://x":                "endpoint",
		"az://acct/fleet?endpoint=https://x/a/b":          "endpoint",
		"az://acct/fleet?endpoint=https://u:topsecret@x/": "endpoint",
		"az://acct/fleet?endpoint=https://x/%3Fsig%3Dtopsecret": "endpoint",
		"az://acct/fleet?endpoint=http://":                      "endpoint",
		"az://acct/fleet?%zz":                                   "options cannot be read",
		"az://acct/%zz":                                         "invalid",
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
	for _, s := range []string{"az://acct/fleet/p?endpoint=http://h:1/acct&client_id=r", "az://acct/fleet?ca=x", "az://%41bc/fleet", "az://b@acct/fleet", "az://acct/fleet?endpoint=[::1]:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			return
		}
		if l.Prefix != "" && checkName(l.Prefix) != nil || strings.ContainsAny(l.Endpoint, "@?# ") {
			t.Errorf("%q: %+v", s, l)
		}
		again, err := Parse("az://" + l.Account + "/" + l.Container)
		if err != nil || again.Account != l.Account || again.Container != l.Container {
			t.Errorf("%q: %+v is not valid by itself: %v", s, l, err)
		}
		if _, err := Open(t.Context(), s, Options{Transport: http.DefaultTransport}); err != nil {
			t.Errorf("%q can be parsed and not opened: %v", s, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><Error><Code>c</Code><Message>m&#10;RequestId:1</Message><AuthenticationErrorDetail>d</AuthenticationErrorDetail></Error>`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		code, said := parseMessage(body)
		for _, text := range []string{code, said} {
			if len(text) > 310 || strings.ContainsAny(text, "\n\r\x1b") {
				t.Errorf("%q says %q", body, text)
			}
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs><Blob><Name>a</Name><VersionId>v</VersionId><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>0x1</Etag><Content-Length>1</Content-Length></Properties></Blob></Blobs><NextMarker>m</NextMarker></EnumerationResults>`))
	f.Add([]byte(`<EnumerationResults><Blobs><Blob><Name Encoded="true">a%EF%BF%BE</Name></Blob><Blob><Name>../x</Name></Blob></Blobs></EnumerationResults>`))
	f.Add([]byte(`<EnumerationResults/>`))
	b := serve(f, func(http.ResponseWriter, *http.Request) {})
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := parsePage(bytes.NewReader(body))
		if err != nil {
			return
		}
		for _, blob := range p.Blobs.Blob {
			if obj, ok := b.object(blob, "p"); ok && (bucket.CheckKey(obj.Key) != nil || !strings.HasPrefix(obj.Key, "p") || obj.Size < 0) {
				t.Errorf("%q lists %+v", body, obj)
			}
		}
	})
}

func TestPage(t *testing.T) {
	p, err := parsePage(strings.NewReader("\ufeff" + `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://acct.blob.core.windows.net/" ContainerName="fleet"><Prefix>p</Prefix>
		<Blobs><Blob><Name>p/a b&amp;c </Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>0x8D1</Etag><Content-Length>17</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>
		<BlobPrefix><Name>p/no</Name></BlobPrefix>
		<Blob><Name Encoded="true">p/a%EF%BF%BE</Name><VersionId>v1</VersionId><Properties><ResourceType>directory</ResourceType></Properties></Blob></Blobs><NextMarker>2!4</NextMarker></EnumerationResults>`))
	if err != nil {
		t.Fatal(err)
	}
	first := p.Blobs.Blob[0]
	if len(p.Blobs.Blob) != 2 || p.NextMarker != "2!4" || first.Name.Text != "p/a b&c " || first.Properties.Size != 17 || first.Properties.ETag != "0x8D1" {
		t.Errorf("%+v", p.Blobs)
	}
	if second := p.Blobs.Blob[1]; second.Name.Text != "p/a\ufffe" || second.VersionID != "v1" || second.Properties.ResourceType != "directory" {
		t.Errorf("%+v", second)
	}
	obj, ok := serve(t, nil).object(first, "p/")
	if want := (bucket.Object{Key: "p/a b&c ", Size: 17, ETag: "0x8D1", Modified: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}); !ok || obj != want {
		t.Errorf("%+v, %t", obj, ok)
	}
}

// A server that gives one page again and again is not asked for ever.
func TestList_SamePage(t *testing.T) {
	var asked atomic.Int64
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.WriteString(w, `<EnumerationResults><Blobs/><NextMarker>m</NextMarker></EnumerationResults>`)
	})
	var last error
	for _, last = range b.List(t.Context(), "", "") {
	}
	if !errors.Is(last, bucket.ErrUnsupported) || asked.Load() != 2 {
		t.Errorf("%d requests, %v", asked.Load(), last)
	}
}

// TestStringToSign has the examples of the documentation, in the form of
// versions since 2015-02-21.
// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
func TestStringToSign(t *testing.T) {
	req := func(method, target string, header ...string) *http.Request {
		r, err := http.NewRequest(method, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	put := req("PUT", "https://myaccount.blob.core.windows.net/c/a%20b/d", "Content-Type", "text/plain", "If-None-Match", "*", "x-ms-version", "2015-02-21",
		"x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT", "x-ms-blob-type", "BlockBlob", "User-Agent", "bootwell")
	put.ContentLength = 11
	for _, c := range []struct {
		req  *http.Request
		want string
	}{
		{req("GET", "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20", "x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT", "x-ms-version", "2015-02-21"),
			"GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"},
		{req("GET", "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=list&include=snapshots&include=metadata&include=uncommittedblobs", "Range", "bytes=5-9"),
			"GET\n\n\n\n\n\n\n\n\n\n\nbytes=5-9\n/myaccount/mycontainer\ncomp:list\ninclude:metadata,snapshots,uncommittedblobs\nrestype:container"},
		{put, "PUT\n\n\n11\n\ntext/plain\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/c/a%20b/d"},
	} {
		if got := stringToSign("myaccount", c.req); got != c.want {
			t.Errorf("%q\nwant %q", got, c.want)
		}
	}
}

// lateReader is a transport that returns before it is done with the body, as
// [http.RoundTripper] allows.
type lateReader struct{ done chan struct{} }

func (l lateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	go func() {
		defer close(l.done)
		io.Copy(io.Discard, req.Body)
	}()
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// slowBody tells that it is being read, and is read a byte at a time.
type slowBody struct {
	io.ReadSeeker
	reading chan struct{}
	busy    atomic.Bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.busy.Store(true)
	defer b.busy.Store(false)
	select {
	case b.reading <- struct{}{}:
	default:
	}
	time.Sleep(20 * time.Millisecond)
	return b.ReadSeeker.Read(p[:1])
}

func TestPut_ReadsNothingAfterItsReturn(t *testing.T) {
	late := lateReader{make(chan struct{})}
	b, err := Open(t.Context(), "az://acct/fleet?endpoint=http://127.0.0.1:1", Options{Sources: []Source{SharedKey("a2V5")}, Transport: late})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := &slowBody{ReadSeeker: strings.NewReader(strings.Repeat("x", 100)), reading: make(chan struct{}, 1)}
	go func() {
		<-body.reading
		cancel()
	}()
	_, err = b.Put(ctx, "k", body, bucket.Condition{})
	if body.busy.Load() {
		t.Error("the body is still read")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	<-late.done
}

func TestRetryAfter(t *testing.T) {
	buckettest.TestRetryAfter(t, func(h http.HandlerFunc) bucket.Bucket { return serve(t, h) })
}
