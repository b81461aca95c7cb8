package metadata

import (
	"net/http"
	"strings"
)

// openStackVersions are those that Nova lists, oldest first.
var openStackVersions = [...]string{
	"2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "2020-10-14", "latest",
}

// NewOpenStack is the service of an OpenStack server: the openstack/ paths
// and the EC2 paths that Nova serves beside them, without session tokens.
// Source: "Metadata service" in the Nova user documentation.
func NewOpenStack(m Machine) *Service {
	s := newService(m)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openstack", listVersions)
	mux.HandleFunc("GET /openstack/{$}", listVersions)
	mux.HandleFunc("GET /openstack/{version}/{path...}", s.openStackGet)
	mux.HandleFunc("GET /{version}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		s.ec2Get(w, r, s.machine.novaTree)
	})
	s.cloud = mux
	return s
}

func listVersions(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = w.Write([]byte(strings.Join(openStackVersions[:], "\n")))
}

func (s *Service) openStackGet(w http.ResponseWriter, r *http.Request) {
	known := false
	for _, v := range openStackVersions {
		known = known || v == r.PathValue("version")
	}
	if !known {
		http.NotFound(w, r)
		return
	}
	t := s.openStackTree()
	path := strings.Trim(r.PathValue("path"), "/")
	if _, ok := t[path]; !ok && path != "" {
		http.NotFound(w, r)
		return
	}
	t.answer(w, path)
}

// novaTree is the part of EC2's tree that Nova serves.
func (m Machine) novaTree(Credentials) tree {
	t := m.ec2Tree(Credentials{})
	for path := range t {
		for _, no := range []string{"dynamic", "meta-data/iam", "meta-data/network", "meta-data/services", "meta-data/tags", "meta-data/mac", "meta-data/profile", "meta-data/instance-life-cycle", "meta-data/placement/region"} {
			if strings.HasPrefix(path, no) {
				delete(t, path)
			}
		}
	}
	return t
}

// SetVendorData sets what the cloud adds for its VMs, as JSON: static is
// vendor_data.json, dynamic vendor_data2.json. nil is an empty object.
// cloud-init takes what is below their key "cloud-init" as user-data that
// comes before the user's own. A config drive made later has them too.
func (s *Service) SetVendorData(static, dynamic []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vendorData = [2][]byte{static, dynamic}
}

// ConfigDrive is what Nova puts on the disk labelled "config-2" of a server
// that has one: a file's path, with slashes, to its content.
// Source: "Config drives" in the Nova user documentation.
func (s *Service) ConfigDrive() map[string][]byte {
	files := map[string][]byte{}
	for name, text := range s.openStackTree() {
		if name != "password" { // Nova has it in its service only
			files["openstack/latest/"+name] = []byte(text)
		}
	}
	return files
}

func (s *Service) openStackTree() tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.machine.openStackTree()
	if s.userData != nil {
		t["user_data"] = string(s.userData)
	}
	for i, name := range []string{"vendor_data.json", "vendor_data2.json"} {
		if s.vendorData[i] != nil {
			t[name] = string(s.vendorData[i])
		}
	}
	return t
}

func (m Machine) openStackTree() tree {
	tags := m.Tags
	if tags == nil {
		tags = map[string]string{} // cloud-init takes no null here
	}
	meta := map[string]any{
		"uuid": m.ID, "name": m.Hostname, "hostname": m.Hostname, "launch_index": 0, "availability_zone": m.Zone,
		"project_id": m.Account, "meta": tags, "devices": []any{}, "dedicated_cpus": []any{},
	}
	if m.PublicKey != "" {
		meta["public_keys"] = map[string]string{"key": m.PublicKey}
	}
	network := map[string]any{
		"links":    []any{map[string]any{"id": "tap0", "vif_id": "tap0", "type": "ovs", "mtu": 1500, "ethernet_mac_address": m.MAC}},
		"networks": []any{map[string]any{"id": "network0", "type": "ipv4_dhcp", "link": "tap0", "network_id": "00000000-0000-0000-0000-000000000001"}},
		"services": []any{},
	}
	return tree{
		"meta_data.json": asJSON(meta), "network_data.json": asJSON(network),
		"vendor_data.json": "{}", "vendor_data2.json": "{}", "password": "",
	}
}
