package metadata

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

var vm = Machine{
	ID: "i-0123456789abcdef0", Region: "eu-west-1", Zone: "eu-west-1b", Hostname: "ip-10-0-2-15", MAC: "52:54:00:12:34:56", IP: "10.0.2.15",
	Type: "t3.micro", Account: "123456789012", Role: "vm", Tags: map[string]string{"Name": "web1"},
}

// ask is one request, as curl would make it.
func ask(t *testing.T, srv *httptest.Server, method, path string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func serve(t *testing.T, s *Service) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv
}

func TestEC2NeedsASessionToken(t *testing.T) {
	s := NewEC2(vm)
	now := time.Now()
	s.now = func() time.Time { return now }
	srv := serve(t, s)
	const path = "/latest/meta-data/instance-id"
	for name, header := range map[string][]string{"none": nil, "empty": {tokenHeader, ""}, "made up": {tokenHeader, "x"}} {
		if code, _ := ask(t, srv, "GET", path, header...); code != 401 {
			t.Errorf("token %s: %d, want 401", name, code)
		}
	}
	for ttl, want := range map[string]int{"": 400, "0": 400, "21601": 400, "x": 400, "60": 200} {
		if code, _ := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, ttl); code != want {
			t.Errorf("ttl %q: %d, want %d", ttl, code, want)
		}
	}
	if code, _ := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, "60", "X-Forwarded-For", "192.0.2.1"); code != 403 {
		t.Errorf("through a proxy: %d, want 403", code)
	}
	_, token := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, "60")
	if code, body := ask(t, srv, "GET", path, tokenHeader, token); code != 200 || body != vm.ID {
		t.Errorf("with a token: %d %q", code, body)
	}
	now = now.Add(61 * time.Second)
	if code, _ := ask(t, srv, "GET", path, tokenHeader, token); code != 401 {
		t.Errorf("with an expired token: %d, want 401", code)
	}
	if n := s.Count("GET", "instance-id", 401); n != 4 {
		t.Errorf("%d refused requests noted, want 4", n)
	}
}

func TestEC2Paths(t *testing.T) {
	s := NewEC2(vm)
	ud := "\x00binary\xff\r\nuser-data"
	srv := serve(t, s)
	_, token := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, "60")
	if code, _ := ask(t, srv, "GET", "/latest/user-data", tokenHeader, token); code != 404 {
		t.Errorf("without user-data: %d, want 404", code)
	}
	s.SetUserData([]byte(ud))
	for path, want := range map[string]string{
		"/latest/":                                                               "dynamic/\nmeta-data/\nuser-data",
		"/2021-03-23/user-data":                                                  ud,
		"/2009-04-04/meta-data/placement/":                                       "availability-zone\nregion",
		"/latest/meta-data/placement/region":                                     "eu-west-1",
		"/latest/meta-data/iam/security-credentials/":                            "vm",
		"/latest/meta-data/network/interfaces/macs/":                             vm.MAC + "/",
		"/latest/meta-data/tags/instance/Name":                                   "web1",
		"/2021-03-23/dynamic/instance-identity":                                  "document",
		"/latest/meta-data/network/interfaces/macs/" + vm.MAC + "/device-number": "0",
	} {
		if code, body := ask(t, srv, "GET", path, tokenHeader, token); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	for _, path := range []string{"/latest/meta-data/nothing", "/1999-01-01/meta-data/", "/favicon.ico"} {
		if code, _ := ask(t, srv, "GET", path, tokenHeader, token); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	_, body := ask(t, srv, "GET", "/latest/dynamic/instance-identity/document", tokenHeader, token)
	var doc struct{ InstanceID, Region, AvailabilityZone string }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.InstanceID != vm.ID || doc.Region != vm.Region || doc.AvailabilityZone != vm.Zone {
		t.Errorf("document %s: %v", body, err)
	}
}

// An independent client of the service: the one in the S3 library.
func TestEC2CredentialsThroughMinio(t *testing.T) {
	s := NewEC2(vm)
	srv := serve(t, s)
	s.SetCredentials(Credentials{AccessKeyID: "AKID1", SecretAccessKey: "secret1", SessionToken: "session1", Expires: time.Now().Add(time.Hour)})
	creds := credentials.New(&credentials.IAM{Client: srv.Client(), Endpoint: srv.URL})
	got, err := creds.GetWithContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.AccessKeyID != "AKID1" || got.SecretAccessKey != "secret1" || got.SessionToken != "session1" {
		t.Errorf("got %+v", got)
	}
	s.SetCredentials(Credentials{AccessKeyID: "AKID2", SecretAccessKey: "secret2", Expires: time.Now().Add(time.Hour)})
	creds.Expire()
	if got, err = creds.GetWithContext(nil); err != nil || got.AccessKeyID != "AKID2" {
		t.Errorf("after a rotation: %+v, %v", got, err)
	}
	s.SetDown(true)
	creds.Expire()
	if _, err = creds.GetWithContext(nil); err == nil {
		t.Error("no error from a service that is down")
	}
	if s.Count("PUT", "api/token", 200) == 0 {
		t.Error("the client took no session token")
	}
}

func TestOpenStackPaths(t *testing.T) {
	m := vm
	m.ID = "83679162-1378-4288-a2d4-70e13ec132aa"
	s := NewOpenStack(m)
	s.SetUserData([]byte("#!/bin/sh\n"))
	srv := serve(t, s)
	if _, body := ask(t, srv, "GET", "/openstack"); !strings.Contains(body, "2018-08-27\n") {
		t.Errorf("versions: %q", body)
	}
	for path, want := range map[string]string{
		"/openstack/2018-08-27/user_data":    "#!/bin/sh\n",
		"/openstack/latest/vendor_data.json": "{}",
		"/latest/meta-data/instance-id":      m.ID,
		"/2009-04-04/meta-data/local-ipv4":   m.IP,
	} {
		if code, body := ask(t, srv, "GET", path); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	for _, path := range []string{"/openstack/2018-08-27/nothing", "/openstack/1999-01-01/user_data", "/latest/meta-data/iam/info"} {
		if code, _ := ask(t, srv, "GET", path); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	if code, _ := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, "60"); code == 200 {
		t.Error("Nova has no session tokens")
	}
	_, body := ask(t, srv, "GET", "/openstack/latest/meta_data.json")
	var doc struct {
		UUID string
		Meta map[string]string
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.UUID != m.ID || doc.Meta["Name"] != "web1" {
		t.Errorf("meta_data.json %s: %v", body, err)
	}
	_, body = ask(t, serve(t, NewOpenStack(Machine{ID: "u"})), "GET", "/openstack/latest/meta_data.json")
	if !strings.Contains(body, `"meta": {}`) {
		t.Errorf("without tags: %s", body)
	}
}

func TestOpenStackVendorDataAndConfigDrive(t *testing.T) {
	m := vm
	m.ID = "83679162-1378-4288-a2d4-70e13ec132aa"
	s := NewOpenStack(m)
	s.SetUserData([]byte("#!/bin/sh\n"))
	s.SetVendorData([]byte(`{"cloud-init":"#cloud-config"}`), nil)
	srv := serve(t, s)
	drive := s.ConfigDrive()
	for name, want := range map[string]string{"vendor_data.json": `{"cloud-init":"#cloud-config"}`, "vendor_data2.json": "{}", "user_data": "#!/bin/sh\n"} {
		if _, body := ask(t, srv, "GET", "/openstack/latest/"+name); body != want {
			t.Errorf("%s: %q, want %q", name, body, want)
		}
		if got := string(drive["openstack/latest/"+name]); got != want {
			t.Errorf("%s on the drive: %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(string(drive["openstack/latest/meta_data.json"]), m.ID) || drive["openstack/latest/password"] != nil {
		t.Errorf("the drive: %q", drive)
	}
}

// Credentials that end while the VM runs: the service gives new ones before.
func TestEC2RoleRotates(t *testing.T) {
	s := NewEC2(vm)
	now := time.Now()
	s.now = func() time.Time { return now }
	made := 0
	var current Credentials
	s.SetRole(func(now time.Time) Credentials {
		if current.Expires.Sub(now) < 5*time.Minute {
			made++
			current = Credentials{AccessKeyID: "AKID" + strconv.Itoa(made), SecretAccessKey: "s", SessionToken: "t", Expires: now.Add(time.Hour)}
		}
		return current
	})
	srv := serve(t, s)
	_, token := ask(t, srv, "PUT", "/latest/api/token", tokenTTLHeader, "21600")
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, "AKID1"}, {54 * time.Minute, "AKID1"}, {2 * time.Minute, "AKID2"}, {2 * time.Hour, "AKID3"}} {
		now = now.Add(c.after)
		_, body := ask(t, srv, "GET", "/latest/meta-data/iam/security-credentials/vm", tokenHeader, token)
		var doc struct {
			AccessKeyID string
			Expiration  time.Time
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.AccessKeyID != c.want || !doc.Expiration.After(now) {
			t.Errorf("after %s: %s, %v; want %s", c.after, body, err, c.want)
		}
	}
	if ask(t, srv, "GET", "/latest/meta-data/iam/security-credentials/", tokenHeader, token); made != 3 {
		t.Errorf("credentials were made %d times, want 3", made)
	}
}
