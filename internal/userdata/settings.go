package userdata

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
)

// The settings stand in YAML, Python and shell at once, so only text that
// means itself in all three is taken. A URL can spell everything else in
// percent-encoding.
var (
	namePattern   = pattern(`^[a-z][a-z0-9_-]{0,62}$`)
	bucketPattern = pattern(`^[A-Za-z0-9._~:/?\[\]@!&()*+,;=%-]{1,512}$`)
	plainYAML     = pattern(`^[a-z][A-Za-z0-9._~:/?&()+=%-]*[A-Za-z0-9_/-]$`)
	notText       = pattern(`^(y|n|yes|no|on|off|true|false|null)$`)
)

// machines are the CPU types as uname spells them.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// maxMirrors bounds [Config.Mirrors].
const maxMirrors = 8

// settingsOf returns the Python lines that differ between projects and roles,
// and the parts of the bootstrap that their buckets need.
func settingsOf(c Config) (lines string, parts []string, err error) {
	for _, f := range []struct{ what, name string }{{"project", c.Project}, {"role", c.Role}, {"channel", c.Channel}} {
		if !namePattern().MatchString(f.name) {
			return "", nil, fmt.Errorf("%s %.80q: use lower-case letters, digits, - or _, starting with a letter: %w", f.what, f.name, ErrConfig)
		}
	}
	if c.Root.IsZero() {
		return "", nil, fmt.Errorf("root: no digest of the first root: %w", ErrConfig)
	}
	if len(c.Mirrors) > maxMirrors {
		return "", nil, fmt.Errorf("mirrors: %d are over %d: %w", len(c.Mirrors), maxMirrors, ErrConfig)
	}
	agents, err := agentsOf(c)
	if err != nil {
		return "", nil, err
	}
	from, parts, err := bucketsOf(append([]string{c.Bucket}, c.Mirrors...))
	if err != nil {
		return "", nil, err
	}
	return "YAML=\"\"\"" + agentFile(c) + "\"\"\"\n" + from + "PINS={" + agents + "}\n", parts, nil
}

// agentFile returns the text of agent.yaml.
func agentFile(c Config) string {
	var mirrors strings.Builder
	for i, m := range c.Mirrors {
		if i == 0 {
			mirrors.WriteString("mirrors:\n")
		}
		mirrors.WriteString("- " + yamlText(m) + "\n")
	}
	return fmt.Sprintf("project: %s\nbucket: %s\n%srole: %s\nchannel: %s\nroot: %s\n",
		yamlText(c.Project), yamlText(c.Bucket), mirrors.String(), yamlText(c.Role), yamlText(c.Channel), c.Root)
}

// bucketsOf returns the lines that say where agents are and what to advise when
// they are not, and the parts of the bootstrap that these places need.
func bucketsOf(urls []string) (lines string, parts []string, err error) {
	var places, files, advice []string
	for _, u := range urls {
		s, err := parseSource(u)
		if err != nil {
			return "", nil, err
		}
		places = append(places, fmt.Sprintf(`("%s",%s)`, s.agents, s.signer()))
		parts = append(parts, s.parts()...)
		if s.ca != "" {
			files = append(files, `"`+s.ca+`"`)
		}
		if s.advice != "" {
			advice = append(advice, ", "+s.advice)
		}
	}
	if files = distinct(files); len(files) > 0 {
		lines = "AUTHORITIES=[" + strings.Join(files, ",") + "]\n"
		parts = append(parts, partCA)
	}
	return "URLS=[" + strings.Join(places, ",\n") + "]\n" + lines +
		"HINT=\"; check network, clock, bucket" + strings.Join(distinct(advice), "") + ", right to read agents/*\"\n", parts, nil
}

// distinct returns the texts of list in their order, each once.
func distinct(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func agentsOf(c Config) (string, error) {
	if len(c.Agents) == 0 {
		return "", fmt.Errorf("agents: none is pinned: %w", ErrConfig)
	}
	var list []string
	for arch, d := range c.Agents {
		m, ok := machines[arch]
		if !ok || d.IsZero() {
			return "", fmt.Errorf("agent for CPU %.40q: write amd64 or arm64 and a digest: %w", arch, ErrConfig)
		}
		list = append(list, fmt.Sprintf(`"%s":"%s"`, m, d.Hex()))
	}
	sort.Strings(list)
	return strings.Join(list, ","), nil
}

// yamlText spells s, which has no quote or backslash, so that YAML reads it
// as text.
func yamlText(s string) string {
	if plainYAML().MatchString(s) && !notText().MatchString(s) {
		return s
	}
	return `"` + s + `"`
}

// pattern is a regular expression that is compiled when it is first needed: most
// commands write no user-data.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
