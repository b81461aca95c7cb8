package policy_test

import (
	"encoding/json"
	"errors"
	"flag"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// buckets has one bucket of each cloud.
var buckets = map[string]string{
	"aws": "s3://acme/prod", "s3": "s3://acme/prod?endpoint=https://s3.acme.example", "azure": "az://acmestore/acme/prod",
	"gcp": "gs://acme/prod", "openstack": "swift://acme/prod?auth=https://keys.acme.example/v3",
}

func generate(t *testing.T, c policy.Config) policy.Policy {
	t.Helper()
	p, err := policy.Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGenerate_Golden(t *testing.T) {
	for cloud, url := range buckets {
		for _, who := range policy.Audiences() {
			p := generate(t, policy.Config{Bucket: url, For: who, Name: "acme-web"})
			if p.Cloud != cloud {
				t.Errorf("%s: the policy is for %s", url, p.Cloud)
			}
			golden(t, cloud+"-"+string(who)+"."+p.Form, p.Text)
			if p.Form == "json" && !json.Valid([]byte(p.Text)) {
				t.Errorf("%s %s: not JSON:\n%s", cloud, who, p.Text)
			}
			if p.Form == "sh" {
				if out, err := exec.Command("sh", "-n", "-c", p.Text).CombinedOutput(); err != nil {
					t.Errorf("%s %s: %v: %s", cloud, who, err, out)
				}
			}
			if open, shut := strings.Count(p.Text, "("), strings.Count(p.Text, ")"); open != shut {
				t.Errorf("%s %s: %d opening and %d closing parentheses", cloud, who, open, shut)
			}
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s (%v):\n%s\nwant:\n%s", path, err, got, want)
	}
}

func TestGenerate_Mistakes(t *testing.T) {
	for _, c := range []struct {
		config policy.Config
		want   string
	}{
		{policy.Config{Bucket: "s3://b", For: "root"}, "one of vm, publisher, reader and gc"},
		{policy.Config{Bucket: "s3://b", Cloud: "ibm"}, "aws, s3, azure, gcp, openstack"},
		{policy.Config{Bucket: "s3://b", Cloud: "gcp"}, "no buckets with the scheme s3"},
		{policy.Config{Bucket: "https://b/p"}, "has no policies"},
		{policy.Config{Bucket: "file:///b"}, "has no policies"},
		{policy.Config{Bucket: "az://account"}, "names no container"},
		{policy.Config{Bucket: "b"}, "is not a URL"},
		{policy.Config{Bucket: "az://a/c", VM: "x' OR 'y"}, "may give a meaning"},
		{policy.Config{Bucket: "s3://a/${aws:x}"}, "may give a meaning"},
		{policy.Config{Bucket: "gs://a/*"}, "may give a meaning"},
		{policy.Config{Bucket: "gs://a;reboot"}, "may give a meaning"},
		{policy.Config{Bucket: "gs://a/b;c"}, "may give a meaning"},
		{policy.Config{Bucket: "gs://a/b", Name: "-x"}, "may give a meaning"},
		{policy.Config{Bucket: "az://a/c&d"}, "may give a meaning"},
	} {
		if _, err := policy.Generate(c.config); !errors.Is(err, policy.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.want)
		}
	}
}

func TestAWS_Partitions(t *testing.T) {
	for region, want := range map[string]string{"": "arn:aws:s3:::acme/", "eu-west-1": "arn:aws:s3:::acme/", "cn-north-1": "arn:aws-cn:s3:::acme/", "us-gov-west-1": "arn:aws-us-gov:s3:::acme/"} {
		if p := generate(t, policy.Config{Bucket: "s3://acme/prod?region=" + region}); !strings.Contains(p.Text, `"`+want) {
			t.Errorf("region %s: no %s in %s", region, want, p.Text)
		}
	}
}

func FuzzGenerate(f *testing.F) {
	for _, u := range buckets {
		f.Add(u, "acme", "vm1")
	}
	f.Add("az://a/'", "x", "a\"b")
	f.Fuzz(func(t *testing.T, bucket, name, vm string) {
		for _, who := range policy.Audiences() {
			p, err := policy.Generate(policy.Config{Bucket: bucket, For: who, Name: name, VM: vm})
			if err != nil {
				if !errors.Is(err, policy.ErrConfig) {
					t.Error(err)
				}
				continue
			}
			if p.Form == "json" && !json.Valid([]byte(p.Text)) {
				t.Errorf("not JSON: %s", p.Text)
			}
			if strings.Count(p.Text, "'")%2 != 0 || strings.ContainsAny(bucket+name+vm, "';&|`$<>()\n") && p.Form == "sh" && !strings.ContainsAny(bucket, "?#") {
				t.Errorf("a quote came through: %s", p.Text)
			}
		}
	})
}

// keys are objects of each part of a bucket.
var keys = []string{
	"tuf/metadata/timestamp.json", "packs/aa", "manifests/bb.zst", "agents/cc", "locks/publish", "reports/vm1/report.json", "reports/vm10/report.json",
	"logs/vm1/0.zst", "logs/vm2/0.zst", "other",
}

// A right is a call and where it is allowed.
type right struct {
	get, put, remove, list string // prefixes, with a space between them
}

// lives are the rights that must hold on a real server, for the identity vm1.
var lives = map[policy.Audience]right{
	policy.VM:        {get: "tuf/ packs/ manifests/ agents/", put: "reports/vm1/ logs/vm1/"},
	policy.Publisher: {get: "tuf/ packs/ manifests/ agents/ locks/", put: "tuf/ packs/ manifests/ agents/ locks/", remove: "locks/", list: "tuf/ packs/ agents/"},
	policy.Reader:    {get: "tuf/ manifests/ reports/ logs/", list: "reports/"},
	policy.Collector: {get: "tuf/ manifests/ locks/", put: "tuf/ locks/", remove: "tuf/ packs/ manifests/ agents/ reports/ logs/ locks/", list: "tuf/ packs/ manifests/ agents/ reports/ logs/"},
}

// holds shows that b may do exactly what r says. admin fills the bucket.
// listsAll: the server knows no right to list a part.
func holds(t *testing.T, admin, b bucket.Bucket, r right, listsAll bool) {
	t.Helper()
	allowed := func(prefixes, key string) bool {
		for p := range strings.FieldsSeq(prefixes) {
			if strings.HasPrefix(key, p) {
				return true
			}
		}
		return false
	}
	expect := func(what, key string, may bool, err error) {
		t.Helper()
		if may && err != nil || !may && !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("%s %s: %v, may: %t", what, key, err, may)
		}
	}
	for _, key := range keys {
		buckettest.Put(t, admin, key, []byte(key))
		rc, _, err := b.Get(t.Context(), key, bucket.GetOptions{})
		if err == nil {
			rc.Close()
		}
		expect("get", key, allowed(r.get, key), err)
		_, err = b.Put(t.Context(), key, strings.NewReader("x"), bucket.Condition{})
		expect("put", key, allowed(r.put, key), err)
		expect("delete", key, allowed(r.remove, key), b.Delete(t.Context(), key))
	}
	for _, prefix := range []string{"", "tuf/", "packs/", "manifests/", "agents/", "locks/", "reports/", "reports/vm1/", "logs/"} {
		var err error
		for _, err = range b.List(t.Context(), prefix, "") {
		}
		expect("list", prefix, allowed(r.list, prefix) || listsAll && r.list != "", err)
	}
}

func open(t *testing.T, url string, key, secret string) bucket.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), url, s3.Options{Sources: []s3.Source{s3.Static(key, secret, "")}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVersityGW(t *testing.T) {
	srv := buckettest.VersityIAM(t)
	srv.CreateBucket("fleet")
	for _, who := range policy.Audiences() {
		t.Run(string(who), func(t *testing.T) {
			url := srv.URL("fleet", "prod-"+string(who))
			p := generate(t, policy.Config{Bucket: url, For: who})
			user := map[policy.Audience]string{policy.VM: "vm1"}[who]
			if user == "" {
				user = string(who)
			}
			key, secret := srv.User(user, p.Text)
			holds(t, open(t, url, buckettest.RootKey, buckettest.RootSecret), open(t, url, key, secret), lives[who], false)
			elsewhere := open(t, srv.URL("fleet", "dev"), key, secret)
			_, err := elsewhere.Put(t.Context(), "reports/vm1/report.json", strings.NewReader("x"), bucket.Condition{})
			if !errors.Is(err, bucket.ErrPermission) {
				t.Errorf("put below another prefix: %v", err)
			}
		})
	}
}

// The policy for AWS differs in the variable that names the VM. Put in the
// VM's own name, it must hold on the same server.
func TestAWS(t *testing.T) {
	srv := buckettest.VersityIAM(t)
	srv.CreateBucket("fleet")
	u, err := url.Parse(srv.URL("fleet", "prod"))
	if err != nil {
		t.Fatal(err)
	}
	p := generate(t, policy.Config{Bucket: u.String(), Cloud: "aws"})
	key, secret := srv.User("role", strings.ReplaceAll(p.Text, "${aws:userid}", "vm1"))
	holds(t, open(t, u.String(), buckettest.RootKey, buckettest.RootSecret), open(t, u.String(), key, secret), lives[policy.VM], false)
}
