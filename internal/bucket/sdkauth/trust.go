package sdkauth

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/swift"
)

// TrustVariable is the variable of the environment that names hosts, with
// commas between them, to which an operator's tokens and passwords may go
// besides those of the cloud itself. The URL of a bucket stands in a project's
// file, which may be somebody else's, and a token is good for whoever gets it.
const TrustVariable = "BOOTWELL_TRUST_ENDPOINT"

// azureHosts end the names of storage accounts in Azure's public, US government
// and China clouds.
// https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-endpoints
var azureHosts = []string{".blob.core.windows.net", ".blob.storage.azure.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn"}

// Google are all credentials that an operator can have for a gs: URL:
// those of [gcs.OperatorSources], then googleLogin. All of them are tokens, so
// that a URL with another endpoint than Google's is refused: the error wraps
// [bucket.ErrPermission].
func Google(rawURL string) ([]gcs.Source, error) {
	at, err := gcs.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if !at.Anonymous && !trusted(at.Endpoint, ".googleapis.com") {
		return nil, refuse(at.String(), "a Google token", at.Endpoint, "which is not Google's")
	}
	return append(gcs.OperatorSources(), googleLogin()...), nil
}

// Azure are all credentials that an operator can have for an az: URL:
// those of [azblob.OperatorSources], then azureLogin. Where the endpoint is not
// Azure's, an account key alone is used: it signs, and does not go there. The
// error wraps [bucket.ErrPermission].
func Azure(rawURL string) ([]azblob.Source, error) {
	at, err := azblob.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if at.Endpoint == "" || trusted(at.Endpoint, azureHosts...) {
		return append(azblob.OperatorSources(), azureLogin()), nil
	}
	connection := strings.ToLower(os.Getenv("AZURE_STORAGE_CONNECTION_STRING"))
	switch {
	case strings.Contains(connection, "sharedaccesssignature"), os.Getenv("AZURE_STORAGE_SAS_TOKEN") != "":
		return nil, refuse(at.String(), "a SAS token", at.Endpoint, "which is not Azure's")
	case strings.Contains(connection, "accountkey"), os.Getenv("AZURE_STORAGE_KEY") != "":
		return azblob.OperatorSources(), nil
	}
	return nil, refuse(at.String(), "an Azure token", at.Endpoint, "which is not Azure's")
}

// OpenStack are all credentials that an operator can have for a swift:
// URL: openStackLogin, then [swift.OperatorSources]. Passwords and tokens go to
// where these say that the cloud is, and not to where the URL alone says so:
// the error wraps [bucket.ErrPermission]. A key for temporary URLs signs, and
// goes nowhere.
func OpenStack(rawURL string) ([]swift.Source, error) {
	at, err := swift.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	for _, own := range openStackSettings() {
		if err := own.check(at); err != nil {
			return nil, err
		}
	}
	return append(openStackLogin(), swift.OperatorSources()...), nil
}

// A place is where somebody's settings say that their cloud is.
type place struct {
	name          string // of the settings
	auth, storage string // URLs; "": they do not say it
	login         bool   // there is a secret for Keystone
	secret        bool   // there is one for Keystone or for the storage
}

func openStackSettings() []place {
	var all []place
	lookup := func(name string, get func(string) string) {
		p := place{name: name, auth: get("os_auth_url"), storage: get("os_storage_url")}
		p.login = get("os_password") != "" || get("os_application_credential_secret") != ""
		p.secret = p.login || get("os_auth_token") != ""
		all = append(all, p)
	}
	if name := os.Getenv("OS_CLOUD"); name != "" {
		if settings, err := readCloud(name); err == nil {
			lookup("clouds.yaml", func(name string) string { return settings[name] })
		}
	}
	lookup("the environment", func(name string) string { return os.Getenv(strings.ToUpper(name)) })
	return all
}

// check reports whether the secrets of p may go to where a URL says.
func (p place) check(at swift.Location) error {
	own := p.auth
	if l, err := swift.Parse("swift://any?auth=" + url.QueryEscape(p.auth)); err == nil {
		own = l.Auth
	}
	if p.login && at.Auth != "" && at.Auth != own && !trusted(at.Auth) {
		return refuse(at.String(), "the password or application credential of "+p.name, at.Auth, "while "+saidOf("OS_AUTH_URL", p.auth))
	}
	if p.secret && at.Storage != "" && !sameHost(at.Storage, p.storage) && !sameHost(at.Storage, p.auth) && !trusted(at.Storage) {
		return refuse(at.String(), "an OpenStack token", at.Storage, "while "+saidOf("OS_STORAGE_URL", p.storage))
	}
	return nil
}

func saidOf(name, value string) string {
	if value == "" {
		return name + " is not set"
	}
	return name + " is another"
}

// sameHost reports whether two URLs have the same scheme and host; ports may
// differ.
func sameHost(a, b string) bool {
	u, errA := url.Parse(a)
	v, errB := url.Parse(b)
	return errA == nil && errB == nil && u.Hostname() != "" && u.Scheme == v.Scheme && strings.EqualFold(u.Hostname(), v.Hostname())
}

// trusted reports whether an endpoint is on this machine, is one that the
// operator names, or has a name with one of these ends and is reached over TLS.
func trusted(endpoint string, suffixes ...string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	for named := range strings.SplitSeq(os.Getenv(TrustVariable), ",") {
		named = strings.ToLower(strings.TrimSpace(named))
		if named != "" && (named == host || named == strings.ToLower(u.Host)) {
			return true
		}
	}
	for _, s := range suffixes {
		if u.Scheme == "https" && strings.HasSuffix(host, s) {
			return true
		}
	}
	return false
}

var errForeign = errors.New("the project names a server that is not the cloud's own")

// refuse words why a secret does not go to an endpoint.
func refuse(bucketName, secret, endpoint, why string) error {
	host := endpoint
	if u, err := url.Parse(endpoint); err == nil {
		host = u.Hostname()
	}
	return fmt.Errorf("open %s: %w: %w: %s would go to %s, %s; if that server is yours, set %s=%s",
		bucketName, bucket.ErrPermission, errForeign, secret, endpoint, why, TrustVariable, host)
}
