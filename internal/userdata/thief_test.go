package userdata

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// A thief is a server to which another one redirects. It serves the object, so
// that nothing but the headers tells what it was given.
type thief struct {
	*site
	mu     sync.Mutex
	stolen []string // headers that are secret, and queries
}

func newThief(t *testing.T, object []byte) *thief {
	s := &thief{}
	s.site = newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.URL.RawQuery != "" {
			s.stolen = append(s.stolen, r.URL.RawQuery)
		}
		for name, values := range r.Header {
			switch name {
			case "Authorization", "X-Auth-Token", "X-Amz-Security-Token", "X-Aws-Ec2-Metadata-Token", "Metadata", "Metadata-Flavor":
				s.stolen = append(s.stolen, name+": "+strings.Join(values, " "))
			}
		}
		_, _ = w.Write(object)
	})
	return s
}

// to redirects a request to the thief.
func (s *thief) to(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, s.URL+r.URL.Path, http.StatusFound)
}

// TestBootstrap_Redirect has each cloud's bucket send a machine on to a server
// that is not the bucket's. What proves who the machine is must not go there.
func TestBootstrap_Redirect(t *testing.T) {
	object := compress(t, testAgent)
	azure, google := metadata.NewAzure(metadata.Machine{}), metadata.NewGCE(metadata.Machine{})
	azure.SetIdentities(bearer(map[string]string{"": "token"}), metadata.Identity{System: true})
	google.SetIdentities(bearer(map[string]string{"vm": "token"}), metadata.Identity{Email: "vm"})
	azureHost, googleHost := metadataOf(t, azure).URL, strings.TrimPrefix(metadataOf(t, google).URL, "http://")
	keystone := "os_application_credential_id = id\nos_application_credential_secret = se\"cret\\\n"
	for name, test := range map[string]struct {
		bucket, credentials string // @ is the bucket's address
		env                 []string
	}{
		"az":      {bucket: "az://acme/fleet?endpoint=@", env: []string{"AZURE_POD_IDENTITY_AUTHORITY_HOST=" + azureHost}},
		"az, key": {bucket: "az://acme/fleet?endpoint=@", credentials: "azure_storage_key = a2V5\n"},
		"az, SAS": {bucket: "az://acme/fleet?endpoint=@", credentials: "azure_storage_sas_token = sig=s\n"},
		"gs":      {bucket: "gs://acme/fleet?endpoint=@", env: []string{"GCE_METADATA_HOST=" + googleHost}},
		"s3": {bucket: "s3://acme/fleet?endpoint=@", env: []string{
			"AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + newMetadataService(t, 0).URL}},
		"swift":    {bucket: "swift://fleet/prod?auth=@", credentials: keystone},
		"temp URL": {bucket: "swift://fleet/prod?storage=@/v1/AUTH_a", credentials: "swift_temp_url_key = key\n"},
	} {
		t.Run(name, func(t *testing.T) {
			thief := newThief(t, object)
			var bucket *site
			bucket = newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v3/auth/tokens" {
					w.Header().Set("X-Subject-Token", "token")
					_, _ = w.Write([]byte(`{"token":{"catalog":[{"type":"object-store","endpoints":[{"interface":"public","region":"R1","url":"` + bucket.URL + `/v1/AUTH_a"}]}]}}`))
					return
				}
				thief.to(w, r)
			})
			m := newMachine(t)
			m.env = test.env
			m.write("/etc/bootwell/credentials", "[default]\n"+test.credentials)
			m.run(generate(t, configFor(strings.ReplaceAll(test.bucket, "@", bucket.URL), object)))
			if bucket.count() == 0 {
				t.Error("the bucket was not asked")
			}
			if len(thief.stolen) > 0 {
				t.Errorf("the thief got %q", thief.stolen)
			}
		})
	}
}

// TestBootstrap_RedirectMetadata has each metadata service send a machine on.
// It must ask nobody else, and use the credentials that are stored.
func TestBootstrap_RedirectMetadata(t *testing.T) {
	object := compress(t, testAgent)
	for name, test := range map[string]struct{ bucket, env, credentials string }{
		"az":    {"az://acme/fleet?endpoint=@", "AZURE_POD_IDENTITY_AUTHORITY_HOST=@", "azure_storage_key = a2V5\n"},
		"gs":    {"gs://acme/fleet?endpoint=@", "GCE_METADATA_HOST=@", "google_application_credentials = /etc/key.json\n"},
		"s3":    {"s3://acme/fleet?endpoint=@", "AWS_EC2_METADATA_SERVICE_ENDPOINT=@", "aws_access_key_id = KEY\naws_secret_access_key = secret\n"},
		"swift": {"swift://fleet?storage=@/v1/AUTH_a", "OPENSTACK_METADATA_URL=@", ""},
	} {
		t.Run(name, func(t *testing.T) {
			thief := newThief(t, []byte(`{"bootwell":{"swift_temp_url_key":"key"}}`))
			imds := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					_, _ = w.Write([]byte("session"))
					return
				}
				thief.to(w, r)
			})
			store := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = w.Write([]byte(`{"access_token":"token"}`))
					return
				}
				_, _ = w.Write(object)
			})
			host := imds.URL
			if name == "gs" {
				host = strings.TrimPrefix(host, "http://")
			}
			m := newMachine(t)
			m.env = []string{"AWS_EC2_METADATA_DISABLED=", strings.ReplaceAll(test.env, "@", host)}
			m.write("/etc/key.json", serviceAccountKey(t, store.URL+"/token"))
			m.write("/etc/bootwell/credentials", "[default]\n"+test.credentials)
			c := configFor(strings.ReplaceAll(test.bucket, "@", store.URL), object)
			out, code := m.run(generate(t, c))
			if test.credentials != "" {
				checkStarted(t, m, c, agentPath, out, code)
			} else {
				checkRefused(t, m, out, code, "bootwell in vendor data: HTTP Error 302")
			}
			if imds.count() == 0 || thief.count() > 0 {
				t.Errorf("%d requests to the metadata service; %d to the thief, with %q", imds.count(), thief.count(), thief.stolen)
			}
		})
	}
}
