package policy_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/policy"
)

var (
	permissions = regexp.MustCompile(`--permissions=(\S+)`)
	condition   = regexp.MustCompile(`resource\.name\.startsWith\("projects/_/buckets/([^/"]+)/objects/([^"]*)"\)`)
)

// grantsOf reads the rights that a printed script gives, as Google would have
// them: each role with the condition of its binding.
func grantsOf(t *testing.T, script, name string) (grants []buckettest.GCSGrant) {
	t.Helper()
	for part := range strings.SplitSeq(script, "gcloud iam roles create ") {
		role := permissions.FindStringSubmatch(part)
		if role == nil {
			continue
		}
		g := buckettest.GCSGrant{Permissions: strings.Split(role[1], ",")}
		for _, c := range condition.FindAllStringSubmatch(part, -1) {
			if c[1] != name {
				t.Errorf("a condition on bucket %q", c[1])
			}
			g.Below = append(g.Below, c[2])
		}
		if !strings.Contains(part, "--condition=None") && g.Below == nil {
			t.Errorf("a binding without a condition: %s", part)
		}
		grants = append(grants, g)
	}
	if len(grants) == 0 {
		t.Fatalf("no role in %s", script)
	}
	return grants
}

func TestGoogleCloud(t *testing.T) {
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{})
	srv.CreateBucket("fleet")
	for _, who := range policy.Audiences() {
		t.Run(string(who), func(t *testing.T) {
			url := srv.URL("fleet", "prod-"+string(who))
			p := generate(t, policy.Config{Bucket: url, For: who, VM: map[policy.Audience]string{policy.VM: "vm1"}[who]})
			open := func(token string) bucket.Bucket {
				b, err := gcs.Open(t.Context(), url, gcs.Options{Sources: []gcs.Source{gcs.Static(token)}})
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			r := lives[who]
			if who != policy.Collector {
				r.remove = r.put // Google takes overwriting for deleting
			}
			holds(t, open(srv.Token()), open(srv.Token(grantsOf(t, p.Text, "fleet")...)), r, true)
		})
	}
}

func TestOpenStack(t *testing.T) {
	srv := buckettest.StartSwift(t, buckettest.SwiftConfig{})
	srv.CreateContainer("fleet")
	for _, who := range policy.Audiences() {
		t.Run(string(who), func(t *testing.T) {
			url := srv.URL("fleet", "prod-"+string(who))
			p := generate(t, policy.Config{Bucket: url, For: who, VM: map[policy.Audience]string{policy.VM: "vm1"}[who]})
			var rules []buckettest.AccessRule
			if err := json.Unmarshal([]byte(p.Text), &rules); err != nil {
				t.Fatal(err)
			}
			open := func(rules ...buckettest.AccessRule) bucket.Bucket {
				id, secret := srv.AppCredential(t.Name()+time.Now().String(), rules...)
				b, err := swift.Open(t.Context(), url, swift.Options{Sources: []swift.Source{swift.Values("test", map[string]string{
					"os_auth_url": srv.AuthURL(), "os_application_credential_id": id, "os_application_credential_secret": secret,
				})}})
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			holds(t, open(), open(rules...), lives[who], true)
		})
	}
}

// On MinIO a session can be given the policy; its keys are temporary.
func TestMinIO(t *testing.T) {
	srv := buckettest.StartMinIO(t, buckettest.ServerConfig{})
	srv.CreateBucket("fleet")
	for _, who := range policy.Audiences() {
		t.Run(string(who), func(t *testing.T) {
			url := srv.URL("fleet", "prod-"+string(who))
			p := generate(t, policy.Config{Bucket: url, For: who, VM: map[policy.Audience]string{policy.VM: "vm1"}[who]})
			open := func(text string) bucket.Bucket {
				key, secret, token := srv.AssumeRole(text)
				b, err := s3.Open(t.Context(), url, s3.Options{Sources: []s3.Source{s3.Static(key, secret, token)}})
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			holds(t, open(""), open(p.Text), lives[who], false)
		})
	}
}

// The SAS that the notes for Azure name reads, and does nothing else.
func TestAzureSAS(t *testing.T) {
	p := generate(t, policy.Config{Bucket: "az://" + buckettest.AzureAccount + "/fleet"})
	rights := regexp.MustCompile(`--permissions (\w+)`).FindStringSubmatch(strings.Join(p.Notes, "\n"))
	if rights == nil {
		t.Fatalf("no SAS in %q", p.Notes)
	}
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{})
	srv.CreateContainer("fleet", "")
	open := func(s azblob.Source) bucket.Bucket {
		b, err := azblob.Open(t.Context(), srv.URL("fleet", "prod"), azblob.Options{Sources: []azblob.Source{s}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	all := "tuf/ packs/ manifests/ agents/ locks/ reports/ logs/ other"
	holds(t, open(azblob.SharedKey(buckettest.AzureKey)), open(azblob.SAS(srv.SAS("fleet", rights[1], time.Now().Add(time.Hour)))), right{get: all}, false)
}
