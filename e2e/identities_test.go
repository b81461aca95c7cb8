package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"mime"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/release"
)

// mainJob is the main job on one VM of the small project: its first boot,
// what the operator sees of it, and another release. Other tests wait for the
// timer; here its work is asked for at once. source is cloud-init's datasource,
// cloud its name for the cloud.
func (w *world) mainJob(t *testing.T, m *machine, source, cloud string) {
	t.Helper()
	page := func(word string) string { return "greeting: " + word + "\nto " + m.name + " on " + cloud }
	story(t, "the stock image provisions itself with the VM's identity", func(t *testing.T) {
		m.provisioned(t, source)
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), page("hello"))
		same(t, "timer", m.sh(t, "systemctl is-active bootwell.timer; systemctl is-enabled bootwell.timer"), "active\nenabled")
	})
	story(t, "the operator sees the VM", func(t *testing.T) {
		r := w.await(t, m.name, "r1 in order", inOrder("r1"))
		if r.Facts.Cloud != cloud || len(r.Warn) != 0 {
			t.Errorf("report: %s", brief(r))
		}
		if first := runOf(r, func(b release.RunBrief) bool { return b.Why == release.WhyFirst }); first == nil || first.Result != release.ResultChanged {
			t.Errorf("first run: %+v", first)
		}
		w.bootwell(t, "status", "--check")
		has(t, "log", w.bootwell(t, "logs", m.name), "greeting file")
	})
	story(t, "a second publish is taken at the next poll", func(t *testing.T) {
		w.edit("greeting: hello", "greeting: welcome")
		w.publish(t, "r2")
		if result, status := m.poll(t); result != "success" || status != "0" {
			t.Errorf("the service ended with %s, %s", result, status)
		}
		w.await(t, m.name, "r2 in order", inOrder("r2"))
		same(t, "file of the release", m.sh(t, "cat /etc/greeting"), page("welcome"))
		w.bootwell(t, "status", "--check")
	})
}

// noSecret holds that user-data is small and has none of these texts in it.
func noSecret(t *testing.T, data string, secrets ...string) {
	t.Helper()
	if len(data) > 4096 {
		t.Errorf("user-data has %d bytes", len(data))
	}
	for _, s := range secrets {
		if strings.Contains(data, s) {
			t.Errorf("user-data holds %q", s)
		}
	}
}

// refused uses a VM's identity from outside: what it may do is the bucket's
// decision, whatever runs on the VM.
func refused(t *testing.T, b bucket.Bucket, vm string) {
	t.Helper()
	put := func(key string) error {
		_, err := b.Put(t.Context(), key, strings.NewReader("{}"), bucket.Condition{})
		return err
	}
	for _, key := range []string{"reports/" + vm + "/probe", "logs/" + vm + "/probe"} {
		if err := put(key); err != nil {
			t.Errorf("it may not write what is its own: %v", err)
		}
	}
	for _, key := range []string{
		"tuf/metadata/timestamp.json", "tuf/metadata/2.root.json", "packs/x", "manifests/x", "agents/x", "locks/publish",
		"reports/another-vm/report.json", "reports/" + vm + "x/report.json", "logs/another-vm/0.zst", "report.json",
	} {
		if err := put(key); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("write %s: %v, want not allowed", key, err)
		}
	}
	if err := b.Delete(t.Context(), "tuf/metadata/timestamp.json"); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("delete: %v, want not allowed", err)
	}
	for o, err := range b.List(t.Context(), "", "") {
		if !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("list: %+v, %v, want not allowed", o, err)
		}
		break
	}
	if body, _, err := b.Get(t.Context(), "reports/"+vm+"/report.json", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) {
		t.Errorf("read a report: %v, want not allowed", err)
		if err == nil {
			body.Close()
		}
	}
}

// authorityFile is where a VM has the certificate of a private authority.
const authorityFile = "/etc/bootwell/ca.pem"

// withFile joins MIME user-data with a part that writes a file.
func withFile(t *testing.T, data, name, content string) []byte {
	t.Helper()
	header, _, _ := strings.Cut(data, "\n")
	_, params, err := mime.ParseMediaType(strings.TrimPrefix(header, "Content-Type: "))
	if err != nil {
		t.Fatalf("user-data begins with %q: %v", header, err)
	}
	delimiter := "\n--" + params["boundary"]
	head, ok := strings.CutSuffix(data, delimiter+"--\n")
	if !ok {
		t.Fatalf("user-data does not end with %q: %q", delimiter, data)
	}
	return []byte(head + delimiter + "\nContent-Type: text/cloud-config\n\n#cloud-config\nwrite_files:\n- path: " + name +
		"\n  permissions: '0600'\n  content: |\n    " + strings.ReplaceAll(strings.TrimSuffix(content, "\n"), "\n", "\n    ") + "\n" + delimiter + "--\n")
}

// sum is what sha256sum says of its standard input.
func sum(b []byte) string {
	digest := sha256.Sum256(b)
	return hex.EncodeToString(digest[:]) + "  -"
}

// TestAzure is the main job on Azure: custom data from the provisioning disk,
// a container that takes only tokens of the VM's managed identity and has a
// certificate of a private authority.
//
// What of Azure is not here: the emulator of the storage knows no roles, so
// what the identity may not do is not shown. QEMU's DHCP server has no option
// 245, so cloud-init takes the wire server's usual address. The provisioning
// disk is ISO 9660, not UDF. There is no Hyper-V, so cloud-init's telemetry
// goes nowhere, and no certificate in the goal state.
func TestAzure(t *testing.T) {
	w := newWorld(t)
	if err := w.net.AddAddress(metadata.WireServerAddress); err != nil {
		t.Fatal(err)
	}
	srv := buckettest.StartAzurite(t, buckettest.AzuriteConfig{Listen: storeAddr, OAuth: true, Client: w.net.Client(), Hook: w.enter})
	srv.CreateContainer(bucketName, "")
	w.env = append(w.env, "AZURE_STORAGE_KEY="+buckettest.AzureKey)
	w.project("small", srv.URL(bucketName, prefix))
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	custom := w.customData(srv)
	svc := azureService()
	w.serveMetadata(svc)
	if _, err := w.net.Serve(metadata.WireServerAddress+":80", svc.WireServer()); err != nil {
		t.Fatal(err)
	}
	m := w.boot(azureVM, lab.QEMU{Platform: lab.AzurePlatform(azureVM), CD: &lab.CD{Label: "rd_rdfe_stable", Files: svc.ProvisioningDisk(custom), Drive: true}})
	w.mainJob(t, m, "DataSourceAzure [seed=/dev/sr0]", "azure")
	t.Run("custom data was taken byte for byte, and Azure was told", func(t *testing.T) {
		same(t, "digest of the custom data on the VM", m.sh(t, "sha256sum </var/lib/cloud/instance/user-data.txt"), sum(custom))
		if h := svc.Health(); len(h) != 1 || h[0].State != "Ready" {
			t.Errorf("Azure heard %+v", h)
		}
	})
	t.Run("bootstrap and agent had tokens from the metadata service only", func(t *testing.T) {
		if n := svc.Count("GET", "/metadata/identity/oauth2/token", 200); n < 2 {
			t.Errorf("%d tokens were given; want the bootstrap's and the agent's", n)
		}
		if n := svc.Count("", "", 400); n != 0 {
			t.Errorf("%d requests were refused: %v", n, svc.Requests())
		}
		if r := m.code(t, "test ! -e /etc/bootwell/credentials"); r.Code != 0 {
			t.Error("there is a file of credentials")
		}
	})
}

const azureVM = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"

// azureUser is the identity that is assigned to the VM for its bucket; it has
// another besides.
var azureUser = metadata.Identity{ClientID: "11111111-0000-4000-8000-000000000002", ObjectID: "22222222-0000-4000-8000-000000000002", ResourceID: "/subscriptions/s/vm"}

// customData is user-data for the bucket as the VM reaches it, with the
// certificate that it is to trust.
func (w *world) customData(srv *buckettest.Azurite) []byte {
	w.t.Helper()
	u, err := url.Parse(w.bucket)
	if err != nil {
		w.t.Fatal(err)
	}
	u.RawQuery = url.Values{"endpoint": {srv.Endpoint()}, "ca": {authorityFile}, "client_id": {azureUser.ClientID}}.Encode()
	data := w.bootwell(w.t, "user-data", "node", "--bucket", u.String(), "--cloud", "azure", "--format", "mime")
	noSecret(w.t, data, buckettest.AzureKey, "Bearer ey")
	ca, err := os.ReadFile(srv.CA)
	if err != nil {
		w.t.Fatal(err)
	}
	return withFile(w.t, data, authorityFile, string(ca))
}

func azureService() *metadata.Service {
	svc := metadata.NewAzure(metadata.Machine{
		ID: azureVM, Region: "westeurope", Zone: "2", Hostname: "node-4", MAC: lab.DefaultMAC, IP: lab.DefaultIP, Type: "Standard_B1s", Account: "8d10da13-8125-4ba9-a717-bf7490507b3d",
	})
	svc.SetIdentities(func(id metadata.Identity, audience []string) (metadata.Token, error) {
		if id.ClientID != azureUser.ClientID {
			return metadata.Token{}, errors.New("this identity is not for storage")
		}
		ends := time.Now().Add(time.Hour)
		return metadata.Token{Value: buckettest.AzureToken(strings.TrimSuffix(audience[0], "/"), ends), Expires: ends}, nil
	}, metadata.Identity{ClientID: "11111111-0000-4000-8000-000000000003"}, azureUser)
	return svc
}

const gceVM = "5731628402198420531"

// gceRights are the VM's least rights. To overwrite takes the right to delete.
func gceRights() []buckettest.GCSGrant {
	read := []string{prefix + "/tuf/", prefix + "/packs/", prefix + "/manifests/", prefix + "/agents/"}
	write := []string{prefix + "/reports/" + gceVM + "/", prefix + "/logs/" + gceVM + "/"}
	return []buckettest.GCSGrant{
		{Permissions: []string{"storage.objects.get"}, Below: read},
		{Permissions: []string{"storage.objects.create", "storage.objects.delete"}, Below: write},
	}
}

// TestGCE is the main job on Google Compute Engine, with the VM's service
// account.
func TestGCE(t *testing.T) {
	w := newWorld(t)
	if err := w.net.ServeNames(map[string]string{metadata.GoogleHost: lab.MetadataAddress}); err != nil {
		t.Fatal(err)
	}
	l, err := w.net.Listen(storeAddr)
	if err != nil {
		t.Fatal(err)
	}
	srv := buckettest.StartGCS(t, buckettest.GCSConfig{Listener: l})
	srv.CreateBucket(bucketName)
	operator := srv.Token()
	w.env = append(w.env, "CLOUDSDK_AUTH_ACCESS_TOKEN="+operator, "BOOTWELL_TRUST_ENDPOINT="+serverIP)
	w.project("small", srv.URL(bucketName, prefix))
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	data := w.bootwell(t, "user-data", "node", "--cloud", "gcp")
	noSecret(t, data, operator, "ya29.")
	account := metadata.Identity{Email: "vm@acme-prod.iam.gserviceaccount.com", Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_write"}}
	svc := metadata.NewGCE(metadata.Machine{
		ID: gceVM, Region: "europe-west1", Zone: "europe-west1-b", Hostname: "node-5", MAC: lab.DefaultMAC, IP: lab.DefaultIP, Type: "e2-micro", Account: "acme-prod",
	})
	svc.SetUserData([]byte(data))
	svc.SetIdentities(func(metadata.Identity, []string) (metadata.Token, error) {
		return metadata.Token{Value: srv.Token(gceRights()...), Expires: time.Now().Add(time.Hour)}, nil
	}, account)
	w.serveMetadata(svc)
	m := w.boot(gceVM, lab.QEMU{Platform: lab.GCEPlatform("7c9e6679-7425-40de-944b-e07fc1f90ae7")})
	w.mainJob(t, m, "DataSourceGCE", "gce")
	t.Run("bootstrap and agent had tokens from the metadata service only", func(t *testing.T) {
		if n := svc.Count("GET", "/service-accounts/default/token", 200); n < 2 {
			t.Errorf("%d tokens were given; want the bootstrap's and the agent's", n)
		}
		if n := svc.Count("", "", 403); n != 0 {
			t.Errorf("%d requests were refused: %v", n, svc.Requests())
		}
	})
	t.Run("the VM's identity can do nothing but its part", func(t *testing.T) {
		b, err := gcs.Open(t.Context(), w.bucket, gcs.Options{Sources: []gcs.Source{gcs.Static(srv.Token(gceRights()...))}, Transport: w.net.Client().Transport})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, b, gceVM)
	})
}
