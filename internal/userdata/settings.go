package userdata

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// The settings stand in YAML, Python and shell at once, so only text that
// means itself in all three is taken. A URL can spell everything else in
// percent-encoding.
var (
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	bucketPattern = regexp.MustCompile(`^[A-Za-z0-9._~:/?\[\]@!&()*+,;=%-]{1,512}$`)
	plainYAML     = regexp.MustCompile(`^[a-z][A-Za-z0-9._~:/?&()+=%-]*[A-Za-z0-9_/-]$`)
	notText       = regexp.MustCompile(`^(y|n|yes|no|on|off|true|false|null)$`)
)

// machines are the CPU types as uname spells them.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// settingsOf returns the Python lines that differ between projects and roles.
func settingsOf(c Config) (string, error) {
	for _, f := range []struct{ what, name string }{{"project", c.Project}, {"role", c.Role}, {"channel", c.Channel}} {
		if !namePattern.MatchString(f.name) {
			return "", fmt.Errorf("%s %.80q: use lower-case letters, digits, - or _, starting with a letter: %w", f.what, f.name, ErrConfig)
		}
	}
	if c.Root.IsZero() {
		return "", fmt.Errorf("root: no digest of the first root: %w", ErrConfig)
	}
	s, err := parseSource(c.Bucket)
	if err != nil {
		return "", err
	}
	agents, err := agentsOf(c)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("CONFIG=\"\"\"project: %s\nbucket: %s\nrole: %s\nchannel: %s\nroot: %s\n\"\"\"\nURL=\"%s\"\nSCOPE=\"%s\"\nAGENTS={%s}\n",
		yamlText(c.Project), yamlText(c.Bucket), yamlText(c.Role), yamlText(c.Channel), c.Root, s.agents, s.scope, agents), nil
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
	if plainYAML.MatchString(s) && !notText.MatchString(s) {
		return s
	}
	return `"` + s + `"`
}

// A source is where the bootstrap gets agents from.
type source struct {
	agents string // URL to which an agent's hexadecimal digits are appended
	scope  string // of the signature, after the day; "": requests are not signed
}

func parseSource(bucket string) (source, error) {
	fail := func(format string, a ...any) (source, error) {
		return source{}, fmt.Errorf("bucket: %s: %w", fmt.Sprintf(format, a...), ErrConfig)
	}
	u, err := url.Parse(bucket)
	if err != nil {
		// The text may hold a password, so it is not repeated.
		return fail("is not a URL; write one such as s3://acme/prod?region=eu-west-1")
	}
	if u.User != nil {
		return fail("%.200s holds credentials, which everyone on the VM could read; remove them", u.Redacted())
	}
	if err := checkQuery(u); err != nil {
		return source{}, err
	}
	if !bucketPattern.MatchString(bucket) {
		return fail("%.80q: write other characters than letters, digits and -._~:/?&= in percent-encoding, at most 512 in all", bucket)
	}
	dir, err := folder(u)
	if err != nil {
		return source{}, err
	}
	switch u.Scheme {
	case "s3":
		return s3Source(u, dir)
	case "http", "https":
		if u.Hostname() == "" {
			return fail("%q names no host", bucket)
		}
		return source{agents: u.Scheme + "://" + u.Host + dir + "agents/"}, nil
	case "file":
		if u.Host != "" && u.Host != "localhost" || dir == "/" {
			return fail("%q: a folder on the VM is written file:///path", bucket)
		}
		return source{agents: "file://" + dir + "agents/"}, nil
	case "az", "gs", "swift":
		return fail("%q: this bootwell cannot use %s:// on a VM yet; use s3, https, http or file", bucket, u.Scheme)
	}
	return fail("%q: use s3://, https://, http:// or file://", bucket)
}

// secretKey matches query keys under which clients put what must stay secret.
var secretKey = regexp.MustCompile(`(?i)secret|token|passw|key|credential|signature|^sig$|^se?$`)

// checkQuery takes the options that a VM can follow. Which there are is the
// providers' business (packages s3 and web).
func checkQuery(u *url.URL) error {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("bucket: the part after ? is not key=value: %w", ErrConfig)
	}
	for k, v := range q {
		switch {
		case secretKey.MatchString(k):
			return fmt.Errorf("bucket: %.40q looks like a secret, which everyone on the VM could read; remove it: %w", k, ErrConfig)
		case k == "ca":
			return fmt.Errorf("bucket: a new VM has no file of certificates; remove ca and give the VM the certificate with cloud-init's ca_certs: %w", ErrConfig)
		case u.Scheme != "s3":
			return fmt.Errorf("bucket: %s:// takes no options on a VM, remove %.40q: %w", u.Scheme, k, ErrConfig)
		case !slices.Contains(s3Options, k) || len(v) != 1:
			return fmt.Errorf("bucket: option %.40q must be one of %s, once: %w", k, strings.Join(s3Options, ", "), ErrConfig)
		}
	}
	return nil
}

// folder returns the URL's path with a slash at both ends, encoded as
// Signature Version 4 wants it.
func folder(u *url.URL) (string, error) {
	if u.Opaque != "" || u.Fragment != "" {
		return "", fmt.Errorf("bucket %.80q: write scheme://name/path: %w", u, ErrConfig)
	}
	var out strings.Builder
	out.WriteByte('/')
	for seg := range strings.SplitSeq(u.Path, "/") {
		switch seg {
		case "":
			continue
		case ".", "..":
			return "", fmt.Errorf("bucket %.80q: %s is no folder of a bucket: %w", u, seg, ErrConfig)
		}
		// QueryEscape leaves exactly the unreserved characters but for ~ and space.
		out.WriteString(strings.ReplaceAll(url.QueryEscape(seg), "+", "%20"))
		out.WriteByte('/')
	}
	return out.String(), nil
}

var (
	s3Options = []string{"anonymous", "dualstack", "endpoint", "path_style", "region"}
	s3Bucket  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$`)
	s3Region  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$`)
	dnsLabel  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
)

const defaultRegion = "us-east-1"

// s3Source spells out the address: a server of one's own has the bucket in the
// path, AWS has it in the host name where a certificate allows that
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html).
func s3Source(u *url.URL, dir string) (source, error) {
	q := u.Query()
	name, region := u.Host, q.Get("region")
	if region == "" {
		region = defaultRegion
	}
	if !s3Bucket.MatchString(name) || !s3Region.MatchString(region) {
		return source{}, fmt.Errorf("bucket %.80q: write s3://name/folder?region=eu-west-1: %w", u, ErrConfig)
	}
	scheme, host, err := endpoint(q.Get("endpoint"))
	if err != nil {
		return source{}, err
	}
	inPath := host != ""
	if host == "" {
		host = awsHost(region, q.Get("dualstack"))
		inPath = !dnsLabel.MatchString(name)
	}
	if v := q.Get("path_style"); v != "" {
		if inPath, err = strconv.ParseBool(v); err != nil {
			return source{}, fmt.Errorf("bucket: path_style is true or false: %w", ErrConfig)
		}
	}
	s := source{agents: scheme + "://" + name + "." + host + dir + "agents/", scope: "/" + region + "/s3/aws4_request"}
	if inPath {
		s.agents = scheme + "://" + host + "/" + name + dir + "agents/"
	}
	if anonymous, _ := strconv.ParseBool(q.Get("anonymous")); anonymous {
		s.scope = ""
	}
	return s, nil
}

func awsHost(region, dualstack string) string {
	host := "s3." + region + ".amazonaws.com"
	if on, _ := strconv.ParseBool(dualstack); on {
		host = "s3.dualstack." + region + ".amazonaws.com"
	}
	if strings.HasPrefix(region, "cn-") {
		host += ".cn"
	}
	return host
}

// endpoint reads the address of a server; without a scheme it is https. The
// host is "" when there is no endpoint.
func endpoint(e string) (scheme, host string, err error) {
	if e == "" {
		return "https", "", nil
	}
	if !strings.Contains(e, "://") {
		e = "https://" + e
	}
	u, err := url.Parse(e)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || !bucketPattern.MatchString(e) {
		return "", "", fmt.Errorf("bucket: the endpoint must be like https://s3.example.net:9000: %w", ErrConfig)
	}
	return u.Scheme, u.Host, nil
}
