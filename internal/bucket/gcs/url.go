package gcs

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
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

var options = []string{"anonymous", "ca", "endpoint", "location", "project"}

// bucketName is Google's rule for names.
// https://cloud.google.com/storage/docs/buckets#naming
var bucketName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{1,220})[a-z0-9]$`)

// Parse reads gs://bucket/prefix?endpoint=URL&ca=FILE&anonymous=BOOL&project=ID&location=NAME.
// An endpoint without a scheme is https.
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
	l := Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: google}
	switch {
	case u.Scheme != "gs":
		return l, errors.New("scheme is not gs")
	case u.User != nil:
		return l, errors.New("keys do not belong in the URL: name the key's file with GOOGLE_APPLICATION_CREDENTIALS")
	case u.Opaque != "" || u.Fragment != "" || u.Port() != "":
		return l, errors.New("write gs://BUCKET/PREFIX; another server is ?endpoint=URL")
	}
	if err := checkBucket(l.Bucket); err != nil {
		return l, err
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

func checkBucket(name string) error {
	if !bucketName.MatchString(name) || len(name) > 63 && !strings.Contains(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("bucket name %.80q is not valid: it has 3 to 63 of a-z, 0-9, - and _", name)
	}
	return nil
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
	l.CA, l.Project, l.Place = q.Get("ca"), q.Get("project"), q.Get("location")
	for name, value := range map[string]string{"project": l.Project, "location": l.Place} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/?#&"\`, r) }) {
			return fmt.Errorf("option %s: %q is not valid", name, value)
		}
	}
	if q.Has("anonymous") {
		v, err := strconv.ParseBool(q.Get("anonymous"))
		if err != nil {
			return fmt.Errorf("option anonymous is true or false, not %q", q.Get("anonymous"))
		}
		l.Anonymous = v
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
	l.Endpoint = u.Scheme + "://" + u.Host
	return nil
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
