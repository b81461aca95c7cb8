package azblob

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Location is what an az: URL says.
type Location struct {
	Account   string // storage account
	Container string
	Prefix    string // without slashes around it; "": the whole container
	Endpoint  string // base URL of the account, no slash at its end; "": https://ACCOUNT.blob.core.windows.net
	ClientID  string // of a user-assigned managed identity; "": the system-assigned one
	CA        string // file of certificates to trust besides the system's
}

var form = wire.Form{
	Scheme:  "az",
	Write:   "write az://ACCOUNT/CONTAINER/PREFIX; another server is ?endpoint=URL",
	Secrets: "keys do not belong in the URL: use AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN",
	Options: []string{"ca", "client_id", "endpoint"},
}

// Parse reads az://ACCOUNT/CONTAINER/prefix?endpoint=URL&client_id=ID&ca=FILE.
// An endpoint is the base URL of the account, such as
// https://ACCOUNT.blob.core.chinacloudapi.cn or an emulator's
// http://127.0.0.1:10000/devstoreaccount1; without a scheme it is https.
func Parse(rawURL string) (Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		return Location{}, fmt.Errorf("bucket %q: %w", wire.Redact(rawURL), err)
	}
	return l, nil
}

func parse(rawURL string) (Location, error) {
	u, err := form.Parse(rawURL)
	for _, name := range []string{"sig", "se", "sv"} {
		if u.Options.Has(name) {
			return Location{}, errors.New("a SAS token does not belong in the URL: use AZURE_STORAGE_SAS_TOKEN")
		}
	}
	name, prefix, _ := strings.Cut(u.Path, "/")
	l := Location{Account: u.Host, Container: name, Prefix: strings.Trim(prefix, "/")}
	switch {
	case err != nil:
		return l, err
	case !accountName(l.Account):
		return l, fmt.Errorf("storage account %q is not 3 to 24 lower-case letters and digits", l.Account)
	case !containerName(l.Container):
		return l, fmt.Errorf("container %q is not 3 to 63 lower-case letters, digits and single hyphens", l.Container)
	}
	if l.Prefix != "" {
		if err := checkName(l.Prefix); err != nil {
			return l, fmt.Errorf("prefix: %w", err)
		}
	}
	l.CA, l.ClientID = u.Options.Get("ca"), u.Options.Get("client_id")
	if len(l.ClientID) > 64 || strings.Trim(l.ClientID, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return l, fmt.Errorf("client_id %.80q is not a client ID", l.ClientID)
	}
	return l, l.endpoint(u.Options.Get("endpoint"))
}

func (l *Location) endpoint(s string) error {
	if s == "" {
		return nil
	}
	u, err := wire.ParseEndpoint(s)
	if err != nil {
		return err
	}
	path := strings.Trim(u.Path, "/")
	if path != "" && !accountName(path) {
		return fmt.Errorf("endpoint %q is not the base URL of a storage account: scheme, host, port, and for an emulator /ACCOUNT", wire.Redact(s))
	}
	l.Endpoint = u.Scheme + "://" + u.Host
	if path != "" {
		l.Endpoint += "/" + path
	}
	return nil
}

// accountName and containerName hold the rules of
// https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
func accountName(s string) bool {
	return len(s) >= 3 && len(s) <= 24 && strings.Trim(s, lowerDigits) == ""
}

func containerName(s string) bool {
	return len(s) >= 3 && len(s) <= 63 && strings.Trim(s, lowerDigits+"-") == "" &&
		s[0] != '-' && s[len(s)-1] != '-' && !strings.Contains(s, "--")
}

const lowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"

// checkName reports why s cannot be the name of a blob. The service drops a dot
// at the end of a path segment, which would make two keys one.
func checkName(s string) error {
	if err := bucket.CheckKey(s); err != nil {
		return err
	}
	if strings.HasSuffix(s, ".") || strings.Contains(s, "./") {
		return fmt.Errorf("object name %.200q: Azure keeps no dot at the end of a part: %w", s, bucket.ErrUnsupported)
	}
	if strings.Count(s, "/") >= 254 {
		return fmt.Errorf("object name %.200q has over 254 parts: %w", s, bucket.ErrUnsupported)
	}
	return nil
}

// base returns the URL of the account.
func (l Location) base() string {
	if l.Endpoint != "" {
		return l.Endpoint
	}
	return "https://" + l.Account + ".blob.core.windows.net"
}

// encrypted reports whether requests go over TLS.
func (l Location) encrypted() bool { return strings.HasPrefix(l.base(), "https://") }

// local reports whether requests stay on this machine, or are as private.
func (l Location) local() bool { return wire.Private(l.base()) }

// String returns the account, container and prefix, without options.
func (l Location) String() string {
	s := "az://" + l.Account + "/" + l.Container
	if l.Prefix != "" {
		s += "/" + l.Prefix
	}
	return s
}
