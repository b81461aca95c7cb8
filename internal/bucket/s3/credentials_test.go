package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// imds is a metadata service that insists on IMDSv2.
type imds struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	role     string // JSON of the role; "": the instance has none
	status   []int  // of the next answers, before the right ones
}

func newIMDS(t *testing.T, role string) *imds {
	m := &imds{role: role}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, r.Method+" "+r.URL.Path)
	if len(m.status) > 0 {
		status := m.status[0]
		m.status = m.status[1:]
		http.Redirect(w, r, "/elsewhere", status)
		return
	}
	const list = "/latest/meta-data/iam/security-credentials/"
	switch {
	case r.Method == "PUT" && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
		io.WriteString(w, "TOKEN==")
	case r.Header.Get("X-aws-ec2-metadata-token") != "TOKEN==":
		w.WriteHeader(http.StatusUnauthorized)
	case m.role != "" && r.URL.Path == list:
		io.WriteString(w, "web role\n")
	case m.role != "" && r.URL.Path == list+"web role":
		io.WriteString(w, m.role)
	case r.URL.Path == "/latest/meta-data/placement/region":
		io.WriteString(w, "eu-west-3\n")
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func roleJSON(key string, ends time.Time) string {
	return fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`,
		key, ends.UTC().Format(time.RFC3339))
}

func retrieve(t *testing.T, sources ...Source) (Keys, error) {
	t.Helper()
	g, err := newChain(sources, nil).Get(t.Context())
	if err != nil {
		return Keys{}, err
	}
	return g.Value, nil
}

func TestInstanceRole(t *testing.T) {
	ends := time.Now().Add(6 * time.Hour).Truncate(time.Second)
	m := newIMDS(t, roleJSON("ASIA1", ends))
	v, err := retrieve(t, InstanceRole(m.URL))
	if err != nil {
		t.Fatal(err)
	}
	if v.AccessKey != "ASIA1" || v.SecretKey != "s" || v.SessionToken != "t" || !v.Expires.Equal(ends) {
		t.Errorf("got %+v", v)
	}
	if want := "PUT /latest/api/token"; m.requests[0] != want || len(m.requests) != 3 {
		t.Errorf("requests %q", m.requests)
	}
}

func TestInstanceRole_Failures(t *testing.T) {
	good := roleJSON("ASIA1", time.Now().Add(time.Hour))
	for _, c := range []struct {
		name   string
		role   string
		status []int
		want   error
		words  string
	}{
		{"no role", "", nil, bucket.ErrPermission, "404"},
		{"no IMDSv2", good, []int{405}, bucket.ErrPermission, "405"},
		{"busy once", good, []int{503}, nil, ""},
		{"busy", good, []int{503, 503}, bucket.ErrUnavailable, "503"},
		{"redirect", good, []int{302}, bucket.ErrPermission, "302"},
		{"expired", roleJSON("ASIA1", time.Now().Add(-time.Hour)), nil, bucket.ErrUnavailable, "expired"},
		{"not JSON", "<html>", nil, bucket.ErrUnavailable, "role"},
		{"refused role", `{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}`, nil, bucket.ErrUnavailable, "EC2 cannot assume"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newIMDS(t, c.role)
			m.status = c.status
			_, err := retrieve(t, InstanceRole(m.URL))
			if !errors.Is(err, c.want) || c.want != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v with %q", err, c.want, c.words)
			}
		})
	}
	m := newIMDS(t, good)
	m.Close()
	if _, err := retrieve(t, InstanceRole(m.URL)); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if _, err := retrieve(t, InstanceRole("")); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "AWS_EC2_METADATA_DISABLED") {
		t.Errorf("disabled: %v", err)
	}
}

// TestOrder uses only what it names: a metadata service that would answer is
// not asked unless it is among the sources.
func TestOrder(t *testing.T) {
	m := newIMDS(t, roleJSON("ASIA1", time.Now().Add(time.Hour)))
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials")
	write(t, file, "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\naws_session_token = t\n[other]\naws_access_key_id = AKOTHER\naws_secret_access_key = s\n")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", m.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	sdk := func(k Keys, err error) Source {
		return KeySource("SDK", func(context.Context) (Keys, error) { return k, err }, nil)
	}
	for _, c := range []struct {
		name    string
		env     map[string]string
		sources []Source
		key     string
		asked   bool
	}{
		{"operator, environment", map[string]string{"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, OperatorSources(), "AKENV", false},
		{"operator, half an environment", map[string]string{"AWS_ACCESS_KEY_ID": "AKENV"}, OperatorSources(), "", false},
		{"operator, an SDK's", nil, append(OperatorSources(), sdk(Keys{AccessKey: "AKSDK", SecretKey: "s"}, nil)), "AKSDK", false},
		{"operator, an SDK's before a file", nil, []Source{sdk(Keys{}, bucket.ErrPermission), StaticFile(file)}, "AKFILE", false},
		{"operator, an SDK without keys", nil, []Source{sdk(Keys{}, nil)}, "", false},
		{"VM, role", map[string]string{"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, VMSources(file), "ASIA1", true},
		{"VM, file", nil, VMSources(file)[1:], "AKFILE", false},
		{"VM, file only its default", map[string]string{"AWS_PROFILE": "other"}, []Source{StaticFile(file)}, "AKFILE", false},
		{"VM, environment", map[string]string{"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, []Source{StaticFile(dir + "/none"), Environment()}, "AKENV", false},
		{"none", nil, []Source{StaticFile(dir + "/none"), StaticFile(dir), Environment()}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
				t.Setenv(name, c.env[name])
			}
			m.requests = nil
			v, err := retrieve(t, c.sources...)
			if v.AccessKey != c.key || (err == nil) != (c.key != "") {
				t.Errorf("got %q, %v", v.AccessKey, err)
			}
			if err != nil && !errors.Is(err, bucket.ErrPermission) {
				t.Errorf("%v, want %v", err, bucket.ErrPermission)
			}
			if asked := len(m.requests) > 0; asked != c.asked {
				t.Errorf("asked the metadata service: %v, want %v", asked, c.asked)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRejectedKeysAreReplaced has every call made again, once, with new keys.
func TestRejectedKeysAreReplaced(t *testing.T) {
	var asked []string // keys of the requests
	good := "none"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ := strings.Cut(rest, "/")
		asked = append(asked, key)
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method == "PUT" && string(body) != "body" {
			t.Errorf("%s: %q, %v", r.Method, body, err)
		}
		switch {
		case key != good:
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, "<Error><Code>ExpiredToken</Code></Error>")
		case r.URL.Query().Has("list-type"):
			io.WriteString(w, "<ListBucketResult></ListBucketResult>")
		case r.Method == "DELETE":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		}
	}))
	defer srv.Close()
	n := 0
	keys := KeySource("test", func(context.Context) (Keys, error) {
		n++
		return Keys{AccessKey: fmt.Sprint("k", n), SecretKey: "s"}, nil
	}, nil)
	b, err := Open(t.Context(), "s3://fleet?endpoint="+srv.URL, Options{Sources: []Source{keys}})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"get": func() error {
			r, _, err := b.Get(t.Context(), "k", bucket.GetOptions{})
			if err == nil {
				r.Close()
			}
			return err
		},
		"put": func() error {
			_, err := b.Put(t.Context(), "k", strings.NewReader("body"), bucket.Condition{})
			return err
		},
		"list": func() (err error) {
			for _, err = range b.List(t.Context(), "", "") {
			}
			return err
		},
		"delete": func() error { return b.Delete(t.Context(), "k") },
	}
	for name, call := range calls {
		b.keys.Young = time.Hour
		if _, err := b.Signer(t.Context()); err != nil {
			t.Fatal(err)
		}
		asked, good = nil, "none"
		if err := call(); !errors.Is(err, bucket.ErrPermission) || len(asked) != 1 {
			t.Errorf("%s with young keys: %v, asked %q", name, err, asked)
		}
		b.keys.Young = 0
		asked, good = nil, fmt.Sprint("k", n+1)
		if err := call(); err != nil || len(asked) != 2 || asked[1] != good {
			t.Errorf("%s: %v, asked %q, want %s at last", name, err, asked, good)
		}
		asked, good = nil, "none"
		if err := call(); !errors.Is(err, bucket.ErrPermission) || len(asked) != 2 {
			t.Errorf("%s with keys that are never good: %v, asked %q", name, err, asked)
		}
	}
}

func TestRegion(t *testing.T) {
	m := newIMDS(t, "")
	role := []Source{InstanceRole(m.URL)}
	for _, c := range []struct {
		name, url, env string
		sources        []Source
		want           string
	}{
		{"in the URL", "s3://bkt?region=eu-west-1", "us-west-2", role, "eu-west-1"},
		{"in the environment", "s3://bkt", "us-west-2", role, "us-west-2"},
		{"of the instance", "s3://bkt", "", role, "eu-west-3"},
		{"of no instance", "s3://bkt", "", []Source{Static("k", "s", "")}, "us-east-1"},
		{"another server's", "s3://bkt?endpoint=http://127.0.0.1:1", "", role, "us-east-1"},
	} {
		t.Setenv("AWS_REGION", c.env)
		t.Setenv("AWS_DEFAULT_REGION", "")
		b, err := Open(t.Context(), c.url, Options{Sources: c.sources})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Location().Region; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func FuzzParseRole(f *testing.F) {
	f.Add(roleJSON("k", time.Unix(0, 0)))
	f.Add(`{"Code":"Success"}`)
	f.Fuzz(func(t *testing.T, body string) {
		v, err := parseRole("r", body)
		if err == nil && (v.AccessKey == "" || v.SecretKey == "") {
			t.Errorf("%q gives %+v", body, v)
		}
	})
}

func TestPermanentKeysAreWarnedOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	write(t, file, "aws_access_key_id = AKFILE\naws_secret_access_key = SECRET\n")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	withRole := newIMDS(t, roleJSON("ASIA1", time.Now().Add(time.Hour)))
	for name, c := range map[string]struct {
		sources []Source
		want    int
	}{
		"VM with a role":     {[]Source{InstanceRole(withRole.URL), StaticFile(file)}, 0},
		"VM with a file":     {VMSources(file), 1},
		"VM with a session":  {[]Source{InstanceRole(""), Static("k", "s", "token")}, 0},
		"operator with keys": {[]Source{Environment(), StaticFile(file)}, 0},
	} {
		var log strings.Builder
		keys := newChain(c.sources, slog.New(slog.NewTextHandler(&log, nil)))
		for range 2 {
			if _, err := keys.Get(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != c.want || strings.Contains(log.String(), "SECRET") {
			t.Errorf("%s: %d warnings: %s", name, n, log.String())
		}
	}
}

func TestPatience(t *testing.T) {
	dir := t.TempDir()
	keys, other := filepath.Join(dir, "credentials"), filepath.Join(dir, "other")
	write(t, keys, "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n")
	write(t, other, "os_auth_url = https://k\n")
	for _, c := range []struct {
		name, file string
		sys        map[string]string
		want       time.Duration
	}{
		{"no keys", filepath.Join(dir, "none"), nil, metadataDial},
		{"another cloud's", other, nil, metadataDial},
		{"keys", keys, map[string]string{"class/dmi/id/sys_vendor": "QEMU\n"}, metadataBrief},
		{"keys, no firmware", keys, nil, metadataBrief},
		{"keys on Nitro", keys, map[string]string{"class/dmi/id/sys_vendor": "Amazon EC2\n"}, metadataDial},
		{"keys on Xen", keys, map[string]string{"class/dmi/id/sys_vendor": "Xen\n", "class/dmi/id/bios_version": "4.11.amazon\n"}, metadataDial},
		{"keys on old Xen", keys, map[string]string{"hypervisor/uuid": "EC2E1916-9099\n"}, metadataDial},
	} {
		sys := t.TempDir()
		for name, text := range c.sys {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(sys, name), text)
		}
		if got := patience(sys, c.file); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	m := newIMDS(t, roleJSON("ASIA1", time.Now().Add(time.Hour)))
	hasty := []Source{instanceRole(m.URL, func() time.Duration { return 1 }), StaticFile(keys)}
	if v, err := retrieve(t, hasty...); err != nil || v.AccessKey != "AKFILE" {
		t.Errorf("without the time to connect: %q, %v", v.AccessKey, err)
	}
}
