package policy

import (
	"fmt"
	"net/url"
	"strings"
)

// A rule lets an application credential make one kind of request.
// https://docs.openstack.org/keystone/latest/user/application_credentials.html#access-rules
type rule struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    string `json:"path"`
}

// openstack writes access rules of an application credential: * is one part
// of a path and ** the rest of it. A list is a GET of the container, without
// regard to its prefix.
func openstack(t target, gs []grant) Policy {
	base := "/v1/*/" + (&url.URL{Path: t.bucket}).EscapedPath()
	var rules []rule
	for _, v := range []struct {
		verb   verb
		method string
	}{{read, "GET"}, {write, "PUT"}, {remove, "DELETE"}} {
		for _, p := range t.paths(gs, v.verb) {
			rules = append(rules, rule{"object-store", v.method, base + "/" + (&url.URL{Path: strings.TrimSuffix(p, "*")}).EscapedPath() + "**"})
		}
	}
	if prefixes(gs, list) != nil {
		rules = append(rules, rule{"object-store", "GET", base})
	}
	p := Policy{Form: "json", Text: indented(rules)}
	p.Apply = []string{
		fmt.Sprintf("openstack application credential create --access-rules FILE %s-%s", t.Name, t.For),
	}
	if t.For == VM {
		p.Apply = append(p.Apply, "give the VM its ID and secret in /etc/bootwell/credentials (mode 600), or in the vendor data of your cloud")
		if t.VM == "" {
			p.Notes = append(p.Notes, "VMs that share an application credential can overwrite each other's reports and logs. One credential a VM, with --vm NAME (its server ID), confines each.")
		}
	}
	if prefixes(gs, list) != nil {
		p.Notes = append(p.Notes, "Access rules do not see the prefix of a list: this credential sees the names of all objects in the container.")
	}
	return p
}
