package sdkauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// scope is for all that the account may do; the account's rights limit it.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// storageScope is for all that the account may do with storage. To read who has
// rights in a bucket takes more than devstorage.read_write.
// https://cloud.google.com/storage/docs/oauth-scopes
const storageScope = "https://www.googleapis.com/auth/devstorage.full_control"

// scopeOf is what a token is asked for: storage alone where Google limits it so,
// which it does for service accounts. A login has the scopes it was given, and a
// federated identity the one that Google's own tools ask for.
func scopeOf(t google.CredentialsType) string {
	if t == google.ServiceAccount || t == google.ImpersonatedServiceAccount {
		return storageScope
	}
	return scope
}

// googleLogin is Application Default Credentials (a user's login, a service account,
// impersonation, a workload's federated identity) in the file that
// GOOGLE_APPLICATION_CREDENTIALS names, else where `gcloud auth
// application-default login` writes them; then the account that gcloud uses
// itself.
func googleLogin() []gcs.Source {
	return []gcs.Source{
		gcs.TokenSource("application default credentials", fromADC),
		gcs.TokenSource("gcloud", fromGcloud),
	}
}

// adcTypes are what a file of credentials may be.
var adcTypes = [...]google.CredentialsType{
	google.AuthorizedUser, google.ServiceAccount, google.ImpersonatedServiceAccount, google.ExternalAccount, google.ExternalAccountAuthorizedUser,
}

func fromADC(ctx context.Context) (gcs.Token, error) {
	path := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	if path == "" {
		dir, err := gcloudDir()
		if err != nil {
			return gcs.Token{}, fmt.Errorf("%w: %w", err, wire.ErrNothing)
		}
		path = filepath.Join(dir, "application_default_credentials.json")
	}
	data, err := readBounded(path)
	if err != nil {
		return gcs.Token{}, fmt.Errorf("%w: %w", err, wire.ErrNothing)
	}
	var file struct{ Type google.CredentialsType }
	if json.Unmarshal(data, &file) != nil || !slices.Contains(adcTypes[:], file.Type) {
		return gcs.Token{}, fmt.Errorf("%s holds no credentials of a type that is known (%.40q): %w", path, file.Type, wire.ErrNothing)
	}
	client, err := guarded()
	if err != nil {
		return gcs.Token{}, err
	}
	creds, err := google.CredentialsFromJSONWithType(context.WithValue(ctx, oauth2.HTTPClient, client), data, file.Type, scopeOf(file.Type))
	if err != nil {
		return gcs.Token{}, class(fmt.Errorf("%s: %w", path, err), 0)
	}
	token, err := creds.TokenSource.Token()
	if err != nil {
		return gcs.Token{}, class(fmt.Errorf("%s: %w", path, err), oauthStatus(err))
	}
	return gcs.Token{Value: token.AccessToken, Expires: token.Expiry}, nil
}

func oauthStatus(err error) int {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response != nil {
		return refused.Response.StatusCode
	}
	return 0
}

// gcloudDir is where gcloud keeps its files.
func gcloudDir() (string, error) {
	if dir := os.Getenv("CLOUDSDK_CONFIG"); dir != "" {
		return dir, nil
	}
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("APPDATA"), "gcloud"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".config", "gcloud"), err
}

const (
	gcloudTime = 30 * time.Second
	maxGcloud  = 1 << 20
)

// fromGcloud asks the gcloud command, as kubectl does. It is asked only where
// somebody logged in with it: on a VM of Google's it would give the VM's own
// identity.
func fromGcloud(ctx context.Context) (gcs.Token, error) {
	gcloud, err := exec.LookPath("gcloud")
	if err != nil {
		return gcs.Token{}, fmt.Errorf("it is not installed: %w", wire.ErrNothing)
	}
	dir, err := gcloudDir()
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "credentials.db"))
	}
	if err != nil {
		return gcs.Token{}, fmt.Errorf("nobody logged in with it (gcloud auth login): %w", wire.ErrNothing)
	}
	ctx, cancel := context.WithTimeout(ctx, gcloudTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, gcloud, "config", "config-helper", "--format=json")
	cmd.Env = append(os.Environ(), "CLOUDSDK_CORE_DISABLE_PROMPTS=1", "CLOUDSDK_CORE_CHECK_GCE_METADATA=false")
	cmd.WaitDelay = time.Second
	var out, said limited
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return gcs.Token{}, fmt.Errorf("%w: gcloud did not answer in %s", bucket.ErrUnavailable, gcloudTime)
		}
		return gcs.Token{}, class(fmt.Errorf("%w: %s", err, said.String()), 0)
	}
	return parseGcloud(out.Bytes())
}

func parseGcloud(out []byte) (gcs.Token, error) {
	var doc struct {
		Credential struct {
			Token  string    `json:"access_token"`
			Expiry time.Time `json:"token_expiry"`
		} `json:"credential"`
	}
	if json.Unmarshal(out, &doc) != nil || doc.Credential.Token == "" {
		return gcs.Token{}, fmt.Errorf("gcloud gave no token: %w", wire.ErrNothing)
	}
	return gcs.Token{Value: doc.Credential.Token, Expires: doc.Credential.Expiry}, nil
}

// limited keeps the beginning of what a command says.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxGcloud - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
