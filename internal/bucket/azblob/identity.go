package azblob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	metadataAddress = "http://169.254.169.254"
	metadataPath    = "/metadata/identity/oauth2/token"
	metadataLimit   = 128 << 10
	metadataDial    = time.Second
	metadataBrief   = 250 * time.Millisecond // to connect, where it is not needed and likely not there
	metadataTimeout = 5 * time.Second        // of one request: a token that is new to the service takes a while
	metadataTries   = 4
	metadataPause   = 500 * time.Millisecond // before the second try; doubled for each next one
)

// ManagedIdentity is the identity of the Azure VM this program runs on, the one
// with the URL's client_id or the system-assigned one, asked of the metadata
// service, never through a proxy and with no redirects. endpoint "" is
// AZURE_POD_IDENTITY_AUTHORITY_HOST or the link-local address.
//
// https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
func ManagedIdentity(endpoint string) Source {
	return newMetadata(endpoint, func(Location) bool { return false }).source()
}

// metadata is the metadata service. Where hasty says so, one short try is all.
type metadata struct {
	endpoint string
	hasty    func(Location) bool
	pause    time.Duration
	client   *http.Client
}

type hastyKey struct{}

func newMetadata(endpoint string, hasty func(Location) bool) *metadata {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: metadataDial}
		if ctx.Value(hastyKey{}) != nil {
			d.Timeout = metadataBrief
		}
		return d.DialContext(ctx, network, addr)
	}
	return &metadata{endpoint: endpoint, hasty: hasty, pause: metadataPause, client: &http.Client{
		Timeout:       metadataTimeout,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (m *metadata) source() Source {
	return Source{name: "managed identity", bearer: true, retrieve: m.token}
}

// needless reports whether a machine whose /sys is sys has credentials in file
// and is none of Azure's: each start of the program would wait in vain for a
// service that other clouds do not have.
func needless(sys, file string, at Location) bool {
	tag, err := os.ReadFile(sys + "/class/dmi/id/chassis_asset_tag")
	if err == nil && strings.TrimSpace(string(tag)) == azureTag {
		return false
	}
	_, err = fromFile(file, at)
	return err == nil
}

// azureTag is in the firmware of all of Azure's machines.
// https://github.com/canonical/cloud-init/blob/main/cloudinit/sources/azure/identity.py
const azureTag = "7783-7084-3265-9085-8269-3286-77"

// token asks until there is an answer that stays.
func (m *metadata) token(ctx context.Context, at Location) (credential, error) {
	target, pause, tries := m.target(at.ClientID), m.pause, metadataTries
	if m.hasty(at) {
		tries = 1
		ctx = context.WithValue(ctx, hastyKey{}, true)
	}
	for try := 1; ; try++ {
		status, body, err := m.do(ctx, target)
		if err == nil && status == http.StatusOK {
			return parseToken(body, time.Now())
		}
		if err == nil {
			err = refused(status, body)
		}
		if !passing(status) || try >= tries {
			return credential{}, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return credential{}, ctx.Err()
		}
		pause *= 2
	}
}

func (m *metadata) target(clientID string) string {
	base := m.endpoint
	if base == "" {
		base = os.Getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST")
	}
	if base == "" {
		base = metadataAddress
	}
	q := url.Values{"api-version": {"2018-02-01"}, "resource": {strings.TrimSuffix(Scope, ".default")}}
	if clientID != "" {
		q.Set("client_id", clientID)
	}
	return strings.TrimSuffix(base, "/") + metadataPath + "?" + q.Encode()
}

// passing reports whether the service gives this status for a while only: 404
// and 410 while it is updated.
func passing(status int) bool {
	return status == http.StatusNotFound || status == http.StatusGone || status == http.StatusTooManyRequests || status >= 500
}

// refused words an answer that is no token. One that does not pass is final:
// there is no such service, or no identity.
func refused(status int, body []byte) error {
	var said struct {
		Description string `json:"error_description"`
	}
	text := ""
	if json.Unmarshal(body, &said) == nil && said.Description != "" {
		text = ": " + strings.TrimSpace(wire.Printable(said.Description))
	}
	if passing(status) {
		return fmt.Errorf("metadata service: status %d%s", status, text)
	}
	return fmt.Errorf("metadata service: status %d%s: %w", status, text, wire.ErrNothing)
}

func (m *metadata) do(ctx context.Context, target string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("metadata service: %w: %w", err, wire.ErrNothing)
	}
	req.Header.Set("Metadata", "true")
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("metadata service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, metadataLimit+1))
	if err != nil {
		return 0, nil, fmt.Errorf("metadata service: %w", err)
	}
	if len(body) > metadataLimit {
		return 0, nil, fmt.Errorf("metadata service: an answer of over %d bytes", metadataLimit)
	}
	return resp.StatusCode, body, nil
}

// parseToken reads the answer of the metadata service at the time now. What it
// says of the time left counts before the time of its end, which a wrong clock
// would misread.
func parseToken(body []byte, now time.Time) (credential, error) {
	var answer struct {
		Token string  `json:"access_token"`
		In    seconds `json:"expires_in"`
		On    seconds `json:"expires_on"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return credential{}, fmt.Errorf("metadata service: the token's answer: %w", withoutValue(err))
	}
	const year = 366 * 24 * 3600
	ends := now.Add(time.Duration(answer.In) * time.Second)
	switch {
	case !isToken(answer.Token):
		return credential{}, errors.New("metadata service: the answer holds no valid token")
	case answer.In > 0 && answer.In <= year:
	case answer.In == 0 && answer.On > 0 && answer.On < 1<<35:
		ends = time.Unix(int64(answer.On), 0)
	default:
		return credential{}, errors.New("metadata service: the answer does not tell when the token expires")
	}
	return credential{token: answer.Token, ends: ends}, nil
}

// withoutValue keeps what the answer held out of the error.
func withoutValue(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("it is no JSON at byte %d", syntax.Offset)
	}
	return errors.New("it is no JSON of the right form")
}
