package project

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

// A file is a project file as written, before roles are resolved.
type file struct {
	name, bucket string
	mirrors      []string
	platforms    []string
	vars         release.Vars
	ignore       []string
	schedule     schedule
	roles        []*role // in the order of the file
}

// A role is one role as written.
type role struct {
	name        string
	key         *yaml.Node
	description string
	extends     string
	extendsAt   *yaml.Node
	platforms   []string
	vars        release.Vars
	files       []string
	steps       []*step
	checks      []*check
	schedule    schedule
	attempts    int // 0: not given
	hasSteps    bool
	hasChecks   bool // also when none of them can be read
}

// A schedule holds what was given; nil is inherited.
type schedule struct{ poll, reapply *release.Duration }

// A step is one step as written, with what it names in the project.
type step struct {
	release.Step
	at     *yaml.Node
	named  *yaml.Node // its name, if given
	onlyAt *yaml.Node
	refs   []ref
}

// A check is one check as written.
type check struct {
	release.Check
	at    *yaml.Node
	named *yaml.Node
	refs  []ref
}

var (
	topFields      = []string{"version", "project", "bucket", "mirrors", "platforms", "vars", "roles", "schedule", "ignore"}
	roleFields     = []string{"description", "extends", "platforms", "vars", "files", "steps", "checks", "schedule", "attempts"}
	scheduleFields = []string{"poll", "reapply"}
)

// file reads the whole document, or returns nil if it is of another version.
func (p *parser) file(n *yaml.Node) *file {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "E108", "the file must hold fields such as project: and roles:, not "+kind(n), "bootwell init writes a first one")
		return nil
	}
	m := p.mapping(n, "the project")
	if v := m.value("version"); v == nil {
		p.fail(n, "E202", "version is missing", "Write: version: 1")
	} else if !p.version(v) {
		return nil
	}
	m.known(topFields, true)
	f := &file{}
	p.required(m, "project", "the name shown in status and user-data, such as: project: acme", func(v *yaml.Node) { f.name = p.name(v, "project") })
	p.required(m, "bucket", "where releases are kept, such as: bucket: s3://acme/prod", func(v *yaml.Node) { f.bucket = p.bucket(v, "bucket") })
	m.with("mirrors", func(v *yaml.Node) { f.mirrors = p.mirrors(v, f.bucket) })
	m.with("platforms", func(v *yaml.Node) { f.platforms = p.platforms(v) })
	m.with("vars", func(v *yaml.Node) { f.vars = p.vars(v, "vars") })
	m.with("ignore", func(v *yaml.Node) { f.ignore = p.texts(v, "ignore", " of globs", "[docs]", p.glob) })
	m.with("schedule", func(v *yaml.Node) { f.schedule = p.schedule(v) })
	if v := m.value("roles"); v == nil {
		p.fail(n, "E304", "no roles", "A role is a kind of VM, e.g. roles: { web: { steps: [] } }")
	} else {
		f.roles = p.roles(v)
	}
	return f
}

func (p *parser) required(m *mapping, name, remedy string, read func(n *yaml.Node)) {
	if v := m.value(name); v != nil {
		read(v)
		return
	}
	p.fail(m.node, "E202", name+" is missing", "Add "+remedy)
}

// version reports whether the rest of the file can be understood.
func (p *parser) version(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && n.Value == "1" {
		return true
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && wholeNumber.MatchString(n.Value) && n.Value != "0" && n.Value[0] != '-' {
		p.fail(n, "E301", fmt.Sprintf("version %s is newer than this bootwell, which reads version 1", n.Value), "Upgrade bootwell.")
		return false
	}
	p.fail(n, "E301", "version must be 1", "Write: version: 1")
	return true
}

func (p *parser) name(n *yaml.Node, field string) string {
	s, ok := p.words(n, field)
	if !ok {
		return ""
	}
	if !namePattern.MatchString(s) {
		p.fail(n, "E209", fmt.Sprintf("%s %q: use lower-case letters, digits, - or _, starting with a letter, at most 39", field, s), tryName(s, '-'))
		return ""
	}
	return s
}

var (
	platformPattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*-[0-9][0-9.]*$`)
	knownPlatforms  = []string{
		"almalinux-8", "almalinux-9", "alpine-3.20", "alpine-3.21", "alpine-3.22", "amzn-2", "amzn-2023", "centos-9", "centos-10",
		"debian-11", "debian-12", "debian-13", "fedora-41", "fedora-42", "opensuse-leap-15.6", "rhel-8", "rhel-9", "rocky-8", "rocky-9",
		"sles-15.6", "ubuntu-20.04", "ubuntu-22.04", "ubuntu-24.04",
	}
	codenames = map[string]string{
		"debian-bullseye": "debian-11", "debian-bookworm": "debian-12", "debian-trixie": "debian-13",
		"ubuntu-focal": "ubuntu-20.04", "ubuntu-jammy": "ubuntu-22.04", "ubuntu-noble": "ubuntu-24.04", "amazon-linux-2023": "amzn-2023", "amazon-2023": "amzn-2023",
	}
)

func (p *parser) platforms(n *yaml.Node) []string {
	if !p.full(n, "platforms") {
		return nil
	}
	return p.texts(n, "platforms", " such as debian-12", "[debian-12]", func(n *yaml.Node, s string) bool {
		if strings.HasPrefix(s, "windows") {
			p.fail(n, "E207", fmt.Sprintf("platform %q: this bootwell cannot do that yet", s), later["windows"])
			return false
		}
		if platformPattern.MatchString(s) {
			return true
		}
		detail := "It is ID-VERSION_ID of /etc/os-release, in lower case"
		if c, ok := codenames[s]; ok {
			detail = "Did you mean " + c + "?"
		} else if of := releasesOf(s); len(of) > 0 {
			detail = "Write " + orList(of)
		} else if c := nearest(s, knownPlatforms); c != "" {
			detail = "Did you mean " + c + "?"
		}
		p.fail(n, "E303", fmt.Sprintf("platform %q: say which release, e.g. debian-12 (known: debian-12, ubuntu-24.04, rocky-9, …)", s), detail)
		return false
	})
}

// releasesOf returns the known platforms of a distribution.
func releasesOf(id string) []string {
	var of []string
	for _, k := range knownPlatforms {
		if base, _, ok := cutLast(k, "-"); ok && base == id {
			of = append(of, k)
		}
	}
	return of
}

// glob reports a pattern that cannot match any path of the project.
func (p *parser) glob(n *yaml.Node, s string) bool {
	summary, detail := "", ""
	switch {
	case strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../"):
		summary, detail = "is not relative to the project's folder", "Write "+strings.TrimLeft(s, "./")
	case strings.HasPrefix(s, "!"):
		summary, detail = "negates, which globs here do not", "List what is meant"
	case strings.HasSuffix(s, "/"):
		summary, detail = "ends with /", "Write "+strings.TrimRight(s, "/")
	case !doublestar.ValidatePattern(s):
		summary, detail = "is not a valid glob", "Use *, ** (any folders), ?, [a-z] and {a,b}"
	}
	if summary != "" {
		p.fail(n, "E406", fmt.Sprintf("glob %q %s", s, summary), detail)
	}
	return summary == ""
}

const (
	day     = 24 * time.Hour
	maxWait = 30 * day
)

func (p *parser) schedule(n *yaml.Node) schedule {
	var s schedule
	if !p.isMapping(n, "schedule", "{ poll: 5m, reapply: 1h }") {
		return s
	}
	m := p.mapping(n, "a schedule")
	m.known(scheduleFields, false)
	m.with("poll", func(v *yaml.Node) {
		if d, ok := p.duration(v, "poll", 0, maxWait); ok && d.Std() < time.Minute {
			p.fail(v, "E211", fmt.Sprintf("poll %s is too often for a bucket: at least 1m", v.Value), "")
		} else if ok {
			s.poll = &d
		}
	})
	m.with("reapply", func(v *yaml.Node) {
		if tag := v.ShortTag(); (tag == "!!str" || tag == "!!int") && (v.Value == "never" || v.Value == "0" || v.Value == "0s") {
			s.reapply = new(release.Duration)
		} else if d, ok := p.duration(v, "reapply", 0, maxWait); ok && d.Std() < 5*time.Minute {
			p.fail(v, "E211", fmt.Sprintf("reapply %s is too often: at least 5m, or never", v.Value), "")
		} else if ok {
			s.reapply = &d
		}
	})
	return s
}

func (p *parser) roles(n *yaml.Node) []*role {
	if !p.isMapping(n, "roles", "{ web: { steps: [] } }") {
		return nil
	}
	fields := pairs(n)
	if len(fields) == 0 {
		p.fail(n, "E304", "no roles", "A role is a kind of VM, e.g. roles: { web: { steps: [] } }")
	}
	var roles []*role
	for _, f := range fields {
		if !namePattern.MatchString(f.key.Value) {
			p.fail(f.key, "E209", fmt.Sprintf("role %q: use lower-case letters, digits, - or _, starting with a letter, at most 39", f.key.Value), tryName(f.key.Value, '-'))
		}
		roles = append(roles, p.role(f.key, f.value))
	}
	return roles
}

func (p *parser) role(key, n *yaml.Node) *role {
	r := &role{name: key.Value, key: key}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		p.fail(key, "E307", fmt.Sprintf("role %s has no steps", r.name), "Write: "+r.name+": { steps: [] }")
		return r
	}
	if !p.isMapping(n, "role "+r.name, "{ steps: [] }") {
		return r
	}
	m := p.mapping(n, "a role")
	m.known(roleFields, true)
	m.with("description", func(v *yaml.Node) { r.description, _ = p.text(v, "description") })
	m.with("extends", func(v *yaml.Node) { r.extends, _ = p.words(v, "extends"); r.extendsAt = v })
	m.with("platforms", func(v *yaml.Node) { r.platforms = p.platforms(v) })
	m.with("vars", func(v *yaml.Node) { r.vars = p.vars(v, "vars") })
	m.with("files", func(v *yaml.Node) { r.files = p.texts(v, "files", " of globs", "[web/**]", p.glob) })
	m.with("schedule", func(v *yaml.Node) { r.schedule = p.schedule(v) })
	m.with("attempts", func(v *yaml.Node) { p.int(v, "attempts", 1, 100, &r.attempts) })
	m.with("steps", func(v *yaml.Node) {
		r.hasSteps = true
		p.list(v, "steps", " of steps", "[]", func(i int, item *yaml.Node) {
			if s := p.step(r.name, i+1, item); s != nil {
				r.steps = append(r.steps, s)
			}
		})
	})
	if m.value("steps") == nil && r.extendsAt == nil {
		p.fail(key, "E307", fmt.Sprintf("role %s has no steps", r.name), "Add steps: to it, or extends: with a role that has them")
	}
	m.with("checks", func(v *yaml.Node) {
		r.hasChecks = len(v.Content) > 0
		p.list(v, "checks", " of checks", "[{ http: http://127.0.0.1/ }]", func(i int, item *yaml.Node) {
			if c := p.check(r.name, i+1, item); c != nil {
				r.checks = append(r.checks, c)
			}
		})
	})
	return r
}
