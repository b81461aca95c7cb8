package agent

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

const maxFactBytes = 4 << 20

// ReadFacts returns what the VM knows of itself: from cloud-init's
// instance-data.json (format: cloud-init documentation, "Instance metadata",
// the v1 keys), os-release(5), uname(2) and /proc. It never fails; what is not
// known is empty. InstanceID is empty only when cloud-init and the firmware
// both do not know one.
func ReadFacts(p Paths, version string) release.Facts {
	f, _ := survey(p, version)
	return f
}

// survey is ReadFacts, and what tells this VM from its copies.
func survey(p Paths, version string) (release.Facts, instance) {
	f := readInstanceData(p)
	i := readInstance(p, f)
	f.InstanceID = i.ID
	if h, err := os.Hostname(); err == nil {
		f.Hostname = oneLine(h, 255)
	}
	f.Platform = platform(p)
	f.Arch = runtime.GOARCH
	f.Kernel = kernel()
	f.CPUs = runtime.NumCPU()
	f.MemoryMB = memoryMB(readSmall(p.at("/proc/meminfo")))
	if isDir(p.at("/run/systemd/system")) {
		f.Init = "systemd"
	}
	f.Agent = version
	return f, i
}

// readInstanceData is what cloud-init knows of the VM.
func readInstanceData(p Paths) release.Facts {
	return parseInstanceData(readSmall(p.at("/run/cloud-init/instance-data.json")))
}

// Sources of an instance's id, best first.
const (
	sourceCloudInit = "cloud-init"
	sourceFirmware  = "firmware"
)

// An instance is what tells one VM from its copies.
type instance struct {
	ID      string `json:"id,omitempty"`
	Source  string `json:"source,omitempty"`
	Machine string `json:"machine,omitempty"` // hash of the machine-id
}

// readInstance is the instance of which cloud-init knows f.
func readInstance(p Paths, f release.Facts) instance {
	i := instance{Source: sourceCloudInit, Machine: machineHash(p), ID: f.InstanceID}
	if i.ID == "" {
		i.ID = usableID(string(readSmall(p.at("/var/lib/cloud/data/instance-id"))))
	}
	if i.ID == "" {
		i.Source = sourceFirmware
		i.ID = strings.ToLower(usableID(string(readSmall(p.at("/sys/class/dmi/id/product_uuid")))))
	}
	if i.ID == "" {
		i.Source = ""
	}
	return i
}

// differs reports whether i is another VM than was. Ids of one source tell;
// when the source changed (cloud-init may be removed), the machine-id does.
func (i instance) differs(was instance) bool {
	if i.ID != "" && i.Source == was.Source {
		return i.ID != was.ID
	}
	return i.Machine != "" && was.Machine != "" && i.Machine != was.Machine
}

// parseInstanceData reads the v1 keys of cloud-init's instance-data.json. Text
// that is not such a file gives no facts.
func parseInstanceData(b []byte) release.Facts {
	var d struct {
		V1 struct {
			InstanceID string `json:"instance_id"`
			Cloud      string `json:"cloud_name"`
			Platform   string `json:"platform"`
			Region     string `json:"region"`
			Zone       string `json:"availability_zone"`
			Hostname   string `json:"local_hostname"`
		} `json:"v1"`
	}
	if json.Unmarshal(b, &d) != nil {
		return release.Facts{}
	}
	// As cloud-init makes its cloud-id: a datasource that is no cloud has only
	// a platform, such as nocloud.
	if d.V1.Cloud == "" || d.V1.Cloud == "unknown" {
		d.V1.Cloud = d.V1.Platform
	}
	// A config drive is the way the facts came: the form is OpenStack's.
	if d.V1.Cloud == "configdrive" {
		d.V1.Cloud = "openstack"
	}
	return release.Facts{
		InstanceID: usableID(d.V1.InstanceID),
		Hostname:   oneLine(d.V1.Hostname, 255),
		Cloud:      oneLine(d.V1.Cloud, 64),
		Region:     oneLine(d.V1.Region, 64),
		Zone:       oneLine(d.V1.Zone, 64),
	}
}

// usableID drops what stands for "no instance": cloud-init's own name for a
// missing datasource, and the firmware's filler.
func usableID(s string) string {
	s = oneLine(strings.TrimSpace(s), 255)
	switch strings.ToLower(s) {
	case "iid-datasource-none", "none", "not specified", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff":
		return ""
	}
	return s
}

// oneLine returns at most max bytes of s without control characters.
func oneLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return cut(s, max)
}

// cut returns at most max bytes of s, without half a character at its end.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "")
}

// platform returns such as debian-12, from os-release(5).
func platform(p Paths) string {
	b := readSmall(p.at("/etc/os-release"))
	if b == nil {
		b = readSmall(p.at("/usr/lib/os-release"))
	}
	kv := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), "="); ok {
			kv[k] = oneLine(strings.Trim(v, `"'`), 64)
		}
	}
	switch {
	case kv["ID"] == "":
		return "linux"
	case kv["VERSION_ID"] == "":
		return kv["ID"]
	}
	return kv["ID"] + "-" + kv["VERSION_ID"]
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func memoryMB(meminfo []byte) int {
	for line := range bytes.Lines(meminfo) {
		f := bytes.Fields(line)
		if len(f) >= 2 && string(f[0]) == "MemTotal:" {
			kb, _ := strconv.Atoi(string(f[1]))
			return kb / 1024
		}
	}
	return 0
}

// bootID names this boot of the kernel (random(4)); "" where it is not known.
func bootID(p Paths) string {
	return oneLine(strings.TrimSpace(string(readSmall(p.at("/proc/sys/kernel/random/boot_id")))), 64)
}

// machineHash names this installation without giving away its machine-id(5):
// a keyed hash of it, as that page asks for.
func machineHash(p Paths) string {
	id := bytes.TrimSpace(readSmall(p.at("/etc/machine-id")))
	if len(id) != 32 {
		return ""
	}
	m := hmac.New(sha256.New, id)
	m.Write([]byte("bootwell agent"))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// vmName makes the VM's name of its instance id: the id itself when it can be
// a name, else its usable characters and a short hash, so that two ids never
// share a name. Without an id the machine's hash, else the host name, serves.
func vmName(i instance, hostname string) string {
	id := i.ID
	switch {
	case id != "" && release.ValidVM(id):
		return id
	case id == "" && i.Machine != "":
		return "machine-" + cut(i.Machine, 16)
	case id == "":
		id = "host " + hostname
	}
	clean := strings.Map(func(r rune) rune {
		if r < 0x80 && release.ValidVM("a"+string(r)) {
			return r
		}
		return '-'
	}, id)
	return cut("vm-"+strings.Trim(clean, "-"), 100) + "-" + release.DigestOf([]byte(id)).Short()
}

// readSmall returns a fact's file, or nil.
func readSmall(name string) []byte {
	b, err := readBounded(name, maxFactBytes)
	if err != nil {
		return nil
	}
	return b
}

func isDir(name string) bool {
	i, err := os.Stat(name)
	return err == nil && i.IsDir()
}
