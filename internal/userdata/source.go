package userdata

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A source is where the bootstrap gets agents from.
type source struct {
	agents string // URL to which an agent's hexadecimal digits are appended
	scheme string // part of the bootstrap that signs requests; "": they are not signed
	args   string // what follows the request in a call of the function that signs
	finish string // Python function that finishes a request which is not signed; ""
	ca     string // file of certificates on the VM; ""
	advice string // what may be wrong, beside what may be wrong with any bucket
}

// signer returns the Python function that signs a request.
func (s source) signer() string {
	switch {
	case s.finish != "":
		return s.finish
	case s.scheme == "":
		return "0"
	}
	return "lambda q:" + s.scheme + "(q" + s.args + ")"
}

func (s source) parts() []string {
	switch s.scheme {
	case "":
		return nil
	case partSwift, partTempURL:
		return []string{partIdentity, partVendor, s.scheme}
	}
	return []string{partIdentity, s.scheme}
}

// options are those of each scheme that a VM can follow, as its provider has
// them.
var options = map[string][]string{
	"s3":    {"anonymous", "ca", "dualstack", "endpoint", "path_style", "region"},
	"az":    {"ca", "client_id", "endpoint"},
	"gs":    {"anonymous", "ca", "endpoint", "location", "project"},
	"swift": {"auth", "ca", "interface", "region", "storage"},
	"http":  {"ca"},
	"https": {"ca"},
	"file":  nil,
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
	if _, ok := options[u.Scheme]; !ok {
		return fail("%.80q: use s3://, az://, gs://, swift://, https://, http:// or file://", bucket)
	}
	if err := checkQuery(u); err != nil {
		return source{}, err
	}
	if !bucketPattern().MatchString(bucket) {
		return fail("%.80q: write other characters than letters, digits and -._~:/?&= in percent-encoding, at most 512 in all", bucket)
	}
	dir, err := folder(u)
	if err != nil {
		return source{}, err
	}
	s, err := sourceOf(u, dir)
	if err != nil {
		return source{}, err
	}
	// A host can be spelt so that it has other characters only now.
	if !plainURL().MatchString(s.agents) || !plainURL().MatchString(s.args) {
		return fail("%.80q: write the host's name in ASCII", bucket)
	}
	s.ca = u.Query().Get("ca")
	return s, nil
}

// sourceOf reads a URL by its scheme, which is one of those in options.
func sourceOf(u *url.URL, dir string) (source, error) {
	switch u.Scheme {
	case "s3":
		return s3Source(u, dir)
	case "az":
		return azureSource(u, dir)
	case "gs":
		return googleSource(u, dir)
	case "swift":
		return swiftSource(u, dir)
	case "file":
		if u.Host != "" && u.Host != "localhost" || dir == "/" {
			return source{}, fmt.Errorf("bucket: %q: a folder on the VM is written file:///path: %w", u, ErrConfig)
		}
		return source{agents: "file://" + dir + "agents/"}, nil
	}
	if u.Hostname() == "" {
		return source{}, fmt.Errorf("bucket: %q names no host: %w", u, ErrConfig)
	}
	return source{agents: u.Scheme + "://" + u.Host + dir + "agents/"}, nil
}

// secretKey matches query keys under which clients put what must stay secret.
var secretKey = pattern(`(?i)secret|token|passw|key|credential|signature|^sig$|^se?$|_sig$`)

// plainURL matches what stands in Python as it is.
var plainURL = pattern(`^[!-~]*$`)

// caPattern matches the path of a file on the VM.
var caPattern = pattern(`^/[A-Za-z0-9._/@+-]{1,200}$`)

// checkQuery takes the options that a VM can follow.
func checkQuery(u *url.URL) error {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("bucket: the part after ? is not key=value: %w", ErrConfig)
	}
	known, names := options[u.Scheme], slices.Sorted(maps.Keys(q))
	if i := slices.IndexFunc(names, secretKey().MatchString); i >= 0 {
		return fmt.Errorf("bucket: %.40q looks like a secret, which everyone on the VM could read; remove it: %w", names[i], ErrConfig)
	}
	for _, k := range names {
		switch v := q[k]; {
		case len(known) == 0:
			return fmt.Errorf("bucket: %s:// takes no options on a VM, remove %.40q: %w", u.Scheme, k, ErrConfig)
		case !slices.Contains(known, k) || len(v) != 1 || v[0] == "":
			return fmt.Errorf("bucket: option %.40q must be one of %s, once: %w", k, strings.Join(known, ", "), ErrConfig)
		}
	}
	if ca := q.Get("ca"); ca != "" && !caPattern().MatchString(ca) {
		return fmt.Errorf("bucket: ca is the path of a file on the VM, such as /etc/ssl/acme.pem, not %.80q: %w", ca, ErrConfig)
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
	s3Bucket   = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$`)
	s3Region   = pattern(`^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$`)
	dnsLabel   = pattern(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	account    = pattern(`^[a-z0-9]{3,24}$`)
	clientID   = pattern(`^[A-Za-z0-9-]{1,64}$`)
	gsBucket   = pattern(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
	container  = pattern(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,255}$`)
	osRegion   = pattern(`^[A-Za-z0-9._~/-]{1,64}$`)
	interfaces = []string{"public", "internal", "admin"}
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
	if !s3Bucket().MatchString(name) || !s3Region().MatchString(region) {
		return source{}, fmt.Errorf("bucket %.80q: write s3://name/folder?region=eu-west-1: %w", u, ErrConfig)
	}
	base, err := serverURL("endpoint", q.Get("endpoint"), false)
	if err != nil {
		return source{}, err
	}
	inPath := base != ""
	if base == "" {
		base = "https://" + awsHost(region, q.Get("dualstack"))
		inPath = !dnsLabel().MatchString(name)
	}
	if v := q.Get("path_style"); v != "" {
		if inPath, err = strconv.ParseBool(v); err != nil {
			return source{}, fmt.Errorf("bucket: path_style is true or false: %w", ErrConfig)
		}
	}
	s := source{agents: strings.Replace(base, "://", "://"+name+".", 1) + dir + "agents/", advice: "region"}
	if inPath {
		s.agents = base + "/" + name + dir + "agents/"
	}
	if anonymous, _ := strconv.ParseBool(q.Get("anonymous")); !anonymous {
		s.scheme, s.args = partS3, `,"/`+region+`/s3/aws4_request"`
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

// azureSource has the container as the first folder of the path.
func azureSource(u *url.URL, dir string) (source, error) {
	q := u.Query()
	if !account().MatchString(u.Host) || dir == "/" {
		return source{}, fmt.Errorf("bucket %.80q: write az://account/container/folder: %w", u, ErrConfig)
	}
	base, err := serverURL("endpoint", q.Get("endpoint"), true)
	if err != nil {
		return source{}, err
	}
	if base == "" {
		base = "https://" + u.Host + ".blob.core.windows.net"
	}
	if !wire.Private(base) {
		return source{}, fmt.Errorf("bucket %.80q: the agent sends Azure's tokens only over https; give the endpoint a certificate, or trust its own with ca=FILE: %w", u, ErrConfig)
	}
	client := q.Get("client_id")
	if client != "" {
		if !clientID().MatchString(client) {
			return source{}, fmt.Errorf("bucket: client_id is that of a managed identity, such as 11111111-2222-3333-4444-555555555555: %w", ErrConfig)
		}
		client = "&client_id=" + client
	}
	return source{
		agents: base + dir + "agents/", scheme: partAzure, args: `,"` + u.Host + `","` + client + `"`,
		advice: "role Storage Blob Data Reader",
	}, nil
}

// googleSource uses the JSON API, as the agent does: an object's name is one
// part of the path (https://cloud.google.com/storage/docs/json_api).
func googleSource(u *url.URL, dir string) (source, error) {
	q := u.Query()
	if !gsBucket().MatchString(u.Host) {
		return source{}, fmt.Errorf("bucket %.80q: write gs://name/folder: %w", u, ErrConfig)
	}
	base, err := serverURL("endpoint", q.Get("endpoint"), false)
	if err != nil {
		return source{}, err
	}
	if base == "" {
		base = "https://storage.googleapis.com"
	}
	name := strings.ReplaceAll(strings.TrimPrefix(dir, "/")+"agents/", "/", "%2F")
	s := source{agents: base + "/storage/v1/b/" + u.Host + "/o/" + name, scheme: partGoogle, advice: "scope of the service account"}
	if anonymous, _ := strconv.ParseBool(q.Get("anonymous")); anonymous {
		s.scheme, s.advice, s.finish = "", "", `lambda q:setattr(q,"full_url",q.full_url+"?alt=media")`
	}
	return s, nil
}

// swiftSource leaves the address to the catalog of Keystone, unless it is for
// temporary URLs.
func swiftSource(u *url.URL, dir string) (source, error) {
	q := u.Query()
	if !container().MatchString(u.Host) {
		return source{}, fmt.Errorf("bucket %.80q: write swift://container/folder?auth=https://keystone.example.org/v3: %w", u, ErrConfig)
	}
	auth, err := serverURL("auth", q.Get("auth"), true)
	if err != nil {
		return source{}, err
	}
	storage, err := serverURL("storage", q.Get("storage"), true)
	if err != nil {
		return source{}, err
	}
	path := "/" + u.Host + dir + "agents/"
	if storage != "" {
		if auth != "" || q.Has("region") || q.Has("interface") {
			return source{}, fmt.Errorf("bucket: storage is for temporary URLs and stands without auth, region and interface: %w", ErrConfig)
		}
		return source{agents: storage + path, scheme: partTempURL, advice: "temp URL key"}, nil
	}
	// The older form of an interface is publicURL.
	region, kind := q.Get("region"), strings.ToLower(strings.TrimSuffix(q.Get("interface"), "URL"))
	if kind == "" {
		kind = interfaces[0]
	}
	if region != "" && !osRegion().MatchString(region) || !slices.Contains(interfaces, kind) {
		return source{}, fmt.Errorf("bucket: write region=NAME and interface=%s: %w", strings.Join(interfaces, " or "), ErrConfig)
	}
	return source{
		agents: "swift:" + path, scheme: partSwift, args: `,"` + auth + `","` + region + `","` + kind + `"`,
		advice: "application credential",
	}, nil
}

// serverURL reads the address of a server, without a slash at the end; without
// a scheme it is https. It is "" when e is.
func serverURL(option, e string, path bool) (string, error) {
	if e == "" {
		return "", nil
	}
	if !strings.Contains(e, "://") {
		e = "https://" + e
	}
	u, err := url.Parse(e)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		!path && strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || !bucketPattern().MatchString(e) {
		return "", fmt.Errorf("bucket: %s must be like https://host.example.net:9000: %w", option, ErrConfig)
	}
	dir, err := folder(u)
	if err != nil {
		return "", err
	}
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(dir, "/"), nil
}
