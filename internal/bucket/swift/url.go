package swift

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Location is what a swift: URL says.
type Location struct {
	Container string
	Prefix    string // without slashes around it; "": the whole container
	Auth      string // URL of Keystone with /v3 and no slash at its end; "": as the credentials say
	Storage   string // URL of the account, without a slash at its end; "": from Keystone's catalog
	Region    string // "": as the credentials say, or the only one
	Interface string // public, internal or admin; "": as the credentials say, or public
	CA        string // file of certificates to trust besides the system's
}

var form = wire.Form{
	Scheme:  "swift",
	Write:   "write swift://CONTAINER/PREFIX; the cloud is ?auth=URL",
	Secrets: "secrets do not belong in the URL: use the OS_… variables or the credentials file",
	Options: []string{"auth", "ca", "interface", "region", "storage"},
}

// containerName reports whether s needs no escapes; Swift allows more.
func containerName(s string) bool {
	return s != "" && len(s) <= 256 && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._~-", r))
	})
}

// Parse reads swift://CONTAINER/PREFIX?auth=URL&region=NAME&interface=NAME&storage=URL&ca=FILE.
// auth is the URL of Keystone, to which /v3 is added where it lacks it; storage
// is the URL of an account, which takes the place of the catalog's.
func Parse(rawURL string) (Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", wire.Redact(rawURL), err)
	}
	return l, nil
}

func parse(rawURL string) (Location, error) {
	u, err := form.Parse(rawURL)
	l := Location{Container: u.Host, Prefix: u.Path}
	switch {
	case err != nil:
		return l, err
	case !containerName(l.Container):
		return l, fmt.Errorf("container name %.100q is not made of letters, digits, dots, hyphens and underscores", l.Container)
	}
	if err := wire.CheckPrefix(l.Prefix); err != nil {
		return l, err
	}
	return l, l.options(u.Options)
}

func (l *Location) options(q url.Values) (err error) {
	l.CA, l.Region = q.Get("ca"), q.Get("region")
	if strings.ContainsFunc(l.Region, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("region %q is not valid", l.Region)
	}
	if q.Has("auth") {
		if l.Auth, err = keystoneURL(q.Get("auth")); err != nil {
			return fmt.Errorf("option auth: %w", err)
		}
	}
	if q.Has("storage") {
		if l.Storage, err = accountURL(q.Get("storage")); err != nil {
			return fmt.Errorf("option storage: %w", err)
		}
	}
	if q.Has("interface") {
		if l.Interface, err = interfaceName(q.Get("interface")); err != nil {
			return err
		}
	}
	return nil
}

// keystoneURL checks and completes the URL of Keystone.
func keystoneURL(s string) (string, error) {
	s, err := plainURL(s)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(s, "/v2.0") {
		return "", fmt.Errorf("URL %q is of Keystone v2; bootwell speaks v3", s)
	}
	if !strings.HasSuffix(s, "/v3") {
		s += "/v3"
	}
	return s, nil
}

// accountURL checks the URL of an account, such as https://HOST/v1/AUTH_x.
func accountURL(s string) (string, error) {
	s, err := plainURL(s)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(s)
	if err != nil || strings.Count(strings.Trim(u.Path, "/"), "/") < 1 {
		return "", fmt.Errorf("URL %q is not that of an account, https://HOST/v1/AUTH_ID", s)
	}
	return s, nil
}

// plainURL returns an http: or https: URL of nothing but host and path,
// without a slash at its end.
func plainURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("URL %q is not https://HOST/PATH", wire.Redact(s))
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/.") {
		return "", fmt.Errorf("URL %q has more than scheme, host and path", wire.Redact(s))
	}
	return strings.TrimRight(u.Scheme+"://"+u.Host+u.EscapedPath(), "/"), nil
}

// interfaceName also knows the older form, publicURL.
func interfaceName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "URL"))
	if name != "public" && name != "internal" && name != "admin" {
		return "", fmt.Errorf("interface %.100q is not public, internal or admin", s)
	}
	return name, nil
}

// String returns the container and prefix, without options.
func (l Location) String() string {
	if l.Prefix == "" {
		return "swift://" + l.Container
	}
	return "swift://" + l.Container + "/" + l.Prefix
}
