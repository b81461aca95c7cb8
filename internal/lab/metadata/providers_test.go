package metadata_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// The providers of buckets find the VM's identity at the same services as the
// clouds' own clients, with no setting.

// storeAddr has a store that gives one object to those whose credentials are
// good now. The providers' own tests hold against real stores; this one is
// about which credentials are used when.
const storeAddr = storeIP + ":9000"

// gate answers what may be read, and counts refusals.
type gate struct {
	credential func(*http.Request) string // the name in a request's credentials
	mint       *mint
	refuse     func(http.ResponseWriter)
}

func (g gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.mint.accepts(g.credential(r)) {
		g.refuse(w)
		return
	}
	w.Header().Set("ETag", `"1"`)
	w.Header().Set("X-Goog-Generation", "1")
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	_, _ = io.WriteString(w, "content")
}

// throughProxy is an environment whose proxy nobody may use: the metadata
// service is asked directly, whatever the environment says, and the store is
// excepted.
var throughProxy = []string{"HTTP_PROXY=http://192.0.2.99:3128", "http_proxy=http://192.0.2.99:3128", "NO_PROXY=" + storeIP, "no_proxy=" + storeIP}

// readsOn reads the object until the first credentials have ended, and again.
func readsOn(t *testing.T, b bucket.Bucket) {
	t.Helper()
	for _, pause := range []time.Duration{0, soon + time.Second/2} {
		time.Sleep(pause)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		body, _, err := b.Get(ctx, "object", bucket.GetOptions{})
		if err != nil {
			t.Errorf("after another %s: %v", pause, err)
			cancel()
			continue
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != "content" {
			t.Errorf("after another %s: %q, %v", pause, got, err)
		}
		body.Close()
		cancel()
	}
}

func TestAmazonRoleInTheS3Provider(t *testing.T) {
	const url = "s3://fleet?region=eu-west-1&endpoint=http://" + storeAddr
	if inside(t) {
		b, err := s3.Open(t.Context(), url, s3.Options{Sources: s3.VMSources("/nonexistent")})
		if err != nil {
			t.Fatal(err)
		}
		readsOn(t, b)
		return
	}
	t.Parallel()
	m := &mint{life: soon}
	n := newNetwork(t)
	s := ec2Service(m)
	serveAt(t, n, lab.MetadataAddress+":80", s)
	serveAt(t, n, storeAddr, gate{mint: m, credential: func(r *http.Request) string {
		name := r.Header.Get("X-Amz-Security-Token")
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKID-"+name+"/") {
			return ""
		}
		return name
	}, refuse: refuseWith(http.StatusBadRequest, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")})
	again(t, n, throughProxy...)
	if m.count() < 2 {
		t.Errorf("the credentials did not end in the middle: %d were made", m.count())
	}
	if s.Count("", "", 401) != 0 {
		t.Errorf("requests without a session token: %v", s.Requests())
	}
}

// storeTLS is for those who send tokens encrypted only. It is the address for
// which httptest has a certificate.
const storeTLS = "127.0.0.1:9443"

// bearer is the token in a request.
func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// refuseWith is a refusal as a cloud has it.
func refuseWith(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestManagedIdentityInTheAzureProvider(t *testing.T) {
	const url = "az://devstoreaccount1/fleet?endpoint=https://" + storeTLS + "/devstoreaccount1&ca="
	if inside(t) {
		open := func(client string) bucket.Bucket {
			b, err := azblob.Open(t.Context(), url+os.Getenv("CA")+client, azblob.Options{Sources: azblob.VMSources("/nonexistent")})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if body, _, err := open("&client_id="+azureUser.ClientID).Get(t.Context(), "object", bucket.GetOptions{}); err != nil {
			t.Errorf("with the assigned identity: %v", err)
		} else {
			body.Close()
		}
		readsOn(t, open(""))
		if _, _, err := open("&client_id=of-another-vm").Get(t.Context(), "object", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "Identity not found") {
			t.Errorf("with an identity of another VM: %v", err)
		}
		return
	}
	t.Parallel()
	m := &mint{life: soon}
	n := newNetwork(t)
	serveAt(t, n, lab.MetadataAddress+":80", azureService(m))
	used := &sets{}
	ca := serveTLS(t, n, gate{mint: m, credential: func(r *http.Request) string {
		word := strings.Split(bearer(r), "|") // whose, for what, its name
		if len(word) != 3 || word[1] != "https://storage.azure.com/" {
			return ""
		}
		used.add(word[0])
		return word[2]
	}, refuse: func(w http.ResponseWriter) {
		w.Header().Set("X-Ms-Error-Code", "InvalidAuthenticationInfo")
		refuseWith(http.StatusUnauthorized, "<Error><Code>InvalidAuthenticationInfo</Code></Error>")(w)
	}})
	again(t, n, append(throughProxy, "CA="+ca)...)
	if m.count() < 2 {
		t.Errorf("the tokens did not end in the middle: %d were made", m.count())
	}
	if !used.has(azureSystem.ClientID) || !used.has(azureUser.ClientID) {
		t.Errorf("the store saw the identities %v, want both", used)
	}
}

func TestServiceAccountInTheGoogleProvider(t *testing.T) {
	const url = "gs://fleet?endpoint=http://" + storeAddr
	if inside(t) {
		b, err := gcs.Open(t.Context(), url, gcs.Options{Sources: gcs.VMSources("/nonexistent")})
		if err != nil {
			t.Fatal(err)
		}
		readsOn(t, b)
		return
	}
	t.Parallel()
	m := &mint{life: soon}
	n := newNetwork(t)
	serveAt(t, n, lab.MetadataAddress+":80", gceService(m))
	serveAt(t, n, storeAddr, gate{mint: m, credential: bearer, refuse: refuseWith(http.StatusUnauthorized, "Invalid Credentials")})
	again(t, n, throughProxy...)
	if m.count() < 2 {
		t.Errorf("the tokens did not end in the middle: %d were made", m.count())
	}
}

// Keystone's tokens end, too; what the vendor data gives does not.
func TestVendorDataInTheSwiftProvider(t *testing.T) {
	const url = "swift://fleet?region=R1&auth=http://" + storeAddr
	if inside(t) {
		b, err := swift.Open(t.Context(), url, swift.Options{Sources: swift.VMSources("/nonexistent")})
		if err != nil {
			t.Fatal(err)
		}
		readsOn(t, b)
		return
	}
	t.Parallel()
	m := &mint{life: soon}
	n := newNetwork(t)
	s := metadata.NewOpenStack(metadata.Machine{ID: "83679162-1378-4288-a2d4-70e13ec132aa", Hostname: "node-1"})
	s.SetVendorData(nil, []byte(`{"static":{},"fleet":{"bootwell":{"os_application_credential_id":"app","os_application_credential_secret":"app-secret"}}}`))
	serveAt(t, n, lab.MetadataAddress+":80", s)
	store := gate{mint: m, credential: func(r *http.Request) string { return r.Header.Get("X-Auth-Token") }, refuse: refuseWith(http.StatusUnauthorized, "Unauthorized")}
	mux := http.NewServeMux()
	mux.Handle("/v1/AUTH_x/fleet/object", store)
	mux.HandleFunc("POST /v3/auth/tokens", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(body), `"app"`) || !strings.Contains(string(body), `"app-secret"`) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		now := time.Now()
		name, expires := m.get(now)
		w.Header().Set("X-Subject-Token", name)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token":{"issued_at":%q,"expires_at":%q,"catalog":[{"type":"object-store","endpoints":[{"interface":"public","region":"R1","url":"http://%s/v1/AUTH_x"}]}]}}`,
			now.UTC().Format(time.RFC3339), expires.UTC().Format(time.RFC3339), storeAddr)
	})
	serveAt(t, n, storeAddr, mux)
	again(t, n, throughProxy...)
	if m.count() < 2 {
		t.Errorf("the tokens did not end in the middle: %d were made", m.count())
	}
	if s.Count("GET", "/openstack/latest/vendor_data2.json", 200) == 0 {
		t.Errorf("requests: %v", s.Requests())
	}
}

// A VM without an identity is told so in the service's words.
func TestNoIdentity(t *testing.T) {
	if inside(t) {
		noIdentity(t)
		return
	}
	t.Parallel()
	n := newNetwork(t)
	vm := ec2VM
	vm.Role = ""
	clouds := http.NewServeMux()
	clouds.Handle("/latest/", metadata.NewEC2(vm))
	clouds.Handle("/metadata/", metadata.NewAzure(azureVM))
	clouds.Handle("/computeMetadata/", metadata.NewGCE(gceVM))
	clouds.Handle("/openstack/", metadata.NewOpenStack(vm))
	serveAt(t, n, lab.MetadataAddress+":80", clouds)
	again(t, n)
}

func noIdentity(t *testing.T) {
	const file = "/nonexistent"
	for _, c := range []struct {
		name, want string
		open       func(context.Context) (bucket.Bucket, error)
	}{
		{"s3", "status 404", func(ctx context.Context) (bucket.Bucket, error) {
			return s3.Open(ctx, "s3://fleet?region=eu-west-1&endpoint=http://"+storeAddr, s3.Options{Sources: s3.VMSources(file)})
		}},
		{"az", "Identity not found", func(ctx context.Context) (bucket.Bucket, error) {
			return azblob.Open(ctx, "az://devstoreaccount1/fleet?endpoint=https://"+storeTLS+"/devstoreaccount1", azblob.Options{Sources: azblob.VMSources(file)})
		}},
		{"gs", "no service account", func(ctx context.Context) (bucket.Bucket, error) {
			return gcs.Open(ctx, "gs://fleet?endpoint=http://"+storeAddr, gcs.Options{Sources: gcs.VMSources(file)})
		}},
		{"swift", "no \"bootwell\"", func(ctx context.Context) (bucket.Bucket, error) {
			return swift.Open(ctx, "swift://fleet?auth=http://"+storeAddr, swift.Options{Sources: swift.VMSources(file)})
		}},
	} {
		b, err := c.open(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, _, err := b.Get(t.Context(), "object", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want not allowed, with %q", c.name, err, c.want)
		}
	}
}

// serveTLS serves h at storeTLS and returns the file of its authority.
func serveTLS(t *testing.T, n *lab.Network, h http.Handler) string {
	t.Helper()
	l, err := n.Listen(storeTLS)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.StartTLS()
	t.Cleanup(srv.Close)
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// sets is a set of names.
type sets struct {
	mu    sync.Mutex
	names []string
}

func (s *sets) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
}

func (s *sets) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}
