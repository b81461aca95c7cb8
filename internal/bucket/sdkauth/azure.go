package sdkauth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/azblob"
)

// Azure is a service principal in the environment (AZURE_TENANT_ID,
// AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH),
// else a workload's federated identity there, else the login of `az` or `azd`.
// What the environment names counts, good or not.
func Azure() azblob.Source {
	return azblob.TokenSource("Azure SDK", func(ctx context.Context) (string, time.Time, error) {
		sources, err := azureSources()
		if err != nil {
			return "", time.Time{}, fmt.Errorf("%w: %w", oneLine{err}, azblob.ErrNone)
		}
		var all error
		status := 0
		for _, s := range sources {
			token, err := s.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azblob.Scope}})
			if err == nil {
				return token.Token, token.ExpiresOn, nil
			}
			all = errors.Join(all, err)
			var failed *azidentity.AuthenticationFailedError
			if errors.As(err, &failed) && failed.RawResponse != nil {
				status = failed.RawResponse.StatusCode
			}
		}
		err = class(all, status)
		if errors.Is(err, bucket.ErrPermission) {
			err = fmt.Errorf("%w: %w", err, azblob.ErrNone)
		}
		return "", time.Time{}, err
	})
}

func azureSources() ([]azcore.TokenCredential, error) {
	client, err := guarded()
	if err != nil {
		return nil, err
	}
	with := azcore.ClientOptions{Transport: client}
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
