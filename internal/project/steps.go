package project

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

// A refKind says what a [ref] must be.
type refKind int

const (
	refScript refKind = iota // a program of the project
	refFile                  // a file or folder of the project
	refGlob                  // a glob that should match something
	refShell                 // shell text
	refText                  // literal text of a template
)

// A ref is something a step or check names that is looked at only when the
// whole file has been read.
type ref struct {
	kind     refKind
	at       *yaml.Node
	field    string
	text     string // path, glob or text
	template bool
	item     int  // of refFile: index in the step's files
	mode     bool // of refFile: the mode was given
}

var (
	stepKinds  = []string{release.KindPackages, release.KindFiles, release.KindServices, release.KindUsers, release.KindScript, release.KindRun}
	laterKinds = []string{"ansible", "puppet", "salt", "chef", "module", "engine"}
	stepFields = append(slices.Clone(stepKinds), "name", "args", "only", "inputs", "unless", "creates", "env", "user", "rerun", "timeout", "retries", "on_error", "reboot", "restart", "reload")
	// ownFields belong to some kinds of steps only.
	ownFields = map[string][]string{
		"args":    {release.KindScript},
		"inputs":  {release.KindScript, release.KindRun},
		"unless":  {release.KindScript, release.KindRun},
		"creates": {release.KindScript, release.KindRun},
		"env":     {release.KindScript, release.KindRun},
		"user":    {release.KindScript, release.KindRun},
	}
	rerunMeaning = map[string]string{
		"once": "never (run one time on each VM), changed or always", "onchange": "changed (when its inputs differ), always or never",
		"yes": "always, changed or never", "no": "never (run one time on each VM), changed or always",
	}
	servicePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9@:._\\-]*$`)
	envPattern     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	accountPattern = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}\$?$`)
)

// step reads step number i of a role; nil if nothing can be made of it.
func (p *parser) step(role string, i int, n *yaml.Node) *step {
	label := fmt.Sprintf("step %d of %s", i, role)
	if !p.isMapping(n, label, "{ packages: [nginx] }") {
		return nil
	}
	m := p.mapping(n, "a step")
	kind, ok := p.stepKind(m, label)
	if !ok {
		return nil
	}
	m.known(stepFields, true)
	for _, f := range m.order {
		if kinds := ownFields[f.key.Value]; kinds != nil && !slices.Contains(kinds, kind) {
			p.fail(f.key, "E309", fmt.Sprintf("%s belongs to %s, and %s is %s", f.key.Value, orList(kinds), label, kind), "Remove it, or make a step of its own")
		}
	}
	s := &step{at: n, Step: release.Step{
		Kind: kind, Rerun: release.RerunAlways, Timeout: release.Duration(10 * time.Minute),
		OnError: release.OnErrorStop, Reboot: release.RebootNever,
	}}
	if kind == release.KindScript || kind == release.KindRun {
		s.Rerun = release.RerunChanged
	}
	p.stepWork(m, s)
	p.stepCommon(m, s)
	p.stepGuards(m, s)
	if s.Name == "" {
		s.Name = s.defaultName()
	}
	return s
}

// stepKind returns the one kind of a step.
func (p *parser) stepKind(m *mapping, label string) (string, bool) {
	var kinds []string
	at := m.node
	for _, f := range m.order {
		if slices.Contains(stepKinds, f.key.Value) || slices.Contains(laterKinds, f.key.Value) {
			if kinds = append(kinds, f.key.Value); len(kinds) == 2 {
				at = f.key
			}
		}
	}
	switch {
	case len(kinds) > 1:
		p.fail(at, "E308", fmt.Sprintf("%s has two kinds (%s)", label, strings.Join(kinds, ", ")), "Split it into two steps")
	case len(kinds) == 0:
		before := len(p.diags)
		m.known(stepFields, true)
		if len(p.diags) == before { // a misspelt kind is reported as an unknown field
			p.fail(at, "E308", label+" does nothing", "Give it "+orList(stepKinds))
		}
	case slices.Contains(laterKinds, kinds[0]):
		p.later(m.fields[kinds[0]].key)
	default:
		return kinds[0], true
	}
	return "", false
}

// stepWork reads the field that the step's kind names.
func (p *parser) stepWork(m *mapping, s *step) {
	n := m.value(s.Kind)
	switch s.Kind {
	case release.KindPackages:
		p.items(n, "packages", "[nginx]", func(item *yaml.Node) { p.packageItem(item, s) })
	case release.KindFiles:
		p.items(n, "files", "[{ from: motd, to: /etc/motd }]", func(item *yaml.Node) { p.fileItem(item, s) })
	case release.KindServices:
		p.items(n, "services", "[nginx]", func(item *yaml.Node) { p.serviceItem(item, s) })
	case release.KindUsers:
		p.items(n, "users", "[deploy]", func(item *yaml.Node) { p.userItem(item, s) })
	case release.KindScript:
		if t, ok := p.projectPath(n, "script"); ok {
			s.Script = t
			s.refs = append(s.refs, ref{kind: refScript, at: n, field: "script", text: t})
		}
		m.with("args", func(v *yaml.Node) {
			p.list(v, "args", "", "[--fast]", func(_ int, item *yaml.Node) {
				if t, ok := p.textOrNumber(item, "an item of args"); ok {
					s.Args = append(s.Args, t)
				}
			})
		})
	case release.KindRun:
		s.Run = p.shell(n, "run", &s.refs)
	}
}

func (p *parser) items(n *yaml.Node, field, example string, each func(item *yaml.Node)) {
	if p.full(n, field) {
		p.list(n, field, "", example, func(_ int, item *yaml.Node) { each(item) })
	}
}

// shell returns shell text and notes it for a syntax check.
func (p *parser) shell(n *yaml.Node, field string, refs *[]ref) string {
	s, ok := p.text(n, field)
	switch {
	case !ok:
		return ""
	case strings.TrimSpace(s) == "":
		p.fail(n, "E205", field+" is empty", "Give it shell text or remove the line")
		return ""
	case strings.ContainsRune(s, 0):
		p.fail(n, "E203", field+" must not hold a NUL character", "")
		return ""
	}
	*refs = append(*refs, ref{kind: refShell, at: n, field: field, text: s})
	return s
}

// stepCommon reads the fields that every kind has.
func (p *parser) stepCommon(m *mapping, s *step) {
	m.with("name", func(v *yaml.Node) {
		if t, ok := p.words(v, "name"); ok {
			if len([]rune(t)) > 80 {
				p.fail(v, "E209", "name is longer than 80 characters", "")
			}
			s.Name, s.named = t, v
		}
	})
	m.with("only", func(v *yaml.Node) {
		if p.full(v, "only") {
			s.Only, s.onlyAt = p.texts(v, "only", " of platforms", "[debian-*]", p.platformGlob), v
		}
	})
	m.with("rerun", func(v *yaml.Node) {
		if c, ok := p.choice(v, "rerun", []string{release.RerunChanged, release.RerunAlways, release.RerunNever}, rerunMeaning); ok {
			s.Rerun = c
		}
	})
	m.with("timeout", func(v *yaml.Node) {
		if d, ok := p.duration(v, "timeout", time.Second, day); ok {
			s.Timeout = d
		}
	})
	m.with("retries", func(v *yaml.Node) { p.int(v, "retries", 0, 10, &s.Retries) })
	m.with("on_error", func(v *yaml.Node) {
		if c, ok := p.choice(v, "on_error", []string{release.OnErrorStop, release.OnErrorContinue}, nil); ok {
			s.OnError = c
		}
	})
	m.with("reboot", func(v *yaml.Node) {
		if c, ok := p.choice(v, "reboot", []string{release.RebootNever, release.RebootIfRequired, release.RebootIfChanged}, nil); ok {
			s.Reboot = c
		}
	})
	m.with("restart", func(v *yaml.Node) { s.Restart = p.texts(v, "restart", " of services", "[nginx]", p.serviceName) })
	m.with("reload", func(v *yaml.Node) { s.Reload = p.texts(v, "reload", " of services", "[nginx]", p.serviceName) })
}

// stepGuards reads the fields of script and run.
func (p *parser) stepGuards(m *mapping, s *step) {
	if s.Kind != release.KindScript && s.Kind != release.KindRun {
		return
	}
	m.with("inputs", func(v *yaml.Node) {
		s.Inputs = p.texts(v, "inputs", " of globs", "[web/**]", func(n *yaml.Node, t string) bool {
			s.refs = append(s.refs, ref{kind: refGlob, at: n, field: "inputs", text: t})
			return p.glob(n, t)
		})
	})
	m.with("unless", func(v *yaml.Node) { s.Unless = p.shell(v, "unless", &s.refs) })
	m.with("creates", func(v *yaml.Node) { s.Creates, _ = p.absolute(v, "creates") })
	m.with("env", func(v *yaml.Node) { s.Env = p.env(v) })
	m.with("user", func(v *yaml.Node) {
		if s.User, _ = p.account(v, "user"); s.User == "root" {
			s.User = ""
		}
	})
}

func (p *parser) env(n *yaml.Node) map[string]string {
	if !p.isMapping(n, "env", "{ NAME: value }") {
		return nil
	}
	env := map[string]string{}
	for _, f := range pairs(n) {
		name := f.key.Value
		switch {
		case !envPattern.MatchString(name):
			p.fail(f.key, "E209", fmt.Sprintf("env %q: use letters, digits and _, not starting with a digit", name), "")
		case strings.HasPrefix(name, "BOOTWELL_"):
			p.fail(f.key, "E209", fmt.Sprintf("env %s: names that start with BOOTWELL_ are bootwell's own", name), "Choose another name")
		default:
			if v, ok := p.textOrNumber(f.value, "env."+name); ok {
				env[name] = v
			}
		}
	}
	return env
}

// platformGlob reports a glob that could not match any platform.
func (p *parser) platformGlob(n *yaml.Node, s string) bool {
	if _, err := path.Match(s, ""); err != nil || strings.Contains(s, "/") {
		p.fail(n, "E311", fmt.Sprintf("only: %q is not a valid glob", s), "Write a platform such as debian-12, or debian-*")
		return false
	}
	return true
}

func (p *parser) serviceName(n *yaml.Node, s string) bool {
	if servicePattern.MatchString(s) {
		return true
	}
	p.fail(n, "E209", fmt.Sprintf("service %q: not a name of a service", s), "Write it as systemctl does, such as nginx or getty@tty1")
	return false
}

// account is the name of a user or group, or its number in quotes.
func (p *parser) account(n *yaml.Node, field string) (string, bool) {
	s, ok := p.words(n, field)
	if !ok {
		return "", false
	}
	if accountPattern.MatchString(s) || wholeNumber.MatchString(s) && s[0] != '-' && len(s) <= 10 {
		return s, true
	}
	p.fail(n, "E209", fmt.Sprintf("%s %q: use lower-case letters, digits, - or _, starting with a letter or _, at most 32", field, s), tryName(s, '-'))
	return "", false
}

// absolute is a clean absolute path on the VM.
func (p *parser) absolute(n *yaml.Node, field string) (string, bool) {
	s, ok := p.text(n, field)
	if !ok {
		return "", false
	}
	switch c := path.Clean("/" + s); {
	case s == "":
		p.fail(n, "E205", field+" is empty", "Give it a path or remove the line")
	case strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }):
		p.fail(n, "E212", field+": a path must have no control characters", "")
	case strings.HasPrefix(s, "~"):
		p.fail(n, "E212", fmt.Sprintf("%s: %s is not absolute", field, s), "Write the folder out, such as /home/deploy or /root")
	case !path.IsAbs(s):
		p.fail(n, "E212", fmt.Sprintf("%s: %s is not absolute", field, s), "Write "+c)
	case c == "/":
		p.fail(n, "E212", field+" must not be /", "Name a file or folder")
	case c != s:
		p.fail(n, "E212", fmt.Sprintf("%s: %s is not in its shortest form", field, s), "Write "+c)
	default:
		return s, true
	}
	return "", false
}

// projectPath is a path within the project.
func (p *parser) projectPath(n *yaml.Node, field string) (string, bool) {
	s, ok := p.words(n, field)
	if !ok {
		return "", false
	}
	c := path.Clean(s)
	switch {
	case path.IsAbs(s):
		p.fail(n, "E408", fmt.Sprintf("%s: %s is a path of a machine, not of the project", field, s), "Name a file of the project, such as scripts/setup.sh")
	case c == ".." || strings.HasPrefix(c, "../"):
		p.fail(n, "E408", fmt.Sprintf("%s: %s is outside the project", field, s), "Move it into the project's folder: only that is published")
	case strings.Contains(s, `\`):
		p.fail(n, "E408", fmt.Sprintf("%s: %s has a backslash", field, s), "Write "+strings.ReplaceAll(s, `\`, "/"))
	case release.CheckPath(c) != nil:
		p.fail(n, "E408", fmt.Sprintf("%s: %s cannot be a path of the project", field, s), "Name a file of the project, such as scripts/setup.sh")
	default:
		return c, true
	}
	return "", false
}

// defaultName makes a step's name from what it does.
func (s *step) defaultName() string {
	var words []string
	switch s.Kind {
	case release.KindPackages:
		for _, x := range s.Packages {
			words = append(words, x.Name)
		}
	case release.KindFiles:
		for _, x := range s.Files {
			words = append(words, x.To)
		}
	case release.KindServices:
		for _, x := range s.Services {
			words = append(words, x.Name)
		}
	case release.KindUsers:
		for _, x := range s.Users {
			words = append(words, x.Name)
		}
	case release.KindScript:
		words = []string{s.Script}
	case release.KindRun:
		words = []string{short(s.Run)}
	}
	name := s.Kind
	for i, w := range words {
		if i == 3 {
			return name + fmt.Sprintf(" and %d more", len(words)-3)
		}
		name += " " + w
	}
	return name
}

// short is the first line of a text, cut to what fits a table.
func short(s string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(s), "\n")
	r := []rune(strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return ' '
		}
		return c
	}, line))
	if len(r) > 40 {
		return string(r[:39]) + "…"
	}
	if rest != "" {
		return string(r) + " …"
	}
	return string(r)
}
