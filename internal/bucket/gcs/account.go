package gcs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// What a token may be used for; the account's rights limit it further.
// https://cloud.google.com/storage/docs/oauth-scopes
const (
	scopeReadWrite = "https://www.googleapis.com/auth/devstorage.read_write"
	scopeFull      = "https://www.googleapis.com/auth/devstorage.full_control"
)

// OperatorSources are the environment: a token in CLOUDSDK_AUTH_ACCESS_TOKEN,
// or the key of a service account that GOOGLE_APPLICATION_CREDENTIALS names.
// They never ask a metadata service.
func OperatorSources() []Source {
	return []Source{environmentToken(), environmentKey(scopeFull, false)}
}

// VMSources are the instance's service account, then the key of one that the
// credentials file or the environment names. A machine that has a key and is
// not one of Google's does not wait long for the metadata service.
func VMSources(file string) []Source {
	return []Source{instance("", func() time.Duration { return patience("/sys", file) }), keyOfFile(file), environmentKey(scopeReadWrite, true)}
}

func environmentToken() Source {
	const name = "CLOUDSDK_AUTH_ACCESS_TOKEN"
	return TokenSource(name, func(context.Context) (Token, error) {
		v := os.Getenv(name)
		if v == "" {
			return Token{}, fmt.Errorf("it is not set: %w", wire.ErrNothing)
		}
		return Token{Value: v}, nil
	})
}

func environmentKey(scope string, warn bool) Source {
	const name = "GOOGLE_APPLICATION_CREDENTIALS"
	return Source{name: name, key: warn, token: func(ctx context.Context, client *http.Client) (Token, error) {
		path := os.Getenv(name)
		if path == "" {
			return Token{}, fmt.Errorf("it is not set: %w", wire.ErrNothing)
		}
		return keyToken(ctx, client, path, scope, warn)
	}}
}

// keyName is what a credentials file has.
const keyName = "google_application_credentials"

// keyOfFile is the key that a credentials file names (see [wire.Credentials]).
func keyOfFile(file string) Source {
	return Source{name: "file " + file, key: true, token: func(ctx context.Context, client *http.Client) (Token, error) {
		values, err := wire.Credentials(file)
		if err != nil {
			return Token{}, fmt.Errorf("%w: %w", wire.ErrNothing, err)
		}
		path := values[keyName]
		if path == "" {
			return Token{}, fmt.Errorf("it has no %s: %w", keyName, wire.ErrNothing)
		}
		return keyToken(ctx, client, path, scopeReadWrite, true)
	}}
}

// ServiceAccount is the key of a service account, as the Google tools write it
// (JSON), for all that the account may do with storage.
func ServiceAccount(path string) Source {
	return Source{name: "file " + path, token: func(ctx context.Context, client *http.Client) (Token, error) {
		return keyToken(ctx, client, path, scopeFull, false)
	}}
}

const maxKeyFile = 64 << 10

// keyToken gets a token for the key at path, which nobody but its owner may
// read where it is private, as on a VM.
func keyToken(ctx context.Context, client *http.Client, path, scope string, private bool) (Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", wire.ErrNothing, err)
	}
	defer f.Close()
	if private {
		if err := wire.OwnerOnly(f); err != nil {
			return Token{}, fmt.Errorf("%w: %w", wire.ErrNothing, err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil || len(data) > maxKeyFile {
		return Token{}, fmt.Errorf("%s is no file of at most %d bytes: %w", path, maxKeyFile, wire.ErrNothing)
	}
	a, err := parseAccount(data)
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w: %w", path, err, wire.ErrNothing)
	}
	return a.exchange(ctx, client, scope)
}

type account struct {
	email, keyID string
	key          *rsa.PrivateKey
	tokenURI     string
}

// parseAccount reads the JSON of a service account's key. Its errors show
// nothing of the content.
func parseAccount(data []byte) (account, error) {
	var file struct {
		Type         string `json:"type"`
		ClientEmail  string `json:"client_email"`
		PrivateKey   string `json:"private_key"`
		PrivateKeyID string `json:"private_key_id"`
		TokenURI     string `json:"token_uri"`
	}
	if json.Unmarshal(data, &file) != nil {
		return account{}, errors.New("it is no JSON of a service account's key")
	}
	if file.Type != "service_account" {
		return account{}, fmt.Errorf("it is of the type %.40q, not service_account", file.Type)
	}
	block, _ := pem.Decode([]byte(file.PrivateKey))
	if file.ClientEmail == "" || block == nil {
		return account{}, errors.New("it has no client_email or no private_key")
	}
	a := account{email: file.ClientEmail, keyID: file.PrivateKeyID, tokenURI: file.TokenURI}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	var ok bool
	if a.key, ok = parsed.(*rsa.PrivateKey); err != nil || !ok || a.key.N.BitLen() > 8192 {
		return account{}, errors.New("its private_key is no RSA key")
	}
	return a, checkTokenURI(a.tokenURI)
}

// checkTokenURI lets an assertion travel only where nobody else reads it.
func checkTokenURI(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return errors.New("its token_uri is not valid")
	}
	if local := u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127."); u.Scheme != "https" && !(u.Scheme == "http" && local) {
		return errors.New("its token_uri is not https")
	}
	return nil
}

// exchange signs an assertion and gets a token for it.
// https://developers.google.com/identity/protocols/oauth2/service-account#httprest
func (a account) exchange(ctx context.Context, client *http.Client, scope string) (Token, error) {
	assertion, err := a.assertion(scope, time.Now())
	if err != nil {
		return Token{}, err
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.tokenURI, strings.NewReader(form.Encode()))
	if err != nil {
		return Token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return Token{}, fmt.Errorf("get a token: %w", wire.Classify(ctx, err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return Token{}, fmt.Errorf("get a token: %w", wire.Classify(ctx, err))
	}
	if resp.StatusCode != http.StatusOK {
		return Token{}, refusedToken(resp.StatusCode, body)
	}
	return parseToken(body, time.Now())
}

// assertion is a JWT signed with RS256 (RFC 7523, RFC 7515).
func (a account) assertion(scope string, now time.Time) (string, error) {
	part := func(v any) (string, error) {
		text, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text), err
	}
	head, err := part(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.keyID})
	if err != nil {
		return "", err
	}
	claims, err := part(map[string]any{
		"iss": a.email, "scope": scope, "aud": a.tokenURI, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(head + "." + claims))
	sig, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign with the key of %s: %w", a.email, err)
	}
	return head + "." + claims + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// refusedToken words the error of a token endpoint (RFC 6749, 5.2).
func refusedToken(status int, body []byte) error {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		e.Error = string(bytes.TrimSpace(body))
	}
	sentinel := bucket.ErrPermission
	if wire.Temporary(status) {
		sentinel = bucket.ErrUnavailable
	}
	text := wire.Printable(e.Error)
	if e.Description != "" {
		text += ": " + wire.Printable(e.Description)
	}
	if strings.Contains(e.Description, "timeframe") {
		text += ": is the clock of this machine right?"
	}
	return fmt.Errorf("get a token: %w: status %d: %s", sentinel, status, text)
}
