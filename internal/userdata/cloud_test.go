package userdata

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// metadataOf serves a cloud's metadata to machines.
func metadataOf(t testing.TB, s *metadata.Service) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

// bearer gives each identity the token of its client ID or e-mail.
func bearer(tokens map[string]string) metadata.TokenFunc {
	return func(id metadata.Identity, _ []string) (metadata.Token, error) {
		token, ok := tokens[id.ClientID+id.Email]
		if !ok {
			return metadata.Token{}, errors.New("this identity gets no token")
		}
		return metadata.Token{Value: token, Expires: time.Now().Add(time.Hour)}, nil
	}
}

// A boot is one first boot of a machine with one bucket.
type boot struct {
	bucket      string
	credentials string   // of /etc/bootwell/credentials
	env         []string // beside that of the machine
	want        []string // that is printed; nil: the agent is started
	secret      string   // that is not printed
}

// runBoots boots machines. put writes files to a machine before.
func runBoots(t *testing.T, object []byte, boots map[string]boot, put func(*machine)) {
	for name, b := range boots {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			if put != nil {
				put(m)
			}
			if b.credentials != "" {
				m.write("/etc/bootwell/credentials", "[default]\n"+b.credentials)
			}
			m.env = append(m.env, b.env...)
			c := configFor(b.bucket, object)
			out, code := m.run(generate(t, c))
			if b.want == nil {
				checkStarted(t, m, c, agentPath, out, code)
			} else {
				checkRefused(t, m, out, code, b.want...)
			}
			if b.secret != "" && strings.Contains(out, b.secret) {
				t.Error("a secret was printed")
			}
		})
	}
}

const userIdentity = "11111111-2222-3333-4444-555555555555"

// TestBootstrap_Azurite gets the agent from a real server, by each kind of
// credentials that it checks.
func TestBootstrap_Azurite(t *testing.T) {
	object := compress(t, testAgent)
	const audience = "https://storage.azure.com"
	server := buckettest.StartAzurite(t, buckettest.AzuriteConfig{OAuth: true})
	server.CreateContainer("fleet", "")
	hour := time.Now().Add(time.Hour)
	upload(t, server.Transport(), server.Endpoint()+"/fleet/pr%20od/agents/"+digestHex(object)+"?"+server.SAS("fleet", "cw", hour), object,
		http.Header{"X-Ms-Blob-Type": {"BlockBlob"}})
	good, expired := buckettest.AzureToken(audience, hour), buckettest.AzureToken(audience, time.Now().Add(-time.Hour))

	imds := metadata.NewAzure(metadata.Machine{ID: "vm"})
	imds.SetIdentities(bearer(map[string]string{"system": good, userIdentity: good, "late": expired}),
		metadata.Identity{System: true, ClientID: "system"}, metadata.Identity{ClientID: userIdentity}, metadata.Identity{ClientID: "late"})
	none := metadata.NewAzure(metadata.Machine{ID: "vm"})
	at := func(s *metadata.Service) []string {
		return []string{"AZURE_POD_IDENTITY_AUTHORITY_HOST=" + metadataOf(t, s).URL}
	}
	ca, err := os.ReadFile(server.CA)
	if err != nil {
		t.Fatal(err)
	}
	bucket := "az://" + buckettest.AzureAccount + "/fleet/pr%20od?ca=/etc/ssl/acme.pem&endpoint=" + server.Endpoint()
	sas := server.SAS("fleet", "r", hour)
	runBoots(t, object, map[string]boot{
		"identity of the VM":      {bucket: bucket, env: at(imds), secret: good},
		"identity of the user":    {bucket: bucket + "&client_id=" + userIdentity, env: at(imds)},
		"SAS of the file":         {bucket: bucket, credentials: "azure_storage_sas_token = ?" + sas + "\n", env: at(none), secret: "sig="},
		"SAS of the environment":  {bucket: bucket, env: []string{"AZURE_STORAGE_SAS_TOKEN=" + sas}},
		"shared key":              {bucket: bucket, credentials: "azure_storage_key = " + buckettest.AzureKey + "\n"},
		"no identity":             {bucket: bucket, env: at(none), want: []string{"FAILED: no credentials; managed identity: HTTP Error 400: Bad Request - Identity not found; check"}},
		"another identity":        {bucket: bucket + "&client_id=99999999-2222-3333-4444-555555555555", env: at(imds), want: []string{"managed identity: HTTP Error 400", "Identity not found"}},
		"expired token":           {bucket: bucket + "&client_id=late", env: at(imds), want: []string{"FAILED: HTTP Error 403", "AuthenticationFailed", "role Storage Blob Data Reader"}, secret: expired},
		"expired SAS":             {bucket: bucket, credentials: "azure_storage_sas_token = " + server.SAS("fleet", "r", time.Now().Add(-time.Minute)) + "\n", want: []string{"FAILED: HTTP Error 403", "AuthorizationFailure"}, secret: "sig="},
		"SAS with spaces":         {bucket: bucket, credentials: "azure_storage_sas_token = sv=1 sig=hunter2\n", want: []string{"FAILED: "}, secret: "hunter2"},
		"wrong key":               {bucket: bucket, credentials: "azure_storage_key = aHVudGVyMg==\n", want: []string{"FAILED: HTTP Error 4"}, secret: "aHVudGVyMg"},
		"wrong container":         {bucket: strings.Replace(bucket, "/fleet", "/fleets", 1), env: at(imds), want: []string{"FAILED: HTTP Error 404", "ContainerNotFound"}},
		"certificate not there":   {bucket: strings.Replace(bucket, "acme.pem", "none.pem", 1), env: at(imds), want: []string{"FAILED: [Errno 2] No such file or directory: '/etc/ssl/none.pem'"}},
		"certificate not trusted": {bucket: strings.Replace(bucket, "ca=/etc/ssl/acme.pem&", "", 1), env: at(imds), want: []string{"FAILED: <urlopen error [SSL: CERTIFICATE_VERIFY_FAILED]"}},
	}, func(m *machine) { m.write("/etc/ssl/acme.pem", string(ca)) })
}

// upload puts an object to where it is read from.
func upload(t testing.TB, transport http.RoundTripper, url string, object []byte, header http.Header) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, url, strings.NewReader(string(object)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	reply, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusCreated {
		t.Fatalf("upload: %s", reply.Status)
	}
}

// TestBootstrap_GCS gets the agent from a real server behind a layer that
// checks tokens.
func TestBootstrap_GCS(t *testing.T) {
	object := compress(t, testAgent)
	server := buckettest.StartGCS(t, buckettest.GCSConfig{})
	server.CreateBucket("acme")
	uploadGCS(t, server, "pr od/agents/"+digestHex(object), object)
	read := buckettest.GCSGrant{Permissions: []string{"storage.objects.get"}, Below: []string{"pr od/agents/"}}
	list := buckettest.GCSGrant{Permissions: []string{"storage.objects.list"}}
	imds := func(token string) []string {
		s := metadata.NewGCE(metadata.Machine{ID: "1"})
		if token != "" {
			s.SetIdentities(bearer(map[string]string{"vm@acme": token}), metadata.Identity{Email: "vm@acme", Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_only"}})
		}
		return []string{"GCE_METADATA_HOST=" + strings.TrimPrefix(metadataOf(t, s).URL, "http://")}
	}
	key, err := os.ReadFile(server.ServiceAccount(read))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(key), `"client_email"`, `"client_email": "nobody@acme", "x"`, 1)
	good := server.Token(read)
	bucket := "gs://acme/pr%20od?endpoint=" + server.Endpoint()
	file := "google_application_credentials = /etc/key.json\n"
	runBoots(t, object, map[string]boot{
		"service account":    {bucket: bucket, env: imds(good), secret: good},
		"key of the file":    {bucket: bucket, credentials: file, env: imds("")},
		"key of environment": {bucket: bucket, env: []string{"GOOGLE_APPLICATION_CREDENTIALS=/etc/key.json"}},
		"no service account": {bucket: bucket, env: imds(""), want: []string{"FAILED: no credentials; service account: HTTP Error 404"}},
		"wrong scope":        {bucket: bucket, env: imds(server.Token(list)), want: []string{"FAILED: HTTP Error 403: Forbidden", "scope of the service account"}},
		"expired token":      {bucket: bucket, env: imds(server.ExpiredToken()), want: []string{"FAILED: HTTP Error 401"}},
		"wrong folder":       {bucket: strings.Replace(bucket, "od", "odd", 1), env: imds(good), want: []string{"FAILED: HTTP Error 403"}},
		"another account":    {bucket: bucket, credentials: "google_application_credentials = /etc/other.json\n", want: []string{"FAILED: HTTP Error 400: Bad Request - Invalid grant: account not found"}},
		"no key file":        {bucket: bucket, credentials: "google_application_credentials = /etc/none.json\n", want: []string{"FAILED: [Errno 2] No such file or directory: '/etc/none.json'"}},
	}, func(m *machine) {
		m.write("/etc/key.json", string(key))
		m.write("/etc/other.json", other)
	})
	server.SetPublic("acme", true)
	runBoots(t, object, map[string]boot{"public": {bucket: bucket + "&anonymous=true"}}, nil)
	t.Run("no openssl", func(t *testing.T) {
		m := newMachine(t)
		m.write("/etc/key.json", string(key))
		m.write("/etc/bootwell/credentials", "[default]\n"+file)
		m.write("/opt/bin/python3", "#!/bin/sh\nPATH=/nowhere exec /usr/bin/python3 \"$@\"\n")
		m.env = []string{"PATH=/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		out, code := m.run(generate(t, configFor(bucket, object)))
		checkRefused(t, m, out, code, "FAILED: a key file needs openssl, which is missing")
	})
}

func uploadGCS(t testing.TB, server *buckettest.GCS, name string, object []byte) {
	t.Helper()
	target := server.Endpoint() + "/upload/storage/v1/b/acme/o?uploadType=media&name=" + strings.NewReplacer("/", "%2F", " ", "%20").Replace(name)
	r, err := http.NewRequest(http.MethodPost, target, strings.NewReader(string(object)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+server.Token())
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Fatalf("upload: %s", reply.Status)
	}
}

// TestBootstrap_Swift gets the agent from the real Swift and Keystone.
func TestBootstrap_Swift(t *testing.T) {
	object := compress(t, testAgent)
	server := buckettest.StartSwift(t, buckettest.SwiftConfig{})
	server.CreateContainer("fleet")
	server.SetTempURLKey(tempKey)
	id, secret := server.AppCredential("vm", server.VMRules("fleet", "prod", "vm")...)
	target, expires := server.StorageURL()+"/fleet/prod/agents/"+digestHex(object), fmt.Sprint(time.Now().Add(time.Hour).Unix())
	upload(t, nil, target+"?temp_url_expires="+expires+"&temp_url_sig="+tempSignature(t, http.MethodPut, expires, "", target), object, http.Header{})

	openstack := func(static, dynamic any) []string {
		s := metadata.NewOpenStack(metadata.Machine{ID: "vm"})
		s.SetVendorData(asJSON(t, static), asJSON(t, dynamic))
		return []string{"OPENSTACK_METADATA_URL=" + metadataOf(t, s).URL}
	}
	values := map[string]any{"os_auth_url": server.AuthURL(), "os_application_credential_id": id, "os_application_credential_secret": secret}
	empty := map[string]any{}
	nested := map[string]any{"acme": map[string]any{"bootwell": values}, "static": []string{"x"}}
	file := "os_application_credential_id = " + id + "\nos_application_credential_secret = "
	bucket, temp := server.URL("fleet", "prod"), server.TempURL("fleet", "prod")
	runBoots(t, object, map[string]boot{
		"file":                {bucket: bucket, credentials: file + secret + "\n", secret: secret},
		"auth of the file":    {bucket: "swift://fleet/prod", credentials: file + secret + "\nos_auth_url = " + strings.TrimSuffix(server.AuthURL(), "/v3") + "/\n"},
		"vendor data":         {bucket: "swift://fleet/prod", env: openstack(map[string]any{"bootwell": values}, empty), secret: secret},
		"vendor data, nested": {bucket: bucket, env: openstack(empty, nested)},
		"no vendor data":      {bucket: bucket, env: openstack(empty, empty), want: []string{"FAILED: no credentials; bootwell in vendor data: absent; check"}},
		"no metadata service": {bucket: bucket, want: []string{"FAILED: no credentials; bootwell in vendor data: <urlopen error"}},
		"wrong secret":        {bucket: bucket, credentials: file + "hunter2\n", want: []string{"FAILED: HTTP Error 401", "application credential", "asking " + server.AuthURL() + "/auth/tokens"}, secret: "hunter2"},
		"wrong folder":        {bucket: server.URL("fleet", "other"), credentials: file + secret + "\n", want: []string{"FAILED: HTTP Error 401"}},
		"temporary URL":       {bucket: temp, credentials: "swift_temp_url_key = " + tempKey + "\n"},
		"temporary URL, ready": {bucket: temp, credentials: "swift_temp_url_prefix = prod/\nswift_temp_url_expires = " + expires + "\nswift_temp_url_sig = " +
			tempSignature(t, http.MethodGet, expires, "prefix:", server.StorageURL()+"/fleet/prod/") + "\n"},
		"temporary URL, vendor":    {bucket: temp, env: openstack(map[string]any{"bootwell": map[string]any{"swift_temp_url_key": tempKey}}, empty)},
		"temporary URL, no key":    {bucket: temp, env: openstack(empty, empty), want: []string{"FAILED: no credentials; bootwell in vendor data: absent"}},
		"temporary URL, wrong key": {bucket: temp, credentials: "swift_temp_url_key = hunter2\n", want: []string{"FAILED: HTTP Error 401", "temp URL key"}, secret: "temp_url_sig"},
	}, nil)
}

// tempKey is the account's key for temporary URLs.
const tempKey = "temp+key/="

// tempSignature signs as
// https://docs.openstack.org/swift/latest/api/temporary_url_middleware.html
// says.
func tempSignature(t testing.TB, method, expires, kind, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte(tempKey))
	fmt.Fprintf(mac, "%s\n%s\n%s%s", method, expires, kind, u.Path)
	return hex.EncodeToString(mac.Sum(nil))
}

func readJSON(t testing.TB, r io.Reader, v any) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(v); err != nil {
		t.Error(err)
	}
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
