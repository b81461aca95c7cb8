package project

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

var (
	packageFields = []string{"name", "version", "state"}
	serviceFields = []string{"name", "state", "enabled"}
	userFields    = []string{"name", "state", "uid", "group", "groups", "home", "shell", "comment", "system", "ssh_keys"}
	fileFields    = []string{"to", "from", "content", "link", "state", "mode", "owner", "group", "template", "validate"}

	packagePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._:@/-]*$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._:~^-]*$`)
	sshKeyPattern  = regexp.MustCompile(`(^|[ ,])(ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+)(-cert-v01)?(@openssh\.com)? [A-Za-z0-9+/]{16,}={0,3}( |$)`)

	stateMeaning = map[string]string{
		"started": "running or stopped", "restarted": "running, and restart: in the step whose change asks for it",
		"reloaded": "running, and reload: in the step whose change asks for it", "enabled": "running or stopped, and enabled: true",
		"disabled": "running or stopped, and enabled: false", "latest": "present with the version that you tested, or leave state out",
		"installed": "present or absent", "removed": "present or absent", "file": "present, absent or directory", "dir": "directory", "touch": "present with content: \"\"",
	}
)

// named reads a mapping whose name is required.
func (p *parser) named(n *yaml.Node, what string, fields []string, name func(n *yaml.Node)) (*mapping, bool) {
	if !p.isMapping(n, what, "{ name: … }") {
		return nil, false
	}
	m := p.mapping(n, what)
	m.known(fields, false)
	p.required(m, "name", "name: to "+what, name)
	return m, true
}

func (p *parser) packageItem(n *yaml.Node, s *step) {
	var pkg release.Package
	if n.Kind == yaml.ScalarNode {
		t, ok := p.words(n, "an item of packages")
		if !ok {
			return
		}
		name, version, given := strings.Cut(t, "=")
		pkg.Name, pkg.Version = name, version
		switch {
		case strings.ContainsAny(t, "<>!~ ") && !packagePattern.MatchString(name):
			p.fail(n, "E316", fmt.Sprintf("package %q: only a name, or a name=version that is exact", t), "Write nginx or nginx=1.22.1-9, each package as its own item")
		case given && !versionPattern.MatchString(version):
			p.fail(n, "E316", fmt.Sprintf("package %q: %q is not a version", t, version), "Write the package's exact version, such as nginx=1.22.1-9")
		default:
			p.packageName(n, name)
		}
		s.Packages = append(s.Packages, pkg)
		return
	}
	m, ok := p.named(n, "a package", packageFields, func(v *yaml.Node) {
		if t, ok := p.words(v, "name"); ok {
			p.packageName(v, t)
			pkg.Name = t
		}
	})
	if !ok {
		return
	}
	m.with("version", func(v *yaml.Node) {
		if t, ok := p.words(v, "version"); ok && !versionPattern.MatchString(t) {
			p.fail(v, "E316", fmt.Sprintf("version %q is not an exact version", t), `Write it as the package manager shows it, such as "1.22.1-9"`)
		} else if ok {
			pkg.Version = t
		}
	})
	m.with("state", func(v *yaml.Node) {
		c, _ := p.choice(v, "state", []string{release.StatePresent, release.StateAbsent}, stateMeaning)
		pkg.Absent = c == release.StateAbsent
	})
	if pkg.Absent && pkg.Version != "" {
		p.fail(m.fields["version"].key, "E316", "version with state: absent", "Remove version: every version of the package goes")
	}
	s.Packages = append(s.Packages, pkg)
}

func (p *parser) packageName(n *yaml.Node, name string) {
	if !packagePattern.MatchString(name) {
		p.fail(n, "E316", fmt.Sprintf("package %q: not a name of a package", name), "Each package is its own item: [nginx, curl]")
	}
}

func (p *parser) serviceItem(n *yaml.Node, s *step) {
	on := true
	if n.Kind == yaml.ScalarNode {
		if t, ok := p.words(n, "an item of services"); ok && p.serviceName(n, t) {
			s.Services = append(s.Services, release.Service{Name: t, State: release.ServiceRunning, Enabled: &on})
		}
		return
	}
	var svc release.Service
	m, ok := p.named(n, "a service", serviceFields, func(v *yaml.Node) {
		if t, ok := p.words(v, "name"); ok && p.serviceName(v, t) {
			svc.Name = t
		}
	})
	if !ok {
		return
	}
	m.with("state", func(v *yaml.Node) {
		svc.State, _ = p.choice(v, "state", []string{release.ServiceRunning, release.ServiceStopped}, stateMeaning)
	})
	m.with("enabled", func(v *yaml.Node) { svc.Enabled = p.boolPtr(v, "enabled") })
	if m.value("state") == nil && m.value("enabled") == nil {
		svc.State, svc.Enabled = release.ServiceRunning, &on
	}
	s.Services = append(s.Services, svc)
}

func (p *parser) userItem(n *yaml.Node, s *step) {
	if n.Kind == yaml.ScalarNode {
		if t, ok := p.userName(n, "an item of users"); ok {
			s.Users = append(s.Users, release.User{Name: t})
		}
		return
	}
	var u release.User
	m, ok := p.named(n, "a user", userFields, func(v *yaml.Node) { u.Name, _ = p.userName(v, "name") })
	if !ok {
		return
	}
	m.with("state", func(v *yaml.Node) {
		c, _ := p.choice(v, "state", []string{release.StatePresent, release.StateAbsent}, stateMeaning)
		u.Absent = c == release.StateAbsent
	})
	m.with("uid", func(v *yaml.Node) {
		if i, ok := p.whole64(v, "uid", 1, 1<<32-2); ok {
			id := int(i)
			u.UID = &id
		}
	})
	m.with("group", func(v *yaml.Node) { u.Group, _ = p.userName(v, "group") })
	m.with("groups", func(v *yaml.Node) {
		p.list(v, "groups", " of groups", "[docker]", func(_ int, item *yaml.Node) {
			if t, ok := p.userName(item, "an item of groups"); ok {
				u.Groups = append(u.Groups, t)
			}
		})
	})
	m.with("home", func(v *yaml.Node) { u.Home, _ = p.absolute(v, "home") })
	m.with("shell", func(v *yaml.Node) { u.Shell, _ = p.absolute(v, "shell") })
	m.with("comment", func(v *yaml.Node) {
		if t, ok := p.words(v, "comment"); ok && strings.Contains(t, ":") {
			p.fail(v, "E317", "comment must not hold a colon", "/etc/passwd parts its fields with colons")
		} else {
			u.Comment = t
		}
	})
	m.with("system", func(v *yaml.Node) { u.System, _ = p.bool(v, "system") })
	m.with("ssh_keys", func(v *yaml.Node) { u.SSHKeys = p.sshKeys(v) })
	if u.Absent {
		for _, f := range m.order {
			if k := f.key.Value; k != "name" && k != "state" {
				p.fail(f.key, "E317", k+" with state: absent", "Remove it: the account goes")
			}
		}
	}
	s.Users = append(s.Users, u)
}

func (p *parser) userName(n *yaml.Node, field string) (string, bool) {
	s, ok := p.account(n, field)
	if ok && wholeNumber.MatchString(s) {
		p.fail(n, "E209", fmt.Sprintf("%s %q is a number", field, s), "Give the name; the number of a user goes under uid:")
		return "", false
	}
	return s, ok
}

func (p *parser) sshKeys(n *yaml.Node) []string {
	keys := p.texts(n, "ssh_keys", " of public keys", `["ssh-ed25519 AAAA… ana"]`, func(n *yaml.Node, s string) bool {
		if strings.Contains(s, "PRIVATE KEY") {
			p.fail(n, "E317", "ssh_keys holds a private key", "Put in the line of the .pub file, and make a new key: this one is known now")
			return false
		}
		if !sshKeyPattern.MatchString(s) {
			p.fail(n, "E317", "this is not an SSH public key", "Put in the whole line of the .pub file: ssh-ed25519 AAAA… ana")
			return false
		}
		return true
	})
	if keys == nil {
		keys = []string{} // an empty list empties the file
	}
	return keys
}

func (p *parser) fileItem(n *yaml.Node, s *step) {
	if !p.isMapping(n, "an item of files", "{ from: motd, to: /etc/motd }") {
		return
	}
	m := p.mapping(n, "a file")
	if v := m.fields["secret"]; v.key != nil {
		p.later(v.key)
		return
	}
	m.known(fileFields, false)
	f := release.FileItem{State: release.StatePresent, Owner: "root", Group: "root"}
	p.required(m, "to", "where the file goes on the VM: to: /etc/motd", func(v *yaml.Node) { f.To = p.destination(v, m) })
	m.with("state", func(v *yaml.Node) {
		if c, ok := p.choice(v, "state", []string{release.StatePresent, release.StateAbsent, release.StateDirectory}, stateMeaning); ok {
			f.State = c
		}
	})
	p.fileSource(m, &f)
	m.with("owner", func(v *yaml.Node) {
		if t, ok := p.account(v, "owner"); ok {
			f.Owner = t
		}
	})
	m.with("group", func(v *yaml.Node) {
		if t, ok := p.account(v, "group"); ok {
			f.Group = t
		}
	})
	p.fileMode(m, &f)
	m.with("template", func(v *yaml.Node) { f.Template, _ = p.bool(v, "template") })
	m.with("validate", func(v *yaml.Node) { f.Validate = p.validate(v, &s.refs) })
	p.fileCombination(m, f)
	if v := m.value("from"); v != nil && f.From != "" {
		s.refs = append(s.refs, ref{
			kind: refFile, at: v, field: "from", text: f.From, template: f.Template,
			item: len(s.Files), mode: m.value("mode") != nil,
		})
	}
	if v := m.value("content"); v != nil && f.Template && f.Content != nil {
		s.refs = append(s.refs, ref{kind: refText, at: v, field: "content", text: *f.Content, template: true})
	}
	s.Files = append(s.Files, f)
}

// destination is where a file goes; a trailing / is the habit of cp.
func (p *parser) destination(n *yaml.Node, m *mapping) string {
	if from := m.value("from"); from != nil && len(n.Value) > 1 && n.Value[0] == '/' && strings.HasSuffix(n.Value, "/") {
		_, base, ok := cutLast(strings.TrimRight(from.Value, "/"), "/")
		if !ok {
			base = from.Value
		}
		p.fail(n, "E212", fmt.Sprintf("to: %s names a folder", n.Value), "Write the whole name: "+n.Value+base)
		return ""
	}
	s, _ := p.absolute(n, "to")
	return s
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (p *parser) fileSource(m *mapping, f *release.FileItem) {
	var given []string
	for _, name := range []string{"from", "content", "link"} {
		if m.value(name) != nil {
			given = append(given, name)
		}
	}
	m.with("from", func(v *yaml.Node) { f.From, _ = p.projectPath(v, "from") })
	m.with("content", func(v *yaml.Node) {
		if t, ok := p.text(v, "content"); ok {
			f.Content = &t
		}
	})
	m.with("link", func(v *yaml.Node) { f.Link, _ = p.words(v, "link") })
	switch {
	case len(given) > 1:
		p.fail(m.fields[given[1]].key, "E312", fmt.Sprintf("a file has two sources (%s)", strings.Join(given, ", ")), "Keep one of them")
	case len(given) == 1 && f.State != release.StatePresent:
		p.fail(m.fields[given[0]].key, "E312", fmt.Sprintf("%s with state: %s", given[0], f.State), "Keep one of them")
	case len(given) == 0 && f.State == release.StatePresent && m.value("state") == nil:
		p.fail(m.node, "E312", "a file has no source", "Give it from (a file of the project), content or link; or state: directory or absent")
	case len(given) == 0 && f.State == release.StatePresent:
		p.fail(m.value("state"), "E312", "state: present without a source", "Give the file from, content or link")
	}
}

func (p *parser) fileMode(m *mapping, f *release.FileItem) {
	switch {
	case f.State == release.StateDirectory:
		f.Mode = "0755"
	case f.State == release.StatePresent && f.Link == "":
		f.Mode = "0644" // resolve takes it away again from a folder
	}
	m.with("mode", func(v *yaml.Node) {
		if t, ok := p.mode(v); ok {
			f.Mode = t
		}
	})
}

// mode is octal text of four digits.
func (p *parser) mode(n *yaml.Node) (string, bool) {
	if !p.scalar(n, "mode", `text such as "0644"`) {
		return "", false
	}
	if n.ShortTag() == "!!str" && modePattern.MatchString(n.Value) {
		return n.Value, true
	}
	octal := strings.TrimPrefix(strings.TrimPrefix(n.Value, "0o"), "0O")
	isOctal := octal != "" && len(octal) <= 4 && strings.Trim(octal, "01234567") == ""
	want := strings.Repeat("0", max(0, 4-len(octal))) + octal
	switch {
	case n.ShortTag() == "!!int" && isOctal:
		p.fail(n, "E213", "mode must be in quotes", fmt.Sprintf(`YAML reads %s as %s. Write: mode: "%s"`, n.Value, reading(n), want))
	case isOctal:
		p.fail(n, "E213", fmt.Sprintf("mode %q: four octal digits", n.Value), fmt.Sprintf(`Write: mode: "%s"`, want))
	default:
		p.fail(n, "E213", fmt.Sprintf("mode %q: four octal digits", n.Value), `Write: mode: "0644", or "0755" for a program`)
	}
	return "", false
}

func (p *parser) validate(n *yaml.Node, refs *[]ref) string {
	s, ok := p.words(n, "validate")
	if !ok {
		return ""
	}
	if !strings.Contains(s, "%s") {
		p.fail(n, "E313", "validate has no %s, so it would not look at the new file", "Write: nginx -t -c %s")
		return ""
	}
	*refs = append(*refs, ref{kind: refShell, at: n, field: "validate", text: strings.ReplaceAll(s, "%s", "/dev/null")})
	return s
}

// fileCombination reports fields that mean nothing for what the item makes.
func (p *parser) fileCombination(m *mapping, f release.FileItem) {
	why := ""
	var idle []string
	switch {
	case f.State == release.StateAbsent:
		why, idle = "state: absent", []string{"mode", "owner", "group", "template", "validate"}
	case f.State == release.StateDirectory:
		why, idle = "state: directory", []string{"template", "validate"}
	case f.Link != "":
		why, idle = "link", []string{"mode", "template", "validate"}
	}
	for _, name := range idle {
		if field, ok := m.fields[name]; ok {
			p.fail(field.key, "E312", name+" with "+why, "Remove it: it would do nothing")
		}
	}
}
