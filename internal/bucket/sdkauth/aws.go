package sdkauth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// AWS is the chain of the AWS SDK: environment, the profile of AWS_PROFILE or
// default with all it may name (keys, roles, single sign-on, `aws login`, web
// identity, processes), and the role of a container that the environment names.
// A role that needs a code asks for it on the terminal.
func AWS() s3.Source {
	return s3.KeySource("AWS SDK", func(ctx context.Context) (s3.Keys, error) {
		cfg, err := awsConfig(ctx)
		if err != nil {
			return s3.Keys{}, class(err, 0)
		}
		v, err := cfg.Credentials.Retrieve(ctx)
		if err != nil && strings.Contains(err.Error(), "access disabled to EC2 IMDS") {
			// The chain ends where only the metadata service is left.
			err = errors.New("no profile with keys, a role or a login in ~/.aws")
		}
		if err != nil {
			return s3.Keys{}, class(err, awsStatus(err))
		}
		k := s3.Keys{AccessKey: v.AccessKeyID, SecretKey: v.SecretAccessKey, SessionToken: v.SessionToken}
		if v.CanExpire {
			k.Expires = v.Expires
		}
		return k, nil
	}, func(ctx context.Context) (string, error) {
		cfg, err := awsConfig(ctx)
		return cfg.Region, err
	})
}

// awsConfig reads the files anew: a login may have changed them.
func awsConfig(ctx context.Context) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.Control = guard }).
		WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	return config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(client),
		config.WithEC2IMDSClientEnableState(imds.ClientDisabled),
		config.WithDefaultsMode(aws.DefaultsModeStandard), // the mode auto asks the metadata service
		config.WithDefaultRegion("us-east-1"),
		config.WithAssumeRoleCredentialOptions(func(o *stscreds.AssumeRoleOptions) {
			o.TokenProvider = askCode
		}),
	)
}

func awsStatus(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		return resp.HTTPStatusCode()
	}
	return 0
}

// askCode asks for the code of a second factor where somebody can be asked,
// whatever stdin and stdout are.
func askCode() (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("the role needs a code (mfa_serial), and there is no terminal to ask on: %w", err)
	}
	defer tty.Close()
	fmt.Fprint(tty, "AWS MFA code: ")
	code, err := bufio.NewReader(tty).ReadString('\n')
	return strings.TrimSpace(code), err
}
