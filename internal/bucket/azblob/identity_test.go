package azblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// imds is the metadata service of a VM with managed identities: by client ID,
// the tokens they give; "" is the system-assigned one.
type imds struct {
	*httptest.Server
	mu     sync.Mutex
	tokens map[string]string // bodies of answers
	status []int             // of the next answers, before the right ones
	asked  int
}

func newIMDS(t *testing.T, tokens map[string]string) *imds {
	m := &imds{tokens: tokens}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if len(m.status) > 0 {
		status := m.status[0]
		m.status = m.status[1:]
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		return
	}
	q := r.URL.Query()
	body, ok := m.tokens[q.Get("client_id")]
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/metadata/identity/oauth2/token" || r.Header.Get("X-Forwarded-For") != "":
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Header.Get("Metadata") != "true" || q.Get("api-version") != "2018-02-01" || q.Get("resource") != "https://storage.azure.com/":
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`)
	case !ok:
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_request","error_description":"Identity not found"}`)
	default:
		io.WriteString(w, body)
	}
}

func tokenJSON(token string, left int) string {
	return fmt.Sprintf(`{"access_token":%q,"client_id":"c","expires_in":"%d","expires_on":"%d","ext_expires_in":"%d","resource":"https://storage.azure.com/","token_type":"Bearer"}`,
		token, left, time.Now().Unix()+int64(left), left)
}

// impatient is the identity without long pauses.
func impatient(endpoint string) Source {
	m := newMetadata(endpoint, func(Location) bool { return false })
	m.pause = time.Millisecond
	return m.source()
}

var cloud = Location{Account: "acct", Container: "fleet"}

// credentialOf is what a chain of these sources gives.
func credentialOf(t *testing.T, at Location, sources []Source) (credential, error) {
	t.Helper()
	g, err := newChain(at, sources, nil).Get(t.Context())
	if err != nil {
		return credential{}, err
	}
	return g.Value, nil
}

func TestManagedIdentity(t *testing.T) {
	m := newIMDS(t, map[string]string{"": tokenJSON("system", 3600), "1234-ab": tokenJSON("user", 3600)})
	user := cloud
	user.ClientID = "1234-ab"
	other := cloud
	other.ClientID = "none"
	for _, c := range []struct {
		at   Location
		want string
	}{{cloud, "system"}, {user, "user"}, {other, ""}} {
		v, err := credentialOf(t, c.at, []Source{ManagedIdentity(m.URL)})
		if v.token != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.at.ClientID, v.token, err)
		}
		if left := time.Until(v.ends); err == nil && (left < 59*time.Minute || left > time.Hour) {
			t.Errorf("%q: ends in %s", c.at.ClientID, left)
		}
		if err != nil && (!errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "Identity not found")) {
			t.Errorf("%q: %v", c.at.ClientID, err)
		}
	}
	if m.asked != 3 {
		t.Errorf("asked %d times", m.asked)
	}
}

func TestManagedIdentity_Failures(t *testing.T) {
	good := tokenJSON("good", 3600)
	for _, c := range []struct {
		name   string
		body   string
		status []int
		want   error
		words  string
		asked  int
	}{
		{"being updated", good, []int{404, 410}, nil, "", 3},
		{"too many requests", good, []int{429, 429, 429}, nil, "", 4},
		{"broken for a moment", good, []int{500}, nil, "", 2},
		{"no such service", good, []int{404, 404, 404, 404}, bucket.ErrUnavailable, "404", 4},
		{"too many requests for long", good, []int{429, 429, 429, 429}, bucket.ErrUnavailable, "429", 4},
		{"redirect", good, []int{302}, bucket.ErrPermission, "302", 1},
		{"forbidden", good, []int{403}, bucket.ErrPermission, "403", 1},
		{"not JSON", "<html>SECRET", nil, bucket.ErrUnavailable, "no JSON at byte 1", 1},
		{"another JSON", `{"access_token":["SECRET"]}`, nil, bucket.ErrUnavailable, "right form", 1},
		{"no token", `{"expires_in":"5"}`, nil, bucket.ErrUnavailable, "no valid token", 1},
		{"a token of two lines", tokenJSON("a\nb", 5), nil, bucket.ErrUnavailable, "no valid token", 1},
		{"no end", `{"access_token":"SECRET"}`, nil, bucket.ErrUnavailable, "when the token expires", 1},
		{"expired", fmt.Sprintf(`{"access_token":"SECRET","expires_on":%d}`, time.Now().Unix()-5), nil, bucket.ErrUnavailable, "expired at", 1},
		{"numbers", fmt.Sprintf(`{"access_token":"good","expires_on":%d}`, time.Now().Unix()+60), nil, nil, "", 1},
		{"endless", strings.Repeat(" ", metadataLimit+1), nil, bucket.ErrUnavailable, "over", 1},
		{"a token of a megabyte", tokenJSON(strings.Repeat("S", maxToken+1), 5), nil, bucket.ErrUnavailable, "no valid token", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newIMDS(t, map[string]string{"": c.body})
			m.status = c.status
			v, err := credentialOf(t, cloud, []Source{impatient(m.URL)})
			if !errors.Is(err, c.want) || c.want == nil && v.token != "good" || err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%q, %v, want %v with %q", v.token, err, c.want, c.words)
			}
			if err != nil && strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error shows the token: %v", err)
			}
			if m.asked != c.asked && c.name != "endless" {
				t.Errorf("asked %d times, want %d", m.asked, c.asked)
			}
		})
	}
	m := newIMDS(t, nil)
	m.Close()
	if _, err := credentialOf(t, cloud, []Source{impatient(m.URL)}); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestManagedIdentity_EndsWithItsContext(t *testing.T) {
	m := newIMDS(t, nil)
	m.status = []int{429, 429, 429, 429}
	ctx, cancel := context.WithCancel(t.Context())
	slow := newMetadata(m.URL, func(Location) bool { return false })
	slow.pause = time.Hour
	time.AfterFunc(50*time.Millisecond, cancel)
	b, err := Open(ctx, "az://acct/fleet", Options{Sources: []Source{slow.source()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Get(ctx, "k", bucket.GetOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestManagedIdentity_Environment asks where the environment says, without the
// proxy of the environment.
func TestManagedIdentity_Environment(t *testing.T) {
	m := newIMDS(t, map[string]string{"": tokenJSON("system", 3600)})
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", m.URL+"/")
	if v, err := credentialOf(t, cloud, []Source{ManagedIdentity("")}); err != nil || v.token != "system" {
		t.Errorf("%v", err)
	}
	// The standard library's own proxy spares loopback addresses.
	if tr, ok := newMetadata("", nil).client.Transport.(*http.Transport); !ok || tr.Proxy != nil {
		t.Error("a token may pass a proxy")
	}
}

// TestManagedIdentity_NotAzure tries once where credentials are in the file and
// the firmware is not Azure's.
func TestManagedIdentity_NotAzure(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials")
	if err := os.WriteFile(file, []byte("azure_storage_account = acct\nazure_storage_key = a2V5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tag := range map[string]string{"azure": azureTag, "other": "No Asset Tag"} {
		id := filepath.Join(dir, name, "class/dmi/id")
		if err := os.MkdirAll(id, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(id, "chassis_asset_tag"), []byte(tag+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := cloud
	elsewhere.Account = "elsewhere"
	for _, c := range []struct {
		sys, file string
		at        Location
		asked     int
	}{
		{"other", file, cloud, 1},
		{"none", file, cloud, 1},
		{"azure", file, cloud, metadataTries},
		{"other", file + ".none", cloud, metadataTries},
		{"other", file, elsewhere, metadataTries},
	} {
		m := newIMDS(t, nil)
		m.status = []int{404, 404, 404, 404}
		source := newMetadata(m.URL, func(at Location) bool { return needless(filepath.Join(dir, c.sys), c.file, at) })
		source.pause = time.Millisecond
		v, err := credentialOf(t, c.at, []Source{source.source(), File(c.file)})
		if m.asked != c.asked || (v.key != nil) != (err == nil) {
			t.Errorf("%+v: asked %d times: %v", c, m.asked, err)
		}
	}
}

// TestOrder uses only what it names: a metadata service that would answer is
// not asked unless it is among the sources.
func TestOrder(t *testing.T) {
	m := newIMDS(t, map[string]string{"": tokenJSON("system", 3600)})
	none := newIMDS(t, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials")
	if err := os.WriteFile(file, []byte("[default]\nazure_storage_sas_token = ?sv=1&sig=FILE\n[other]\nazure_storage_key = a2V5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	loose := filepath.Join(dir, "loose")
	if err := os.WriteFile(loose, []byte("azure_storage_key = a2V5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type env = map[string]string
	for _, c := range []struct {
		name    string
		env     env
		sources []Source
		want    string
		words   string
	}{
		{"operator, SAS before key", env{"AZURE_STORAGE_KEY": "a2V5", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=ENV"}, OperatorSources(), "sig=ENV&sv=1", ""},
		{"operator, key", env{"AZURE_STORAGE_KEY": "a2V5"}, OperatorSources(), "key", ""},
		{"operator, SAS", env{"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=ENV"}, OperatorSources(), "sig=ENV&sv=1", ""},
		{"operator, connection string", env{"AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5==;EndpointSuffix=x", "AZURE_STORAGE_SAS_TOKEN": "sig=ENV"}, OperatorSources(), "", "not base64"},
		{"operator, connection string with a key", env{"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acct;AccountKey=a2V5a2U=", "AZURE_STORAGE_SAS_TOKEN": "sig=ENV"}, OperatorSources(), "key", ""},
		{"operator, connection string with both", env{"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acct;AccountKey=a2V5a2U=;SharedAccessSignature=sv=1&sig=CON"}, OperatorSources(), "sig=CON&sv=1", ""},
		{"operator, connection string with SAS", env{"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://x;SharedAccessSignature=sv=1&sig=CON"}, OperatorSources(), "sig=CON&sv=1", ""},
		{"operator, another account", env{"AZURE_STORAGE_ACCOUNT": "else", "AZURE_STORAGE_KEY": "a2V5"}, OperatorSources(), "", `storage account "else"`},
		{"operator, this account", env{"AZURE_STORAGE_ACCOUNT": "acct", "AZURE_STORAGE_KEY": "a2V5"}, OperatorSources(), "key", ""},
		{"operator, no SAS", env{"AZURE_STORAGE_SAS_TOKEN": "SECRET"}, OperatorSources(), "", "no query with a signature"},
		{"operator, no key", env{"AZURE_STORAGE_KEY": "SECRET!"}, OperatorSources(), "", "not base64"},
		{"operator, nothing", nil, OperatorSources(), "", "azure_storage_connection_string"},
		{"VM, identity", env{"AZURE_POD_IDENTITY_AUTHORITY_HOST": m.URL, "AZURE_STORAGE_KEY": "a2V5"}, VMSources(file), "system", ""},
		{"VM, file", env{"AZURE_POD_IDENTITY_AUTHORITY_HOST": none.URL, "AZURE_STORAGE_KEY": "a2V5"}, VMSources(file), "sig=FILE&sv=1", ""},
		{"VM, environment", env{"AZURE_POD_IDENTITY_AUTHORITY_HOST": none.URL, "AZURE_STORAGE_KEY": "a2V5"}, VMSources(dir + "/none"), "key", ""},
		{"VM, file that others may read", env{"AZURE_POD_IDENTITY_AUTHORITY_HOST": none.URL}, VMSources(loose), "", "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"} {
				t.Setenv(name, c.env[name])
			}
			t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
			if host := c.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"]; host != "" {
				t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)
			}
			v, err := credentialOf(t, cloud, c.sources)
			got := v.token + v.sas
			if v.key != nil {
				got += "key"
			}
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
			if err != nil && (!errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "SECRET")) {
				t.Errorf("%v, want %v with %q", err, bucket.ErrPermission, c.words)
			}
		})
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(tokenJSON("k", 60)))
	f.Add([]byte(`{"access_token":"t","expires_on":60}`))
	f.Add([]byte(`{"access_token":"t","expires_in":9999999999999999999}`))
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := parseToken(body, now)
		if err == nil && (!isToken(v.token) || v.ends.IsZero() || v.ends.Year() > 4000) {
			t.Errorf("%q gives %+v", body, v)
		}
	})
}

func FuzzStatic(f *testing.F) {
	f.Add("AccountName=acct;AccountKey=a2V5", "", "")
	f.Add("", "?sv=1&sig=x&se=2026-01-01", "")
	f.Add("", "", "a2V5")
	f.Fuzz(func(t *testing.T, connection, sas, key string) {
		values := map[string]string{"azure_storage_connection_string": connection, "azure_storage_sas_token": sas, "azure_storage_key": key}
		v, err := static(cloud, func(name string) string { return values[name] })
		if err == nil && v.key == nil && (v.sas == "" || v.sig == "" || strings.ContainsAny(v.sas, " \r\n#")) {
			t.Errorf("%q gives %+v", values, v)
		}
		if err != nil && !errors.Is(err, wire.ErrNothing) {
			t.Errorf("%q: %v", values, err)
		}
	})
}
