package doctor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/swift"
)

// openStack opens buckets of a cloud.
type openStack struct {
	*buckettest.Swift
	project *project
}

func (o *openStack) open(t *testing.T, url string, settings map[string]string) bucket.Bucket {
	t.Helper()
	return must[*swift.Bucket](t)(swift.Open(t.Context(), url, swift.Options{Sources: []swift.Source{swift.Values("environment", settings)}, Transport: &http.Transport{DisableKeepAlives: true}}))
}

func application(id, secret string) map[string]string {
	return map[string]string{"os_application_credential_id": id, "os_application_credential_secret": secret}
}

func (o *openStack) look(t *testing.T, url string, settings map[string]string) Findings {
	t.Helper()
	return (&Probe{}).Look(t.Context(), Target{URL: url, Bucket: o.open(t, url, settings), Anchor: o.project.anchor})
}

// swiftRules are what a publisher needs of the container fleet, by the check
// that fails without.
func swiftRules() map[string][]buckettest.AccessRule {
	below := func(method string, paths ...string) (rules []buckettest.AccessRule) {
		for _, p := range paths {
			rules = append(rules, buckettest.AccessRule{Service: "object-store", Method: method, Path: "/v1/*/fleet" + p})
		}
		return rules
	}
	return map[string][]buckettest.AccessRule{
		"read": below("GET", "/prod/tuf/**"), "list packs/": below("GET", ""), "write": below("PUT", "/prod/locks/**"),
		"delete": below("DELETE", "/prod/locks/**"), "": append(below("GET", "/prod/locks/**"), below("PUT", "/prod/tuf/**")...),
	}
}

// TestOpenStack has the ways in which credentials are refused there, where 401
// is the answer to nearly all of them.
func TestOpenStack(t *testing.T) {
	o := &openStack{Swift: buckettest.StartSwift(t, buckettest.SwiftConfig{})}
	o.CreateContainer("fleet")
	o.SetTempURLKey("hush")
	id, secret := o.AppCredential("publisher")
	at := o.URL("fleet", "prod")
	o.project = newProject(t, o.open(t, at, application(id, secret)))

	t.Run("wrong secret", func(t *testing.T) {
		fs := o.look(t, at, application(id, "a wrong secret"))
		is(t, fs, "credentials", Problem, "credentials_refused")
		golden(t, fs)
	})
	t.Run("no credentials", func(t *testing.T) {
		is(t, o.look(t, at, nil), "credentials", Problem, "credentials_missing")
	})
	t.Run("no access rule", func(t *testing.T) {
		elsewhere := buckettest.AccessRule{Service: "object-store", Method: "GET", Path: "/v1/*/another/**"}
		fs := o.look(t, at, application(o.AppCredential("elsewhere", elsewhere)))
		for _, check := range []string{"read", "list packs/", "delete"} {
			is(t, fs, check, Problem, "denied")
		}
		is(t, fs, "credentials", OK, "")
		golden(t, fs)
	})
	for _, missing := range []string{"list packs/", "write"} {
		t.Run("without "+strings.TrimSuffix(missing, "/"), func(t *testing.T) {
			var rules []buckettest.AccessRule
			for check, r := range swiftRules() {
				if check != missing {
					rules = append(rules, r...)
				}
			}
			fs := o.look(t, at, application(o.AppCredential("no "+missing, rules...)))
			is(t, fs, missing, Problem, "denied")
			for _, f := range fs {
				if f.Check != missing && f.Status == Problem {
					t.Errorf("also %s: %s", f.Check, f.Message)
				}
			}
			golden(t, fs)
		})
	}
	t.Run("temporary URLs", func(t *testing.T) { testTempURLs(t, o) })
}

func testTempURLs(t *testing.T, o *openStack) {
	at := o.TempURL("fleet", "prod")
	key := map[string]string{"swift_temp_url_key": "hush"}
	is(t, o.look(t, at, key), "read", OK, "")
	is(t, o.look(t, at, map[string]string{"swift_temp_url_key": "another"}), "credentials", Problem, "credentials_refused")
	ended, err := swift.SignPrefix(o.StorageURL(), "fleet", "prod/", "hush", time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	is(t, o.look(t, at, ended), "credentials", Problem, "credentials_expired")
	t.Run("wrong clock", func(t *testing.T) {
		now := time.Now().Round(0)
		var fs Findings
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(now.Add(-time.Hour)))
			fs = o.look(t, at, key)
		})
		is(t, fs, "clock", Problem, "clock")
		golden(t, fs)
	})
}

// TestExpired has credentials that ended, on the servers that tell so.
func TestExpired(t *testing.T) {
	t.Run("azure", func(t *testing.T) {
		srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
		srv.CreateContainer("fleet", "")
		at := srv.URL("fleet", "prod")
		ended := azblob.SAS(srv.SAS("fleet", "racwdl", time.Now().Add(-time.Hour)))
		fs := (&Probe{}).Look(t.Context(), Target{URL: at, Bucket: must[*azblob.Bucket](t)(azblob.Open(t.Context(), at, azblob.Options{Sources: []azblob.Source{ended}}))})
		is(t, fs, "credentials", Problem, "credentials_expired")
		golden(t, fs)
	})
	t.Run("google", func(t *testing.T) {
		srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
		srv.CreateBucket("fleet")
		at := srv.URL("fleet", "prod")
		ended := gcs.Static(srv.ExpiredToken())
		fs := (&Probe{}).Look(t.Context(), Target{URL: at, Bucket: must[*gcs.Bucket](t)(gcs.Open(t.Context(), at, gcs.Options{Sources: []gcs.Source{ended}}))})
		is(t, fs, "credentials", Problem, "credentials_refused")
		if f := find(t, fs, "credentials"); !strings.Contains(f.Message, "has ended") {
			t.Errorf("%s", f.Message)
		}
		golden(t, fs)
	})
}

// TestPlainHTTP asks a server by a name that is not this machine's, through a
// proxy that knows it.
func TestPlainHTTP(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	server, err := url.Parse(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	front := plain(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(server) }})
	through, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := http.ProxyURL(through)
	look := func(at string) Findings {
		b := must[*gcs.Bucket](t)(gcs.Open(t.Context(), at, gcs.Options{Sources: []gcs.Source{gcs.Static(srv.Token())}, Transport: &http.Transport{Proxy: proxy}}))
		return (&Probe{For: Reader, Proxy: proxy}).Look(t.Context(), Target{URL: at, Bucket: b})
	}
	fs := look("gs://fleet/prod?endpoint=" + url.QueryEscape("http://gcs.test:8080"))
	is(t, fs, "secrecy", Warning, "plain_http")
	golden(t, fs)
	for _, at := range []string{srv.URL("fleet", "prod"), "gs://fleet/prod?anonymous=true&endpoint=" + url.QueryEscape("http://gcs.test:8080")} {
		if fs := look(at); fs.Has("plain_http") {
			t.Errorf("%s:\n%s", at, fs.Text(0))
		}
	}
}

// TestCredentialsTo: a Keystone without TLS is told the secret, wherever the
// storage is.
func TestCredentialsTo(t *testing.T) {
	for _, c := range []struct {
		url      string
		settings map[string]string
		want     string
	}{
		{"swift://fleet?auth=http://keystone.test:5000", application("id", "secret"), "keystone.test:5000"},
		{"swift://fleet?auth=https://keystone.test", application("id", "secret"), ""},
		{"swift://fleet", map[string]string{"os_auth_url": "http://keystone.test", "os_application_credential_id": "id", "os_application_credential_secret": "secret"}, "keystone.test"},
		{"swift://fleet?storage=http://swift.test/v1/AUTH_x", map[string]string{"swift_temp_url_key": "key"}, "swift.test"},
		{"swift://fleet?storage=https://swift.test/v1/AUTH_x", map[string]string{"swift_temp_url_key": "key"}, ""},
		{"swift://fleet?auth=http://127.9.9.9:5000", application("id", "secret"), ""},
	} {
		b := must[*swift.Bucket](t)(swift.Open(t.Context(), c.url, swift.Options{Sources: []swift.Source{swift.Values("environment", c.settings)}, Transport: silent{}}))
		nowhere := func(*http.Request) (*url.URL, error) { return nil, errors.New("no way out") }
		fs := (&Probe{Proxy: nowhere}).Look(t.Context(), Target{URL: c.url, Bucket: b})
		got := slices.ContainsFunc(fs, func(f Finding) bool { return f.Cause == "plain_http" && strings.Contains(f.Message, " "+c.want+" ") })
		if got != (c.want != "") {
			t.Errorf("%s:\n%s", c.url, fs.Text(0))
		}
	}
}

// silent reaches nothing.
type silent struct{}

func (silent) RoundTrip(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded }
