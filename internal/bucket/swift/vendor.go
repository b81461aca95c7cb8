package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	metadataAddress = "http://169.254.169.254"
	metadataDial    = time.Second
	metadataTimeout = 2 * time.Second // of one request
	maxVendorData   = 1 << 20
	vendorKey       = "bootwell"
)

// vendorFiles are where a cloud adds data of its own for a VM, the one that is
// made for each VM first.
// https://docs.openstack.org/nova/latest/admin/vendordata.html
var vendorFiles = []string{"vendor_data2.json", "vendor_data.json"}

// MetadataService is the vendor data of the VM this program runs on, asked of
// the metadata service, never through a proxy, with no redirects. address "" is
// OPENSTACK_METADATA_URL or the link-local address, unless
// AWS_EC2_METADATA_DISABLED is true.
func MetadataService(address string) Source {
	client := &http.Client{
		Timeout:       metadataTimeout,
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: metadataDial}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return Source{name: "metadata service", find: func(ctx context.Context) (values, error) {
		base := address
		if base == "" {
			base = os.Getenv("OPENSTACK_METADATA_URL")
		}
		if base == "" {
			if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
				return nil, fmt.Errorf("AWS_EC2_METADATA_DISABLED is true: %w", wire.ErrNothing)
			}
			base = metadataAddress
		}
		return firstVendorData(func(name string) ([]byte, error) {
			return askMetadata(ctx, client, strings.TrimSuffix(base, "/")+"/openstack/latest/"+name)
		})
	}}
}

// askMetadata makes one request. An answer of the kind 4xx is final: there is
// no such service, or no vendor data.
func askMetadata(ctx context.Context, client *http.Client, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrNothing, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			err = fmt.Errorf("%w: %w", err, wire.ErrNothing)
		}
		return nil, err
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxVendorData+1))
}

// ConfigDrive is the vendor data on the config drive: where cloud-init's
// documentation mounts it, where it is mounted, or the block device labelled
// config-2, which is mounted read-only for the moment.
func ConfigDrive() Source {
	return configDrive("/mnt/config", []string{"/dev/disk/by-label/config-2", "/dev/disk/by-label/CONFIG-2"})
}

// ConfigFolder is the vendor data on a config drive that is mounted at a
// folder.
func ConfigFolder(folder string) Source { return configDrive(folder, nil) }

func configDrive(folder string, devices []string) Source {
	return Source{name: "config drive", find: func(context.Context) (values, error) {
		v, err := vendorDataIn(folder)
		for _, device := range devices {
			if err == nil {
				break
			}
			v, err = mounted(device, vendorDataIn)
		}
		if err != nil && !errors.Is(err, wire.ErrNothing) {
			err = fmt.Errorf("%w: %w", wire.ErrNothing, err)
		}
		return v, err
	}}
}

func vendorDataIn(folder string) (values, error) {
	return firstVendorData(func(name string) ([]byte, error) {
		f, err := os.Open(filepath.Join(folder, "openstack", "latest", name))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", wire.ErrNothing, err)
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxVendorData+1))
	})
}

// firstVendorData returns the first credentials in the files that read finds.
func firstVendorData(read func(name string) ([]byte, error)) (values, error) {
	var why error
	for _, name := range vendorFiles {
		data, err := read(name)
		var v values
		if err == nil {
			v, err = parseVendorData(data)
		}
		if err == nil {
			return v, nil
		}
		err = fmt.Errorf("%s: %w", name, err)
		// What may be there at another time says more than what is not there.
		if why == nil || errors.Is(why, wire.ErrNothing) {
			why = err
		}
		if !errors.Is(err, wire.ErrNothing) {
			break
		}
	}
	return nil, why
}

// parseVendorData returns the settings that are under "bootwell", at the top or
// under the name of the service that made them. Other names are left out.
func parseVendorData(data []byte) (values, error) {
	if len(data) > maxVendorData {
		return nil, fmt.Errorf("over %d bytes: %w", maxVendorData, wire.ErrNothing)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrNothing, err)
	}
	err := fmt.Errorf("no %q in it: %w", vendorKey, wire.ErrNothing)
	places := []json.RawMessage{top[vendorKey]}
	for _, name := range slices.Sorted(maps.Keys(top)) {
		var nested map[string]json.RawMessage
		if json.Unmarshal(top[name], &nested) == nil {
			places = append(places, nested[vendorKey])
		}
	}
	for _, raw := range places {
		var settings map[string]any
		if raw == nil || json.Unmarshal(raw, &settings) != nil {
			continue
		}
		v := values{}
		for name, value := range settings {
			s := fmt.Sprint(value)
			if f, ok := value.(float64); ok {
				s = fmt.Sprintf("%.0f", f) // a time
			}
			if name = strings.ToLower(name); slices.Contains(names, name) && value != nil {
				v[name] = s
			}
		}
		if err = v.check(); err == nil {
			return v, nil
		}
	}
	return nil, err
}
