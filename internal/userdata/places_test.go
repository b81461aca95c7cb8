package userdata

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

// fileMachine returns a machine with a folder as its bucket.
func fileMachine(t *testing.T, program string) (*machine, Config) {
	t.Helper()
	m := newMachine(t)
	object := compress(t, program)
	m.write("/var/bucket/agents/"+digestHex(object), string(object))
	return m, configFor("file:///var/bucket", object)
}

// hidePython covers the host's interpreters and keeps one in /var/py.
const hidePython = `mkdir -p "$root/var/py" && cp -L /usr/bin/python3 "$root/var/py/python"
for f in /usr/bin/python3*; do mount --bind /dev/null "$root$(readlink -f "$f")"; done
`

func TestLauncher_FindsPython(t *testing.T) {
	tests := map[string]struct {
		at     string // where a program that is Python appears
		script string
	}{
		"platform-python": {"/var/libexec/platform-python", "#!/bin/sh\nexec /var/py/python \"$@\"\n"},
		"cloud-init":      {"/usr/local/bin/cloud-init", "#!/var/py/python -E\n"},
		"opt":             {"/opt/cloud/bin/python3", "#!/bin/sh\nexec /var/py/python \"$@\"\n"},
		"usable one only": {"/usr/local/bin/python3", "#!/bin/sh\nexit 1\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, c := fileMachine(t, testAgent)
			m.mounts = hidePython + `mkdir -p "$root/var/libexec" && mount --bind "$root/var/libexec" "$root/usr/libexec"`
			if name == "usable one only" {
				m.write("/opt/cloud/bin/python3", "#!/bin/sh\nexec /var/py/python \"$@\"\n")
			}
			m.write(test.at, test.script)
			out, code := m.run(generate(t, c))
			checkStarted(t, m, c, agentPath, out, code)
		})
	}
	for _, format := range []string{FormatCloudConfig, FormatScript, FormatMIME} {
		t.Run("none/"+format, func(t *testing.T) {
			m, c := fileMachine(t, testAgent)
			m.mounts = hidePython
			c.Format = format
			out, code := m.run(generate(t, c))
			checkRefused(t, m, out, code, "bootwell: FAILED: no Python 3 here\n")
		})
	}
}

// TestLauncher_Shells has the programs that are /bin/sh somewhere.
func TestLauncher_Shells(t *testing.T) {
	for _, shell := range []string{"dash", "bash", "busybox"} {
		t.Run(shell, func(t *testing.T) {
			command := needs.Tool(t, shell)
			switch shell {
			case "bash":
				command += " --posix"
			case "busybox":
				command += " sh"
			}
			for _, format := range formats {
				m, c := fileMachine(t, testAgent)
				c.Format = format
				m.env = []string{"TEST_SHELL=" + command}
				out, code := m.run(generate(t, c))
				checkStarted(t, m, c, agentPath, out, code)
			}
		})
	}
}

func TestBootstrap_UnknownCPU(t *testing.T) {
	needs.Tool(t, "linux32")
	m, c := fileMachine(t, testAgent)
	m.prefix = []string{"linux32"}
	out, code := m.run(generate(t, c))
	machine, err := exec.Command("linux32", "uname", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	checkRefused(t, m, out, code, "FAILED: no agent for CPU "+strings.TrimSpace(string(machine))+"\n")
}

func TestBootstrap_OtherPlace(t *testing.T) {
	for name, mounts := range map[string]string{
		"read-only": `mount -t tmpfs -o ro none "$root/usr/local/bin"`,
		"noexec":    `mount -t tmpfs -o noexec none "$root/usr/local/bin"`,
		"full":      `mount -t tmpfs -o size=4k none "$root/usr/local/bin"`,
	} {
		t.Run(name, func(t *testing.T) {
			m, c := fileMachine(t, testAgent+strings.Repeat("# longer\n", 9000))
			m.mounts = mounts
			for range 2 {
				out, code := m.run(generate(t, c))
				checkStarted(t, m, c, otherPath, out, code)
				if !strings.Contains(out, agentPath+" [Errno ") {
					t.Error("nothing is said of the first place")
				}
			}
		})
	}
}

func TestBootstrap_NoPlace(t *testing.T) {
	for name, test := range map[string]struct{ mounts, want string }{
		"disk full": {`mkdir -p "$root/var/lib/bootwell"
mount -t tmpfs -o size=4k none "$root/usr/local/bin"; mount -t tmpfs -o size=4k none "$root/var/lib/bootwell"`, "No space left on device"},
		"read-only settings": {`mkdir -p "$root/etc/bootwell"; mount -t tmpfs -o ro none "$root/etc/bootwell"`, "Read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			m, c := fileMachine(t, testAgent+strings.Repeat("# longer\n", 9000))
			m.mounts = test.mounts
			out, code := m.run(generate(t, c))
			if code == 0 || !strings.Contains(out, test.want) || !strings.Contains(out, "FAILED: the agent did not start\n") || strings.Contains(out, "agent: ") {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestBootstrap_HalfWritten limits the size of files: what does not fit must
// not stay behind and keep a full disk full.
func TestBootstrap_HalfWritten(t *testing.T) {
	m, c := fileMachine(t, testAgent+strings.Repeat("# longer\n", 90000))
	m.prefix = []string{"sh", "-c", `ulimit -f 1024; exec "$@"`, "sh"}
	out, code := m.run(generate(t, c))
	checkRefused(t, m, out, code, agentPath+" [Errno 27] File too large", otherPath+" [Errno 27] File too large")
	for _, p := range []string{agentPath, otherPath} {
		if m.has(p + ".new") {
			t.Errorf("%s.new was left behind", p)
		}
	}
}
