package s3

import (
	"cmp"
	"fmt"
	"net"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Location is what an s3: URL says.
type Location struct {
	Bucket    string
	Prefix    string // without slashes around it; "": the whole bucket
	Endpoint  string // host[:port]; "": Amazon S3
	Insecure  bool   // http
	Region    string // "": from the environment, the metadata service, or us-east-1
	PathStyle bool   // http://host/bucket/key instead of http://bucket.host/key
	CA        string // file of certificates to trust besides the system's
	Anonymous bool   // sign nothing
	Dualstack bool   // Amazon S3 over IPv6 too
}

var form = wire.Form{
	Scheme:  "s3",
	Write:   "write s3://BUCKET/PREFIX; another server is ?endpoint=URL",
	Secrets: "keys do not belong in the URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
	Options: []string{"anonymous", "ca", "dualstack", "endpoint", "path_style", "region"},
}

// Parse reads s3://bucket/prefix?endpoint=URL&region=NAME&path_style=BOOL&ca=FILE.
// An endpoint without a scheme is https, and one that is named means path style
// unless path_style says otherwise.
func Parse(rawURL string) (Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", wire.Redact(rawURL), err)
	}
	return l, nil
}

func parse(rawURL string) (Location, error) {
	u, err := form.Parse(rawURL)
	l := Location{Bucket: u.Host, Prefix: u.Path}
	if err != nil {
		return l, err
	}
	if err := checkBucket(l.Bucket); err != nil {
		return l, fmt.Errorf("bucket name: %w", err)
	}
	if err := wire.CheckPrefix(l.Prefix); err != nil {
		return l, err
	}
	return l, l.options(u)
}

func (l *Location) options(u wire.BucketURL) error {
	q := u.Options
	if q.Has("endpoint") {
		at, err := wire.ParseEndpoint(q.Get("endpoint"))
		if err != nil {
			return err
		}
		if strings.Trim(at.Path, "/") != "" {
			return fmt.Errorf("endpoint %q has more than scheme, host and port", wire.Redact(q.Get("endpoint")))
		}
		l.Endpoint, l.Insecure = at.Host, at.Scheme == "http"
	}
	l.Region, l.CA = q.Get("region"), q.Get("ca")
	if strings.ContainsFunc(l.Region, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return fmt.Errorf("region %q is not valid", l.Region)
	}
	l.PathStyle = l.Endpoint != ""
	return cmp.Or(u.Flag("path_style", &l.PathStyle), u.Flag("anonymous", &l.Anonymous), u.Flag("dualstack", &l.Dualstack))
}

// String returns the bucket and prefix, without options.
func (l Location) String() string {
	if l.Prefix == "" {
		return "s3://" + l.Bucket
	}
	return "s3://" + l.Bucket + "/" + l.Prefix
}

// checkBucket takes what buckets were ever named, not only what new ones may be.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
func checkBucket(name string) error {
	edge := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	switch {
	case len(name) < 3 || len(name) > 63:
		return fmt.Errorf("%.70q has %d characters, and needs 3 to 63", name, len(name))
	case !edge(name[0]) || !edge(name[len(name)-1]):
		return fmt.Errorf("%q does not begin and end with a letter or digit", name)
	case net.ParseIP(name) != nil:
		return fmt.Errorf("%q is an address", name)
	case strings.Contains(name, "..") || strings.Contains(name, ".-") || strings.Contains(name, "-."):
		return fmt.Errorf("%q has a dot beside a dot or dash", name)
	}
	for i := range len(name) {
		if !edge(name[i]) && !strings.ContainsRune(".-_:", rune(name[i])) {
			return fmt.Errorf("%q has other characters than letters, digits, dots, dashes and underscores", name)
		}
	}
	return nil
}
