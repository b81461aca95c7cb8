package sdkauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// azureLogin is a service principal in the environment (AZURE_TENANT_ID,
// AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH),
// else a workload's federated identity there, else the login of `az` or `azd`.
// What the environment names counts, good or not.
func azureLogin() azblob.Source {
	return azblob.TokenSource("Azure SDK", func(ctx context.Context) (string, time.Time, error) {
		client, err := guarded()
		if err != nil {
			return "", time.Time{}, err
		}
		w := &witness{client: client}
		sources, err := azureSources(w)
		if err != nil {
			return "", time.Time{}, fmt.Errorf("%w: %w", oneLine{err}, wire.ErrNothing)
		}
		var all error
		for _, s := range sources {
			token, err := s.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azblob.Scope}})
			if err == nil {
				return token.Token, token.ExpiresOn, nil
			}
			all = errors.Join(all, err)
		}
		err = w.class(all)
		if errors.Is(err, bucket.ErrPermission) {
			err = fmt.Errorf("%w: %w", err, wire.ErrNothing)
		}
		return "", time.Time{}, err
	})
}

// A witness is a client that remembers how its last request ended. The SDK puts
// that into words only.
type witness struct {
	client *http.Client
	mu     sync.Mutex
	status int
	err    error
}

// Do implements the SDK's transport.
func (w *witness) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.client.Do(req)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status, w.err = 0, err
	if err == nil {
		w.status = resp.StatusCode
	}
	return resp, err
}

func (w *witness) class(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil && errors.Is(class(w.err, 0), bucket.ErrUnavailable) {
		return fmt.Errorf("%w: %w", bucket.ErrUnavailable, oneLine{err})
	}
	return class(err, w.status)
}

func azureSources(w *witness) ([]azcore.TokenCredential, error) {
	// The bucket's own patience is enough.
	with := azcore.ClientOptions{Transport: w, Retry: policy.RetryOptions{MaxRetries: -1}}
	// An error says that the environment lacks what these need.
	if c, err := azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: with}); err == nil {
		return []azcore.TokenCredential{c}, nil
	}
	if c, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: with}); err == nil {
		return []azcore.TokenCredential{c}, nil
	}
	az, err := azidentity.NewAzureCLICredential(nil)
	if err != nil {
		return nil, err
	}
	azd, err := azidentity.NewAzureDeveloperCLICredential(nil)
	return []azcore.TokenCredential{az, azd}, err
}
