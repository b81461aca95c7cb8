package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootwell/bootwell/internal/release"
)

// ErrConfig reports an agent.yaml that cannot be used. The text of the error
// names file and line and says what to write instead.
var ErrConfig = errors.New("settings cannot be used")

const (
	maxConfigBytes = 64 << 10
	maxMirrors     = 8
	defaultChannel = "stable"
)

// A Config is what a VM knows before it has seen its bucket.
type Config struct {
	Project string
	Bucket  string   // URL
	Mirrors []string // URLs of buckets with the same releases, in the order in which they are tried
	Role    string
	Channel string         // "stable" if the file names none
	Root    release.Digest // anchor: of 1.root.json
	Metrics string         // folder for bootwell.prom; "": [Paths.Metrics] if it exists
}

// LoadConfig reads the settings file of p. A missing file gives an error that
// wraps both [ErrConfig] and [fs.ErrNotExist].
func LoadConfig(p Paths) (Config, error) {
	name := p.Config()
	b, err := readBounded(name, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("%s is not there: %w (%w); the user-data of `bootwell user-data ROLE` writes it", name, ErrConfig, fs.ErrNotExist)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read settings: %w: %w", err, ErrConfig)
	}
	return ParseConfig(name, b)
}

// ParseConfig reads the text of a settings file; name is for its errors, which
// wrap [ErrConfig] and tell of everything that is wrong at once.
func ParseConfig(name string, b []byte) (Config, error) {
	p := configParser{name: name}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		p.fail(1, "the file is empty; it needs project, bucket, role and root")
	case err != nil:
		p.fail(1, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	default:
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			p.fail(1, "more than one document; keep the first")
		}
		p.document(&doc)
	}
	if len(p.errs) > 0 {
		return Config{}, fmt.Errorf("%w: %w", errors.Join(p.errs...), ErrConfig)
	}
	return p.c, nil
}

type configParser struct {
	name string
	c    Config
	errs []error
}

func (p *configParser) fail(line int, format string, a ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s", p.name, line, fmt.Sprintf(format, a...)))
}

// roleName reports whether s can name a role, a channel or a project.
func roleName(s string) bool {
	return s != "" && len(s) <= 63 && 'a' <= s[0] && s[0] <= 'z' && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_' || r == '-')
	})
}

// mirrorsKey is the one key with a list.
const mirrorsKey = "mirrors"

// configKeys are the other keys and what each takes, in the order of the file.
var configKeys = []struct {
	name     string
	required bool
	set      func(*Config, string) (remedy string)
}{
	{"project", true, func(c *Config, v string) string {
		c.Project = v
		return nameRemedy(v)
	}},
	{"bucket", true, func(c *Config, v string) string {
		c.Bucket = v
		return urlRemedy(v)
	}},
	{"role", true, func(c *Config, v string) string {
		c.Role = v
		return nameRemedy(v)
	}},
	{"channel", false, func(c *Config, v string) string {
		c.Channel = v
		return nameRemedy(v)
	}},
	{"root", true, func(c *Config, v string) string {
		d, err := release.ParseDigest(v)
		c.Root = d
		if err != nil || d.IsZero() {
			return "write sha256: and 64 lower-case hexadecimal digits, as in bootwell.lock"
		}
		return ""
	}},
	{"metrics", false, func(c *Config, v string) string {
		c.Metrics = v
		if !filepath.IsAbs(v) {
			return "write an absolute path"
		}
		return ""
	}},
}

func urlRemedy(v string) string {
	if u, err := url.Parse(v); err != nil || u.Scheme == "" {
		return "write a URL such as s3://acme-provision/prod or https://host/path"
	}
	return ""
}

func nameRemedy(v string) string {
	if !roleName(v) {
		return "use lower-case letters, digits, - or _, starting with a letter"
	}
	return ""
}

func (p *configParser) document(doc *yaml.Node) {
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		p.fail(1, "write one `key: value` a line: project, bucket, role, channel, root")
		return
	}
	m := doc.Content[0]
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		p.pair(m.Content[i], m.Content[i+1], seen)
	}
	for _, k := range configKeys {
		if k.required && !seen[k.name] {
			p.fail(m.Line, "%s is missing; the user-data of `bootwell user-data` has it", k.name)
		}
	}
	if p.c.Channel == "" {
		p.c.Channel = defaultChannel
	}
}

// mirrors reads the one list of the file.
func (p *configParser) mirrors(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode || len(n.Content) > maxMirrors {
		p.fail(n.Line, "mirrors must be a list of at most %d URLs", maxMirrors)
		return
	}
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.Tag != "!!str" {
			p.fail(item.Line, "mirrors must be a list of URLs")
			continue
		}
		if remedy := urlRemedy(item.Value); remedy != "" {
			p.fail(item.Line, "mirror %.80q: %s", item.Value, remedy)
			continue
		}
		p.c.Mirrors = append(p.c.Mirrors, item.Value)
	}
}

func (p *configParser) pair(key, value *yaml.Node, seen map[string]bool) {
	if key.Value == mirrorsKey {
		if seen[mirrorsKey] {
			p.fail(key.Line, "mirrors is there twice; keep one")
			return
		}
		seen[mirrorsKey] = true
		p.mirrors(value)
		return
	}
	for _, k := range configKeys {
		if k.name != key.Value {
			continue
		}
		if seen[k.name] {
			p.fail(key.Line, "%s is there twice; keep one", k.name)
			return
		}
		seen[k.name] = true
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			p.fail(value.Line, "%s must be text; put it in quotes", k.name)
			return
		}
		if remedy := k.set(&p.c, value.Value); remedy != "" {
			p.fail(value.Line, "%s %.80q: %s", k.name, value.Value, remedy)
		}
		return
	}
	names := make([]string, len(configKeys))
	for i, k := range configKeys {
		names[i] = k.name
	}
	p.fail(key.Line, "unknown key %.40q; the keys are %s", key.Value, strings.Join(append(names, mirrorsKey), ", "))
}

// readBounded returns the content of a regular file of at most max bytes.
func readBounded(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s: over %d bytes", name, max)
	}
	return b, nil
}
