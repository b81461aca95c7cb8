// Package policy writes down the least rights that VMs, publishers and readers
// need in a bucket, in the language of each cloud. What is needed is said once,
// in grants; each cloud's file translates that.
package policy

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ErrConfig is wrapped when no policy can be written for a Config.
var ErrConfig = errors.New("no policy can be written")

// An Audience is who gets the rights.
type Audience string

// The audiences.
const (
	VM        Audience = "vm"        // reads releases, writes its own reports and logs
	Publisher Audience = "publisher" // reads and writes releases
	Reader    Audience = "reader"    // reads releases, reports and logs: status
	Collector Audience = "gc"        // deletes what no release needs: gc
)

// Audiences returns all of them.
func Audiences() []Audience { return []Audience{VM, Publisher, Reader, Collector} }

// Config says for what a policy is.
type Config struct {
	Bucket string   // URL, as in bootwell.yaml
	Cloud  string   // one of [Clouds]; "": the bucket's own
	For    Audience // "": VM
	Name   string   // stands in the names of what is made; "": bootwell
	VM     string   // one VM's name; "": all VMs of the identity
}

// A Policy is a text for a cloud and what to do with it.
type Policy struct {
	Cloud string   `json:"cloud"`
	For   Audience `json:"for"`
	Form  string   `json:"form"`            // json, or sh: commands
	Text  string   `json:"text"`            // the document or script
	Apply []string `json:"apply"`           // commands that put a document to use, FILE being the document
	Notes []string `json:"notes,omitempty"` // what this cloud cannot confine, and what follows
}

// A cloud translates grants.
type cloud struct {
	name    string
	schemes []string
	write   func(target, []grant) Policy
}

var clouds = []cloud{
	{"aws", []string{"s3"}, aws},
	{"s3", []string{"s3"}, s3},
	{"azure", []string{"az"}, azure},
	{"gcp", []string{"gs"}, gcp},
	{"openstack", []string{"swift"}, openstack},
}

// Clouds returns the names that Config.Cloud may have. s3 is a server that
// speaks the protocol of S3 and has users with policies.
func Clouds() []string {
	names := make([]string, len(clouds))
	for i, c := range clouds {
		names[i] = c.name
	}
	return names
}

// A target is where the rights are.
type target struct {
	Config
	bucket string // name of the bucket or container
	prefix string // "" or ending in /
	host   string // az: the storage account
	query  url.Values
}

// at returns a key below the bucket's prefix.
func (t target) at(key string) string { return t.prefix + key }

// Verbs of a grant.
type verb int

const (
	read   verb = iota // get objects below the prefix
	write              // create and overwrite them
	remove             // delete them
	list               // see their names
)

// A grant allows one verb below one prefix. In own, it is for the VM's own
// folder below it.
type grant struct {
	verb   verb
	prefix string
	own    bool
}

// grants is what each audience needs and nothing else. Only a collector deletes
// what is signed, and content; publishers delete their lock, where a store
// without conditions gives it back that way.
var grants = map[Audience][]grant{
	VM: {
		{read, "tuf/", false}, {read, "packs/", false}, {read, "manifests/", false}, {read, "agents/", false},
		{write, "reports/", true}, {write, "logs/", true},
	},
	Publisher: {
		{read, "tuf/", false}, {read, "packs/", false}, {read, "manifests/", false}, {read, "agents/", false}, {read, "locks/", false},
		{write, "tuf/", false}, {write, "packs/", false}, {write, "manifests/", false}, {write, "agents/", false}, {write, "locks/", false},
		{remove, "locks/", false},
		{list, "tuf/", false}, {list, "packs/", false}, {list, "agents/", false},
	},
	Reader: {
		{read, "tuf/", false}, {read, "manifests/", false}, {read, "reports/", false}, {read, "logs/", false},
		{list, "reports/", false},
	},
	Collector: {
		{read, "tuf/", false}, {read, "manifests/", false}, {read, "locks/", false},
		{write, "tuf/", false}, {write, "locks/", false},
		{remove, "tuf/", false}, {remove, "packs/", false}, {remove, "manifests/", false}, {remove, "agents/", false},
		{remove, "reports/", false}, {remove, "logs/", false}, {remove, "locks/", false},
		{list, "tuf/", false}, {list, "packs/", false}, {list, "manifests/", false}, {list, "agents/", false}, {list, "reports/", false}, {list, "logs/", false},
	},
}

// prefixes returns the prefixes on which v is granted.
func prefixes(gs []grant, v verb) []string {
	var out []string
	for _, g := range gs {
		if g.verb == v {
			out = append(out, g.prefix)
		}
	}
	return out
}

// Generate returns the policy. Its error wraps ErrConfig.
func Generate(c Config) (Policy, error) {
	if c.For == "" {
		c.For = VM
	}
	gs, ok := grants[c.For]
	if !ok {
		return Policy{}, fmt.Errorf("for %.40q: it is one of vm, publisher, reader and gc: %w", c.For, ErrConfig)
	}
	if c.Name == "" {
		c.Name = "bootwell"
	}
	u, err := url.Parse(c.Bucket)
	if err != nil || u.Host == "" && u.Scheme != "file" {
		return Policy{}, fmt.Errorf("bucket %.200q is not a URL: %w", c.Bucket, ErrConfig)
	}
	i, err := choose(c, u)
	if err != nil {
		return Policy{}, err
	}
	t := target{Config: c, bucket: u.Host, query: u.Query()}
	path := strings.Trim(u.Path, "/")
	if u.Scheme == "az" {
		t.host = u.Host
		t.bucket, path, _ = strings.Cut(path, "/")
	}
	if path = strings.Trim(path, "/"); path != "" {
		t.prefix = path + "/"
	}
	for _, part := range []string{t.bucket, t.prefix, t.host, c.VM, c.Name} {
		if !plain.MatchString(part) {
			return Policy{}, fmt.Errorf("%.200q has a character that policies or shells may give a meaning: %w", part, ErrConfig)
		}
	}
	if t.bucket == "" {
		return Policy{}, fmt.Errorf("bucket %.200q names no container: %w", c.Bucket, ErrConfig)
	}
	p := clouds[i].write(t, gs)
	p.Cloud, p.For = clouds[i].name, c.For
	return p, nil
}

// plain are the names that mean nothing but themselves in JSON, in conditions
// and in a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9._/:@+][A-Za-z0-9._/~=:@+-]*$|^$`)

// choose returns which of the clouds c is for.
func choose(c Config, u *url.URL) (int, error) {
	name := c.Cloud
	if name == "" && u.Scheme == "s3" && u.Query().Get("endpoint") != "" {
		name = "s3"
	}
	for i, cl := range clouds {
		if name == cl.name || name == "" && slices.Contains(cl.schemes, u.Scheme) {
			if !slices.Contains(cl.schemes, u.Scheme) {
				return 0, fmt.Errorf("%s has no buckets with the scheme %.20s: leave out the cloud, or name another bucket: %w", name, u.Scheme, ErrConfig)
			}
			return i, nil
		}
	}
	if name != "" {
		return 0, fmt.Errorf("cloud %.40q is not one of %s: %w", name, strings.Join(Clouds(), ", "), ErrConfig)
	}
	return 0, fmt.Errorf("a bucket with the scheme %.20s has no policies: give VMs the right to read it, and nothing else: %w", u.Scheme, ErrConfig)
}
