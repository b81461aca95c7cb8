package s3

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
	metadataLimit   = 64 << 10
	metadataDial    = time.Second
	metadataBrief   = 250 * time.Millisecond // to connect, where it is not needed and likely not there
	metadataTimeout = 2 * time.Second        // of one request
	metadataTries   = 2
)

// InstanceRole is the role of the EC2 instance this program runs on, asked of
// the metadata service with a session token (IMDSv2) and never without, never
// through a proxy, with no redirects. endpoint "" is
// AWS_EC2_METADATA_SERVICE_ENDPOINT or the link-local address, unless
// AWS_EC2_METADATA_DISABLED is true.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html
func InstanceRole(endpoint string) Source {
	return instanceRole(endpoint, func() time.Duration { return metadataDial })
}

// instanceRole is InstanceRole with the time that connecting may take.
func instanceRole(endpoint string, patience func() time.Duration) Source {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{Timeout: patience()}).DialContext(ctx, network, addr)
	}
	m := &metadata{endpoint: endpoint, client: &http.Client{
		Timeout:       metadataTimeout,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return Source{name: "instance role", retrieve: m.role, region: m.region}
}

// patience returns how long connecting to the metadata service may take on a
// machine whose /sys is sys: where nothing answers at its address, each start of
// the program would wait for it.
func patience(sys, file string) time.Duration {
	values, err := wire.Credentials(file)
	if err != nil || values["aws_access_key_id"] == "" || isEC2(sys) {
		return metadataDial
	}
	return metadataBrief
}

// isEC2 reports whether the firmware is that of Amazon's hypervisors.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
func isEC2(sys string) bool {
	for _, name := range []string{"sys_vendor", "board_vendor", "bios_vendor", "bios_version"} {
		text, err := os.ReadFile(sys + "/class/dmi/id/" + name)
		if err == nil && strings.Contains(strings.ToLower(string(text)), "amazon") {
			return true
		}
	}
	uuid, err := os.ReadFile(sys + "/hypervisor/uuid")
	return err == nil && strings.HasPrefix(strings.ToLower(string(uuid)), "ec2")
}

type metadata struct {
	endpoint string
	client   *http.Client
}

func (m *metadata) role(ctx context.Context) (Keys, error) {
	const path = "/latest/meta-data/iam/security-credentials/"
	token, err := m.token(ctx)
	if err != nil {
		return Keys{}, err
	}
	names, err := m.ask(ctx, http.MethodGet, path, token)
	if err != nil {
		return Keys{}, err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(names), "\n")
	if name == "" {
		return Keys{}, fmt.Errorf("the instance has no role: %w", wire.ErrNothing)
	}
	body, err := m.ask(ctx, http.MethodGet, path+url.PathEscape(name), token)
	if err != nil {
		return Keys{}, err
	}
	return parseRole(name, body)
}

func parseRole(name, body string) (Keys, error) {
	var answer struct {
		Code, Message, AccessKeyID, SecretAccessKey, Token string
		Expiration                                         time.Time
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return Keys{}, fmt.Errorf("role %.100q: %w", name, err)
	}
	if answer.Code != "Success" || answer.AccessKeyID == "" || answer.SecretAccessKey == "" {
		return Keys{}, fmt.Errorf("role %.100q: code %.100q %.200q", name, answer.Code, answer.Message)
	}
	return Keys{
		AccessKey: answer.AccessKeyID, SecretKey: answer.SecretAccessKey,
		SessionToken: answer.Token, Expires: answer.Expiration,
	}, nil
}

// region returns the region of the instance, "" if it is not told.
func (m *metadata) region(ctx context.Context) (string, error) {
	token, err := m.token(ctx)
	if err != nil {
		return "", err
	}
	region, err := m.ask(ctx, http.MethodGet, "/latest/meta-data/placement/region", token)
	return strings.TrimSpace(region), err
}

func (m *metadata) token(ctx context.Context) (string, error) {
	token, err := m.ask(ctx, http.MethodPut, "/latest/api/token", "")
	if err == nil && (token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
		err = errors.New("the session token is not valid")
	}
	return token, err
}

// ask makes one request, and another when the service is there but busy. An
// answer of the kind 4xx is final: there is no such service, or no role.
func (m *metadata) ask(ctx context.Context, method, path, token string) (string, error) {
	base := m.endpoint
	if base == "" {
		if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
			return "", fmt.Errorf("AWS_EC2_METADATA_DISABLED is true: %w", wire.ErrNothing)
		}
		if base = os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); base == "" {
			base = metadataAddress
		}
	}
	target := strings.TrimSuffix(base, "/") + path
	for try := 1; ; try++ {
		status, body, err := m.do(ctx, method, target, token)
		if err == nil && status == http.StatusOK {
			return body, nil
		}
		if err == nil {
			err = fmt.Errorf("metadata service: %s %s: status %d", method, path, status)
			if status < 500 && status != http.StatusTooManyRequests {
				return "", fmt.Errorf("%w: %w", err, wire.ErrNothing)
			}
			if try < metadataTries && ctx.Err() == nil {
				continue
			}
		}
		return "", err
	}
}

func (m *metadata) do(ctx context.Context, method, target, token string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return 0, "", fmt.Errorf("metadata service: %w", err)
	}
	if method == http.MethodPut {
		req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "300")
	} else {
		req.Header.Set("X-aws-ec2-metadata-token", token)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("metadata service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, metadataLimit))
	if err != nil {
		return 0, "", fmt.Errorf("metadata service: %w", err)
	}
	return resp.StatusCode, string(body), nil
}
