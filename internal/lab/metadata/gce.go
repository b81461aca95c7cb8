package metadata

import (
	"encoding/json"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GoogleHost is the name that Google Compute Engine has for the service.
const GoogleHost = "metadata.google.internal"

// flavorHeader is demanded of each request, and shows each answer to be the
// service's own.
const flavorHeader = "Metadata-Flavor"

// serviceAccounts is the folder of identities.
const serviceAccounts = "instance/service-accounts/"

// gceFolders are there also when nothing is in them.
var gceFolders = [...]string{"instance/attributes/", "project/attributes/", serviceAccounts}

// NewGCE is the service of a VM on Google Compute Engine. User-data is its
// attribute "user-data". It waits for no change.
// Source: "About VM metadata" and "Query VM metadata" in the Compute Engine
// documentation.
func NewGCE(m Machine) *Service {
	s := newService(m)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("computeMetadata/\n")) })
	mux.HandleFunc("GET /computeMetadata/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("v1/\n")) })
	mux.HandleFunc("GET /computeMetadata/v1", func(w http.ResponseWriter, r *http.Request) { redirect(w, r) })
	mux.HandleFunc("GET /computeMetadata/v1/{path...}", s.gceGet)
	mux.HandleFunc("PUT /computeMetadata/v1/instance/guest-attributes/{path...}", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Guest attributes endpoint access is disabled.", http.StatusForbidden)
	})
	s.cloud = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(flavorHeader, "Google")
		w.Header().Set("Server", "Metadata Server for VM")
		switch {
		case r.Header.Get("X-Forwarded-For") != "":
			http.Error(w, "A request with X-Forwarded-For is refused.", http.StatusForbidden)
		case strings.HasPrefix(r.URL.Path, "/computeMetadata/v1") && r.Header.Get(flavorHeader) != "Google":
			http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		default:
			mux.ServeHTTP(w, r)
		}
	})
	return s
}

// redirect sends to the same folder with a slash at its end.
func redirect(w http.ResponseWriter, r *http.Request) {
	to := *r.URL
	to.Path += "/"
	http.Redirect(w, r, to.RequestURI(), http.StatusMovedPermanently)
}

func (s *Service) gceGet(w http.ResponseWriter, r *http.Request) {
	path := r.PathValue("path")
	q := r.URL.Query()
	if rest, ok := strings.CutPrefix(path, serviceAccounts); ok {
		if account, what, _ := strings.Cut(rest, "/"); what == "token" {
			s.gceToken(w, account, q.Get("scopes"))
			return
		}
	}
	t := s.gceTree()
	if text, ok := t[path]; ok {
		if q.Get("alt") == "json" {
			writeTagged(w, "application/json", asCompactJSON(gceValue(path, text)))
			return
		}
		writeTagged(w, "application/text", text)
		return
	}
	dir := strings.TrimSuffix(path, "/")
	list := t.list(dir)
	switch recursive := strings.EqualFold(q.Get("recursive"), "true"); {
	case len(list) == 0 && !slices.Contains(gceFolders[:], path):
		http.Error(w, "The requested URL "+r.URL.Path+" was not found on this server.", http.StatusNotFound)
	case path != "" && !strings.HasSuffix(path, "/"):
		redirect(w, r)
	case recursive && q.Get("alt") != "text":
		writeTagged(w, "application/json", asCompactJSON(t.gceJSON(dir)))
	case recursive:
		writeTagged(w, "application/text", t.gceText(dir))
	default:
		writeTagged(w, "application/text", strings.Join(append(list, ""), "\n"))
	}
}

func writeTagged(w http.ResponseWriter, kind, body string) {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(body))
	w.Header().Set("Content-Type", kind)
	w.Header().Set("ETag", strconv.FormatUint(sum.Sum64(), 16))
	_, _ = w.Write([]byte(body))
}

func asCompactJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}" // texts, numbers and maps of them cannot fail
	}
	return string(b)
}

// gceTree is all but the tokens.
func (s *Service) gceTree() tree {
	userData := s.data()
	_, ids := s.identity()
	m := s.machine
	number := "123456789012"
	t := tree{
		"instance/id": m.ID, "instance/name": m.Hostname, "instance/hostname": m.Hostname + "." + m.Zone + ".c." + m.Account + ".internal",
		"instance/zone": "projects/" + number + "/zones/" + m.Zone, "instance/machine-type": "projects/" + number + "/machineTypes/" + m.Type,
		"instance/cpu-platform": "Intel Broadwell", "instance/description": "", "instance/image": "projects/debian-cloud/global/images/debian-12",
		"instance/tags": "[]", "instance/maintenance-event": "NONE", "instance/preempted": "FALSE",
		"instance/network-interfaces/0/ip": m.IP, "instance/network-interfaces/0/mac": m.MAC, "instance/network-interfaces/0/mtu": "1460",
		"instance/network-interfaces/0/network": "projects/" + number + "/networks/default",
		"project/project-id":                    m.Account, "project/numeric-project-id": number, "project/attributes/enable-oslogin": "FALSE",
	}
	for k, v := range m.Tags {
		t["instance/attributes/"+k] = v
	}
	if m.PublicKey != "" {
		t["instance/attributes/ssh-keys"] = "cloudinit:" + m.PublicKey
	}
	if userData != nil {
		t["instance/attributes/user-data"] = string(userData)
	}
	for i, id := range ids {
		names := []string{id.Email}
		if i == 0 {
			names = append(names, "default")
		}
		for _, n := range names {
			t[serviceAccounts+n+"/email"] = id.Email
			t[serviceAccounts+n+"/scopes"] = strings.Join(id.Scopes, "\n") + "\n"
			t[serviceAccounts+n+"/aliases"] = map[bool]string{true: "default\n", false: ""}[i == 0]
		}
	}
	return t
}

// gceJSON is a folder with all that is in it. Names are in camel case there,
// but those that users chose.
func (t tree) gceJSON(dir string) any {
	out := map[string]any{}
	for _, name := range t.list(dir) {
		folder := strings.HasSuffix(name, "/")
		name = strings.TrimSuffix(name, "/")
		path := strings.TrimPrefix(dir+"/"+name, "/")
		key := name
		if !strings.HasSuffix(dir, "attributes") && !strings.HasSuffix(dir, "service-accounts") {
			key = camel(name)
		}
		if folder {
			out[key] = t.gceJSON(path)
		} else {
			out[key] = gceValue(path, t[path])
		}
	}
	if strings.HasSuffix(dir, "network-interfaces") {
		list := []any{}
		for _, name := range t.list(dir) {
			list = append(list, out[strings.TrimSuffix(name, "/")])
		}
		return list
	}
	return out
}

// gceValue is a leaf as JSON has it: some are numbers and lists.
func gceValue(path, text string) any {
	switch path[strings.LastIndexByte(path, '/')+1:] {
	case "id", "numeric-project-id", "mtu", "tags":
		if strings.HasPrefix(path, "instance/attributes/") || !json.Valid([]byte(text)) {
			return text
		}
		return json.RawMessage(text)
	case "scopes", "aliases":
		return strings.Fields(text)
	}
	return text
}

// gceText is a folder with all that is in it, a line for each leaf.
func (t tree) gceText(dir string) string {
	var lines []string
	for path, text := range t {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok || dir == "" {
			if dir == "" {
				rest = path
			}
			lines = append(lines, rest+" "+text)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func camel(name string) string {
	words := strings.Split(name, "-")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

// gceToken gives the token of a service account. Scopes that the VM was not
// given are no error: they are not in the token.
func (s *Service) gceToken(w http.ResponseWriter, account, scopes string) {
	bearer, ids := s.identity()
	for i, id := range ids {
		if account != id.Email && (account != "default" || i != 0) {
			continue
		}
		granted := id.Scopes
		if scopes != "" {
			granted = slices.DeleteFunc(strings.Split(scopes, ","), func(scope string) bool { return !slices.Contains(id.Scopes, scope) })
		}
		t, err := bearer(id, granted)
		if err != nil {
			answerJSON(w, http.StatusForbidden, map[string]string{"error": "access_denied", "error_description": err.Error()})
			return
		}
		left := int(t.Expires.Sub(s.now()) / time.Second)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(asCompactJSON(map[string]any{"access_token": t.Value, "expires_in": left, "token_type": "Bearer"})))
		return
	}
	http.Error(w, "The service account "+strconv.Quote(account)+" was not found.", http.StatusNotFound)
}
