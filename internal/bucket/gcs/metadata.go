package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const (
	metadataAddress = "169.254.169.254"
	metadataPath    = "/computeMetadata/v1/instance/service-accounts/default/token"
	metadataDial    = time.Second
	metadataBrief   = 200 * time.Millisecond // of dialling where another source has credentials
	metadataTimeout = 3 * time.Second        // of one request
	metadataTries   = 2
	maxToken        = 64 << 10 // bytes of an answer with a token
)

// Instance is the service account of the Compute Engine VM this program runs
// on, asked of the metadata service: never through a proxy, with no redirects.
// endpoint "" is GCE_METADATA_HOST or the link-local address, unless
// NO_GCE_CHECK is true.
//
// https://cloud.google.com/compute/docs/access/authenticate-workloads
func Instance(endpoint string) Source {
	return instance(endpoint, func() time.Duration { return metadataDial })
}

// instance asks dial each time how long connecting may take.
func instance(endpoint string, dial func() time.Duration) Source {
	m := &metadata{endpoint: endpoint, client: &http.Client{
		Timeout: metadataTimeout,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dial()}).DialContext(ctx, network, addr)
		}},
		CheckRedirect: noRedirect,
	}}
	return Source{name: "service account of this VM", token: m.token}
}

// patience returns how long connecting to the metadata service may take on a
// machine whose /sys is sys: where the file has a key and nothing answers at
// that address, each start of the program would wait for it.
func patience(sys, file string) time.Duration {
	values, err := wire.Credentials(file)
	if err != nil || values[keyName] == "" {
		return metadataDial
	}
	// https://cloud.google.com/compute/docs/instances/detect-compute-engine
	product, err := os.ReadFile(sys + "/class/dmi/id/product_name")
	if err == nil && strings.HasPrefix(string(product), "Google") {
		return metadataDial
	}
	return metadataBrief
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

type metadata struct {
	endpoint string
	client   *http.Client
}

// token makes one request, and another when the service is there but busy. An
// answer of the kind 4xx is final: there is no such service, or no account.
func (m *metadata) token(ctx context.Context, _ *http.Client) (Token, error) {
	base := m.endpoint
	if base == "" {
		host := os.Getenv("GCE_METADATA_HOST")
		if host == "" {
			host = metadataAddress
			if strings.EqualFold(os.Getenv("NO_GCE_CHECK"), "true") {
				return Token{}, fmt.Errorf("NO_GCE_CHECK is true: %w", wire.ErrNothing)
			}
		}
		base = "http://" + host
	}
	for try := 1; ; try++ {
		status, body, err := m.do(ctx, strings.TrimSuffix(base, "/")+metadataPath)
		switch {
		case err != nil:
			return Token{}, fmt.Errorf("metadata service: %w", err)
		case status == http.StatusOK:
			return parseToken(body, time.Now())
		case status == http.StatusNotFound:
			return Token{}, fmt.Errorf("metadata service: the VM has no service account: %w", wire.ErrNothing)
		case status < 500 && status != http.StatusTooManyRequests:
			return Token{}, fmt.Errorf("metadata service: status %d: %w", status, wire.ErrNothing)
		case try == metadataTries || ctx.Err() != nil:
			return Token{}, fmt.Errorf("metadata service: status %d", status)
		}
	}
}

func (m *metadata) do(ctx context.Context, target string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode == http.StatusOK && resp.Header.Get("Metadata-Flavor") != "Google" {
		return 0, nil, fmt.Errorf("what answers is not Google's: %w", wire.ErrNothing)
	}
	return resp.StatusCode, body, nil
}

// parseToken reads the answer of a token endpoint (RFC 6749, 5.1).
func parseToken(body []byte, now time.Time) (Token, error) {
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
		TokenType   string `json:"token_type"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Token{}, fmt.Errorf("read the token: %w", err)
	}
	const day = 24 * 60 * 60
	if answer.AccessToken == "" || !strings.EqualFold(answer.TokenType, "Bearer") || answer.ExpiresIn <= 0 || answer.ExpiresIn > day {
		return Token{}, errors.New("read the token: it is no bearer token with an end")
	}
	return Token{Value: answer.AccessToken, Expires: now.Round(0).Add(time.Duration(answer.ExpiresIn) * time.Second)}, nil
}
