package project

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxMirrors bounds the mirrors of a project: a VM may try each of them.
const maxMirrors = 8

// bucketOptions lists what the query of a bucket's URL may hold, by scheme.
// The values are for the provider to read.
var bucketOptions = map[string][]string{
	"s3":    {"anonymous", "ca", "dualstack", "endpoint", "path_style", "region"},
	"az":    {"ca", "client_id", "endpoint"},
	"gs":    {"anonymous", "ca", "endpoint", "location", "project"},
	"swift": {"auth", "ca", "interface", "region", "storage"},
	"https": {"ca"},
	"http":  {"ca"},
	"file":  nil,
}

// bucketForms says how a bucket of each scheme is written.
var bucketForms = map[string]string{
	"s3":    "s3://bucket/prefix",
	"az":    "az://account/container/prefix",
	"gs":    "gs://bucket/prefix",
	"swift": "swift://container/prefix?auth=https://…/v3",
	"https": "https://host/path",
	"http":  "http://host/path",
	"file":  "file:///path or file://./folder",
}

// otherSchemes are what people write for a scheme that has another name here.
var otherSchemes = map[string]string{"gcs": "gs", "azure": "az", "azblob": "az", "wasb": "az", "wasbs": "az", "abfs": "az", "abfss": "az", "openstack": "swift", "minio": "s3", "s3a": "s3"}

// bucket returns the URL at n, or "" if no bucket can have it.
func (p *parser) bucket(n *yaml.Node, field string) string {
	s, ok := p.words(n, field)
	if !ok {
		return ""
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		p.fail(n, "E302", fmt.Sprintf("%s %q has no scheme", field, s), fmt.Sprintf("Write s3://%s, az://…, gs://…, swift://…, https://… or file:///path", strings.TrimLeft(s, "/.")))
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || rest == "" || strings.ContainsAny(rest, " #") {
		u = nil
	}
	summary, detail := bucketProblem(scheme, rest, u)
	if summary != "" {
		p.fail(n, "E302", fmt.Sprintf("%s %q %s", field, redact(s, u), summary), detail)
		return ""
	}
	return s
}

// bucketProblem says what is wrong with a bucket's URL and what to do; u is nil
// when it is none.
func bucketProblem(scheme, rest string, u *url.URL) (summary, detail string) {
	form, known := bucketForms[scheme]
	switch {
	case !known:
		if s, ok := otherSchemes[scheme]; ok {
			return "has an unknown scheme", "Write " + s + "://…"
		}
		schemes := []string{"s3", "az", "gs", "swift", "https", "http", "file"}
		return "has an unknown scheme", strings.TrimSpace("Use " + orList(ends(schemes, "://")) + ". " + meant(scheme, schemes))
	case u == nil:
		return "is not a URL", "Write " + form
	case u.User != nil:
		return "holds credentials", "Remove them: this text goes into user-data, which everyone on the VM can read"
	case scheme == "file" && u.Host != "" && u.Host != "." && u.Host != "..":
		return "names a host", fmt.Sprintf("Write file:///%s, or file://./%s for a folder of the project", rest, rest)
	case scheme == "file" && strings.Trim(u.Host+u.Path, "/.") == "":
		return "names no folder", "Write " + form
	case scheme != "file" && u.Host == "":
		return "names no " + map[string]string{"az": "storage account", "swift": "container", "s3": "bucket", "gs": "bucket", "http": "host", "https": "host"}[scheme], "Write " + form
	case scheme == "az" && strings.Trim(u.Path, "/") == "":
		return "names no container", "Write " + form
	}
	return optionProblem(scheme, u.RawQuery)
}

func ends(words []string, end string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w + end
	}
	return out
}

func optionProblem(scheme, query string) (summary, detail string) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return "has options that cannot be read", "Write ?name=value&name=value"
	}
	known := bucketOptions[scheme]
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return fmt.Sprintf("has the option %q", name), scheme + ":// has none. Remove it"
		case !slices.Contains(known, name):
			detail = meant(name, known)
			if detail == "" {
				detail = scheme + ":// has " + strings.Join(known, ", ")
			}
			return fmt.Sprintf("has the unknown option %q", name), detail
		case len(q[name]) > 1:
			return fmt.Sprintf("has the option %q twice", name), "Keep one of them"
		case q.Get(name) == "":
			return fmt.Sprintf("has the option %q without a value", name), "Write " + name + "=…, or remove it"
		}
	}
	return "", ""
}

// mirrors returns the URLs of the list at n, none of which is another name of
// the bucket or of another mirror.
func (p *parser) mirrors(n *yaml.Node, bucket string) []string {
	if !p.full(n, "mirrors") {
		return nil
	}
	var out []string
	seen := map[string]string{}
	if bucket != "" {
		seen[samePlace(bucket)] = "bucket:"
	}
	p.list(n, "mirrors", " of buckets", "[s3://acme-west/prod?region=us-west-2]", func(i int, item *yaml.Node) {
		if i == maxMirrors {
			p.fail(item, "E318", fmt.Sprintf("over %d mirrors", maxMirrors), "Name the ones that VMs reach best")
		}
		s := p.bucket(item, "mirror")
		if s == "" || i >= maxMirrors {
			return
		}
		if other, ok := seen[samePlace(s)]; ok {
			p.fail(item, "E318", fmt.Sprintf("mirror %q is the same place as %s", s, other), "Remove it: a mirror is a bucket of its own")
			return
		}
		seen[samePlace(s)] = fmt.Sprintf("mirror %d", i+1)
		out = append(out, s)
	})
	return out
}

// samePlace returns text that is equal for two URLs of one bucket and prefix,
// whatever else their options say.
func samePlace(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	q := u.Query()
	for _, how := range []string{"anonymous", "ca", "client_id", "dualstack", "interface", "path_style"} {
		q.Del(how)
	}
	if u.Scheme == "s3" {
		q.Del("region") // names of buckets count in all regions of a server
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + "/" + strings.Trim(u.Path, "/") + "?" + q.Encode()
}

func redact(s string, u *url.URL) string {
	if u != nil && u.User != nil {
		return u.Redacted()
	}
	return s
}
