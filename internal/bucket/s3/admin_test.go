package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

func create(t *testing.T, b *s3.Bucket) bucket.Setup {
	t.Helper()
	if _, err := b.Setup(t.Context()); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("set-up of no bucket: %v", err)
	}
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	buckettest.Put(t, b, "k", []byte("x"))
	if err := b.Create(t.Context()); !errors.Is(err, bucket.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	if got, _ := buckettest.Get(t, b, "k"); string(got) != "x" {
		t.Errorf("after that the object holds %q", got)
	}
	s, err := b.Setup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func anyone(bucket, action string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},"Action":[%q],"Resource":["arn:aws:s3:::%s/*"]}]}`, action, bucket)
}

func TestAdmin_VersityGW(t *testing.T) {
	srv := buckettest.StartVersityGW(t, buckettest.ServerConfig{Versioning: true})
	b := open(t, srv.URL("fleet", "prod"), root())
	s := create(t, b)
	if s.Public != bucket.No || s.Versions != bucket.Yes || s.Region != "us-east-1" {
		t.Errorf("set-up %+v", s)
	}
	srv.CreateUser("vm1", "vm1secret")
	srv.PutBucketPolicy("fleet", buckettest.VMPolicy("fleet", "prod", "vm1"))
	if s, err := b.Setup(t.Context()); err != nil || s.Public != bucket.No {
		t.Errorf("with a policy for a VM: %+v, %v", s, err)
	}
	s, err := open(t, srv.URL("fleet", "prod"), s3.Static("vm1", "vm1secret", "")).Setup(t.Context())
	if err != nil || s.Public != bucket.Unknown || s.Versions != bucket.Unknown || len(s.Notes) == 0 {
		t.Errorf("as somebody who may ask nothing: %+v, %v", s, err)
	}
	srv.PutBucketPolicy("fleet", anyone("fleet", "s3:GetObject"))
	if s, err := b.Setup(t.Context()); err != nil || s.Public != bucket.Yes {
		t.Errorf("with a policy for everybody: %+v, %v", s, err)
	}
	if err := open(t, srv.URL("other", ""), s3.Static("nobody", "x", "")).Create(t.Context()); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("create with a wrong key: %v", err)
	}
}

func TestAdmin_ServerWithoutVersions(t *testing.T) {
	srv := buckettest.VersityGW(t)
	s := create(t, open(t, srv.URL("fleet", ""), root()))
	if s.Versions != bucket.No || s.Public != bucket.No {
		t.Errorf("set-up %+v", s)
	}
}

func TestAdmin_MinIO(t *testing.T) {
	srv := buckettest.StartMinIO(t, buckettest.ServerConfig{})
	s := create(t, open(t, srv.URL("fleet", "prod"), root()))
	if s.Public != bucket.No || s.Versions != bucket.Yes {
		t.Errorf("set-up %+v", s)
	}
}

// amazon answers as Amazon S3 does, and notes what was asked.
type amazon struct {
	mu     sync.Mutex
	asked  []string
	answer map[string]string // "METHOD query" → "status body"
}

func (a *amazon) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := httptest.NewRecorder()
	what := req.Method + " " + req.URL.RawQuery
	if req.Header.Get("Authorization") == "" {
		what += " unsigned"
	}
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	a.asked = append(a.asked, fmt.Sprintf("%s %s %s", what, req.URL.Host, body))
	status := 200
	text, ok := a.answer[what]
	if !ok {
		text = a.answer["*"]
	}
	if n, rest, ok := strings.Cut(text, " "); ok {
		fmt.Sscan(n, &status)
		text = rest
	}
	w.Header().Set("x-amz-bucket-region", "eu-central-1")
	if status == 301 {
		w.Header().Set("Location", "https://elsewhere.example/")
	}
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		io.WriteString(w, text)
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

func onAmazon(t *testing.T, url string, answer map[string]string) (*s3.Bucket, *amazon) {
	t.Helper()
	a := &amazon{answer: answer}
	b, err := s3.Open(t.Context(), url, s3.Options{Sources: []s3.Source{s3.Static("k", "SECRET", "TOKEN")}, Transport: a})
	if err != nil {
		t.Fatal(err)
	}
	return b, a
}

func TestCreate_OnAmazon(t *testing.T) {
	b, a := onAmazon(t, "s3://acme-fleet/prod?region=eu-central-1", map[string]string{"HEAD ": "404 "})
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(a.asked, "\n")
	for _, want := range []string{
		"PUT  acme-fleet.s3.eu-central-1.amazonaws.com <CreateBucketConfiguration", "<LocationConstraint>eu-central-1<", "PUT publicAccessBlock=",
		"<RestrictPublicBuckets>true<", "PUT versioning=", "<Status>Enabled<",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing of %q in\n%s", want, all)
		}
	}
	b, a = onAmazon(t, "s3://acme.fleet?region=us-east-1", map[string]string{"HEAD ": "404 "})
	if err := b.Create(t.Context()); err != nil || strings.Contains(strings.Join(a.asked, "\n"), "Location") {
		t.Errorf("in us-east-1: %v, %q", err, a.asked)
	}
	for name, c := range map[string]struct {
		answer map[string]string
		want   error
		words  string
	}{
		"one's own":             {map[string]string{}, bucket.ErrExists, ""},
		"somebody else's":       {map[string]string{"HEAD ": "403 ", "GET location=": "403 <Error><Code>AccessDenied</Code></Error>"}, bucket.ErrExists, "names are shared"},
		"wrong keys":            {map[string]string{"HEAD ": "403 ", "GET location=": "403 <Error><Code>InvalidAccessKeyId</Code></Error>"}, bucket.ErrPermission, ""},
		"in another region":     {map[string]string{"HEAD ": "301 "}, bucket.ErrExists, "region=eu-central-1"},
		"may not":               {map[string]string{"HEAD ": "404 ", "PUT ": "403 <Error><Code>AccessDenied</Code></Error>"}, bucket.ErrPermission, "create bucket"},
		"may not block":         {map[string]string{"HEAD ": "404 ", "PUT publicAccessBlock=": "403 <Error><Code>AccessDenied</Code></Error>"}, bucket.ErrPermission, "set publicAccessBlock of the new bucket"},
		"taken in between":      {map[string]string{"HEAD ": "404 ", "PUT ": "409 <Error><Code>BucketAlreadyExists</Code></Error>"}, bucket.ErrExists, ""},
		"no versions elsewhere": {map[string]string{"HEAD ": "404 ", "PUT versioning=": "501 <Error><Code>NotImplemented</Code></Error>"}, nil, ""},
	} {
		b, _ := onAmazon(t, "s3://acme-fleet?region=eu-west-1", c.answer)
		err := b.Create(t.Context())
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.want, c.words)
		}
	}
}

func TestSetup_OnAmazon(t *testing.T) {
	const (
		denied   = "403 <Error><Code>AccessDenied</Code></Error>"
		noPolicy = "404 <Error><Code>NoSuchBucketPolicy</Code></Error>"
		list     = "GET list-type=2&max-keys=1"
	)
	base := map[string]string{
		list + " unsigned": denied, "GET location=": `200 <LocationConstraint>eu-central-1</LocationConstraint>`,
		"GET versioning=": "200 <VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
		"HEAD  unsigned":  "403 ", "GET policyStatus=": noPolicy, "GET policy=": noPolicy,
		"GET publicAccessBlock=": "404 <Error><Code>NoSuchPublicAccessBlockConfiguration</Code></Error>",
		"GET acl=":               "200 <AccessControlPolicy><AccessControlList><Grant><Grantee><ID>me</ID></Grantee></Grant></AccessControlList></AccessControlPolicy>",
	}
	for name, c := range map[string]struct {
		change map[string]string
		want   bucket.Setup
	}{
		"private":  {nil, bucket.Setup{Public: bucket.No, Versions: bucket.Yes, Region: "eu-central-1"}},
		"listable": {map[string]string{list + " unsigned": "200 <ListBucketResult/>"}, bucket.Setup{Public: bucket.Yes, Versions: bucket.Yes, Region: "eu-central-1"}},
		"readable": {map[string]string{list: "200 <ListBucketResult><Contents><Key>k</Key></Contents></ListBucketResult>", "HEAD  unsigned": "200 "},
			bucket.Setup{Public: bucket.Yes, Versions: bucket.Yes, Region: "eu-central-1"}},
		"public by status": {map[string]string{"GET policyStatus=": "200 <PolicyStatus><IsPublic>TRUE</IsPublic></PolicyStatus>"},
			bucket.Setup{Public: bucket.Yes, Versions: bucket.Yes, Region: "eu-central-1"}},
		"public by policy": {map[string]string{"GET policyStatus=": "501 ", "GET policy=": "200 " + anyone("b", "s3:*")},
			bucket.Setup{Public: bucket.Yes, Versions: bucket.Yes, Region: "eu-central-1"}},
		"public by ACL": {map[string]string{"GET acl=": `200 <AccessControlPolicy><AccessControlList><Grant><Grantee><URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee></Grant></AccessControlList></AccessControlPolicy>`},
			bucket.Setup{Public: bucket.Yes, Versions: bucket.Yes, Region: "eu-central-1"}},
		"blocked": {map[string]string{"GET publicAccessBlock=": "200 <PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>",
			"GET acl=": denied}, bucket.Setup{Public: bucket.No, Versions: bucket.Yes, Region: "eu-central-1"}},
		"no versions, old": {map[string]string{"GET versioning=": "200 <VersioningConfiguration/>", "GET location=": "200 <LocationConstraint/>"},
			bucket.Setup{Public: bucket.No, Versions: bucket.No, Region: "us-east-1"}},
		"may ask nothing": {map[string]string{"HEAD ": "403 ", "GET versioning=": denied, "GET location=": denied, "GET policyStatus=": denied, "GET policy=": denied, "GET acl=": denied},
			bucket.Setup{Notes: make([]string, 4)}},
	} {
		answer := map[string]string{}
		for _, m := range []map[string]string{base, c.change} {
			for k, v := range m {
				answer[k] = v
			}
		}
		b, _ := onAmazon(t, "s3://acme-fleet?region=eu-central-1", answer)
		got, err := b.Setup(t.Context())
		if err != nil || got.Public != c.want.Public || got.Versions != c.want.Versions || got.Region != c.want.Region || len(got.Notes) != len(c.want.Notes) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	for status, want := range map[string]error{"404 ": bucket.ErrNoBucket, "301 ": bucket.ErrPermission, "503 ": bucket.ErrUnavailable} {
		b, _ := onAmazon(t, "s3://acme-fleet?region=eu-west-1", map[string]string{"HEAD ": status})
		if _, err := b.Setup(t.Context()); !errors.Is(err, want) || status == "301 " && !strings.Contains(err.Error(), "region=eu-central-1") {
			t.Errorf("status %s: %v, want %v", status, err, want)
		}
	}
}

// Amazon S3 answers a request that was signed for another region with 400, and
// one that went to another region with 301 and, maybe, where to.
func TestWrongRegion(t *testing.T) {
	for _, answer := range []string{
		"400 <Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong</Message><Region>eu-central-1</Region></Error>",
		"301 <Error><Code>PermanentRedirect</Code><Message>use another endpoint</Message></Error>",
	} {
		b, _ := onAmazon(t, "s3://acme-fleet?region=us-east-1", map[string]string{"*": answer})
		for op, err := range buckettest.EveryCall(t, b, "k") {
			if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "another region: add region=eu-central-1 to its URL") {
				t.Errorf("%s: %v", op, err)
			}
		}
	}
}

func TestEndpoint(t *testing.T) {
	for url, want := range map[string]string{
		"s3://acme?region=eu-west-1":                             "https://acme.s3.eu-west-1.amazonaws.com",
		"s3://ac.me?region=eu-west-1&dualstack=true":             "https://s3.dualstack.eu-west-1.amazonaws.com",
		"s3://acme?region=cn-north-1&path_style=true":            "https://s3.cn-north-1.amazonaws.com.cn",
		"s3://acme?endpoint=http://127.0.0.1:7070":               "http://127.0.0.1:7070",
		"s3://acme?endpoint=https://s3.example&path_style=false": "https://acme.s3.example",
	} {
		b, _ := onAmazon(t, url, nil)
		if got, ca := b.Endpoint(); got != want || ca != "" {
			t.Errorf("%s: %s, %q, want %s", url, got, ca, want)
		}
	}
}
