package project

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

// What a check does unless the project says otherwise: a service that needs
// some seconds to come up is not a failure.
const (
	checkTimeout  = 10 * time.Second
	checkRetries  = 5
	checkInterval = 2 * time.Second
)

var (
	checkKinds = []string{release.CheckHTTP, release.CheckPort, release.CheckService, release.CheckFile, release.CheckPackage, release.CheckCommand, release.CheckRun}
	// checkFields lists the fields of each kind beside those of all kinds.
	checkFields = map[string][]string{
		release.CheckHTTP:    {"status", "body", "headers", "allow_insecure"},
		release.CheckPort:    {"listening"},
		release.CheckService: {"running", "enabled"},
		release.CheckFile:    {"exists", "mode", "owner", "group", "contents"},
		release.CheckPackage: {"installed", "versions"},
		release.CheckCommand: {"exit_status", "stdout", "stderr"},
		release.CheckRun:     {"exit_status", "stdout", "stderr"},
	}
	commonCheckFields = []string{"name", "timeout", "retries", "interval"}
	portPattern       = regexp.MustCompile(`^(?:(tcp|udp):)?([1-9][0-9]{0,4})$`)
	headerPattern     = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+:")
)

// check reads check number i of a role; nil if nothing can be made of it.
func (p *parser) check(role string, i int, n *yaml.Node) *check {
	label := fmt.Sprintf("check %d of %s", i, role)
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "goss") {
		p.fail(n, "E207", "goss files: this bootwell cannot do that yet", later["goss"])
		return nil
	}
	if !p.isMapping(n, label, "{ http: http://127.0.0.1/ }") {
		return nil
	}
	m := p.mapping(n, "a check")
	kind, ok := p.checkKind(m, label)
	if !ok {
		return nil
	}
	p.checkFieldsKnown(m, kind, label)
	c := &check{at: n, Check: release.Check{
		Kind: kind, Timeout: release.Duration(checkTimeout), Retries: checkRetries, Interval: release.Duration(checkInterval),
	}}
	p.checkTarget(m.value(kind), c)
	m.with("name", func(v *yaml.Node) {
		if t, ok := p.words(v, "name"); ok {
			c.Name, c.named = t, v
		}
	})
	m.with("timeout", func(v *yaml.Node) {
		if d, ok := p.duration(v, "timeout", time.Second, time.Hour); ok {
			c.Timeout = d
		}
	})
	m.with("retries", func(v *yaml.Node) { p.int(v, "retries", 0, 100, &c.Retries) })
	m.with("interval", func(v *yaml.Node) {
		if d, ok := p.duration(v, "interval", 0, time.Hour); ok {
			c.Interval = d
		}
	})
	p.checkExpectations(m, c)
	if c.Name == "" {
		c.Name = c.Kind + " " + short(c.Target)
	}
	return c
}

func (p *parser) checkKind(m *mapping, label string) (string, bool) {
	var kinds []string
	at := m.node
	for _, f := range m.order {
		if slices.Contains(checkKinds, f.key.Value) {
			if kinds = append(kinds, f.key.Value); len(kinds) == 2 {
				at = f.key
			}
		}
	}
	if len(kinds) == 1 {
		return kinds[0], true
	}
	if len(kinds) > 1 {
		p.fail(at, "E308", fmt.Sprintf("%s has two kinds (%s)", label, strings.Join(kinds, ", ")), "Split it into two checks")
		return "", false
	}
	before := len(p.diags)
	m.known(allCheckFields(), false)
	if len(p.diags) == before {
		p.fail(at, "E308", label+" looks at nothing", "Give it "+orList(checkKinds))
	}
	return "", false
}

func allCheckFields() []string {
	all := append(slices.Clone(checkKinds), commonCheckFields...)
	for _, k := range checkKinds {
		for _, f := range checkFields[k] {
			if !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// checkFieldsKnown reports unknown fields, and those of other kinds.
func (p *parser) checkFieldsKnown(m *mapping, kind, label string) {
	own := append(append([]string{kind}, commonCheckFields...), checkFields[kind]...)
	m.known(allCheckFields(), false)
	for _, f := range m.order {
		name := f.key.Value
		if slices.Contains(own, name) || !slices.Contains(allCheckFields(), name) {
			continue
		}
		var of []string
		for _, k := range checkKinds {
			if slices.Contains(checkFields[k], name) {
				of = append(of, k)
			}
		}
		p.fail(f.key, "E309", fmt.Sprintf("%s belongs to %s, and %s is %s", name, orList(of), label, kind), "Remove it, or make a check of its own")
	}
}

func (p *parser) checkTarget(n *yaml.Node, c *check) {
	switch c.Kind {
	case release.CheckHTTP:
		c.Target = p.httpURL(n)
	case release.CheckPort:
		c.Target = p.port(n)
	case release.CheckService:
		if t, ok := p.words(n, "service"); ok && p.serviceName(n, t) {
			c.Target = t
		}
	case release.CheckFile:
		c.Target, _ = p.absolute(n, "file")
	case release.CheckPackage:
		if t, ok := p.words(n, "package"); ok {
			p.packageName(n, t)
			c.Target = t
		}
	case release.CheckCommand:
		c.Target = p.shell(n, "command", &c.refs)
	case release.CheckRun:
		if t, ok := p.projectPath(n, "run"); ok {
			c.Target = t
			c.refs = append(c.refs, ref{kind: refScript, at: n, field: "run", text: t})
		}
	}
}

func (p *parser) httpURL(n *yaml.Node) string {
	s, ok := p.words(n, "http")
	if !ok {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		p.fail(n, "E314", fmt.Sprintf("http %q is not a URL", s), "Write http://127.0.0.1:8080/path or https://…")
		return ""
	}
	return s
}

func (p *parser) port(n *yaml.Node) string {
	if !p.scalar(n, "port", "a number such as 80") {
		return ""
	}
	m := portPattern.FindStringSubmatch(n.Value)
	if tag := n.ShortTag(); m == nil || tag != "!!int" && tag != "!!str" {
		p.fail(n, "E314", fmt.Sprintf("port %q: write a number from 1 to 65535, or udp:53", n.Value), "")
		return ""
	}
	if i, _ := strconv.Atoi(m[2]); i > 65535 {
		p.fail(n, "E314", fmt.Sprintf("port %s: at most 65535", n.Value), "")
		return ""
	}
	if m[1] == "" {
		m[1] = "tcp"
	}
	return m[1] + ":" + m[2]
}

// checkExpectations reads what must hold, and fills in what holds if nothing
// is said.
func (p *parser) checkExpectations(m *mapping, c *check) {
	yes := func() *bool { b := true; return &b }
	expect := func(name string, into **bool) {
		m.with(name, func(v *yaml.Node) { *into = p.boolPtr(v, name) })
	}
	texts := func(name string, into *[]string) {
		m.with(name, func(v *yaml.Node) { *into = p.oneOrMore(v, name, p.pattern) })
	}
	switch c.Kind {
	case release.CheckHTTP:
		c.Status = 200
		m.with("status", func(v *yaml.Node) { p.int(v, "status", 100, 599, &c.Status) })
		m.with("headers", func(v *yaml.Node) { c.Headers = p.headers(v) })
		m.with("allow_insecure", func(v *yaml.Node) { c.AllowInsecure, _ = p.bool(v, "allow_insecure") })
		texts("body", &c.Body)
	case release.CheckPort:
		c.Listening = yes()
		expect("listening", &c.Listening)
	case release.CheckService:
		c.Running = yes()
		expect("running", &c.Running)
		expect("enabled", &c.Enabled)
	case release.CheckFile:
		p.checkFile(m, c, yes(), texts)
	case release.CheckPackage:
		c.Installed = yes()
		expect("installed", &c.Installed)
		m.with("versions", func(v *yaml.Node) {
			c.Versions = p.oneOrMore(v, "versions", func(*yaml.Node, string) bool { return true })
		})
	case release.CheckCommand, release.CheckRun:
		m.with("exit_status", func(v *yaml.Node) { p.int(v, "exit_status", 0, 255, &c.ExitStatus) })
		texts("stdout", &c.Stdout)
		texts("stderr", &c.Stderr)
	}
}

func (p *parser) checkFile(m *mapping, c *check, exists *bool, texts func(string, *[]string)) {
	c.Exists = exists
	m.with("exists", func(v *yaml.Node) { c.Exists = p.boolPtr(v, "exists") })
	m.with("mode", func(v *yaml.Node) { c.Mode, _ = p.mode(v) })
	m.with("owner", func(v *yaml.Node) { c.Owner, _ = p.account(v, "owner") })
	m.with("group", func(v *yaml.Node) { c.Group, _ = p.account(v, "group") })
	texts("contents", &c.Contents)
	if c.Exists == nil || *c.Exists {
		return
	}
	for _, name := range []string{"mode", "owner", "group", "contents"} {
		if f, ok := m.fields[name]; ok {
			p.fail(f.key, "E314", name+" with exists: false", "Remove one of them")
		}
	}
}

// headers are "Name: value" lines. Without quotes YAML makes fields of them.
func (p *parser) headers(n *yaml.Node) []string {
	var out []string
	p.list(n, "headers", ` of "Name: value"`, `["Host: www.example.org"]`, func(_ int, item *yaml.Node) {
		if item.Kind == yaml.MappingNode && len(item.Content) == 2 && item.Content[1].Kind == yaml.ScalarNode {
			p.fail(item, "E314", "a header must be in quotes", fmt.Sprintf(`Write "%s: %s"`, item.Content[0].Value, item.Content[1].Value))
			return
		}
		t, ok := p.words(item, "an item of headers")
		if ok && !headerPattern.MatchString(t) {
			p.fail(item, "E314", fmt.Sprintf("header %q has no name", t), `Write "Host: www.example.org"`)
		} else if ok {
			out = append(out, t)
		}
	})
	return out
}

// pattern is a text that must occur, or a /regular expression/ in Go's form.
func (p *parser) pattern(n *yaml.Node, s string) bool {
	switch {
	case s == "":
		p.fail(n, "E205", "an empty text occurs everywhere", "Give it some text, or remove it")
		return false
	case strings.HasPrefix(s, "!"):
		p.fail(n, "E314", fmt.Sprintf("%q: texts that must not occur are not known here", s), "Use a command check with grep, or /^!…/ for a text that starts with !")
		return false
	case len(s) > 1 && strings.HasPrefix(s, "/") && strings.HasSuffix(s, "/"):
		if _, err := regexp.Compile(s[1 : len(s)-1]); err != nil {
			p.fail(n, "E314", fmt.Sprintf("%s is not a regular expression: %s", s, strings.TrimPrefix(err.Error(), "error parsing regexp: ")), "Write it in the form of RE2, without look-ahead or back references")
			return false
		}
	}
	return true
}
