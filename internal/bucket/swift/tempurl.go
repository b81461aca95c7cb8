package swift

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// tempLife is how long a signed request can be used. It allows for a clock
// that is some minutes slow.
const tempLife = 15 * time.Minute

// A tempURL signs requests as temporary URLs, or has a signature to read below
// a prefix.
// https://docs.openstack.org/swift/latest/api/temporary_url_middleware.html
type tempURL struct {
	key []byte // nil: sig is all there is
	now func() time.Time

	sig, expires, prefix string
	ends                 time.Time
}

func newTempURL(v values, now func() time.Time) (*tempURL, error) {
	if key := v["swift_temp_url_key"]; key != "" {
		return &tempURL{key: []byte(key), now: now}, nil
	}
	t := &tempURL{sig: v["swift_temp_url_sig"], expires: v["swift_temp_url_expires"], prefix: v["swift_temp_url_prefix"], now: now}
	if seconds, err := strconv.ParseInt(t.expires, 10, 64); err == nil {
		t.ends = time.Unix(seconds, 0)
	} else if t.ends, err = time.Parse(time.RFC3339, t.expires); err != nil {
		return nil, fmt.Errorf("%w: swift_temp_url_expires %.100q is no time", bucket.ErrPermission, t.expires)
	}
	return t, nil
}

// SignPrefix returns the settings with which a VM reads all objects of a
// container below prefix until then, and can do nothing else: storage is the
// URL of the account, key one that the account or the container has for
// temporary URLs.
func SignPrefix(storage, container, prefix, key string, until time.Time) (map[string]string, error) {
	path, err := accountPath(storage)
	if err != nil {
		return nil, err
	}
	expires := strconv.FormatInt(until.Unix(), 10)
	return map[string]string{
		"swift_temp_url_sig":     sign([]byte(key), http.MethodGet, expires, "prefix:"+path+"/"+container+"/"+prefix),
		"swift_temp_url_expires": expires,
		"swift_temp_url_prefix":  prefix,
	}, nil
}

// accountPath is the part of an account's URL that is signed, without escapes.
func accountPath(storage string) (string, error) {
	storage, err := accountURL(storage)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(storage)
	if err != nil {
		return "", err
	}
	return u.Path, nil
}

func sign(key []byte, method, expires, path string) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%s\n%s", method, expires, path)
	return hex.EncodeToString(mac.Sum(nil))
}

// sign returns the query of a request, with its signature where that is needed.
func (g *grant) sign(container string, c call) (string, error) {
	if g.temp == nil {
		return c.query.Encode(), nil
	}
	if c.name == "" {
		return "", fmt.Errorf("%w: temporary URLs are for objects only", bucket.ErrUnsupported)
	}
	if g.temp.key == nil {
		return g.temp.ready(c)
	}
	path, err := accountPath(g.storage)
	if err != nil {
		return "", err
	}
	expires := strconv.FormatInt(g.temp.now().Add(tempLife).Unix(), 10)
	q := url.Values{
		"temp_url_sig":     {sign(g.temp.key, c.method, expires, path+"/"+container+"/"+c.name)},
		"temp_url_expires": {expires},
	}
	return q.Encode(), nil
}

// ready returns the query of a request under a signature made elsewhere.
func (t *tempURL) ready(c call) (string, error) {
	switch {
	case c.method != http.MethodGet && c.method != http.MethodHead:
		return "", fmt.Errorf("%w: the signature is for reading", bucket.ErrUnsupported)
	case !strings.HasPrefix(c.name, t.prefix):
		return "", fmt.Errorf("%w: the signature is for names that begin with %.200q", bucket.ErrPermission, t.prefix)
	}
	return url.Values{"temp_url_sig": {t.sig}, "temp_url_expires": {t.expires}, "temp_url_prefix": {t.prefix}}.Encode(), nil
}
