package sdkauth

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/swift"
)

const cloudsYAML = `
common: &common
  region_name: R1
  interface: internal
clouds:
  acme:
    <<: *common
    auth:
      auth_url: https://keystone.acme/v3
      application_credential_id: 1234e567
    auth_type: v3applicationcredential
    cacert: ~/ca.pem
  user:
    auth: {auth_url: https://k/v3, username: me, project_name: fleet, user_domain_name: Default, project_domain_name: Default}
    region_name: R2
    endpoint_type: publicURL
  vendor:
    profile: big
    auth: {username: me, password: p}
  elsewhere: {profile: nobody, auth: {username: me}}
  blind: {verify: false, auth: {auth_url: https://k/v3}}
  other: {auth_type: v3oidcpassword, auth: {auth_url: https://k/v3}}
  odd: [topsecret]
`

func cloudHome(t *testing.T) string {
	home := bare(t)
	t.Chdir(t.TempDir())
	dir := home + "/.config/openstack/"
	write(t, dir+"clouds.yaml", cloudsYAML)
	write(t, dir+"secure.yaml", "clouds:\n  acme: {auth: {application_credential_secret: topsecret}}\n  user: {auth: {password: '007'}}\n")
	write(t, dir+"clouds-public.yaml", "public-clouds:\n  big: {auth: {auth_url: https://big/v3, username: nobody}, region_name: BIG1}\n")
	return home
}

func TestReadCloud(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want map[string]string
		err  string
	}{
		{"acme", nil, map[string]string{"os_auth_url": "https://keystone.acme/v3", "os_application_credential_id": "1234e567",
			"os_application_credential_secret": "topsecret", "os_region_name": "R1", "os_interface": "internal", "os_cacert": "HOME/ca.pem"}, ""},
		{"user", map[string]string{"OS_REGION_NAME": "R9", "OS_CACERT": "/c.pem"}, map[string]string{"os_auth_url": "https://k/v3", "os_username": "me",
			"os_password": "007", "os_project_name": "fleet", "os_user_domain_name": "Default", "os_project_domain_name": "Default",
			"os_region_name": "R9", "os_interface": "publicURL", "os_cacert": "/c.pem"}, ""},
		{"vendor", nil, map[string]string{"os_auth_url": "https://big/v3", "os_username": "me", "os_password": "p", "os_region_name": "BIG1", "os_interface": "", "os_cacert": ""}, ""},
		{"elsewhere", nil, nil, "write its auth_url"},
		{"blind", nil, nil, "verify: false"},
		{"other", nil, nil, "v3oidcpassword"},
		{"odd", nil, nil, "not what clouds.yaml says"},
		{"nobody", nil, nil, "not in the file"},
		{"nobody", map[string]string{"OS_CLIENT_CONFIG_FILE": "HOME/none.yaml"}, nil, "none.yaml"},
	} {
		home := cloudHome(t)
		for k, v := range c.env {
			t.Setenv(k, strings.ReplaceAll(v, "HOME", home))
		}
		got, err := readCloud(c.name)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		for k, v := range c.want {
			c.want[k] = strings.ReplaceAll(v, "HOME", home)
		}
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v\n%v, want\n%v", c.name, err, got, c.want)
		}
	}
}

func TestOpenStack(t *testing.T) {
	cloudHome(t)
	if got := openStackLogin(); got != nil {
		t.Errorf("without OS_CLOUD: %v", got)
	}
	t.Setenv("OS_CLOUD", "nobody")
	b, err := swift.Open(t.Context(), "swift://bkt?auth=http://127.0.0.1:1/v3", swift.Options{Sources: append(openStackLogin(), swift.OperatorSources()...)})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Get(t.Context(), "k", bucket.GetOptions{})
	if !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), `cloud "nobody"`) {
		t.Errorf("a cloud that is not there: %v", err)
	}
	t.Chdir(t.TempDir())
	t.Setenv("HOME", t.TempDir())
	if _, err := readCloud("nobody"); err == nil || !strings.Contains(err.Error(), "there is no clouds.yaml in") {
		t.Errorf("without a file: %v", err)
	}
}

// TestOpenStack_Keystone logs in with what clouds.yaml says, and nothing else.
func TestOpenStack_Keystone(t *testing.T) {
	home := bare(t)
	srv := buckettest.StartSwift(t, buckettest.SwiftConfig{})
	srv.CreateContainer("fleet")
	id, secret := srv.AppCredential("publisher")
	write(t, home+"/.config/openstack/clouds.yaml", fmt.Sprintf(`clouds:
  app: {auth_type: v3applicationcredential, auth: {auth_url: "%[1]s", application_credential_id: "%[2]s"}, region_name: %[3]s}
  user: {auth: {auth_url: "%[1]s", username: %[4]s, password: %[5]s, project_name: %[6]s, user_domain_id: default, project_domain_id: default}}
  wrong: {auth: {auth_url: "%[1]s", username: %[4]s, password: wrong, project_name: %[6]s}}
`, srv.AuthURL(), id, buckettest.SwiftRegion, buckettest.SwiftUser, buckettest.SwiftPassword, buckettest.SwiftProject))
	write(t, home+"/.config/openstack/secure.yaml", fmt.Sprintf("clouds: {app: {auth: {application_credential_secret: %q}}}\n", secret))
	t.Chdir(home)
	for cloud, want := range map[string]error{"app": nil, "user": nil, "wrong": bucket.ErrPermission} {
		t.Setenv("OS_CLOUD", cloud)
		b, err := swift.Open(t.Context(), "swift://fleet/p", swift.Options{Sources: append(openStackLogin(), swift.OperatorSources()...)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Put(t.Context(), cloud, strings.NewReader("x"), bucket.Condition{})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", cloud, err, want)
		}
	}
}

func FuzzParseCloud(f *testing.F) {
	f.Add([]byte(cloudsYAML), "acme")
	f.Add([]byte("clouds: {a: &a [*a]}"), "a")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		c, err := parseCloud(data, "clouds", name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && len(err.Error()) > 100 {
			t.Errorf("%v", err)
		}
		if err == nil {
			c.with(c)
		}
	})
}
