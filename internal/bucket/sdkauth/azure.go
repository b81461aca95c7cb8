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
// AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH), a
// workload's federated identity, and the logins of `az` and `azd`; the first
// that is there.
func Azure() azblob.Source {
	return azblob.TokenSource("Azure SDK", func(ctx context.Context) (string, time.Time, error) {
		chain, err := azureChain()
		if err != nil {
			return "", time.Time{}, fmt.Errorf("%w: %w", oneLine{err}, azblob.ErrNone)
		}
		token, err := chain.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azblob.Scope}})
		if err == nil {
			return token.Token, token.ExpiresOn, nil
		}
		status := 0
		var failed *azidentity.AuthenticationFailedError
		if errors.As(err, &failed) && failed.RawResponse != nil {
			status = failed.RawResponse.StatusCode
		}
		err = class(err, status)
		if errors.Is(err, bucket.ErrPermission) {
			err = fmt.Errorf("%w: %w", err, azblob.ErrNone)
		}
		return "", time.Time{}, err
	})
}

func azureChain() (azcore.TokenCredential, error) {
	client, err := guarded()
	if err != nil {
		return nil, err
	}
	with := azcore.ClientOptions{Transport: client}
	var sources []azcore.TokenCredential
	add := func(c azcore.TokenCredential, err error) {
		if err == nil { // else the environment does not have what it needs
			sources = append(sources, c)
		}
	}
	env, err := azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: with})
	add(env, err)
	workload, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: with})
	add(workload, err)
	az, err := azidentity.NewAzureCLICredential(nil)
	add(az, err)
	azd, err := azidentity.NewAzureDeveloperCLICredential(nil)
	add(azd, err)
	return azidentity.NewChainedTokenCredential(sources, nil)
}
