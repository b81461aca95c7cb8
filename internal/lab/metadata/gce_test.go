package metadata

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

var gceVM = Machine{
	ID: "5731628402198420531", Region: "europe-west1", Zone: "europe-west1-b", Hostname: "web1", MAC: "42:01:0a:00:02:0f", IP: "10.0.2.15",
	Type: "e2-micro", Account: "acme-prod", Tags: map[string]string{"ssh-keys": "ana:ssh-ed25519 AAAA ana"},
}

var vmAccount = Identity{Email: "vm@acme-prod.iam.gserviceaccount.com", Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_write", "https://www.googleapis.com/auth/logging.write"}}

func TestGCEPaths(t *testing.T) {
	s := NewGCE(gceVM)
	s.SetUserData([]byte("#!/bin/sh\n"))
	s.SetIdentities(named(time.Now().Add(time.Hour)), vmAccount)
	srv := serve(t, s)
	const v1 = "/computeMetadata/v1/"
	flavor := []string{"Metadata-Flavor", "Google"}
	for name, header := range map[string][]string{"none": nil, "another": {"Metadata-Flavor", "Amazon"}, "through a proxy": {"Metadata-Flavor", "Google", "X-Forwarded-For", "192.0.2.1"}} {
		if code, _ := ask(t, srv, "GET", v1+"instance/id", header...); code != 403 {
			t.Errorf("header %s: %d, want 403", name, code)
		}
	}
	for path, want := range map[string]string{
		"instance/id": gceVM.ID, "instance/zone": "projects/123456789012/zones/europe-west1-b", "project/project-id": "acme-prod",
		"instance/hostname": "web1.europe-west1-b.c.acme-prod.internal", "instance/attributes/user-data": "#!/bin/sh\n", "instance/attributes/": "ssh-keys\nuser-data\n",
		"instance/attributes":                     "ssh-keys\nuser-data\n", // after a redirection
		"instance/service-accounts/":              "default/\n" + vmAccount.Email + "/\n",
		"instance/service-accounts/default/email": vmAccount.Email, "project/attributes/": "enable-oslogin\n",
		"instance/service-accounts/" + vmAccount.Email + "/scopes": strings.Join(vmAccount.Scopes, "\n") + "\n",
		"instance/id?alt=json": gceVM.ID, "instance/name?alt=json": `"web1"`,
	} {
		if code, body := ask(t, srv, "GET", v1+path, flavor...); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	for _, path := range []string{"instance/nothing", "nothing/", "instance/service-accounts/other@example.com/token"} {
		if code, _ := ask(t, srv, "GET", v1+path, flavor...); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	if code, _ := ask(t, srv, "PUT", v1+"instance/guest-attributes/hostkeys/ssh-ed25519", flavor...); code != 403 {
		t.Errorf("a guest attribute: %d, want 403", code)
	}
	res, err := srv.Client().Get(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Metadata-Flavor") != "Google" {
		t.Errorf("the root says %d %v, want the flavor", res.StatusCode, res.Header)
	}
}

func TestGCERecursive(t *testing.T) {
	s := NewGCE(gceVM)
	s.SetUserData([]byte("data"))
	s.SetIdentities(named(time.Now()), vmAccount)
	srv := serve(t, s)
	var doc struct {
		Instance struct {
			ID                json.Number
			MachineType       string
			Attributes        map[string]string
			NetworkInterfaces []struct{ IP string }
			ServiceAccounts   map[string]struct {
				Email           string
				Aliases, Scopes []string
			}
		}
		Project struct{ ProjectID string }
	}
	// The way that cloud-init writes it, and the documented one.
	for _, query := range []string{"?recursive=True", "?recursive=true&alt=json"} {
		_, body := ask(t, srv, "GET", "/computeMetadata/v1/"+query, "Metadata-Flavor", "Google")
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		i := doc.Instance
		if i.ID != json.Number(gceVM.ID) || i.Attributes["user-data"] != "data" || doc.Project.ProjectID != "acme-prod" || len(i.NetworkInterfaces) != 1 ||
			i.NetworkInterfaces[0].IP != gceVM.IP || !slices.Equal(i.ServiceAccounts["default"].Scopes, vmAccount.Scopes) || !strings.HasSuffix(i.MachineType, "/e2-micro") {
			t.Errorf("%s: %s", query, body)
		}
	}
	_, body := ask(t, srv, "GET", "/computeMetadata/v1/instance/attributes/?recursive=true&alt=text", "Metadata-Flavor", "Google")
	if body != "ssh-keys ana:ssh-ed25519 AAAA ana\nuser-data data\n" {
		t.Errorf("as text: %q", body)
	}
}

func TestGCEToken(t *testing.T) {
	s := NewGCE(gceVM)
	now := time.Now()
	s.now = func() time.Time { return now }
	srv := serve(t, s)
	path := func(account, scopes string) string {
		return "/computeMetadata/v1/instance/service-accounts/" + account + "/token" + scopes
	}
	if code, _ := ask(t, srv, "GET", path("default", ""), "Metadata-Flavor", "Google"); code != 404 {
		t.Errorf("a VM without an account: %d, want 404", code)
	}
	if code, body := ask(t, srv, "GET", path("", ""), "Metadata-Flavor", "Google"); code == 200 {
		t.Errorf("no account: %d %q", code, body)
	}
	s.SetIdentities(named(now.Add(30*time.Minute)), vmAccount)
	for p, want := range map[string]string{
		path("default", ""):                                    vmAccount.Email + " for " + strings.Join(vmAccount.Scopes, ","),
		path(vmAccount.Email, ""):                              vmAccount.Email + " for " + strings.Join(vmAccount.Scopes, ","),
		path("default", "?scopes="+vmAccount.Scopes[1]+",x:y"): vmAccount.Email + " for " + vmAccount.Scopes[1],
	} {
		code, body := ask(t, srv, "GET", p, "Metadata-Flavor", "Google")
		var doc struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
			TokenType   string `json:"token_type"`
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil || code != 200 || doc.AccessToken != want || doc.ExpiresIn != 1800 || doc.TokenType != "Bearer" {
			t.Errorf("%s: %d %s, want %q", p, code, body, want)
		}
	}
}
