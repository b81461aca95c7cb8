package metadata

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

var azureVM = Machine{
	ID: "02aab8a4-74ef-476e-8182-f6d2ba4166a6", Region: "westeurope", Zone: "2", Hostname: "web1", MAC: "52:54:00:12:34:56", IP: "10.0.2.15",
	Type: "Standard_B1s", Account: "8d10da13-8125-4ba9-a717-bf7490507b3d", Tags: map[string]string{"role": "web", "Name": "web 1"},
}

var (
	system = Identity{System: true, ClientID: "c-system", ObjectID: "o-system"}
	first  = Identity{ClientID: "c-first", ObjectID: "o-first", ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/first"}
	second = Identity{ClientID: "c-second", ObjectID: "o-second", ResourceID: "/subscriptions/s/second"}
)

// named gives tokens that say whose they are.
func named(expires time.Time) TokenFunc {
	return func(id Identity, audience []string) (Token, error) {
		return Token{Value: id.ClientID + id.Email + " for " + strings.Join(audience, ","), Expires: expires}, nil
	}
}

func TestAzureInstance(t *testing.T) {
	s := NewAzure(azureVM)
	s.SetUserData([]byte("#!/bin/sh\n"))
	srv := serve(t, s)
	const query = "?api-version=2021-08-01"
	for _, c := range []struct {
		path   string
		header []string
		want   int
	}{
		{"/metadata/instance" + query, nil, 400},
		{"/metadata/instance" + query, []string{"Metadata", "false"}, 400},
		{"/metadata/instance" + query, []string{"Metadata", "true", "X-Forwarded-For", "192.0.2.1"}, 400},
		{"/metadata/instance", []string{"Metadata", "true"}, 400},
		{"/metadata/instance?api-version=2001-01-01", []string{"Metadata", "true"}, 400},
		{"/metadata/instance/compute/nothing" + query, []string{"Metadata", "true"}, 404},
		{"/metadata/instance/compute/vmId" + query, []string{"Metadata", "true"}, 404}, // a leaf is text only
		{"/metadata/nothing" + query, []string{"Metadata", "true"}, 404},
		{"/latest/meta-data/", []string{"Metadata", "true"}, 404},
		{"/metadata/instance" + query, []string{"Metadata", "True"}, 200},
		{"/metadata/versions", []string{"Metadata", "true"}, 200},
		{"/metadata/versions", nil, 400},
	} {
		if code, body := ask(t, srv, "GET", c.path, c.header...); code != c.want {
			t.Errorf("GET %s %v: %d %s, want %d", c.path, c.header, code, body, c.want)
		}
	}
	if code, _ := ask(t, srv, "POST", "/metadata/instance"+query, "Metadata", "true"); code != 405 {
		t.Errorf("POST: %d, want 405", code)
	}
	for path, want := range map[string]string{
		"compute/vmId": azureVM.ID, "compute/location": "westeurope", "compute/zone": "2", "compute/tags": "Name:web 1;role:web", "compute/customData": "",
		"network/interface/0/ipv4/ipAddress/0/privateIpAddress": "10.0.2.15", "network/interface/0/macAddress": "525400123456",
	} {
		if code, body := ask(t, srv, "GET", "/metadata/instance/"+path+query+"&format=text", "Metadata", "true"); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	var doc struct {
		Compute struct {
			Name, UserData string
			TagsList       []struct{ Name, Value string }
		}
	}
	_, body := ask(t, srv, "GET", "/metadata/instance"+query+"&extended=true", "Metadata", "true")
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	data, err := base64.StdEncoding.DecodeString(doc.Compute.UserData)
	if err != nil || string(data) != "#!/bin/sh\n" || doc.Compute.Name != "web1" || len(doc.Compute.TagsList) != 2 || doc.Compute.TagsList[1].Value != "web" {
		t.Errorf("document %s: %v", body, err)
	}
	if _, body := ask(t, srv, "GET", "/metadata/instance?api-version=2019-06-01", "Metadata", "true"); strings.Contains(body, "userData") {
		t.Errorf("an old version has new fields: %s", body)
	}
}

// token asks for a token as the documentation shows it.
func token(t *testing.T, srv *httptest.Server, query string) (int, map[string]string) {
	t.Helper()
	code, body := ask(t, srv, "GET", "/metadata/identity/oauth2/token"+query, "Metadata", "true")
	var doc map[string]string // each value is a text, numbers too
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("%s: %s: %v", query, body, err)
	}
	return code, doc
}

func TestAzureIdentities(t *testing.T) {
	s := NewAzure(azureVM)
	now := time.Unix(1_700_000_000, 0)
	s.now = func() time.Time { return now }
	srv := serve(t, s)
	const ask = "?api-version=2018-02-01&resource=https://storage.azure.com/"
	for _, c := range []struct {
		name  string
		ids   []Identity
		query string
		whose string // "" is an error
	}{
		{"none", nil, ask, ""},
		{"the system's", []Identity{first, system}, ask, "c-system"},
		{"the only one", []Identity{first}, ask, "c-first"},
		{"two, which?", []Identity{first, second}, ask, ""},
		{"client", []Identity{system, first, second}, ask + "&client_id=c-second", "c-second"},
		{"object", []Identity{system, first, second}, ask + "&object_id=o-first", "c-first"},
		{"resource", []Identity{system, first, second}, ask + "&msi_res_id=" + strings.ToLower(first.ResourceID), "c-first"},
		{"resource, new name", []Identity{system, first, second}, ask + "&mi_res_id=" + second.ResourceID, "c-second"},
		{"unknown", []Identity{system}, ask + "&client_id=c-first", ""},
		{"two names", []Identity{first, second}, ask + "&client_id=c-first&object_id=o-first", ""},
		{"no resource", []Identity{system}, "?api-version=2018-02-01", ""},
		{"odd resource", []Identity{system}, "?api-version=2018-02-01&resource=https://example.com", ""},
		{"no version", []Identity{system}, "?resource=https://storage.azure.com/", ""},
		{"too old a version", []Identity{system}, "?api-version=2017-12-01&resource=https://storage.azure.com/", ""},
	} {
		s.SetIdentities(named(now.Add(time.Hour)), c.ids...)
		code, doc := token(t, srv, c.query)
		switch {
		case c.whose == "" && (code != 400 || doc["error"] == "" || doc["error_description"] == ""):
			t.Errorf("%s: %d %v, want an error", c.name, code, doc)
		case c.whose != "" && (code != 200 || doc["access_token"] != c.whose+" for https://storage.azure.com/" || doc["client_id"] != c.whose):
			t.Errorf("%s: %d %v, want the token of %s", c.name, code, doc, c.whose)
		case c.whose != "" && (doc["expires_in"] != "3600" || doc["expires_on"] != strconv.FormatInt(now.Unix()+3600, 10) || doc["token_type"] != "Bearer"):
			t.Errorf("%s: %v", c.name, doc)
		}
	}
	s.SetIdentities(func(Identity, []string) (Token, error) { return Token{}, errors.New("not yet") }, system)
	if code, doc := token(t, srv, ask); code != 400 || doc["error_description"] != "not yet" {
		t.Errorf("a token that is not given: %d %v", code, doc)
	}
}

func TestWireServer(t *testing.T) {
	s := NewAzure(azureVM)
	srv := httptest.NewServer(s.WireServer())
	defer srv.Close()
	if code, _ := ask(t, srv, "GET", "/machine/?comp=goalstate"); code != 400 {
		t.Errorf("without a version: %d, want 400", code)
	}
	code, body := ask(t, srv, "GET", "/machine/?comp=goalstate", "x-ms-version", "2012-11-30")
	var state struct {
		Incarnation string
		Container   struct {
			ContainerID string `xml:"ContainerId"`
			Instance    string `xml:"RoleInstanceList>RoleInstance>InstanceId"`
		}
	}
	if err := xml.Unmarshal([]byte(body), &state); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	report := func(container, state string) int {
		doc := "<Health><GoalStateIncarnation>1</GoalStateIncarnation><Container><ContainerId>" + container + "</ContainerId><RoleInstanceList><Role><InstanceId>" +
			azureVM.ID + ".web1</InstanceId><Health><State>" + state + "</State></Health></Role></RoleInstanceList></Container></Health>"
		req := httptest.NewRequest("POST", "/machine?comp=health", strings.NewReader(doc))
		req.Header.Set("x-ms-version", "2012-11-30")
		w := httptest.NewRecorder()
		s.WireServer().ServeHTTP(w, req)
		return w.Code
	}
	if code := report("another", "Ready"); code != 400 || len(s.Health()) != 0 {
		t.Errorf("the report of another VM: %d, %v", code, s.Health())
	}
	if code := report(state.Container.ContainerID, "Ready"); code != 200 || len(s.Health()) != 1 || s.Health()[0].State != "Ready" {
		t.Errorf("the report: %d, %v", code, s.Health())
	}
	if s.Count("POST", "/machine", 200) != 1 {
		t.Errorf("requests: %v", s.Requests())
	}
}
