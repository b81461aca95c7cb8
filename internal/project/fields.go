package project

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// later holds the fields that a bootwell of the future understands, and what
// to do until then. They are refused by name, so that nobody believes they
// took effect.
var later = map[string]string{
	"ansible":      "Until then let a script step install Ansible and call ansible-playbook on localhost",
	"puppet":       "Until then let a script step install Puppet and call puppet apply",
	"salt":         "Until then let a script step install Salt and call salt-call --local",
	"chef":         "Until then let a script step install Chef and call chef-client --local-mode",
	"module":       "Until then keep the shared scripts in this project, as a git submodule or a copy",
	"modules":      "Until then keep the shared scripts in this project, as a git submodule or a copy",
	"with":         "It belongs to module. Until then give a script its values by env or vars",
	"tags":         "It belongs to ansible. Until then call ansible-playbook --tags from a script",
	"engine":       "Until then let a script step install and call the engine",
	"engines":      "Until then let a script step install and call the engine",
	"secret":       "Until then let a script read the secret on the VM, with the VM's own identity",
	"secrets":      "Until then let a script read the secrets on the VM, with the VM's own identity",
	"mirror":       "Until then let a script step point the package manager at your own mirror",
	"bake":         "Every step runs at first boot. Remove the field",
	"rollout":      "publish moves all VMs at once. Until then use a project for each group of VMs",
	"environments": "Until then use a project, in its own folder, for each environment",
	"test":         "Until then try the role on a VM of your own",
	"trusted_keys": "bootwell init makes the keys and signs them into the bucket. Remove the field",
	"goss":         "Until then use the checks http, port, service, file, package and command, worded as in goss, or call goss from a run check",
	"windows":      "bootwell provisions Linux only",
}

// synonyms are words people bring from other tools.
var synonyms = map[string]string{
	"every": "poll", "interval": "", "jitter": "", "sh": "run", "shell": "run", "cmd": "run", "exec": "run",
	"command": "run", "package": "packages", "apt": "packages", "yum": "packages", "pkg": "packages", "file": "files", "copy": "files",
	"service": "services", "systemd": "services", "user": "users", "only_if": "unless", "not_if": "unless", "when": "only", "if": "only",
	"environment": "env", "notify": "restart", "dest": "to", "path": "to", "src": "from", "source": "from", "target": "link", "content_from": "from",
	"variables": "vars", "check": "checks", "tests": "checks", "inherits": "extends", "parent": "extends", "become_user": "user", "permissions": "mode",
	"request-headers": "headers", "request_headers": "headers", "url": "http", "exec_start": "run", "keys": "ssh_keys", "authorized_keys": "ssh_keys",
	"ssh_authorized_keys": "ssh_keys", "gecos": "comment", "exclude": "ignore", "reapply_every": "reapply",
	"hosts": "only", "contains": "contents", "gid": "group", "ensure": "state", "enable": "enabled", "started": "state", "run_once": "rerun", "tries": "attempts",
}

// A mapping is a YAML mapping whose fields are being read. What is a noun with
// its article: "a step".
type mapping struct {
	p      *parser
	node   *yaml.Node
	what   string
	fields map[string]pair
	order  []pair
}

// isMapping reports whether n is a mapping, and complains if not.
func (p *parser) isMapping(n *yaml.Node, field, example string) bool {
	switch {
	case n.Kind == yaml.MappingNode && (n.ShortTag() == "!!map"):
		return true
	case n.Kind == yaml.MappingNode:
		p.fail(n, "E203", fmt.Sprintf("%s: the tag %s is not known here", field, n.Tag), "Remove the tag")
	case n.ShortTag() == "!!null":
		p.fail(n, "E205", field+" has no value", "Give it one or remove the line")
	default:
		p.fail(n, "E203", fmt.Sprintf("%s must be fields with values, not %s", field, kind(n)), "Write: "+field+": "+example)
	}
	return false
}

func (p *parser) mapping(n *yaml.Node, what string) *mapping {
	m := &mapping{p: p, node: n, what: what, fields: map[string]pair{}, order: pairs(n)}
	for _, f := range m.order {
		m.fields[f.key.Value] = f
	}
	return m
}

// value returns the value of a field, or nil.
func (m *mapping) value(name string) *yaml.Node { return m.fields[name].value }

// with calls f with the value of a field that is there.
func (m *mapping) with(name string, f func(n *yaml.Node)) {
	if v := m.value(name); v != nil {
		f(v)
	}
}

// known reports the fields that are not in names. Notes (x-…) are let
// through where notes says so.
func (m *mapping) known(names []string, notes bool) {
	for _, f := range m.order {
		name := f.key.Value
		if slices.Contains(names, name) || notes && strings.HasPrefix(name, "x-") {
			continue
		}
		if m.p.later(f.key) {
			continue
		}
		m.p.fail(f.key, "E201", fmt.Sprintf("unknown field %q in %s", name, m.what), m.unknown(name, names, notes))
	}
}

// unknown returns the remedy for a field that does not exist.
func (m *mapping) unknown(name string, names []string, notes bool) string {
	guess := synonyms[name]
	if s := strings.ReplaceAll(name, "-", "_"); slices.Contains(names, s) {
		guess = s
	}
	if guess == "" || !slices.Contains(names, guess) {
		guess = nearest(name, names)
	}
	if guess != "" {
		return fmt.Sprintf("did you mean %q?", guess)
	}
	sorted := slices.Clone(names)
	sort.Strings(sorted)
	detail := strings.ToUpper(m.what[:1]) + m.what[1:] + " has " + strings.Join(sorted, ", ")
	if notes {
		detail += ". (Your own notes go under x-…)"
	}
	return detail
}

// later reports a field of a future bootwell, and whether key is one.
func (p *parser) later(key *yaml.Node) bool {
	advice, ok := later[key.Value]
	if ok {
		p.fail(key, "E207", fmt.Sprintf("%s: this bootwell cannot do that yet", key.Value), advice)
	}
	return ok
}
