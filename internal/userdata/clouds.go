package userdata

import (
	"fmt"
	"strings"
)

// strictest is the limit that fits all clouds that state one.
const strictest = 16384

// A cloud is one row of the table: what a cloud takes as user-data. Its limit
// counts the bytes of the text before base64, compressed or not. Where the
// cloud counts base64, it is three quarters of what the cloud states. Where
// its pages differ, it is the lower one.
type cloud struct {
	name   string
	title  string
	bytes  int    // 0: no limit is stated
	encode string // how text is printed unless somebody says otherwise
	how    how
}

// clouds have their limits from the pages named. Those with another encoding
// than none take nothing else: Linode's API demands base64, and a line of a
// VMX file, which guestinfo is, cannot hold several lines.
var clouds = []cloud{
	{"aws", "AWS EC2", strictest, EncodeNone, howAWS},                          // 16 KB before base64: AWSEC2/latest/UserGuide/instancedata-add-user-data.html
	{"azure", "Azure", base64ed(65535), EncodeNone, howAzure},                  // 64 KB as base64: learn.microsoft.com/azure/virtual-machines/custom-data (the API's reference: 65535 before it)
	{"openstack", "OpenStack Nova", base64ed(65535), EncodeNone, howOpenStack}, // 65535 as base64: docs.openstack.org/nova/latest/user/metadata.html
	{"gcp", "Google Compute Engine", 262144, EncodeNone, howGoogle},            // 256 KB a value: cloud.google.com/compute/docs/metadata/overview
	{"hetzner", "Hetzner Cloud", 32 << 10, EncodeNone, howHetzner},             // 32 KiB: docs.hetzner.cloud, create a server
	{"digitalocean", "DigitalOcean", 64 << 10, EncodeNone, howDigitalOcean},    // 64 KiB: docs.digitalocean.com, create a droplet
	{"linode", "Linode", strictest, EncodeBase64, howLinode},                   // "65535 bytes, or about 16kb encoded": the lower one; techdocs.akamai.com, metadata.user_data
	{"oracle", "Oracle Cloud", base64ed(32000), EncodeNone, howOracle},         // all metadata together, as base64: LaunchInstanceDetails of the OCI API
	{"proxmox", "Proxmox VE", 0, EncodeNone, howProxmox},                       // pve.proxmox.com/wiki/Cloud-Init_Support: none stated; a file on a disk
	{"libvirt", "libvirt", 0, EncodeNone, howLibvirt},                          // virt-install(1), --cloud-init: none stated; a file on a disk
	{"vsphere", "vSphere", base64ed(64 << 10), EncodeBase64, howVSphere},       // a value of guestinfo: GUESTMSG_MAX_IN_SIZE of open-vm-tools (CustomizationCloudinitPrep: 524288)
	{"nocloud", "NoCloud", 0, EncodeNone, howNoCloud},                          // cloudinit.readthedocs.io, nocloud: none stated
	{"none", "none", 0, EncodeNone, how{}},
}

func base64ed(n int) int { return n / 4 * 3 }

// Clouds returns the names that [Config.Cloud] may have.
func Clouds() []string {
	names := make([]string, len(clouds))
	for i, c := range clouds {
		names[i] = c.name
	}
	return names
}

// CloudNames returns [Clouds] as one text for people.
func CloudNames() string { return strings.Join(Clouds(), ", ") }

// findCloud returns the row of a name; "" is one with the limit that fits
// every cloud. Its error wraps [ErrConfig].
func findCloud(name string) (cloud, error) {
	if name == "" {
		return cloud{title: "the strictest cloud", bytes: strictest, encode: EncodeNone}, nil
	}
	for _, c := range clouds {
		if c.name == name {
			return c, nil
		}
	}
	return cloud{}, fmt.Errorf("cloud %.40q is not one of %s: %w", name, CloudNames(), ErrConfig)
}

// Limit returns how many bytes of user-data a cloud takes, before base64; 0
// means that it states no limit. "" gives the limit that fits every cloud. Its
// error wraps [ErrConfig].
func Limit(name string) (int, error) {
	c, err := findCloud(name)
	return c.bytes, err
}
