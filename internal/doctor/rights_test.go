package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// rule allows an action below prefixes of fleet/prod.
type rule struct {
	action string
	at     []string
}

// policy allows each user what its rules say.
func policy(t *testing.T, users map[string][]rule) string {
	t.Helper()
	type statement struct {
		Effect, Action string
		Principal      map[string][]string
		Resource       []string
	}
	doc := struct {
		Version   string
		Statement []statement
	}{Version: "2012-10-17"}
	for user, rules := range users {
		for _, r := range rules {
			s := statement{"Allow", r.action, map[string][]string{"AWS": {user}}, nil}
			for _, p := range r.at {
				s.Resource = append(s.Resource, "arn:aws:s3:::fleet"+p)
			}
			doc.Statement = append(doc.Statement, s)
		}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// all is what a publisher needs.
func all() map[string]rule {
	return map[string]rule{
		"read":   {"s3:GetObject", []string{"/prod/*"}},
		"list":   {"s3:ListBucket", []string{""}},
		"locks":  {"s3:PutObject", []string{"/prod/locks/*"}},
		"tuf":    {"s3:PutObject", []string{"/prod/tuf/*"}},
		"delete": {"s3:DeleteObject", []string{"/prod/locks/*"}},
	}
}

// fleetServer is a server with the bucket fleet and a project below prod.
func fleetServer(t *testing.T) (*buckettest.Server, *project) {
	t.Helper()
	srv := buckettest.VersityGW(t)
	srv.CreateBucket("fleet")
	return srv, newProject(t, s3At(t, srv.Endpoint(), buckettest.RootKey, buckettest.RootSecret, nil))
}

// TestPublisherLacksOneRight takes the rights away one by one.
func TestPublisherLacksOneRight(t *testing.T) {
	srv, proj := fleetServer(t)
	users := map[string][]rule{}
	cases := map[string]string{"read": "read", "list": "list packs/", "locks": "write", "tuf": "write tuf/", "delete": "delete", "nothing": ""}
	for missing := range cases {
		rules := all()
		delete(rules, missing)
		srv.CreateUser("no"+missing, "secret")
		for _, r := range rules {
			users["no"+missing] = append(users["no"+missing], r)
		}
	}
	srv.PutBucketPolicy("fleet", policy(t, users))
	before := contents(t, proj.bucket)
	for missing, check := range cases {
		t.Run(missing, func(t *testing.T) {
			b := s3At(t, srv.Endpoint(), "no"+missing, "secret", nil)
			fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: b, Anchor: proj.anchor})
			if check == "" {
				if fs.Count(Problem) > 0 || fs.Count(Warning) > 0 {
					t.Errorf("findings for a user with all rights")
				}
			} else {
				is(t, fs, check, Problem, "denied")
			}
			golden(t, fs)
		})
	}
	if after := contents(t, proj.bucket); !maps.Equal(before, after) {
		t.Errorf("the bucket had %v and has %v", before, after)
	}
}

func TestReader(t *testing.T) {
	srv, proj := fleetServer(t)
	srv.CreateUser("eve", "secret")
	srv.CreateUser("blind", "secret")
	srv.PutBucketPolicy("fleet", policy(t, map[string][]rule{
		"eve": {all()["read"], all()["list"]}, "blind": {all()["read"]},
	}))
	for user, want := range map[string]Status{"eve": OK, "blind": Problem} {
		b := bucket.DryRun(s3At(t, srv.Endpoint(), user, "secret", nil))
		fs := (&Probe{For: Reader}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: b, Anchor: proj.anchor})
		if f := find(t, fs, "list reports/"); f.Status != want {
			t.Errorf("%s: %+v", user, f)
		}
		for _, f := range fs {
			if strings.Contains(f.Check, "write") || f.Check == "delete" || f.Check == "conditions" {
				t.Errorf("a reader's writes are looked at: %+v", f)
			}
		}
	}
}

// TestCredentials has each way in which they can be of no use.
func TestCredentials(t *testing.T) {
	srv, _ := fleetServer(t)
	answers := func(status int, code string) string {
		return plain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
			w.WriteHeader(status)
			fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>in the server's words</Message></Error>`, code)
		})).URL
	}
	for _, c := range []struct {
		name, endpoint, user, secret string
		check, cause                 string
	}{
		{"none", srv.Endpoint(), "", "", "credentials", "credentials_missing"},
		{"wrong secret", srv.Endpoint(), buckettest.RootKey, "not the secret", "credentials", "credentials_refused"},
		{"unknown key", srv.Endpoint(), "AKIDNOBODY", "secret", "credentials", "credentials_refused"},
		{"expired", answers(400, "ExpiredToken"), "key", "secret", "credentials", "credentials_expired"},
		{"clock", answers(403, "RequestTimeTooSkewed"), "key", "secret", "clock", "clock"},
		{"another region", answers(400, "AuthorizationHeaderMalformed"), "key", "secret", "bucket", "wrong_region"},
		{"no right at all", answers(403, "AccessDenied"), "key", "secret", "read", "denied"},
		{"broken server", answers(500, "InternalError"), "key", "secret", "endpoint", "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := (&Probe{}).Look(t.Context(), at(s3At(t, c.endpoint, c.user, c.secret, nil), c.endpoint, ""))
			is(t, fs, c.check, find(t, fs, c.check).Status, c.cause)
			if text := fs.Text(0); strings.Contains(text, "not the secret") {
				t.Errorf("a secret is shown:\n%s", text)
			}
			golden(t, fs)
		})
	}
}

// TestShiftedClock puts a front before a real server: it lives 20 minutes ahead.
func TestShiftedClock(t *testing.T) {
	srv, proj := fleetServer(t)
	target, err := url.Parse(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	front := plain(t, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(20*time.Minute).UTC().Format(http.TimeFormat))
			return nil
		},
	})
	tgt := at(s3At(t, front.URL, buckettest.RootKey, buckettest.RootSecret, nil), front.URL, "")
	tgt.Anchor = proj.anchor
	fs := (&Probe{}).Look(t.Context(), tgt)
	is(t, fs, "clock", Problem, "clock")
	golden(t, fs)
}

// TestNoIdentity: the place where credentials would be does not answer, as a
// metadata service that is blocked.
func TestNoIdentity(t *testing.T) {
	s := plain(t, forbids)
	from := s3.KeySource("instance role", func(context.Context) (s3.Keys, error) { return s3.Keys{}, errors.New("connection refused") }, nil)
	b, err := s3.Open(t.Context(), "s3://fleet/prod?region=us-east-1&endpoint="+url.QueryEscape(s.URL), s3.Options{Sources: []s3.Source{from}})
	if err != nil {
		t.Fatal(err)
	}
	fs := (&Probe{For: VM}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: b})
	is(t, fs, "credentials", Problem, "credentials_missing")
	is(t, fs, "endpoint", OK, "")
}

func TestMissingBucket(t *testing.T) {
	srv := buckettest.VersityGW(t)
	fs := (&Probe{Setup: Setup}).Look(t.Context(), at(s3At(t, srv.Endpoint(), buckettest.RootKey, buckettest.RootSecret, nil), srv.Endpoint(), ""))
	is(t, fs, "bucket", Problem, "no_bucket")
	golden(t, fs)
}

// TestVM looks as a VM whose rights are the least, more, or fewer.
func TestVM(t *testing.T) {
	srv, proj := fleetServer(t)
	users := map[string][]rule{
		"least":   {{"s3:GetObject", []string{"/prod/tuf/*", "/prod/agents/*"}}, {"s3:PutObject", []string{"/prod/reports/vm1/*"}}},
		"mute":    {{"s3:GetObject", []string{"/prod/tuf/*"}}},
		"nosy":    {{"s3:GetObject", []string{"/prod/*"}}, {"s3:PutObject", []string{"/prod/reports/*"}}},
		"mighty":  {{"s3:GetObject", []string{"/prod/*"}}, {"s3:PutObject", []string{"/prod/*"}}},
		"strange": nil,
	}
	for user := range users {
		srv.CreateUser(user, "secret")
	}
	srv.PutBucketPolicy("fleet", policy(t, users))
	report := []byte(`{"vm":"vm1"}`)
	buckettest.Put(t, proj.bucket, "reports/vm1/report.json", report)
	buckettest.Put(t, proj.bucket, "reports/vm2/report.json", report)
	before := contents(t, proj.bucket)
	for _, c := range []struct {
		user          string
		own, others   Status
		ownCause, why string
	}{
		{"least", OK, OK, "", ""},
		{"mute", Problem, OK, "denied", ""},
		{"nosy", OK, Warning, "", "too_many_rights"},
		{"mighty", OK, Warning, "", "too_many_rights"},
	} {
		t.Run(c.user, func(t *testing.T) {
			p := &Probe{For: VM, VM: "vm1", Report: report}
			fs := p.Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: s3At(t, srv.Endpoint(), c.user, "secret", nil), Anchor: proj.anchor})
			is(t, fs, "write report", c.own, c.ownCause)
			is(t, fs, "write others", c.others, c.why)
			is(t, fs, "signatures", OK, "")
			golden(t, fs)
		})
	}
	t.Run("strange", func(t *testing.T) {
		fs := (&Probe{For: VM, VM: "vm1", Report: report}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: s3At(t, srv.Endpoint(), "strange", "secret", nil), Anchor: proj.anchor})
		is(t, fs, "read", Problem, "denied")
	})
	t.Run("first report", func(t *testing.T) {
		p := &Probe{For: VM, VM: "vm9", Report: report}
		fs := p.Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: s3At(t, srv.Endpoint(), "mighty", "secret", nil), Anchor: proj.anchor})
		is(t, fs, "write report", OK, "")
	})
	if after := contents(t, proj.bucket); !maps.Equal(before, after) {
		t.Errorf("the bucket had %v and has %v", before, after)
	}
}

// TestVMChangesNothing where the store ignores conditions: what is there is the
// same, and nothing is new.
func TestVMChangesNothing(t *testing.T) {
	mem := bucket.NewMem()
	proj := newProject(t, ignores{mem})
	report := []byte(`{"vm":"vm1"}`)
	buckettest.Put(t, mem, "reports/vm1/report.json", report)
	tags := func() map[string]string {
		all := map[string]string{}
		for o, err := range mem.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			all[o.Key] = o.ETag
		}
		return all
	}
	before := tags()
	fs := (&Probe{For: VM, VM: "vm1", Report: report}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: ignores{mem}, Anchor: proj.anchor})
	is(t, fs, "write report", Warning, "no_conditions")
	if after := tags(); !maps.Equal(before, after) {
		t.Errorf("the bucket had %v and has %v", before, after)
	}
}

// TestLeavesNothing also when it is stopped in the middle.
func TestLeavesNothing(t *testing.T) {
	for n := range 12 {
		mem := bucket.NewMem()
		proj := newProject(t, mem)
		before := contents(t, mem)
		ctx, cancel := context.WithCancel(t.Context())
		faults := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Key: "locks/", Skip: n, Times: 1, Before: cancel})
		(&Probe{}).Look(ctx, Target{URL: "s3://fleet/prod", Bucket: faults, Anchor: proj.anchor})
		cancel()
		if after := contents(t, mem); !maps.Equal(before, after) {
			t.Errorf("stopped at write %d: the bucket had %v and has %v", n, before, after)
		}
	}
}

func TestCannotRemove(t *testing.T) {
	mem := bucket.NewMem()
	proj := newProject(t, mem)
	faults := bucket.NewFaults(mem, bucket.Fault{Method: "Delete", Skip: 1, Err: errors.New("the store is in a bad mood")})
	fs := (&Probe{}).Look(t.Context(), Target{URL: "s3://fleet/prod", Bucket: faults, Anchor: proj.anchor})
	is(t, fs, "delete", Problem, "failed")
}

func TestAnother(t *testing.T) {
	for etag, want := range map[string]string{
		"d41d8cd98f00b204e9800998ecf8427e": "d41d8cd98f00b204e9800998ecf8427f", "g1763823119000129": "g1763823119000120", "0x8DC0": "0x8DC1",
		"abc-2": "abc-3", "xyzf": "xyza", "F\"": "A\"", "": "", "-xyz": "",
	} {
		if got := another(etag); got != want {
			t.Errorf("%q becomes %q, want %q", etag, got, want)
		}
	}
}

// cloud is a kind of bucket with three identities: one that may do all, a VM
// with the least rights, and one that only reads.
type cloud struct {
	url              string
	all, vm, reading bucket.Bucket
}

func must[B bucket.Bucket](t *testing.T) func(b B, err error) bucket.Bucket {
	return func(b B, err error) bucket.Bucket {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func google(t *testing.T) cloud {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	open := func(grants ...buckettest.GCSGrant) bucket.Bucket {
		return must[*gcs.Bucket](t)(gcs.Open(t.Context(), srv.URL("fleet", "prod"), gcs.Options{Sources: []gcs.Source{gcs.Static(srv.Token(grants...))}}))
	}
	read := buckettest.GCSGrant{Permissions: []string{"storage.objects.get"}, Below: []string{"prod/tuf/"}}
	return cloud{
		srv.URL("fleet", "prod"), open(buckettest.GCSGrant{}),
		open(read, buckettest.GCSGrant{Permissions: []string{"storage.objects.create", "storage.objects.delete", "storage.objects.get"}, Below: []string{"prod/reports/vm1/"}}), open(read),
	}
}

func azure(t *testing.T) cloud {
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
	srv.CreateContainer("fleet", "")
	open := func(s azblob.Source) bucket.Bucket {
		return must[*azblob.Bucket](t)(azblob.Open(t.Context(), srv.URL("fleet", "prod"), azblob.Options{Sources: []azblob.Source{s}}))
	}
	// A SAS cannot be confined to a folder.
	return cloud{srv.URL("fleet", "prod"), open(azblob.SharedKey(buckettest.AzureKey)), nil, open(azblob.SAS(srv.SAS("fleet", "r", time.Now().Add(time.Hour))))}
}

// TestOtherClouds: a try on a condition that cannot hold is answered by each
// kind of server according to the rights, and changes nothing.
func TestOtherClouds(t *testing.T) {
	for name, start := range map[string]func(*testing.T) cloud{"google": google, "azure": azure} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			proj := newProject(t, c.all)
			report := []byte(`{"vm":"vm1"}`)
			buckettest.Put(t, c.all, "reports/vm1/report.json", report)
			before := contents(t, c.all)
			look := func(who Audience, b bucket.Bucket) Findings {
				return (&Probe{For: who, VM: "vm1", Report: report, Setup: Setup}).Look(t.Context(), Target{URL: c.url, Bucket: b, Anchor: proj.anchor})
			}
			all := look(Publisher, c.all)
			for _, check := range []string{"endpoint", "clock", "read", "list packs/", "write", "delete", "conditions", "write tuf/", "signatures"} {
				if f := find(t, all, check); f.Status != OK && f.Cause != "no_tls" {
					t.Errorf("who may do all: %+v", f)
				}
			}
			is(t, look(VM, c.all), "write others", Warning, "too_many_rights")
			is(t, look(Publisher, c.reading), "delete", Problem, "denied")
			is(t, look(Publisher, c.reading), "write tuf/", Problem, "denied")
			mute := look(VM, c.reading)
			is(t, mute, "write report", Problem, "denied")
			is(t, mute, "write others", OK, "")
			if c.vm != nil {
				least := look(VM, c.vm)
				is(t, least, "write report", OK, "")
				is(t, least, "write others", OK, "")
			}
			if after := contents(t, c.all); !maps.Equal(before, after) {
				t.Errorf("the bucket had %v and has %v", before, after)
			}
			golden(t, all)
		})
	}
}
