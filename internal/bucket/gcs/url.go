package gcs

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Location is what a gs: URL says.
type Location struct {
	Bucket    string
	Prefix    string // without slashes around it; "": the whole bucket
	Endpoint  string // scheme://host[:port]
	CA        string // file of certificates to trust besides the system's
	Anonymous bool   // send no token
	Project   string // in which Create makes the bucket; "": from the environment
	Place     string // where Create makes it; "": Google's default, the US
}

const google = "https://storage.googleapis.com"

var form = wire.Form{
	Scheme:  "gs",
	Write:   "write gs://BUCKET/PREFIX; another server is ?endpoint=URL",
	Secrets: "keys do not belong in the URL: name the key's file with GOOGLE_APPLICATION_CREDENTIALS",
	Options: []string{"anonymous", "ca", "endpoint", "location", "project"},
}

// bucketName reports whether s follows Google's rule for names.
// https://cloud.google.com/storage/docs/buckets#naming
func bucketName(s string) bool {
	plain := func(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' }
	return len(s) >= 3 && len(s) <= 222 && plain(rune(s[0])) && plain(rune(s[len(s)-1])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !plain(r) && !strings.ContainsRune("._-", r) })
}

// Parse reads gs://bucket/prefix?endpoint=URL&ca=FILE&anonymous=BOOL&project=ID&location=NAME.
// An endpoint without a scheme is https.
func Parse(rawURL string) (Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", wire.Redact(rawURL), err)
	}
	return l, nil
}

func parse(rawURL string) (Location, error) {
	u, err := form.Parse(rawURL)
	l := Location{Bucket: u.Host, Prefix: u.Path, Endpoint: google}
	if err != nil {
		return l, err
	}
	if err := cmp.Or(checkBucket(l.Bucket), wire.CheckPrefix(l.Prefix)); err != nil {
		return l, err
	}
	return l, l.options(u)
}

func checkBucket(name string) error {
	if !bucketName(name) || len(name) > 63 && !strings.Contains(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("bucket name %.80q is not valid: it has 3 to 63 of a-z, 0-9, - and _", name)
	}
	return nil
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
		l.Endpoint = at.Scheme + "://" + at.Host
	}
	l.CA, l.Project, l.Place = q.Get("ca"), q.Get("project"), q.Get("location")
	for name, value := range map[string]string{"project": l.Project, "location": l.Place} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/?#&"\`, r) }) {
			return fmt.Errorf("option %s: %q is not valid", name, value)
		}
	}
	return u.Flag("anonymous", &l.Anonymous)
}

// private reports whether nobody on the way can read requests.
func (l Location) private() bool { return wire.Private(l.Endpoint) }

// String returns the bucket and prefix, without options.
func (l Location) String() string {
	if l.Prefix == "" {
		return "gs://" + l.Bucket
	}
	return "gs://" + l.Bucket + "/" + l.Prefix
}
