package userdata

import (
	"fmt"
	"strings"
)

// strictest is the limit that fits all clouds that state one.
const strictest = 16384

// A cloud's limit counts the bytes of the text as bootwell prints it. Where
// the cloud counts base64, it is three quarters of what the cloud states.
type cloud struct {
	name  string
	title string
	bytes int // 0: no limit is stated
}

// clouds have their limits from the pages named.
var clouds = []cloud{
	{"aws", "AWS EC2", strictest},                    // 16 KB before base64: AWSEC2/latest/UserGuide/instancedata-add-user-data.html
	{"azure", "Azure", base64ed(65535)},              // 64 KB as base64: learn.microsoft.com/azure/virtual-machines/custom-data
	{"openstack", "OpenStack Nova", base64ed(65535)}, // 65535 as base64: docs.openstack.org/nova/latest/user/metadata.html
	{"gcp", "Google Compute Engine", 262144},         // 256 KB a value: cloud.google.com/compute/docs/metadata/overview
	{"hetzner", "Hetzner Cloud", 32 << 10},           // 32 KiB: docs.hetzner.cloud, create a server
	{"digitalocean", "DigitalOcean", 64 << 10},       // 64 KiB: docs.digitalocean.com, create a droplet
	{"linode", "Linode", strictest},                  // "65535 bytes, or about 16kb encoded": the lower one; techdocs.akamai.com, metadata.user_data
	{"oracle", "Oracle Cloud", base64ed(32000)},      // all metadata together, as base64: LaunchInstanceDetails of the OCI API
	{"vsphere", "vSphere", 524288},                   // developer.broadcom.com, CustomizationCloudinitPrep
	{"nocloud", "NoCloud", 0},                        // cloudinit.readthedocs.io, nocloud: none stated
	{"none", "none", 0},
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

// Limit returns how many bytes of user-data a cloud takes; 0 means that it
// states no limit. "" gives the limit that fits every cloud. Its error wraps
// [ErrConfig].
func Limit(name string) (int, error) {
	if name == "" {
		return strictest, nil
	}
	for _, c := range clouds {
		if c.name == name {
			return c.bytes, nil
		}
	}
	return 0, fmt.Errorf("cloud %.40q is not one of %s: %w", name, CloudNames(), ErrConfig)
}

func cloudTitle(name string) string {
	for _, c := range clouds {
		if c.name == name {
			return c.title
		}
	}
	return "the strictest cloud"
}
