package swift

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Source is one place where credentials may be. The caller of Open names
// them in the order in which they are tried; nothing else is ever asked. The
// first that has credentials counts, good or not.
type Source struct {
	name  string
	local bool // find asks no network and is fast
	vm    bool // a password or a key found here is worth a warning
	find  func(ctx context.Context) (values, error)
}

// values are settings by the lower-case names of OpenStack's environment
// variables.
type values map[string]string

// names are all settings that are read; each is also a variable of the
// environment, in upper case, and a key of vendor data.
var names = []string{
	"os_auth_url", "os_region_name", "os_interface", "os_endpoint_type", "os_cacert",
	"os_application_credential_id", "os_application_credential_name", "os_application_credential_secret",
	"os_username", "os_user_id", "os_password", "os_user_domain_name", "os_user_domain_id",
	"os_project_name", "os_project_id", "os_tenant_name", "os_tenant_id", "os_project_domain_name", "os_project_domain_id",
	"os_domain_name", "os_domain_id", "os_default_domain", "os_storage_url", "os_auth_token",
	"swift_temp_url_key", "swift_temp_url_sig", "swift_temp_url_expires", "swift_temp_url_prefix",
}

// OperatorSources is the environment, as OpenStack's own tools read it. They
// never ask a metadata service; clouds.yaml is not read here.
func OperatorSources() []Source { return []Source{Environment()} }

// VMSources are the credentials file, the vendor data of the cloud (config
// drive, metadata service), then the environment.
func VMSources(file string) []Source {
	sources := []Source{File(file), ConfigDrive(), MetadataService(""), Environment()}
	for i := range sources {
		sources[i].vm = true
	}
	return sources
}

// Values are settings the caller has, by the lower-case names of OpenStack's
// environment variables, such as os_application_credential_id.
func Values(name string, settings map[string]string) Source {
	v := values(maps.Clone(settings))
	return Source{name: name, local: true, find: func(context.Context) (values, error) { return v, v.check() }}
}

// Environment is OS_APPLICATION_CREDENTIAL_ID and _SECRET, OS_USERNAME and
// OS_PASSWORD, OS_AUTH_TOKEN and OS_STORAGE_URL, or SWIFT_TEMP_URL_KEY, with
// OS_AUTH_URL and all that OpenStack's tools read beside them.
func Environment() Source {
	return Source{name: "environment", local: true, find: func(context.Context) (values, error) {
		v := values{}
		for _, name := range names {
			if s := os.Getenv(strings.ToUpper(name)); s != "" {
				v[name] = s
			}
		}
		return v, v.check()
	}}
}

// File is a credentials file, as [wire.Credentials] reads it.
func File(path string) Source {
	return Source{name: "file " + path, local: true, find: func(context.Context) (values, error) {
		v, err := wire.Credentials(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", wire.ErrNothing, err)
		}
		return v, values(v).check()
	}}
}

// Failing is a source that the user named and that cannot be used: it ends the
// search with err, as [bucket.ErrPermission].
func Failing(name string, err error) Source {
	return Source{name: name, find: func(context.Context) (values, error) {
		return nil, wire.Found(fmt.Errorf("%w: %w", bucket.ErrPermission, err))
	}}
}

// A kind of credentials.
type kind int

const (
	kindNone kind = iota
	kindAppCredential
	kindPassword
	kindToken
	kindTempKey
	kindTempReady
)

// kind returns the strongest credentials that are complete.
func (v values) kind() kind {
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return v[n] == "" })
	}
	user := has("os_username") || has("os_user_id")
	switch {
	case has("os_application_credential_secret", "os_application_credential_id"),
		has("os_application_credential_secret", "os_application_credential_name") && user:
		return kindAppCredential
	case has("os_password") && user:
		return kindPassword
	case has("os_auth_token", "os_storage_url"):
		return kindToken
	case has("swift_temp_url_key"):
		return kindTempKey
	case has("swift_temp_url_sig", "swift_temp_url_expires"):
		return kindTempReady
	}
	return kindNone
}

// check reports wire.ErrNothing, and what is missing when some of it is there.
func (v values) check() error {
	if v.kind() != kindNone {
		return nil
	}
	for _, half := range [][2]string{
		{"os_application_credential_id", "os_application_credential_secret"},
		{"os_application_credential_secret", "os_application_credential_id, or _name with os_username"},
		{"os_application_credential_name", "os_application_credential_secret, or os_username"},
		{"os_password", "os_username"},
		{"os_username", "os_password"},
		{"os_user_id", "os_password"},
		{"os_auth_token", "os_storage_url"},
		{"swift_temp_url_sig", "swift_temp_url_expires"},
	} {
		if v[half[0]] != "" {
			return fmt.Errorf("%s is there without %s: %w", half[0], half[1], wire.ErrNothing)
		}
	}
	return fmt.Errorf("no os_application_credential_id: %w", wire.ErrNothing)
}

// first returns the first setting that is not empty.
func (v values) first(names ...string) string {
	for _, n := range names {
		if v[n] != "" {
			return v[n]
		}
	}
	return ""
}

// atHand completes what the URL leaves open with the credentials that can be
// had without the network, and says whether those make temporary URLs.
func atHand(ctx context.Context, at Location, sources []Source) (_ Location, temporary bool) {
	for _, s := range sources {
		if !s.local {
			break
		}
		v, err := s.find(ctx)
		if err != nil {
			continue
		}
		if at.CA == "" {
			at.CA = v["os_cacert"]
		}
		if u, err := keystoneURL(v["os_auth_url"]); at.Auth == "" && err == nil {
			at.Auth = u
		}
		k := v.kind()
		return at, k == kindTempKey || k == kindTempReady
	}
	return at, false
}
