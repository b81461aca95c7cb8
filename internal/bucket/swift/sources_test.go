package swift

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
	"github.com/bootwell/bootwell/internal/needs"
)

// noEnvironment unsets what the machine of the tests may have.
func noEnvironment(t *testing.T) {
	for _, name := range names {
		t.Setenv(strings.ToUpper(name), "")
	}
	t.Setenv("OPENSTACK_METADATA_URL", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

const mine = `{"bootwell":{"os_application_credential_id":"%s","os_application_credential_secret":"s","OS_AUTH_URL":"https://k","unknown":"x"}}`

func TestVendorData(t *testing.T) {
	for _, c := range []struct{ data, id, words string }{
		{fmt.Sprintf(mine, "i"), "i", ""},
		{`{"a":1,"target":` + fmt.Sprintf(mine, "nested") + `}`, "nested", ""},
		{`{"bootwell":` + fmt.Sprintf(mine, "own name") + `}`, "own name", ""},
		{`{"cloud-init":"#cloud-config"}`, "", `no "bootwell"`},
		{`{"bootwell":{"os_application_credential_id":"i"}}`, "", "without os_application_credential_secret"},
		{`{"bootwell":"text"}`, "", `no "bootwell"`},
		{`{"a":{"b":` + fmt.Sprintf(mine, "too deep") + `}}`, "", `no "bootwell"`},
		{`[]`, "", "cannot unmarshal"},
		{``, "", "unexpected end"},
		{`{"x":"` + strings.Repeat("x", maxVendorData) + `"}`, "", "over"},
	} {
		v, err := parseVendorData([]byte(c.data))
		if v["os_application_credential_id"] != c.id || (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%.100s: %v, %v", c.data, v, err)
		}
		if v != nil && (v["os_auth_url"] != "https://k" || v["unknown"] != "") {
			t.Errorf("%s: %v", c.data, v)
		}
	}
	v, err := parseVendorData([]byte(`{"bootwell":{"swift_temp_url_sig":"s","swift_temp_url_expires":1900000000}}`))
	if err != nil || v["swift_temp_url_expires"] != "1900000000" {
		t.Errorf("a number: %v, %v", v, err)
	}
}

func TestMetadataService(t *testing.T) {
	noEnvironment(t)
	for _, c := range []struct {
		name         string
		one, two     string // vendor_data.json, vendor_data2.json
		status       int
		id           string
		final        bool
		throughEnvir bool
	}{
		{name: "static", one: fmt.Sprintf(mine, "one"), two: "{}", id: "one"},
		{name: "both", one: fmt.Sprintf(mine, "one"), two: `{"t":` + fmt.Sprintf(mine, "two") + `}`, id: "two", throughEnvir: true},
		{name: "neither", one: "{}", two: "{}", final: true},
		{name: "no such service", status: 404, final: true},
		{name: "busy", status: 503},
		{name: "redirect", status: 302, final: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, ok := map[string]string{"/openstack/latest/vendor_data.json": c.one, "/openstack/latest/vendor_data2.json": c.two}[r.URL.Path]
				if !ok {
					t.Errorf("a request of %s", r.URL)
				}
				w.Header().Set("Location", "/elsewhere")
				if c.status != 0 {
					w.WriteHeader(c.status)
				}
				w.Write([]byte(body))
			}))
			defer srv.Close()
			source := MetadataService(srv.URL + "/")
			if c.throughEnvir {
				t.Setenv("OPENSTACK_METADATA_URL", srv.URL)
				source = MetadataService("")
			}
			v, err := source.find(t.Context())
			if v["os_application_credential_id"] != c.id || (err == nil) != (c.id != "") || err != nil && errors.Is(err, wire.ErrNothing) != c.final {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
	if _, err := MetadataService("").find(t.Context()); !errors.Is(err, wire.ErrNothing) {
		t.Errorf("disabled: %v", err)
	}
}

func writeVendorData(t *testing.T, folder, name, text string) {
	t.Helper()
	dir := filepath.Join(folder, "openstack", "latest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestConfigDrive(t *testing.T) {
	folder := t.TempDir()
	if _, err := ConfigFolder(folder).find(t.Context()); !errors.Is(err, wire.ErrNothing) {
		t.Errorf("an empty folder: %v", err)
	}
	writeVendorData(t, folder, "vendor_data.json", fmt.Sprintf(mine, "static"))
	if v, err := ConfigFolder(folder).find(t.Context()); err != nil || v["os_application_credential_id"] != "static" {
		t.Errorf("%v, %v", v, err)
	}
	none := configDrive(filepath.Join(folder, "none"), []string{filepath.Join(folder, "no-device")})
	if _, err := none.find(t.Context()); !errors.Is(err, wire.ErrNothing) || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("no drive: %v", err)
	}
}

// TestConfigDrive_Device mounts one as the cloud attaches it.
func TestConfigDrive_Device(t *testing.T) {
	needs.Root(t)
	mkfs := needs.Tool(t, "mkfs.vfat")
	losetup := needs.Tool(t, "losetup")
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(known), "\tvfat\n") {
		needs.Skip(t, "vfat", "this kernel cannot mount it; TestOpenStackSwift of e2e mounts an ISO 9660 drive")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "config"), filepath.Join(dir, "at")
	if out, err := exec.Command(mkfs, "-C", "-n", "config-2", image, "1024").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(losetup, "--find", "--show", image).Output()
	if err != nil {
		needs.Skip(t, "loop", fmt.Sprint("losetup: ", err))
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command(losetup, "--detach", device).Run() })
	link := filepath.Join(dir, "label")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	mount := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	mount("-t", "vfat", device, at)
	t.Cleanup(func() { exec.Command("umount", at).Run() })
	writeVendorData(t, at, "vendor_data2.json", `{"t":`+fmt.Sprintf(mine, "drive")+`}`)
	find := func(what string) {
		t.Helper()
		v, err := configDrive(filepath.Join(dir, "none"), []string{filepath.Join(dir, "no-device"), link}).find(t.Context())
		if err != nil || v["os_application_credential_id"] != "drive" {
			t.Errorf("%s: %v, %v", what, v, err)
		}
	}
	find("mounted")
	if err := exec.Command("umount", at).Run(); err != nil {
		t.Fatal(err)
	}
	find("not mounted")
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), device+" ") {
		t.Errorf("it is still mounted (%v)", err)
	}
}

// The first source that has credentials counts, good or not.
func TestOrder(t *testing.T) {
	noEnvironment(t)
	file := filepath.Join(t.TempDir(), "credentials")
	sources := []Source{File(file), configDrive(t.TempDir(), nil), MetadataService(""), Environment()}
	of := func() (string, error) {
		s := newSession(Location{Storage: "https://h/v1/a"}, Options{Sources: sources}, nil)
		g, err := s.Get(t.Context())
		if err != nil {
			return "", err
		}
		return g.Value.token + string(keyOf(g.Value)), nil
	}
	_, err := of()
	if !errors.Is(err, bucket.ErrPermission) {
		t.Error(err)
	}
	for _, words := range []string{"file " + file, "config drive", "metadata service: AWS_EC2_METADATA_DISABLED", "environment: no os_"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v does not say %q", err, words)
		}
	}
	t.Setenv("SWIFT_TEMP_URL_KEY", "env")
	if got, err := of(); got != "env" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("[default]\nswift_temp_url_key = file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := of(); got != "file" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := of(); got != "env" {
		t.Errorf("a file for all to read: %q, %v", got, err)
	}
	sources = append([]Source{{name: "busy", find: func(context.Context) (values, error) { return nil, errors.New("later") }}}, sources[:1]...)
	if _, err := of(); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("a source that is away: %v", err)
	}
}

func keyOf(g *grant) []byte {
	if g.temp == nil {
		return nil
	}
	return g.temp.key
}

func TestKinds(t *testing.T) {
	for s, want := range map[string]kind{
		"": kindNone,
		"os_application_credential_id=i os_application_credential_secret=s os_username=u os_password=p": kindAppCredential,
		"os_application_credential_name=n os_application_credential_secret=s":                           kindNone,
		"os_application_credential_name=n os_application_credential_secret=s os_user_id=u":              kindAppCredential,
		"os_username=u os_password=p swift_temp_url_key=k":                                              kindPassword,
		"os_username=u":                    kindNone,
		"os_auth_token=t os_storage_url=u": kindToken,
		"os_auth_token=t":                  kindNone,
		"swift_temp_url_key=k swift_temp_url_sig=s swift_temp_url_expires=1": kindTempKey,
		"swift_temp_url_sig=s swift_temp_url_expires=1":                      kindTempReady,
		"swift_temp_url_sig=s": kindNone,
	} {
		v := settings(s)
		if got := v.kind(); got != want || (v.check() == nil) != (want != kindNone) {
			t.Errorf("%s: kind %d, %v", s, got, v.check())
		}
	}
}

func TestSign(t *testing.T) {
	// By Python's hmac module.
	const want = "05cb4ea08a08f2fdaef35d0f344975370077835c23bdc9342099ecbf03bc0378"
	if got := sign([]byte("mykey"), "GET", "1323479485", "/v1/AUTH_account/container/object"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, expires := range []string{"soon", "-"} {
		if _, err := newTempURL(values{"swift_temp_url_sig": "s", "swift_temp_url_expires": expires}, time.Now); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("%s: %v", expires, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url  string
		want Location
	}{
		{"swift://fleet", Location{Container: "fleet"}},
		{"swift://My_fleet.1/a/b/", Location{Container: "My_fleet.1", Prefix: "a/b"}},
		{"swift://c/a%20b?auth=https://k:5000", Location{Container: "c", Prefix: "a b", Auth: "https://k:5000/v3"}},
		{"swift://c?auth=https://k/identity/v3/&region=RegionOne&interface=internal&ca=/c.pem",
			Location{Container: "c", Auth: "https://k/identity/v3", Region: "RegionOne", Interface: "internal", CA: "/c.pem"}},
		{"swift://c?storage=https://h/v1/AUTH_x/&interface=publicURL", Location{Container: "c", Storage: "https://h/v1/AUTH_x", Interface: "public"}},
	} {
		if got, err := Parse(c.url); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.url, got, err)
		}
	}
	for url, words := range map[string]string{
		"s3://c":                                "scheme",
		"swift://":                              "container name",
		"swift:c":                               "swift://CONTAINER",
		"swift://c:80":                          "?auth=URL",
		"swift://c#x":                           "swift://CONTAINER",
		"swift://.c":                            "container name",
		"swift://c/../x":                        "prefix",
		"swift://c/a//b":                        "prefix",
		"swift://user:topsecret@c":              "secrets do not belong",
		"swift://c?regoin=x":                    "option \"regoin\" is not known; there are",
		"swift://c?region=":                     "needs one value",
		"swift://c?region=a&region=b":           "needs one value",
		"swift://c?region=a%20b":                "region",
		"swift://c?interface=secret":            "interface",
		"swift://c?auth=k:5000":                 "option auth",
		"swift://c?auth=https://k/v2.0":         "v2",
		"swift://c?auth=https://u:topsecret@k":  "option auth",
		"swift://c?auth=https://k?x=1":          "option auth",
		"swift://c?storage=https://h":           "AUTH_ID",
		"swift://c?storage=https://h/../v1/a":   "option storage",
		"swift://c?storage=http://h//v1/AUTH_x": "option storage",
		"swift://c?%zz":                         "cannot be read",
	} {
		_, err := Parse(url)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want words %q", url, err, words)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error shows the secret: %v", url, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"swift://c/p?auth=https://k/v3&region=R&interface=admin&ca=f", "swift://c?storage=https://h/v1/AUTH_x", "swift://%41", "swift://b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			return
		}
		if l.Prefix != "" && bucket.CheckKey(l.Prefix) != nil || strings.ContainsAny(l.Container, "/@?# ") {
			t.Errorf("%q: %+v", s, l)
		}
		for _, u := range []string{l.Auth, l.Storage} {
			if again, err := plainURL(u); u != "" && (err != nil || again != u) {
				t.Errorf("%q: URL %q is not plain: %q, %v", s, u, again, err)
			}
		}
	})
}
