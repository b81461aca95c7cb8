package s3

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"

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
	if err := s3utils.CheckValidBucketName(l.Bucket); err != nil {
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
