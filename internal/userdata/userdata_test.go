package userdata

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

var update = flag.Bool("update", false, "rewrite testdata/golden")

func example(format string) Config {
	return Config{
		Project: "web-example", Bucket: "s3://acme-provision/prod?region=eu-west-1", Role: "web", Channel: "stable",
		Root: release.DigestOf([]byte("root")),
		Agents: map[string]release.Digest{
			"amd64": release.DigestOf([]byte("amd64")),
			"arm64": release.DigestOf([]byte("arm64")),
		},
		Cloud: "aws", Format: format,
	}
}

var formats = []string{FormatCloudConfig, FormatScript, FormatMIME}

// TestGenerate_Golden holds the bytes still: a VM is replaced by Terraform when
// its user-data changes.
func TestGenerate_Golden(t *testing.T) {
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			u, err := Generate(example(format))
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "golden", format)
			if *update {
				if err := os.WriteFile(golden, u.Text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(u.Text, want) {
				t.Errorf("differs from %s", golden)
			}
			for range 20 {
				if again, err := Generate(example(format)); err != nil || !bytes.Equal(again.Text, u.Text) {
					t.Fatal("the same Config gave other bytes")
				}
			}
		})
	}
}

// stockBuckets are what stock projects have, by scheme.
var stockBuckets = map[string]string{
	"s3":        "s3://acme-provision/prod?region=eu-west-1",
	"az":        "az://acmeprovision/fleet/prod",
	"gs":        "gs://acme-provision/prod",
	"swift":     "swift://acme-provision/prod?auth=https://keystone.acme.example:5000/v3",
	"temp URL":  "swift://acme-provision/prod?storage=https://swift.acme.example/v1/AUTH_0123456789abcdef0123456789abcdef",
	"https":     "https://provision.acme.example/prod",
	"https, ca": "https://provision.acme.example/prod?ca=/etc/ssl/certs/acme.pem",
}

func TestGenerate_Size(t *testing.T) {
	for scheme, bucket := range stockBuckets {
		for _, format := range formats {
			c := example(format)
			c.Bucket = bucket
			u, err := Generate(c)
			if err != nil {
				t.Fatal(err)
			}
			if len(u.Text) > 4096 || u.Limit != 16384 {
				t.Errorf("%s, %s: %d bytes of %d", scheme, format, len(u.Text), u.Limit)
			}
			sum := 0
			for _, p := range u.Parts {
				if p.Bytes <= 0 || p.Name == "" {
					t.Errorf("%s: part %+v", format, p)
				}
				sum += p.Bytes
			}
			if sum != len(u.Text) {
				t.Errorf("%s: parts add up to %d of %d bytes", format, sum, len(u.Text))
			}
		}
	}
}

// TestGenerate_Parts holds that only the code which the buckets need is there.
func TestGenerate_Parts(t *testing.T) {
	signs := map[string]string{"s3": "UNSIGNED-PAYLOAD", "az": "x-ms-version", "gs": "Metadata-Flavor", "swift": "x-subject-token", "temp URL": "&temp_url_", "https, ca": "ssl.create_default_context"}
	for scheme, bucket := range stockBuckets {
		c := example(FormatScript)
		c.Bucket = bucket
		text := string(generate(t, c))
		for other, sign := range signs {
			if strings.Contains(text, sign) != (other == scheme) {
				t.Errorf("%s: %q of %s", scheme, sign, other)
			}
		}
	}
	c := example(FormatScript)
	c.Mirrors = []string{stockBuckets["az"], stockBuckets["gs"], stockBuckets["swift"], stockBuckets["temp URL"], stockBuckets["https, ca"], stockBuckets["az"] + "?ca=/other.pem"}
	text := string(generate(t, c))
	for other, sign := range signs {
		if strings.Count(text, sign) != 1 {
			t.Errorf("mirrors: %d times %q of %s", strings.Count(text, sign), sign, other)
		}
	}
}

// TestGenerate_Plain holds what lets the text go through other tools: ASCII,
// short lines for mail parts, and no interpolation of Terraform or
// CloudFormation.
func TestGenerate_Plain(t *testing.T) {
	for _, format := range formats {
		c := example(format)
		c.Mirrors = slices.Sorted(maps.Values(stockBuckets))
		text := generate(t, c)
		for line := range bytes.Lines(text) {
			if len(line) > 998 {
				t.Errorf("%s: line of %d bytes", format, len(line))
			}
		}
		if i := bytes.IndexFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }); i >= 0 {
			t.Errorf("%s: byte %#x at %d", format, text[i], i)
		}
		for _, s := range []string{"${", "%{", "{{", "\t"} {
			if bytes.Contains(text, []byte(s)) {
				t.Errorf("%s: contains %q", format, s)
			}
		}
	}
}

func TestGenerate_Limit(t *testing.T) {
	u, err := Generate(example(FormatScript))
	if err != nil {
		t.Fatal(err)
	}
	u.Limit = u.Bytes
	if err := u.fits("Tiny Cloud"); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	u.Limit--
	err = u.fits("Tiny Cloud")
	want := regexp.MustCompile(`: \d{4} bytes, Tiny Cloud takes \d{4}; the biggest part is the bootstrap with \d{4}$`)
	if !errors.Is(err, ErrTooLarge) || !want.MatchString(err.Error()) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestLimit(t *testing.T) {
	for name, want := range map[string]int{
		"": 16384, "aws": 16384, "azure": 49149, "openstack": 49149, "gcp": 262144, "hetzner": 32768, "digitalocean": 65536,
		"linode": 16384, "oracle": 24000, "vsphere": 49152, "nocloud": 0, "proxmox": 0, "libvirt": 0, "none": 0,
	} {
		if got, err := Limit(name); err != nil || got != want {
			t.Errorf("Limit(%q) = %d, %v; want %d", name, got, err, want)
		}
		if name != "" && !slices.Contains(Clouds(), name) {
			t.Errorf("%s is not in Clouds", name)
		}
	}
	if _, err := Limit("azur"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "openstack") {
		t.Errorf("error %v", err)
	}
}

func TestGenerate_Refuses(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		want   string
	}{
		"no project":         {func(c *Config) { c.Project = "" }, "project"},
		"role with quotes":   {func(c *Config) { c.Role = `we"b` }, "role"},
		"role of lines":      {func(c *Config) { c.Role = "web\nroot: x" }, "role"},
		"channel":            {func(c *Config) { c.Channel = "Stable" }, "channel"},
		"no root":            {func(c *Config) { c.Root = release.Digest{} }, "root"},
		"no agents":          {func(c *Config) { c.Agents = nil }, "none is pinned"},
		"unknown CPU":        {func(c *Config) { c.Agents = map[string]release.Digest{"mips": c.Root} }, "mips"},
		"agent unpinned":     {func(c *Config) { c.Agents["arm64"] = release.Digest{} }, "arm64"},
		"unknown cloud":      {func(c *Config) { c.Cloud = "aws2" }, "aws2"},
		"unknown format":     {func(c *Config) { c.Format = "gzip" }, "cloud-config, script or mime"},
		"password":           {func(c *Config) { c.Bucket = "https://joe:hunter2@host/b" }, "holds credentials"},
		"user of s3":         {func(c *Config) { c.Bucket = "s3://AKIA:hunter2@acme" }, "holds credentials"},
		"secret option":      {func(c *Config) { c.Bucket = "s3://acme?secret_key=hunter2" }, "looks like a secret"},
		"signed URL":         {func(c *Config) { c.Bucket = "https://host/b?sig=hunter2" }, "looks like a secret"},
		"option of https":    {func(c *Config) { c.Bucket = "https://host/b?region=x" }, "one of ca, once"},
		"option of file":     {func(c *Config) { c.Bucket = "file:///b?ca=/c" }, "takes no options"},
		"user of endpoint":   {func(c *Config) { c.Bucket = "s3://acme?endpoint=https://joe:hunter2@host" }, "endpoint"},
		"endpoint":           {func(c *Config) { c.Bucket = "s3://acme?endpoint=ftp://host" }, "endpoint"},
		"endpoint path":      {func(c *Config) { c.Bucket = "s3://acme?endpoint=http://host/b" }, "endpoint"},
		"unknown option":     {func(c *Config) { c.Bucket = "s3://acme?regoin=x" }, "regoin"},
		"option twice":       {func(c *Config) { c.Bucket = "s3://acme?region=x&region=y" }, "once"},
		"path style":         {func(c *Config) { c.Bucket = "s3://acme?path_style=maybe" }, "path_style"},
		"certificates":       {func(c *Config) { c.Bucket = "https://host/b?ca=ca.pem" }, "a file on the VM"},
		"no container":       {func(c *Config) { c.Bucket = "az://acme" }, "az://account/container"},
		"account":            {func(c *Config) { c.Bucket = "az://Acme_store/prod" }, "az://account/container"},
		"account key":        {func(c *Config) { c.Bucket = "az://acme/prod?account_key=hunter2" }, "looks like a secret"},
		"Azure over http":    {func(c *Config) { c.Bucket = "az://acme/prod?endpoint=http://store.example" }, "only over https"},
		"mirror over http":   {func(c *Config) { c.Mirrors = []string{"az://acme/prod?endpoint=http://10.0.0.1:10000/acme"} }, "only over https"},
		"SAS":                {func(c *Config) { c.Bucket = "az://acme/prod?sv=2021-08-06&sig=hunter2" }, "looks like a secret"},
		"identity":           {func(c *Config) { c.Bucket = "az://acme/prod?client_id=%22" }, "client_id"},
		"Google bucket":      {func(c *Config) { c.Bucket = "gs://AcmE" }, "gs://name"},
		"Google region":      {func(c *Config) { c.Bucket = "gs://acme?region=eu" }, "one of anonymous, ca, endpoint"},
		"container":          {func(c *Config) { c.Bucket = "swift:///prod" }, "swift://container"},
		"Keystone":           {func(c *Config) { c.Bucket = "swift://fleet?auth=ftp://host" }, "auth must be"},
		"host not ASCII":     {func(c *Config) { c.Bucket = "https://h%C3%A9.example/b" }, "ASCII"},
		"Keystone not ASCII": {func(c *Config) { c.Bucket = "swift://fleet?auth=https://h%25C3%25A9.example/v3" }, "ASCII"},
		"Keystone user":      {func(c *Config) { c.Bucket = "swift://fleet?auth=https://joe:hunter2@host/v3" }, "auth must be"},
		"storage and auth":   {func(c *Config) { c.Bucket = "swift://fleet?auth=https://h/v3&storage=https://h/v1/AUTH_a" }, "stands without auth"},
		"interface":          {func(c *Config) { c.Bucket = "swift://fleet?interface=outside" }, "interface=public"},
		"temporary URL":      {func(c *Config) { c.Bucket = "https://h/v1/AUTH_a/c?temp_url_sig=hunter2" }, "looks like a secret"},
		"secret of mirror":   {func(c *Config) { c.Mirrors = []string{"https://host/b?sig=hunter2"} }, "looks like a secret"},
		"many mirrors":       {func(c *Config) { c.Mirrors = make([]string, 9) }, "9 are over 8"},
		"unknown scheme":     {func(c *Config) { c.Bucket = "ftp://acme/prod" }, "use s3://"},
		"no scheme":          {func(c *Config) { c.Bucket = "acme/prod" }, "use s3://"},
		"relative folder":    {func(c *Config) { c.Bucket = "file://./bucket" }, "file:///path"},
		"no folder":          {func(c *Config) { c.Bucket = "file:///" }, "file:///path"},
		"no host":            {func(c *Config) { c.Bucket = "https:///b" }, "names no host"},
		"parent folder":      {func(c *Config) { c.Bucket = "s3://acme/../b" }, ".."},
		"shell":              {func(c *Config) { c.Bucket = "s3://acme/$(reboot)" }, "percent-encoding"},
		"bad escape":         {func(c *Config) { c.Bucket = "https://joe:hunter2@host/%zz" }, "is not a URL"},
		"region":             {func(c *Config) { c.Bucket = "s3://acme?region=a/b" }, "region=eu-west-1"},
		"fragment":           {func(c *Config) { c.Bucket = "https://host/b#c" }, "percent-encoding"},
		"too long":           {func(c *Config) { c.Bucket = "https://host/" + strings.Repeat("a", 600) }, "512"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := example(FormatScript)
			test.change(&c)
			u, err := Generate(c)
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), test.want) || u.Text != nil {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats the secret: %v", err)
			}
		})
	}
}

func TestParseSource(t *testing.T) {
	tests := map[string]struct{ agents, signer string }{
		"s3://acme":                                                    {"https://acme.s3.us-east-1.amazonaws.com/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"s3://acme/a/b/?region=eu-west-1":                              {"https://acme.s3.eu-west-1.amazonaws.com/a/b/agents/", `lambda q:s3(q,"/eu-west-1/s3/aws4_request")`},
		"s3://acme.example/p?region=cn-north-1":                        {"https://s3.cn-north-1.amazonaws.com.cn/acme.example/p/agents/", `lambda q:s3(q,"/cn-north-1/s3/aws4_request")`},
		"s3://Old_Bucket":                                              {"https://s3.us-east-1.amazonaws.com/Old_Bucket/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"s3://acme?endpoint=host:9000&anonymous=true":                  {"https://host:9000/acme/agents/", "0"},
		"s3://acme?endpoint=http://h&path_style=false":                 {"http://acme.h/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"s3://acme?dualstack=true&path_style=1":                        {"https://s3.dualstack.us-east-1.amazonaws.com/acme/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"s3://acme/p?endpoint=http://127.0.0.1:7070":                   {"http://127.0.0.1:7070/acme/p/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"s3://b-1/p?endpoint=https%3A%2F%2F[fd00::1]:9000%2F&region=x": {"https://[fd00::1]:9000/b-1/p/agents/", `lambda q:s3(q,"/x/s3/aws4_request")`},
		"s3://acme/a%20b/c+d/~e(f)=%C3%A9":                             {"https://acme.s3.us-east-1.amazonaws.com/a%20b/c%2Bd/~e%28f%29%3D%C3%A9/agents/", `lambda q:s3(q,"/us-east-1/s3/aws4_request")`},
		"https://cdn.example.net":                                      {"https://cdn.example.net/agents/", "0"},
		"http://10.0.0.1:8080//x/":                                     {"http://10.0.0.1:8080/x/agents/", "0"},
		"file:///srv/b":                                                {"file:///srv/b/agents/", "0"},
		"file://localhost/srv/b":                                       {"file:///srv/b/agents/", "0"},
		"https://cdn.example.net/b?ca=/etc/ssl/acme.pem":               {"https://cdn.example.net/b/agents/", "0"},
		"az://acmestore/fleet":                                         {"https://acmestore.blob.core.windows.net/fleet/agents/", `lambda q:az(q,"acmestore","")`},
		"az://acmestore/fleet/a%20b/?client_id=11111111-2222-3333-4444-555555555555":      {"https://acmestore.blob.core.windows.net/fleet/a%20b/agents/", `lambda q:az(q,"acmestore","&client_id=11111111-2222-3333-4444-555555555555")`},
		"az://devstoreaccount1/fleet/p?endpoint=http://127.0.0.1:10000/devstoreaccount1/": {"http://127.0.0.1:10000/devstoreaccount1/fleet/p/agents/", `lambda q:az(q,"devstoreaccount1","")`},
		"gs://acme.example/p":                     {"https://storage.googleapis.com/storage/v1/b/acme.example/o/p%2Fagents%2F", `lambda q:gs(q)`},
		"gs://acme?endpoint=gcs.example.net:4443": {"https://gcs.example.net:4443/storage/v1/b/acme/o/agents%2F", `lambda q:gs(q)`},
		"gs://acme?anonymous=true&project=p":      {"https://storage.googleapis.com/storage/v1/b/acme/o/agents%2F", `lambda q:setattr(q,"full_url",q.full_url+"?alt=media")`},
		"swift://_fleet?interface=adminURL":       {"swift:/_fleet/agents/", `lambda q:swift(q,"","","admin")`},
		"swift://fleet/p":                         {"swift:/fleet/p/agents/", `lambda q:swift(q,"","","public")`},
		"swift://fleet/p?auth=https://ks.example.net:5000/v3/&region=R1&interface=internal": {"swift:/fleet/p/agents/", `lambda q:swift(q,"https://ks.example.net:5000/v3","R1","internal")`},
		"swift://fleet/p?storage=https://swift.example.net/v1/AUTH_a":                       {"https://swift.example.net/v1/AUTH_a/fleet/p/agents/", `lambda q:tempurl(q)`},
	}
	for in, want := range tests {
		got, err := parseSource(in)
		if err != nil || got.agents != want.agents || got.signer() != want.signer {
			t.Errorf("parseSource(%q) = %q, %s, %v; want %q, %s", in, got.agents, got.signer(), err, want.agents, want.signer)
		}
	}
}

// TestGenerate_Schema asks cloud-init itself.
func TestGenerate_Schema(t *testing.T) {
	tool := needs.Tool(t, "cloud-init")
	name := filepath.Join(t.TempDir(), "user-data")
	if err := os.WriteFile(name, generate(t, example(FormatCloudConfig)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "schema", "-c", name).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Valid")) {
		t.Errorf("%v: %s", err, out)
	}
}

var agentYAML = regexp.MustCompile(`(?s)\nYAML="""(.*?)"""\n`)

// settingsIn returns what a script writes to agent.yaml, decoded.
func settingsIn(t testing.TB, script string) map[string]any {
	t.Helper()
	m := agentYAML.FindStringSubmatch(script)
	if m == nil {
		t.Fatal("no settings in the script")
	}
	got := map[string]any{}
	if err := yaml.Unmarshal([]byte(m[1]), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// FuzzGenerate puts odd words into each field: they come out as they went in,
// of all three formats, or are refused.
func FuzzGenerate(f *testing.F) {
	for _, s := range []string{"web", `a"b`, "a'b", "a\nb: c", "$(reboot)", "`id`", "a: b", "true", "no", "null", "~", "s3://a/b?x=y&z", "é", "E", `\`, "%s", "*x", "&x", "!x", "a #b", "- a", "{a}", "[a]", ""} {
		f.Add("acme", "web", s)
		f.Add(s, s, "s3://acme/"+s)
		f.Add("on", "null", "https://[::1]:80/"+s+"?x="+s)
		f.Add("y", "off", "s3://acme?endpoint=http://h:1&region=eu&path_style="+s)
		f.Add("y", "off", "az://acme/"+s+"?client_id="+s)
		f.Add("y", "off", "gs://acme/"+s+"?ca=/"+s)
		f.Add("y", "off", "swift://fleet/p?auth=http://h/"+s+"&region="+s)
		f.Add("y", "off", "swift://fleet/p?storage=http://h/v1/"+s)
	}
	f.Fuzz(func(t *testing.T, project, role, bucket string) {
		c := example("")
		c.Project, c.Role, c.Bucket, c.Mirrors = project, role, bucket, []string{"https://host", bucket}
		want := map[string]any{"project": project, "bucket": bucket, "role": role, "channel": "stable", "root": c.Root.String(), "mirrors": []any{"https://host", bucket}}
		var first string
		for _, c.Format = range formats {
			u, err := Generate(c)
			if err != nil {
				if !errors.Is(err, ErrConfig) {
					t.Fatal(err)
				}
				return
			}
			script := asCloudInit(t, u.Text)
			got := settingsIn(t, script)
			if len(got) != len(want) {
				t.Fatalf("settings %v", got)
			}
			for k, v := range want {
				if !reflect.DeepEqual(got[k], v) {
					t.Fatalf("%s is %v, want %v", k, got[k], v)
				}
			}
			_, body, _ := strings.Cut(strings.TrimRight(script, "\n"), "for p in ")
			if first == "" {
				first = body
			}
			if body != first {
				t.Fatalf("the formats hold other scripts")
			}
		}
		check := exec.Command("sh", "-n")
		check.Stdin = strings.NewReader("for p in " + first + "\n")
		if out, err := check.CombinedOutput(); err != nil {
			t.Fatalf("sh -n: %v: %s", err, out)
		}
	})
}
