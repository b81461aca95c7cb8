package azblob

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Scope is what a bearer token is asked for, in every cloud of Azure.
const Scope = "https://storage.azure.com/.default"

// A Source is one place where credentials may be. The caller of Open names
// them in the order in which they are tried; nothing else is ever asked.
type Source struct {
	name     string
	bearer   bool // what it gives must not be sent in the clear
	warn     bool // static keys on a VM
	retrieve func(ctx context.Context, at Location) (credential, error)
}

// OperatorSources are the variables that the Azure CLI reads. They never ask a
// metadata service. Who logged in with az, or is a service principal, comes
// through a [TokenSource].
func OperatorSources() []Source { return []Source{Environment()} }

// VMSources are the VM's managed identity, then the file (see
// [wire.Credentials]), then the environment. A machine that has credentials in
// the file and is none of Azure's does not wait long for a metadata service.
func VMSources(file string) []Source {
	identity := newMetadata("", func(at Location) bool { return needless("/sys", file, at) })
	sources := []Source{identity.source(), File(file), Environment()}
	sources[1].warn, sources[2].warn = true, true
	return sources
}

// TokenSource gets bearer tokens for [Scope] from f, which says when they
// expire. They are asked for again before that. f is never called by two
// goroutines at once; its error wraps [wire.ErrNothing] when another try is in vain.
func TokenSource(name string, f func(ctx context.Context) (token string, expires time.Time, err error)) Source {
	return Source{name: name, bearer: true, retrieve: func(ctx context.Context, _ Location) (credential, error) {
		token, expires, err := f(ctx)
		if err == nil && !isToken(token) {
			err = errors.New("the token is not valid")
		}
		return credential{token: token, ends: expires}, err
	}}
}

// SharedKey is the key of the account, in base64.
func SharedKey(key string) Source {
	return Source{name: "account key", retrieve: func(_ context.Context, at Location) (credential, error) {
		return keyCredential(at.Account, key)
	}}
}

// SAS is a shared access signature, with or without a question mark before it.
func SAS(token string) Source {
	return Source{name: "SAS token", retrieve: func(_ context.Context, at Location) (credential, error) {
		return sasCredential(at, token)
	}}
}

// Environment is AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or
// AZURE_STORAGE_KEY, the first of them, unless AZURE_STORAGE_ACCOUNT or
// the connection string names another account.
func Environment() Source {
	return Source{name: "environment", retrieve: func(_ context.Context, at Location) (credential, error) {
		return static(at, func(name string) string { return os.Getenv(strings.ToUpper(name)) })
	}}
}

// File has the same as [Environment], with the names in lower case, in a
// credentials file (see [wire.Credentials]).
func File(path string) Source {
	return Source{name: "file " + path, retrieve: func(_ context.Context, at Location) (credential, error) {
		return fromFile(path, at)
	}}
}

func fromFile(path string, at Location) (credential, error) {
	values, err := wire.Credentials(path)
	if err != nil {
		return credential{}, fmt.Errorf("%w: %w", err, wire.ErrNothing)
	}
	return static(at, func(name string) string { return values[name] })
}

// static returns what lookup has: a connection string, else the SAS token, which
// allows less than the key, else that.
func static(at Location, lookup func(name string) string) (credential, error) {
	account, key, sas := lookup("azure_storage_account"), lookup("azure_storage_key"), lookup("azure_storage_sas_token")
	if text := lookup("azure_storage_connection_string"); text != "" {
		account, key, sas = parseConnection(text)
	}
	switch {
	case key == "" && sas == "":
		return credential{}, fmt.Errorf("it has no azure_storage_key, azure_storage_sas_token or azure_storage_connection_string: %w", wire.ErrNothing)
	case account != "" && account != at.Account:
		return credential{}, fmt.Errorf("it is for the storage account %.30q: %w", account, wire.ErrNothing)
	case sas != "":
		return sasCredential(at, sas)
	}
	return keyCredential(at.Account, key)
}

// parseConnection reads "AccountName=…;AccountKey=…;SharedAccessSignature=…".
// https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
func parseConnection(text string) (account, key, sas string) {
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(part, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "accountname":
			account = value
		case "accountkey":
			key = value
		case "sharedaccesssignature":
			sas = value
		}
	}
	return account, key, sas
}

func keyCredential(account, key string) (credential, error) {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	if err != nil {
		return credential{}, fmt.Errorf("the account key is not base64: %w", wire.ErrNothing)
	}
	return credential{key: &sharedKey{account, secret}}, nil
}

func sasCredential(at Location, token string) (credential, error) {
	token = strings.TrimPrefix(strings.TrimSpace(token), "?")
	q, err := url.ParseQuery(token)
	switch {
	case err != nil || q.Get("sig") == "":
		return credential{}, fmt.Errorf("the SAS token is no query with a signature (sv=…&sig=…): %w", wire.ErrNothing)
	case !at.encrypted() && !at.local():
		return credential{}, fmt.Errorf("a SAS token is sent only over https: %w", wire.ErrNothing)
	}
	return credential{sas: q.Encode(), sig: q.Get("sig"), ends: sasEnd(q.Get("se"))}, nil
}

// sasEnd returns when a SAS token ends; zero: a stored policy says so.
func sasEnd(se string) time.Time {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(form, se); err == nil {
			return t
		}
	}
	return time.Time{}
}

// A credential is one of a bearer token, a SAS token and an account key.
type credential struct {
	token string
	sas   string // a query
	sig   string // the secret in it
	key   *sharedKey
	ends  time.Time // zero: never, or not known
}

// hide keeps the secret out of what a server says.
func (c credential) hide(text string) string {
	for _, secret := range []string{c.token, c.sig, url.QueryEscape(c.sig)} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	return text
}

// isToken reports whether s can stand in a header.
func isToken(s string) bool {
	return s != "" && len(s) <= maxToken && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

const maxToken = 32 << 10

// newChain is a chain of the sources for this place.
func newChain(at Location, sources []Source, log *slog.Logger) *wire.Chain[credential] {
	all := make([]wire.Source[credential], len(sources))
	for i, s := range sources {
		all[i] = wire.Source[credential]{Name: s.name, Warn: s.warning, Get: func(ctx context.Context) (credential, time.Time, error) {
			if s.bearer && !at.encrypted() {
				return credential{}, time.Time{}, fmt.Errorf("a bearer token is sent only over https: %w", wire.ErrNothing)
			}
			v, err := s.retrieve(ctx, at)
			if v.token == "" {
				return v, time.Time{}, err // the server says when a SAS token ended
			}
			return v, v.ends, err
		}}
	}
	return wire.NewChain(log, all...)
}

func (s Source) warning(credential) string {
	if !s.warn {
		return ""
	}
	return "static keys are in use: give this VM a managed identity instead"
}

// Signer returns where the credentials come from that go with the requests, and
// nothing of the credentials themselves. It asks for them when no request has
// yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	g, err := b.creds.Get(ctx)
	if err != nil {
		return "", err
	}
	return g.Source, nil
}

// seconds is a number that the metadata service writes as text.
type seconds int64

// UnmarshalJSON reads 3600 and "3600".
func (s *seconds) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(data), `"`), 10, 64)
	*s = seconds(n)
	return err
}
