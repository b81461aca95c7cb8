package sdkauth

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestForeignEndpoint has a project name a server of a stranger's.
func TestForeignEndpoint(t *testing.T) {
	google := func(u string) error { _, err := Google(u); return err }
	azure := func(u string) error { _, err := Azure(u); return err }
	openstack := func(u string) error { _, err := OpenStack(u); return err }
	login := map[string]string{"OS_AUTH_URL": "https://ks.acme/v3", "OS_USERNAME": "me", "OS_PASSWORD": "hunter2"}
	with := func(more ...string) map[string]string {
		env := map[string]string{}
		for k, v := range login {
			env[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	for _, c := range []struct {
		name   string
		open   func(string) error
		url    string // with its options after the question mark not yet encoded
		option string
		value  string
		env    map[string]string
		want   string // in the error; "": there is none
	}{
		{"Google", google, "gs://bkt", "", "", nil, ""},
		{"Google, another name", google, "gs://bkt", "endpoint", "https://storage.europe-west3.rep.googleapis.com", nil, ""},
		{"Google, loopback", google, "gs://bkt", "endpoint", "http://127.0.0.1:4443", nil, ""},
		{"Google, stranger", google, "gs://bkt", "endpoint", "https://evil.example", nil, "a Google token would go to https://evil.example"},
		{"Google, like Google", google, "gs://bkt", "endpoint", "https://storage.googleapis.com.evil.example", nil, "is not Google's"},
		{"Google, ends like it", google, "gs://bkt", "endpoint", "https://evilgoogleapis.com", nil, "is not Google's"},
		{"Google, in the clear", google, "gs://bkt", "endpoint", "http://storage.googleapis.com", nil, "is not Google's"},
		{"Google, loopback's like", google, "gs://bkt", "endpoint", "https://127.0.0.1.evil.example", nil, "BOOTWELL_TRUST_ENDPOINT=127.0.0.1.evil.example"},
		{"Google, no token", google, "gs://bkt?anonymous=true", "endpoint", "https://evil.example", nil, ""},
		{"Google, trusted", google, "gs://bkt", "endpoint", "https://gcs.acme:4443", map[string]string{TrustVariable: "other, GCS.acme"}, ""},
		{"Google, trusted port", google, "gs://bkt", "endpoint", "https://gcs.acme:4443", map[string]string{TrustVariable: "gcs.acme:4443"}, ""},
		{"Google, other port", google, "gs://bkt", "endpoint", "https://gcs.acme:4444", map[string]string{TrustVariable: "gcs.acme:4443"}, "gcs.acme"},
		{"Google, another trusted", google, "gs://bkt", "endpoint", "https://evil.example", map[string]string{TrustVariable: "gcs.acme,"}, "evil.example"},

		{"Azure", azure, "az://acct/fleet", "", "", nil, ""},
		{"Azure, China", azure, "az://acct/fleet", "endpoint", "https://acct.blob.core.chinacloudapi.cn", nil, ""},
		{"Azure, US government", azure, "az://acct/fleet", "endpoint", "https://acct.blob.core.usgovcloudapi.net", nil, ""},
		{"Azure, zone", azure, "az://acct/fleet", "endpoint", "https://acct.z01.blob.storage.azure.net", nil, ""},
		{"Azure, loopback", azure, "az://acct/fleet", "endpoint", "http://127.0.0.1:10000/acct", nil, ""},
		{"Azure, stranger", azure, "az://acct/fleet", "endpoint", "https://evil.example", nil, "an Azure token would go to https://evil.example"},
		{"Azure, cloud's own name", azure, "az://acct/fleet", "endpoint", "https://evil.azurewebsites.net", nil, "is not Azure's"},
		{"Azure, SAS", azure, "az://acct/fleet", "endpoint", "https://evil.example", map[string]string{"AZURE_STORAGE_SAS_TOKEN": "sig=hunter2", "AZURE_STORAGE_KEY": "a2V5"}, "a SAS token would go"},
		{"Azure, SAS of a string", azure, "az://acct/fleet", "endpoint", "https://evil.example", map[string]string{"AZURE_STORAGE_CONNECTION_STRING": "SharedAccessSignature=sig=hunter2"}, "a SAS token would go"},
		{"Azure, key", azure, "az://acct/fleet", "endpoint", "https://evil.example", map[string]string{"AZURE_STORAGE_KEY": "a2V5"}, ""},
		{"Azure, trusted", azure, "az://acct/fleet", "endpoint", "https://blob.acme", map[string]string{TrustVariable: "blob.acme"}, ""},

		{"OpenStack, no secret", openstack, "swift://c", "auth", "https://evil.example/v3", nil, ""},
		{"OpenStack, own", openstack, "swift://c", "auth", "https://ks.acme/", login, ""},
		{"OpenStack, as it stands", openstack, "swift://c", "", "", login, ""},
		{"OpenStack, stranger", openstack, "swift://c", "auth", "https://evil.example/v3", login, "would go to https://evil.example/v3, while OS_AUTH_URL is another"},
		{"OpenStack, in the clear", openstack, "swift://c", "auth", "http://ks.acme/v3", login, "OS_AUTH_URL is another"},
		{"OpenStack, nothing stands", openstack, "swift://c", "auth", "https://evil.example/v3", with("OS_AUTH_URL", ""), "OS_AUTH_URL is not set"},
		{"OpenStack, credential", openstack, "swift://c", "auth", "https://evil.example/v3", map[string]string{"OS_APPLICATION_CREDENTIAL_SECRET": "hunter2"}, "application credential of the environment"},
		{"OpenStack, loopback", openstack, "swift://c", "auth", "http://127.0.0.1:5000/v3", login, ""},
		{"OpenStack, trusted", openstack, "swift://c", "auth", "https://ks.other/v3", with(TrustVariable, "ks.other"), ""},
		{"OpenStack, storage", openstack, "swift://c", "storage", "https://evil.example/v1/AUTH_a", login, "an OpenStack token would go to https://evil.example/v1/AUTH_a"},
		{"OpenStack, own storage", openstack, "swift://c", "storage", "https://swift.acme/v1/AUTH_a", with("OS_STORAGE_URL", "https://swift.acme/v1/AUTH_b"), ""},
		{"OpenStack, token", openstack, "swift://c", "storage", "https://evil.example/v1/AUTH_a", map[string]string{"OS_AUTH_TOKEN": "hunter2", "OS_STORAGE_URL": "https://swift.acme/v1/a"}, "OS_STORAGE_URL is another"},
		{"OpenStack, temporary URL", openstack, "swift://c", "storage", "https://swift.other/v1/AUTH_a", map[string]string{"SWIFT_TEMP_URL_KEY": "hunter2"}, ""},
		{"OpenStack, clouds.yaml", openstack, "swift://c", "auth", "https://evil.example/v3", map[string]string{"OS_CLOUD": "acme"}, "of clouds.yaml would go"},
		{"OpenStack, its clouds.yaml", openstack, "swift://c", "auth", "https://ks.acme:5000/v3", map[string]string{"OS_CLOUD": "acme"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := bare(t)
			t.Setenv(TrustVariable, "")
			write(t, home+"/.config/openstack/clouds.yaml", "clouds: {acme: {auth: {auth_url: 'https://ks.acme:5000', username: me, password: hunter2, project_name: p}}}\n")
			t.Chdir(home)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			u := c.url
			if c.option != "" {
				sign := "?"
				if strings.Contains(u, "?") {
					sign = "&"
				}
				u += sign + c.option + "=" + url.QueryEscape(c.value)
			}
			err := c.open(u)
			if (err == nil) != (c.want == "") {
				t.Fatalf("%s: %v", u, err)
			}
			if err != nil && (!errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
