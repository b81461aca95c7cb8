package sdkauth

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootwell/bootwell/internal/bucket/swift"
)

// openStackLogin is the cloud that OS_CLOUD names in clouds.yaml, secure.yaml beside
// it, and clouds-public.yaml; none without OS_CLOUD. The files are in the
// working folder, ~/.config/openstack or /etc/openstack, or where
// OS_CLIENT_CONFIG_FILE says.
// https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html
func openStackLogin() []swift.Source {
	wanted := os.Getenv("OS_CLOUD")
	if wanted == "" {
		return nil
	}
	name := "cloud " + wanted
	settings, err := readCloud(wanted)
	if err != nil {
		return []swift.Source{swift.Failing(name, err)}
	}
	return []swift.Source{swift.Values(name, settings)}
}

// A cloud is an entry of clouds.yaml.
type cloud struct {
	Profile      string            `yaml:"profile"`
	Vendor       string            `yaml:"cloud"` // an older name of profile
	Auth         map[string]string `yaml:"auth"`
	AuthType     string            `yaml:"auth_type"`
	Region       string            `yaml:"region_name"`
	Interface    string            `yaml:"interface"`
	EndpointType string            `yaml:"endpoint_type"`
	CACert       string            `yaml:"cacert"`
	Verify       *bool             `yaml:"verify"`
}

func readCloud(name string) (map[string]string, error) {
	dir, file, err := cloudsFile()
	if err != nil {
		return nil, err
	}
	c, err := cloudIn(file, "clouds", name)
	if err != nil {
		return nil, err
	}
	secret, err := cloudIn(filepath.Join(dir, "secure.yaml"), "clouds", name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c = c.with(secret)
	if profile := cmp.Or(c.Profile, c.Vendor); profile != "" {
		vendor, err := publicCloud(dir, profile)
		if err != nil && (c.Auth["auth_url"] == "" || !errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("profile %q of cloud %q (write its auth_url and region_name into clouds.yaml): %w", profile, name, err)
		}
		c = vendor.with(c)
	}
	return c.settings(name)
}

// cloudsFile returns the clouds.yaml that counts.
func cloudsFile() (dir, file string, err error) {
	if file := os.Getenv("OS_CLIENT_CONFIG_FILE"); file != "" {
		return filepath.Dir(file), file, nil
	}
	var looked []string
	for _, dir := range cloudsDirs() {
		for _, name := range []string{"clouds.yaml", "clouds.yml"} {
			file := filepath.Join(dir, name)
			if _, err := os.Stat(file); err == nil {
				return dir, file, nil
			}
		}
		looked = append(looked, dir)
	}
	return "", "", fmt.Errorf("OS_CLOUD is set, and there is no clouds.yaml in %s", strings.Join(looked, ", "))
}

func cloudsDirs() []string {
	dirs := []string{"."}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		dirs = append(dirs, filepath.Join(dir, "openstack"))
	} else if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".config", "openstack"))
	}
	return append(dirs, "/etc/openstack")
}

func publicCloud(dir, profile string) (cloud, error) {
	for _, d := range append([]string{dir}, cloudsDirs()...) {
		c, err := cloudIn(filepath.Join(d, "clouds-public.yaml"), "public-clouds", profile)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
	}
	return cloud{}, fmt.Errorf("no clouds-public.yaml has it: %w", fs.ErrNotExist)
}

// cloudIn reads one entry of a file.
func cloudIn(file, section, name string) (cloud, error) {
	data, err := readBounded(file)
	if err != nil {
		return cloud{}, err
	}
	c, err := parseCloud(data, section, name)
	if err != nil {
		return cloud{}, fmt.Errorf("%s: cloud %q: %w", file, name, err)
	}
	return c, nil
}

// parseCloud leaves the other entries alone. Its errors show no content.
func parseCloud(data []byte, section, name string) (cloud, error) {
	var doc map[string]yaml.Node
	var entries map[string]yaml.Node
	if yaml.Unmarshal(data, &doc) != nil {
		return cloud{}, errors.New("it is not YAML")
	}
	if all, ok := doc[section]; ok && all.Decode(&entries) != nil {
		return cloud{}, fmt.Errorf("%s is no mapping", section)
	}
	entry, ok := entries[name]
	if !ok {
		return cloud{}, fmt.Errorf("it is not in the file: %w", fs.ErrNotExist)
	}
	var c cloud
	if entry.Decode(&c) != nil {
		return cloud{}, errors.New("it is not what clouds.yaml says of a cloud")
	}
	return c, nil
}

// with returns c with what over says instead.
func (c cloud) with(over cloud) cloud {
	auth := maps.Clone(c.Auth)
	if auth == nil {
		auth = map[string]string{}
	}
	maps.Copy(auth, over.Auth)
	return cloud{
		Profile: cmp.Or(over.Profile, c.Profile), Vendor: cmp.Or(over.Vendor, c.Vendor), Auth: auth,
		AuthType: cmp.Or(over.AuthType, c.AuthType), Region: cmp.Or(over.Region, c.Region),
		Interface: cmp.Or(over.Interface, c.Interface), EndpointType: cmp.Or(over.EndpointType, c.EndpointType),
		CACert: cmp.Or(over.CACert, c.CACert), Verify: cmp.Or(over.Verify, c.Verify),
	}
}

// settings are by the lower-case names of the variables of the environment,
// some of which go before the file.
func (c cloud) settings(name string) (map[string]string, error) {
	if c.Verify != nil && !*c.Verify {
		return nil, fmt.Errorf("cloud %q has verify: false, and would send its secret to whoever answers: name the certificate with cacert", name)
	}
	if !slices.Contains([]string{"", "password", "v3password", "v3applicationcredential"}, c.AuthType) {
		return nil, fmt.Errorf("cloud %q has auth_type %.40q; there are password and v3applicationcredential", name, c.AuthType)
	}
	out := map[string]string{}
	for k, v := range c.Auth {
		out["os_"+strings.ToLower(k)] = v
	}
	out["os_region_name"] = cmp.Or(os.Getenv("OS_REGION_NAME"), c.Region)
	out["os_interface"] = cmp.Or(os.Getenv("OS_INTERFACE"), c.Interface, c.EndpointType)
	out["os_cacert"] = cmp.Or(os.Getenv("OS_CACERT"), c.CACert)
	if path, ok := strings.CutPrefix(out["os_cacert"], "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		out["os_cacert"] = filepath.Join(home, path)
	}
	return out, nil
}
