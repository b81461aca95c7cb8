package e2e

import (
	"encoding/json"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/swift"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// keystoneAddr is where Keystone is in the lab's network.
const keystoneAddr = serverIP + ":5000"

// TestOpenStackSwift is the main job on OpenStack alone: user-data and vendor
// data from the config drive, with no metadata service; the container is in
// Swift, and the cloud's vendor data gives the VM an application credential
// whose access rules are its least rights.
func TestOpenStackSwift(t *testing.T) {
	w := newWorld(t)
	srv := buckettest.StartSwift(t, buckettest.SwiftConfig{Listen: storeAddr, Keystone: keystoneAddr, Client: w.net.Client(), Hook: w.enter})
	srv.CreateContainer(bucketName)
	id, secret := srv.AppCredential("publisher")
	w.env = append(w.env, "OS_APPLICATION_CREDENTIAL_ID="+id, "OS_APPLICATION_CREDENTIAL_SECRET="+secret, "OS_AUTH_URL="+srv.AuthURL())
	vmID, vmKey := srv.AppCredential(server, srv.VMRules(bucketName, prefix, server)...)
	w.project("small", srv.URL(bucketName, prefix))
	w.bootwell(t, "init", "--no-passphrase")
	w.publish(t, "r1")
	data := w.bootwell(t, "user-data", "node", "--cloud", "openstack")
	noSecret(t, data, secret, vmID, vmKey)
	svc := metadata.NewOpenStack(metadata.Machine{
		ID: server, Region: "region-one", Zone: "nova", Hostname: "node-6", MAC: lab.DefaultMAC, IP: lab.DefaultIP, Type: "m1.small", Account: "0123456789abcdef0123456789abcdef",
	})
	credential := map[string]string{"os_application_credential_id": vmID, "os_application_credential_secret": vmKey}
	vendor, err := json.Marshal(map[string]any{"static": map[string]any{}, "fleet": map[string]any{"bootwell": credential}})
	if err != nil {
		t.Fatal(err)
	}
	svc.SetUserData([]byte(data))
	svc.SetVendorData(nil, vendor)
	m := w.boot(server, lab.QEMU{Platform: lab.OpenStackPlatform(server), CD: &lab.CD{Label: "config-2", Files: svc.ConfigDrive()}})
	w.mainJob(t, m, "DataSourceConfigDrive", "openstack")
	t.Run("nothing was told to the disk but by the cloud", func(t *testing.T) {
		if r := m.code(t, "test ! -e /etc/bootwell/credentials"); r.Code != 0 {
			t.Error("there is a file of credentials")
		}
		same(t, "files of bootwell's with the secret", m.sh(t, "grep -rl -e "+vmKey+" /etc /var/lib/bootwell /run/bootwell /var/log/cloud-init-output.log || true"), "")
	})
	t.Run("the VM's identity can do nothing but its part", func(t *testing.T) {
		own := swift.Values("vendor data", credential)
		b, err := swift.Open(t.Context(), w.bucket, swift.Options{Sources: []swift.Source{own}, Transport: w.net.Client().Transport})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, b, server)
	})
}
