package wire

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A Form is how the URLs of one kind of bucket are written.
type Form struct {
	Scheme  string
	Write   string   // the form, in words for people who wrote another
	Secrets string   // what to use instead of secrets in the URL
	Options []string // names that the query may have, each once and with a value
}

// A BucketURL is what all kinds of buckets read alike from their URLs.
type BucketURL struct {
	Host    string
	Path    string // without slashes around it
	Options url.Values
}

// Parse reads scheme://host/path?name=value&… . Its error says nothing of the
// URL itself (see [Redact]).
func (f Form) Parse(rawURL string) (BucketURL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return BucketURL{}, err
	}
	b := BucketURL{Host: u.Host, Path: strings.Trim(u.Path, "/")}
	switch {
	case u.Scheme != f.Scheme:
		return b, fmt.Errorf("scheme is not %s", f.Scheme)
	case u.User != nil:
		return b, errors.New(f.Secrets)
	case u.Opaque != "" || u.Fragment != "" || u.Port() != "":
		return b, errors.New(f.Write)
	}
	if b.Options, err = url.ParseQuery(u.RawQuery); err != nil {
		return b, errors.New("the options cannot be read: write ?name=value&name=value")
	}
	for name, values := range b.Options {
		if !slices.Contains(f.Options, name) {
			return b, fmt.Errorf("option %q is not known; there are %s", name, strings.Join(f.Options, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return b, fmt.Errorf("option %s needs one value", name)
		}
	}
	return b, nil
}

// Flag sets v to the option's value if it is there.
func (b BucketURL) Flag(name string, v *bool) error {
	if !b.Options.Has(name) {
		return nil
	}
	on, err := strconv.ParseBool(b.Options.Get(name))
	if err != nil {
		return fmt.Errorf("option %s is true or false, not %q", name, b.Options.Get(name))
	}
	*v = on
	return nil
}

// CheckPrefix reports why keys cannot be below a prefix; "" is none.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if err := bucket.CheckKey(prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	return nil
}

// ParseEndpoint reads the URL of a server, http or https; without a scheme it
// is https. The path is the caller's to judge.
func ParseEndpoint(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("endpoint %q is not http://HOST or https://HOST", Redact(s))
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("endpoint %q has more than scheme, host and port", Redact(s))
	}
	return u, nil
}

// Redact keeps secrets that somebody wrote into a URL out of an error: what
// stands before an @, and a signature in the query.
func Redact(rawURL string) string {
	for _, mark := range []string{"sig=", "sig%3d"} {
		if i := strings.Index(strings.ToLower(rawURL), mark); i >= 0 {
			rawURL = rawURL[:i] + "sig=…"
		}
	}
	at := strings.LastIndex(rawURL, "@")
	scheme, _, found := strings.Cut(rawURL, "://")
	if at < 0 || !found {
		return rawURL
	}
	return scheme + "://…@" + rawURL[at+1:]
}

// Name returns the name of key's object below prefix, which is "" or ends in a
// slash. Its error wraps bucket.ErrUnsupported.
func Name(prefix, key string) (string, error) {
	name := prefix + key
	if len(name) > bucket.MaxKey {
		return "", fmt.Errorf("object name %.200q is too long with the prefix: %w", key, bucket.ErrUnsupported)
	}
	return name, nil
}

// Printable is what may be shown of a server's words: one line, bounded.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
