package s3

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/bootwell/bootwell/internal/bucket"
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

var options = []string{"anonymous", "ca", "dualstack", "endpoint", "path_style", "region"}

// Parse reads s3://bucket/prefix?endpoint=URL&region=NAME&path_style=BOOL&ca=FILE.
// An endpoint without a scheme is https, and one that is named means path style
// unless path_style says otherwise.
func Parse(rawURL string) (Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", redact(rawURL), err)
	}
	return l, nil
}

// redact keeps a secret that somebody wrote into the URL out of the error.
func redact(rawURL string) string {
	before, after, ok := strings.Cut(rawURL, "@")
	if scheme, _, found := strings.Cut(before, "://"); ok && found {
		return scheme + "://…@" + after
	}
	return rawURL
}

func parse(rawURL string) (Location, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return Location{}, err
	}
	l := Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	switch {
	case u.Scheme != "s3":
		return l, errors.New("scheme is not s3")
	case u.User != nil:
		return l, errors.New("keys do not belong in the URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials")
	case u.Opaque != "" || u.Fragment != "" || u.Port() != "":
		return l, errors.New("write s3://BUCKET/PREFIX; another server is ?endpoint=URL")
	}
	if err := s3utils.CheckValidBucketName(l.Bucket); err != nil {
		return l, fmt.Errorf("bucket name: %w", err)
	}
	if l.Prefix != "" {
		if err := bucket.CheckKey(l.Prefix); err != nil {
			return l, fmt.Errorf("prefix: %w", err)
		}
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return l, err
	}
	return l, l.options(q)
}

func (l *Location) options(q url.Values) error {
	for name, values := range q {
		if !slices.Contains(options, name) {
			return fmt.Errorf("option %q is not known; there are %s", name, strings.Join(options, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("option %s needs one value", name)
		}
	}
	if err := l.endpoint(q.Get("endpoint")); err != nil {
		return err
	}
	l.Region, l.CA = q.Get("region"), q.Get("ca")
	if strings.ContainsFunc(l.Region, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return fmt.Errorf("region %q is not valid", l.Region)
	}
	l.PathStyle = l.Endpoint != ""
	for name, flag := range map[string]*bool{"path_style": &l.PathStyle, "anonymous": &l.Anonymous, "dualstack": &l.Dualstack} {
		if !q.Has(name) {
			continue
		}
		v, err := strconv.ParseBool(q.Get(name))
		if err != nil {
			return fmt.Errorf("option %s is true or false, not %q", name, q.Get(name))
		}
		*flag = v
	}
	return nil
}

func (l *Location) endpoint(s string) error {
	if s == "" {
		return nil
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("endpoint %q is not http://HOST or https://HOST", redact(s))
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("endpoint %q has more than scheme, host and port", redact(s))
	}
	l.Endpoint, l.Insecure = u.Host, u.Scheme == "http"
	return nil
}

// String returns the bucket and prefix, without options.
func (l Location) String() string {
	if l.Prefix == "" {
		return "s3://" + l.Bucket
	}
	return "s3://" + l.Bucket + "/" + l.Prefix
}
