package userdata

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
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

func TestGenerate_Size(t *testing.T) {
	for _, format := range formats {
		u, err := Generate(example(format))
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Text) > 4096 || u.Limit != 16384 {
			t.Errorf("%s: %d bytes of %d", format, len(u.Text), u.Limit)
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

// TestGenerate_Plain holds what lets the text go through other tools: ASCII,
// short lines for mail parts, and no interpolation of Terraform or
// CloudFormation.
func TestGenerate_Plain(t *testing.T) {
	for _, format := range formats {
		text := generate(t, example(format))
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
	u.Limit = len(u.Text)
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
		"linode": 16384, "oracle": 24000, "vsphere": 524288, "nocloud": 0, "none": 0,
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
		"no project":       {func(c *Config) { c.Project = "" }, "project"},
		"role with quotes": {func(c *Config) { c.Role = `we"b` }, "role"},
		"role of lines":    {func(c *Config) { c.Role = "web\nroot: x" }, "role"},
		"channel":          {func(c *Config) { c.Channel = "Stable" }, "channel"},
		"no root":          {func(c *Config) { c.Root = release.Digest{} }, "root"},
		"no agents":        {func(c *Config) { c.Agents = nil }, "none is pinned"},
		"unknown CPU":      {func(c *Config) { c.Agents = map[string]release.Digest{"mips": c.Root} }, "mips"},
		"agent unpinned":   {func(c *Config) { c.Agents["arm64"] = release.Digest{} }, "arm64"},
		"unknown cloud":    {func(c *Config) { c.Cloud = "aws2" }, "aws2"},
		"unknown format":   {func(c *Config) { c.Format = "gzip" }, "cloud-config, script or mime"},
		"password":         {func(c *Config) { c.Bucket = "https://joe:hunter2@host/b" }, "holds credentials"},
		"user of s3":       {func(c *Config) { c.Bucket = "s3://AKIA:hunter2@acme" }, "holds credentials"},
		"secret option":    {func(c *Config) { c.Bucket = "s3://acme?secret_key=hunter2" }, "looks like a secret"},
		"signed URL":       {func(c *Config) { c.Bucket = "https://host/b?sig=hunter2" }, "looks like a secret"},
		"option of https":  {func(c *Config) { c.Bucket = "https://host/b?region=x" }, "takes no options"},
		"user of endpoint": {func(c *Config) { c.Bucket = "s3://acme?endpoint=https://joe:hunter2@host" }, "endpoint"},
		"endpoint":         {func(c *Config) { c.Bucket = "s3://acme?endpoint=ftp://host" }, "endpoint"},
		"endpoint path":    {func(c *Config) { c.Bucket = "s3://acme?endpoint=http://host/b" }, "endpoint"},
		"unknown option":   {func(c *Config) { c.Bucket = "s3://acme?regoin=x" }, "regoin"},
		"option twice":     {func(c *Config) { c.Bucket = "s3://acme?region=x&region=y" }, "once"},
		"path style":       {func(c *Config) { c.Bucket = "s3://acme?path_style=maybe" }, "path_style"},
		"certificates":     {func(c *Config) { c.Bucket = "https://host/b?ca=/etc/ca.pem" }, "ca_certs"},
		"later store":      {func(c *Config) { c.Bucket = "az://acme/prod" }, "az://"},
		"unknown scheme":   {func(c *Config) { c.Bucket = "ftp://acme/prod" }, "use s3://"},
		"no scheme":        {func(c *Config) { c.Bucket = "acme/prod" }, "use s3://"},
		"relative folder":  {func(c *Config) { c.Bucket = "file://./bucket" }, "file:///path"},
		"no folder":        {func(c *Config) { c.Bucket = "file:///" }, "file:///path"},
		"no host":          {func(c *Config) { c.Bucket = "https:///b" }, "names no host"},
		"parent folder":    {func(c *Config) { c.Bucket = "s3://acme/../b" }, ".."},
		"shell":            {func(c *Config) { c.Bucket = "s3://acme/$(reboot)" }, "percent-encoding"},
		"bad escape":       {func(c *Config) { c.Bucket = "https://joe:hunter2@host/%zz" }, "is not a URL"},
		"region":           {func(c *Config) { c.Bucket = "s3://acme?region=a/b" }, "region=eu-west-1"},
		"fragment":         {func(c *Config) { c.Bucket = "https://host/b#c" }, "percent-encoding"},
		"too long":         {func(c *Config) { c.Bucket = "https://host/" + strings.Repeat("a", 600) }, "512"},
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
	tests := map[string]source{
		"s3://acme":                                                    {"https://acme.s3.us-east-1.amazonaws.com/agents/", "/us-east-1/s3/aws4_request"},
		"s3://acme/a/b/?region=eu-west-1":                              {"https://acme.s3.eu-west-1.amazonaws.com/a/b/agents/", "/eu-west-1/s3/aws4_request"},
		"s3://acme.example/p?region=cn-north-1":                        {"https://s3.cn-north-1.amazonaws.com.cn/acme.example/p/agents/", "/cn-north-1/s3/aws4_request"},
		"s3://Old_Bucket":                                              {"https://s3.us-east-1.amazonaws.com/Old_Bucket/agents/", "/us-east-1/s3/aws4_request"},
		"s3://acme?endpoint=host:9000&anonymous=true":                  {"https://host:9000/acme/agents/", ""},
		"s3://acme?endpoint=http://h&path_style=false":                 {"http://acme.h/agents/", "/us-east-1/s3/aws4_request"},
		"s3://acme?dualstack=true&path_style=1":                        {"https://s3.dualstack.us-east-1.amazonaws.com/acme/agents/", "/us-east-1/s3/aws4_request"},
		"s3://acme/p?endpoint=http://127.0.0.1:7070":                   {"http://127.0.0.1:7070/acme/p/agents/", "/us-east-1/s3/aws4_request"},
		"s3://b-1/p?endpoint=https%3A%2F%2F[fd00::1]:9000%2F&region=x": {"https://[fd00::1]:9000/b-1/p/agents/", "/x/s3/aws4_request"},
		"s3://acme/a%20b/c+d/~e(f)=%C3%A9":                             {"https://acme.s3.us-east-1.amazonaws.com/a%20b/c%2Bd/~e%28f%29%3D%C3%A9/agents/", "/us-east-1/s3/aws4_request"},
		"https://cdn.example.net":                                      {"https://cdn.example.net/agents/", ""},
		"http://10.0.0.1:8080//x/":                                     {"http://10.0.0.1:8080/x/agents/", ""},
		"file:///srv/b":                                                {"file:///srv/b/agents/", ""},
		"file://localhost/srv/b":                                       {"file:///srv/b/agents/", ""},
	}
	for in, want := range tests {
		if got, err := parseSource(in); err != nil || got != want {
			t.Errorf("parseSource(%q) = %+v, %v; want %+v", in, got, err, want)
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

var agentYAML = regexp.MustCompile(`(?s)\nCONFIG="""(.*?)"""\n`)

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
	}
	f.Fuzz(func(t *testing.T, project, role, bucket string) {
		c := example("")
		c.Project, c.Role, c.Bucket = project, role, bucket
		want := map[string]any{"project": project, "bucket": bucket, "role": role, "channel": "stable", "root": c.Root.String()}
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
				if got[k] != v {
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
