package buckettest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// AccessRule lets an application credential make requests of one kind.
// In Path, ** stands for anything and * for anything without a slash.
// https://docs.openstack.org/keystone/latest/user/application_credentials.html#access-rules
type AccessRule struct {
	Service string `json:"service"` // object-store
	Method  string `json:"method"`
	Path    string `json:"path"` // /v1/AUTH_<project>/<container>/…
}

// VMRules are the rules under which a VM reads what it needs and writes its own
// reports and logs, below prefix, and may do nothing else.
func (s *Swift) VMRules(container, prefix, vm string) []AccessRule {
	at := func(p string) string {
		return "/v1/AUTH_" + s.project + "/" + path.Join(container, prefix, p)
	}
	var rules []AccessRule
	for _, p := range []string{"tuf/**", "packs/**", "manifests/**", "agents/**"} {
		rules = append(rules, AccessRule{"object-store", "GET", at(p)})
	}
	for _, p := range []string{"reports/", "logs/"} {
		rules = append(rules, AccessRule{"object-store", "PUT", at(p + vm + "/**")})
	}
	return rules
}

// AuthURL returns the URL of Keystone.
func (s *Swift) AuthURL() string { return "http://" + s.Keystone + "/v3" }

// StorageURL returns the URL of the project's account in Swift.
func (s *Swift) StorageURL() string { return "http://" + s.Addr + "/v1/AUTH_" + s.project }

// URL returns the swift: URL of a prefix in a container.
func (s *Swift) URL(container, prefix string) string {
	u := "swift://" + container
	if prefix != "" {
		u += "/" + prefix
	}
	return u + "?auth=" + url.QueryEscape(s.AuthURL()) + "&region=" + SwiftRegion
}

// TempURL returns the swift: URL of a prefix in a container for temporary URLs.
func (s *Swift) TempURL(container, prefix string) string {
	u := "swift://" + container
	if prefix != "" {
		u += "/" + prefix
	}
	return u + "?storage=" + url.QueryEscape(s.StorageURL())
}

// CreateContainer makes a private container.
func (s *Swift) CreateContainer(name string) {
	s.t.Helper()
	s.must(http.MethodPut, s.StorageURL()+"/"+url.PathEscape(name), nil, nil)
}

// AddEntries adds names to the listing of a container, for which there are no
// objects: a long listing without the time that its objects would take.
func (s *Swift) AddEntries(container string, names []string) {
	s.t.Helper()
	cmd := s.command(debianPython, s.path("swift_servers.py"), "entries", s.path("node", "d1"), container)
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("add to the listing of %s: %v\n%s", container, err, out)
	}
}

// SetContainerHeader sets a header of a container, such as X-Container-Read.
func (s *Swift) SetContainerHeader(container, name, value string) {
	s.t.Helper()
	s.must(http.MethodPost, s.StorageURL()+"/"+url.PathEscape(container), http.Header{name: {value}}, nil)
}

// SetTempURLKey sets the key that signs temporary URLs of the whole account.
func (s *Swift) SetTempURLKey(key string) {
	s.t.Helper()
	s.must(http.MethodPost, s.StorageURL(), http.Header{"X-Account-Meta-Temp-Url-Key": {key}}, nil)
}

// AppCredential makes an application credential of [SwiftUser]; without rules
// it may do what the user may.
func (s *Swift) AppCredential(name string, rules ...AccessRule) (id, secret string) {
	s.t.Helper()
	cred := map[string]any{"name": name}
	if len(rules) > 0 {
		cred["access_rules"] = rules
	}
	var out struct {
		C struct{ ID, Secret string } `json:"application_credential"`
	}
	s.must(http.MethodPost, s.AuthURL()+"/users/"+s.user+"/application_credentials", nil, map[string]any{"application_credential": cred}, &out)
	return out.C.ID, out.C.Secret
}

// DeleteAppCredential ends an application credential.
func (s *Swift) DeleteAppCredential(id string) {
	s.t.Helper()
	s.must(http.MethodDelete, s.AuthURL()+"/users/"+s.user+"/application_credentials/"+id, nil, nil)
}

// RevokeToken ends a token. Swift notices after [SwiftTokenCache].
func (s *Swift) RevokeToken(token string) {
	s.t.Helper()
	s.as("admin", adminSecret, "admin", http.MethodDelete, s.AuthURL()+"/auth/tokens", http.Header{"X-Subject-Token": {token}}, nil)
}

// CreateUser makes a user of the project with the role member, which Swift
// gives no right by itself. It returns the user's id.
func (s *Swift) CreateUser(name, password string) string {
	s.t.Helper()
	return s.createUser(name, password, s.project, "member")
}

// populate makes project, users and the catalog's entry of Swift.
func (s *Swift) populate() {
	s.t.Helper()
	create := func(kind string, o map[string]any) string {
		return s.admin(http.MethodPost, kind+"s", map[string]any{kind: o})
	}
	service := create("project", map[string]any{"name": "service", "domain_id": "default"})
	s.project = create("project", map[string]any{"name": SwiftProject, "domain_id": "default"})
	create("role", map[string]any{"name": "swiftoperator"})
	s.createUser(swiftService, swiftSecret, service, "admin")
	s.user = s.createUser(SwiftUser, SwiftPassword, s.project, "swiftoperator")
	swift := create("service", map[string]any{"type": "object-store", "name": "swift"})
	for _, i := range []string{"public", "internal"} {
		create("endpoint", map[string]any{
			"interface": i, "region_id": SwiftRegion, "service_id": swift, "url": "http://" + s.Addr + "/v1/AUTH_%(project_id)s",
		})
	}
}

func (s *Swift) createUser(name, password, project, role string) string {
	s.t.Helper()
	id := s.admin(http.MethodPost, "users", map[string]any{
		"user": map[string]any{"name": name, "password": password, "domain_id": "default", "enabled": true},
	})
	roleID := s.admin(http.MethodGet, "roles?name="+role, nil)
	s.admin(http.MethodPut, "projects/"+project+"/users/"+id+"/roles/"+roleID, nil)
	return id
}

// admin makes a request of Keystone and returns the id of the one object in
// its answer.
func (s *Swift) admin(method, what string, body any) string {
	s.t.Helper()
	var out map[string]json.RawMessage
	s.as("admin", adminSecret, "admin", method, s.AuthURL()+"/"+what, nil, body, &out)
	for _, raw := range out {
		var one struct{ ID string }
		var many []struct{ ID string }
		if json.Unmarshal(raw, &one) == nil && one.ID != "" {
			return one.ID
		}
		if json.Unmarshal(raw, &many) == nil && len(many) == 1 {
			return many[0].ID
		}
	}
	if len(out) > 0 {
		s.t.Fatalf("%s %s: no id in the answer", method, what)
	}
	return ""
}

// must is a request of SwiftUser.
func (s *Swift) must(method, target string, h http.Header, body any, out ...any) {
	s.t.Helper()
	s.as(SwiftUser, SwiftPassword, SwiftProject, method, target, h, body, out...)
}

func (s *Swift) as(user, password, project, method, target string, h http.Header, body any, out ...any) {
	s.t.Helper()
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("X-Auth-Token", s.token(user, password, project))
	_, answer := s.do(method, target, h, body)
	for _, o := range out {
		if len(answer) == 0 {
			return
		}
		if err := json.Unmarshal(answer, o); err != nil {
			s.t.Fatalf("%s %s: %v", method, target, err)
		}
	}
}

// token returns a token of a user, asked for once.
func (s *Swift) token(user, password, project string) string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens[user]; t != "" {
		return t
	}
	domain := map[string]string{"id": "default"}
	header, _ := s.do(http.MethodPost, s.AuthURL()+"/auth/tokens", http.Header{}, map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "password": password, "domain": domain},
		}},
		"scope": map[string]any{"project": map[string]any{"name": project, "domain": domain}},
	}})
	s.tokens[user] = header.Get("X-Subject-Token")
	return s.tokens[user]
}

func (s *Swift) do(method, target string, h http.Header, body any) (http.Header, []byte) {
	s.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
		h.Set("Content-Type", "application/json")
	}
	req, err := http.NewRequest(method, target, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = h
	resp, err := s.cfg.Client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("status %s: %s", resp.Status, strings.TrimSpace(string(answer)))
	}
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp.Header, answer
}
