package userdata

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ulikunitz/xz"
	"go.yaml.in/yaml/v3"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// A machine runs user-data in namespaces of its own, as cloud-init would.
// Nothing of the host changes; what was written is below dir.
type machine struct {
	t      testing.TB
	dir    string   // root folder
	env    []string // beside a clean environment
	mounts string   // shell text that may mount over parts of $root
	prefix []string // before the shell
}

var namespaces = sync.OnceValue(func() error {
	out, err := unshare("true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})

func unshare(argv ...string) *exec.Cmd {
	flags := []string{"--mount", "--propagation", "private"}
	if os.Geteuid() != 0 {
		flags = append(flags, "--map-root-user")
	}
	return exec.Command("unshare", append(flags, argv...)...)
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	needs.Tool(t, "unshare")
	needs.Tool(t, "/usr/bin/python3")
	if err := namespaces(); err != nil {
		needs.Skip(t, "namespaces", err.Error())
	}
	m := &machine{t: t, dir: t.TempDir()}
	clock, err := os.ReadFile("testdata/clock/sitecustomize.py")
	if err != nil {
		t.Fatal(err)
	}
	m.write("/var/clock/sitecustomize.py", string(clock))
	return m
}

// path is where the test sees a path of the machine.
func (m *machine) path(p string) string {
	if rest, ok := strings.CutPrefix(p, "/usr/local/bin/"); ok {
		p = "/var/local-bin/" + rest
	}
	return filepath.Join(m.dir, p)
}

func (m *machine) write(p, content string) {
	m.t.Helper()
	name := m.path(p)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(p string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(p))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) has(p string) bool {
	_, err := os.Lstat(m.path(p))
	return err == nil
}

// run gives the machine a text of some format and returns what it printed and
// the exit code.
func (m *machine) run(text []byte) (string, int) {
	m.t.Helper()
	m.write("/var/user-data", asCloudInit(m.t, text))
	if m.mounts != "" {
		m.write("/var/mounts.sh", m.mounts)
	}
	enter, err := filepath.Abs("testdata/enter.sh")
	if err != nil {
		m.t.Fatal(err)
	}
	c := unshare(append(m.prefix, "/bin/sh", enter, m.dir, "/var/user-data")...)
	c.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"PYTHONPATH=/var/clock", "PYTHONDONTWRITEBYTECODE=1",
		// Twice safe: a test must never reach the metadata service of its host.
		"AWS_EC2_METADATA_DISABLED=true", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:9",
		"AZURE_POD_IDENTITY_AUTHORITY_HOST=http://127.0.0.1:9", "GCE_METADATA_HOST=127.0.0.1:9", "OPENSTACK_METADATA_URL=http://127.0.0.1:9",
	}, m.env...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	m.t.Logf("%s", out)
	return string(out), c.ProcessState.ExitCode()
}

// asCloudInit returns the script that cloud-init makes of a text: shellify of
// cc_runcmd for cloud-config, the parts of a multi-part text, or the text.
func asCloudInit(t testing.TB, text []byte) string {
	t.Helper()
	switch {
	case bytes.HasPrefix(text, []byte("#cloud-config\n")):
		var doc struct {
			Runcmd []string `yaml:"runcmd"`
		}
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		return "#!/bin/sh\n" + strings.Join(doc.Runcmd, "\n") + "\n"
	case bytes.HasPrefix(text, []byte("#!/bin/sh\n")):
		return string(text)
	}
	return mimeScript(t, text)
}

// testAgent is a program in the place of the agent: it tells how it was called.
const testAgent = "#!/bin/sh\necho \"agent: $0 $*\"\ncat >/dev/null\nexit 0\n"

// compress returns an agent's program as it lies in a bucket.
func compress(t testing.TB, program string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(program)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// configFor returns a Config whose agents for all CPUs are the object.
func configFor(bucket string, object []byte) Config {
	d := release.DigestOf(object)
	return Config{
		Project: "acme", Bucket: bucket, Role: "web", Channel: "stable",
		Root:   release.DigestOf([]byte("root")),
		Agents: map[string]release.Digest{"amd64": d, "arm64": d},
		Format: FormatScript,
	}
}

func generate(t testing.TB, c Config) []byte {
	t.Helper()
	u, err := Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	return u.Text
}
