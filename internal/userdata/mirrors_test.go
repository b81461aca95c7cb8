package userdata

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/needs"
)

// checkMirrors fails unless agent.yaml names the bucket and the mirrors.
func checkMirrors(t *testing.T, m *machine, c Config) {
	t.Helper()
	var got struct {
		Bucket  string
		Mirrors []string
	}
	if err := yaml.Unmarshal([]byte(m.read(configPath)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Bucket != c.Bucket || !slices.Equal(got.Mirrors, c.Mirrors) {
		t.Errorf("agent.yaml has %+v", got)
	}
}

// TestBootstrap_Mirrors has buckets that cannot give the agent, and one that
// can, of another scheme.
func TestBootstrap_Mirrors(t *testing.T) {
	object := compress(t, testAgent)
	answer := func(status int, body []byte) string {
		return newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write(body)
		}).URL
	}
	dead := newSite(t, nil)
	dead.Close()
	tests := map[string]struct {
		first string
		want  string
	}{
		"dead":             {dead.URL, "<urlopen error"},
		"lagging":          {answer(404, nil), "HTTP Error 404"},
		"tampered":         {answer(200, []byte("evil")), "REFUSED: not the pinned agent but "},
		"broken":           {answer(503, nil), "HTTP Error 503"},
		"without identity": {"az://acme/fleet", "no credentials; managed identity: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.env = append(m.env, "AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+newMetadataService(t, 0).URL)
			good := newS3(t, roleIdentity, object)
			c := configFor(test.first, object)
			c.Mirrors = []string{"s3://acme/prod%20a?region=eu-west-1&endpoint=" + good.URL, "https://127.0.0.1:9/never"}
			out, code := m.run(generate(t, c))
			if code != 0 || !strings.Contains(out, "agent: "+agentPath+" install\n") || !strings.Contains(out, test.want) {
				t.Fatalf("exit code %d, output:\n%s", code, out)
			}
			if strings.Contains(out, "never") || strings.Contains(out, "again in") || good.count() != 1 {
				t.Error("it went on after it had the agent, or waited before the next bucket")
			}
			checkMirrors(t, m, c)
		})
	}
}

// TestBootstrap_MirrorsFail waits for the bucket that may come back, and tells
// of each.
func TestBootstrap_MirrorsFail(t *testing.T) {
	object := compress(t, testAgent)
	t.Run("one comes back", func(t *testing.T) {
		m := newMachine(t)
		first := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
		second := newSite(t, func(n int, w http.ResponseWriter, _ *http.Request) {
			if n < 4 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write(object)
		})
		c := configFor(first.URL, object)
		c.Mirrors = []string{second.URL}
		out, code := m.run(generate(t, c))
		if code != 0 || !strings.Contains(out, "agent: ") || second.count() != 4 {
			t.Errorf("exit code %d after %d requests", code, second.count())
		}
		checkMirrors(t, m, c)
	})
	t.Run("none has it", func(t *testing.T) {
		m := newMachine(t)
		c := configFor(newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }).URL, object)
		c.Mirrors = []string{newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("evil")) }).URL}
		out, code := m.run(generate(t, c))
		checkRefused(t, m, out, code, "HTTP Error 404", "FAILED: REFUSED: not the pinned agent")
	})
}

// TestBootstrap_ConfigDrive reads vendor data from a real disk of that label,
// and from where a user has mounted it.
func TestBootstrap_ConfigDrive(t *testing.T) {
	needs.Root(t)
	object := compress(t, testAgent)
	keystone := newKeystone(t, object)
	openstack := metadata.NewOpenStack(metadata.Machine{ID: "vm"})
	openstack.SetVendorData(nil, asJSON(t, map[string]any{"bootwell": map[string]any{
		"os_auth_url": keystone.URL + "/v3", "os_application_credential_id": "id", "os_application_credential_secret": `se"cret\`,
	}}))
	drive := openstack.ConfigDrive()

	t.Run("disk", func(t *testing.T) {
		mkfs, losetup := needs.Tool(t, "mke2fs"), needs.Tool(t, "losetup")
		dir := t.TempDir()
		for name, content := range drive {
			file := filepath.Join(dir, "root", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		image := filepath.Join(dir, "image")
		if out, err := exec.Command(mkfs, "-q", "-L", "config-2", "-d", filepath.Join(dir, "root"), image, "1M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err := exec.Command(losetup, "-r", "--find", "--show", image).CombinedOutput()
		if err != nil {
			needs.Skip(t, "loop", string(out))
		}
		device := strings.TrimSpace(string(out))
		t.Cleanup(func() { _ = exec.Command(losetup, "-d", device).Run() })
		m := newMachine(t)
		c := configFor("swift://fleet/prod", object)
		// What a user program finds of disks is udev's business: here a link does it.
		m.mounts = `mount -t tmpfs none "$root/dev/disk" 2>/dev/null || { mount -t tmpfs none "$root/dev" && mknod "$root/dev/null" c 1 3 && cp -a ` + device + ` "$root/dev/" && mkdir "$root/dev/disk"; }
mkdir "$root/dev/disk/by-label" && ln -s ` + device + ` "$root/dev/disk/by-label/config-2"
`
		got, code := m.run(generate(t, c))
		checkStarted(t, m, c, agentPath, got, code)
		if strings.Contains(got, "cret") {
			t.Error("a secret was printed")
		}
	})
	t.Run("folder", func(t *testing.T) {
		m := newMachine(t)
		for name, content := range drive {
			m.write("/run/mounted/"+name, string(content))
		}
		m.mounts = `mkdir -p "$root/mnt" && mount -t tmpfs none "$root/mnt" && mkdir "$root/mnt/config" && mount --bind "$root/run/mounted" "$root/mnt/config"` + "\n"
		c := configFor("swift://fleet/prod", object)
		out, code := m.run(generate(t, c))
		checkStarted(t, m, c, agentPath, out, code)
	})
}

// TestBootstrap_Catalog looks for what the catalog does not have.
func TestBootstrap_Catalog(t *testing.T) {
	object := compress(t, testAgent)
	url := "swift://fleet/prod?auth=" + newKeystone(t, object).URL
	file := "os_application_credential_id = id\nos_application_credential_secret = se\"cret\\\n"
	runBoots(t, object, map[string]boot{
		"region":          {bucket: url + "&region=R1", credentials: file},
		"another region":  {bucket: url + "&region=R2", credentials: file, want: []string{"FAILED: no object-store in catalog: public R2; check"}},
		"other interface": {bucket: url + "&interface=internal", credentials: file, want: []string{"FAILED: no object-store in catalog: internal"}},
	}, nil)
}

// newKeystone is a Keystone and a Swift that know one application credential,
// with further services, interfaces and regions in the catalog.
func newKeystone(t *testing.T, object []byte) *site {
	t.Helper()
	var s *site
	s = newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && r.URL.Path == "/v3/auth/tokens" && r.Header.Get("Content-Type") == "application/json":
			var body struct {
				Auth struct {
					Identity struct {
						Methods []string
						C       struct{ ID, Secret string } `json:"application_credential"`
					}
				}
			}
			readJSON(t, r.Body, &body)
			if i := body.Auth.Identity; !slices.Equal(i.Methods, []string{"application_credential"}) || i.C.ID != "id" || i.C.Secret != `se"cret\` {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			at := func(kind, url string) map[string]any {
				return map[string]any{"interface": kind, "region": "R1", "url": url}
			}
			w.Header().Set("X-Subject-Token", "token")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write(asJSON(t, map[string]any{"token": map[string]any{"catalog": []any{
				map[string]any{"type": "compute", "endpoints": []any{at("public", "http://127.0.0.1:9/")}},
				map[string]any{"type": "object-store", "endpoints": []any{at("admin", "http://127.0.0.1:9/"), at("public", s.URL+"/v1/AUTH_a")}},
			}}}))
		case r.URL.Path == "/v1/AUTH_a/fleet/prod/agents/"+digestHex(object) && r.Header.Get("X-Auth-Token") == "token":
			_, _ = w.Write(object)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	return s
}
