package azblob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/bootwell/bootwell/internal/bucket"
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

// ErrNone is wrapped by a source that has no credentials, and where another try
// now would find none either.
var ErrNone = errors.New("nothing there")

// TokenSource gets bearer tokens for [Scope] from f, which says when they
// expire. They are asked for again before that. f is never called by two
// goroutines at once; its error wraps [ErrNone] when another try is in vain.
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

// Environment is AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY or
// AZURE_STORAGE_SAS_TOKEN, the first of them, unless AZURE_STORAGE_ACCOUNT or
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
		return credential{}, fmt.Errorf("%w: %w", err, ErrNone)
	}
	return static(at, func(name string) string { return values[name] })
}

// static returns what lookup has, in the order in which the Azure CLI looks.
func static(at Location, lookup func(name string) string) (credential, error) {
	account, key, sas := lookup("azure_storage_account"), lookup("azure_storage_key"), lookup("azure_storage_sas_token")
	if text := lookup("azure_storage_connection_string"); text != "" {
		account, key, sas = parseConnection(text)
	}
	switch {
	case key == "" && sas == "":
		return credential{}, fmt.Errorf("it has no azure_storage_key, azure_storage_sas_token or azure_storage_connection_string: %w", ErrNone)
	case account != "" && account != at.Account:
		return credential{}, fmt.Errorf("it is for the storage account %.30q: %w", account, ErrNone)
	case key != "":
		return keyCredential(at.Account, key)
	}
	return sasCredential(at, sas)
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
	k, err := container.NewSharedKeyCredential(account, strings.TrimSpace(key))
	if err != nil {
		return credential{}, fmt.Errorf("the account key is not base64: %w", ErrNone)
	}
	return credential{key: k}, nil
}

func sasCredential(at Location, token string) (credential, error) {
	token = strings.TrimPrefix(strings.TrimSpace(token), "?")
	q, err := url.ParseQuery(token)
	switch {
	case err != nil || q.Get("sig") == "":
		return credential{}, fmt.Errorf("the SAS token is no query with a signature (sv=…&sig=…): %w", ErrNone)
	case !at.encrypted() && !at.local():
		return credential{}, fmt.Errorf("a SAS token is sent only over https: %w", ErrNone)
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
	key   *container.SharedKeyCredential
	ends  time.Time // zero: never, or not known
}

// client returns a client of the container at this URL.
func (c credential) client(url string, w *watch) (*container.Client, error) {
	if c.key != nil {
		return container.NewClientWithSharedKeyCredential(url, c.key, clientOptions(w))
	}
	return container.NewClientWithNoCredential(url, clientOptions(w, c))
}

// Do implements the client library's policy: it signs.
func (c credential) Do(req *policy.Request) (*http.Response, error) {
	raw := req.Raw()
	switch {
	case c.token != "":
		raw.Header.Set("Authorization", "Bearer "+c.token)
	case c.sas != "" && raw.URL.RawQuery != "":
		raw.URL.RawQuery += "&" + c.sas
	case c.sas != "":
		raw.URL.RawQuery = c.sas
	}
	return req.Next()
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

// chain asks the sources in their order and remembers the first answer until
// shortly before it expires.
type chain struct {
	at      Location
	sources []Source
	log     *slog.Logger
	now     func() time.Time

	turn    chan struct{} // holds one while somebody uses the fields below
	have    bool
	value   credential
	source  string    // name of where value is from
	refresh time.Time // when to ask again; zero: never
}

const (
	earlier = 5 * time.Minute // a token is replaced this long before it ends
	soon    = time.Minute     // until the next try, when that did not work
)

func newChain(at Location, sources []Source, log *slog.Logger) *chain {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &chain{at: at, sources: sources, log: log, now: time.Now, turn: make(chan struct{}, 1)}
}

// get returns credentials for now.
func (c *chain) get(ctx context.Context) (credential, error) {
	if err := c.enter(ctx); err != nil {
		return credential{}, err
	}
	defer c.leave()
	now := c.now()
	if c.have && (c.refresh.IsZero() || !passed(c.refresh, now)) {
		return c.value, nil
	}
	v, err := c.ask(ctx)
	now = c.now()
	if err != nil {
		if c.have && !passed(c.value.ends, now) && ctx.Err() == nil {
			c.refresh = now.Add(soon)
			return c.value, nil
		}
		return v, err
	}
	c.have, c.value, c.refresh = true, v, time.Time{}
	if v.token != "" && !v.ends.IsZero() {
		left := v.ends.Sub(now)
		c.refresh = now.Add(max(left-earlier, left*4/5, soon/60))
	}
	return v, nil
}

// passed reports whether it is t by either clock: the monotonic one stands still
// while a machine sleeps, and the other one can be set back.
func passed(t, now time.Time) bool {
	return !now.Before(t) || !now.Round(0).Before(t.Round(0))
}

// reject lets a token that the server did not take be asked for again.
func (c *chain) reject(ctx context.Context, v credential) {
	if c.enter(ctx) != nil {
		return
	}
	defer c.leave()
	if v.token != "" && v.token == c.value.token {
		c.have = false
	}
}

// Signer returns where the credentials come from that go with the requests, and
// nothing of the credentials themselves. It asks for them when no request has
// yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	if _, err := b.creds.get(ctx); err != nil {
		return "", err
	}
	if err := b.creds.enter(ctx); err != nil {
		return "", err
	}
	defer b.creds.leave()
	return b.creds.source, nil
}

func (c *chain) enter(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *chain) leave() { <-c.turn }

// ask returns the first credentials found, or what each source said.
func (c *chain) ask(ctx context.Context) (credential, error) {
	sentinel := bucket.ErrPermission
	var said []string
	for _, s := range c.sources {
		if s.bearer && !c.at.encrypted() {
			said = append(said, s.name+": a bearer token is sent only over https")
			continue
		}
		v, err := s.retrieve(ctx, c.at)
		if err == nil && v.token != "" && !v.ends.IsZero() && !c.now().Before(v.ends) {
			err = fmt.Errorf("the token expired at %s", v.ends.UTC().Format(time.RFC3339))
		}
		if err == nil {
			if s.warn {
				c.log.WarnContext(ctx, "static keys are in use: give this VM a managed identity instead", "from", s.name, "account", c.at.Account)
			}
			c.source = s.name
			return v, nil
		}
		if !errors.Is(err, ErrNone) {
			sentinel = bucket.ErrUnavailable
		}
		said = append(said, s.name+": "+strings.TrimSuffix(err.Error(), ": "+ErrNone.Error()))
	}
	return credential{}, fmt.Errorf("%w: no credentials found (%s)", sentinel, strings.Join(said, "; "))
}

// seconds is a number that the metadata service writes as text.
type seconds int64

// UnmarshalJSON reads 3600 and "3600".
func (s *seconds) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(data), `"`), 10, 64)
	*s = seconds(n)
	return err
}
