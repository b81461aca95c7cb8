package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Source is one place where credentials may be. The caller of Open names
// them in the order in which they are tried; nothing else is ever asked.
type Source struct {
	name     string
	retrieve func(ctx context.Context) (credentials.Value, error)
	region   func(ctx context.Context) (string, error) // nil: this place knows no region
	identity bool                                      // of the machine, which needs no keys
}

// OperatorSources is the environment, as the AWS tools read it. They never ask a
// metadata service; profiles, roles and single sign-on are for a [KeySource].
func OperatorSources() []Source { return []Source{Environment()} }

// VMSources are the instance's role, then the file, then the environment. A
// machine that has keys and is not one of EC2's does not wait long for the
// metadata service that it may not have.
func VMSources(file string) []Source {
	return []Source{instanceRole("", func() time.Duration { return patience("/sys", file) }), StaticFile(file), Environment()}
}

// errNothing says that a source has no credentials, and that another try now
// would find none either.
var errNothing = errors.New("nothing there")

// Static is a key pair the caller has; token is "" for a permanent one.
func Static(accessKey, secretKey, token string) Source {
	return Source{name: "static keys", retrieve: func(context.Context) (credentials.Value, error) {
		return credentials.Value{AccessKeyID: accessKey, SecretAccessKey: secretKey, SessionToken: token}, nil
	}}
}

// Environment is AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
func Environment() Source {
	return Source{name: "environment", retrieve: func(context.Context) (credentials.Value, error) {
		v := credentials.Value{
			AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
		}
		switch {
		case v.AccessKeyID == "" && v.SecretAccessKey == "":
			return v, fmt.Errorf("AWS_ACCESS_KEY_ID is not set: %w", errNothing)
		case v.AccessKeyID == "" || v.SecretAccessKey == "":
			return v, fmt.Errorf("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: %w", errNothing)
		}
		return v, nil
	}}
}

// StaticFile is aws_access_key_id, aws_secret_access_key and aws_session_token
// in a credentials file (see [wire.Credentials]).
func StaticFile(path string) Source {
	return Source{name: "file " + path, retrieve: func(context.Context) (credentials.Value, error) {
		values, err := wire.Credentials(path)
		if err != nil {
			return credentials.Value{}, fmt.Errorf("%w: %w", err, errNothing)
		}
		v := credentials.Value{
			AccessKeyID: values["aws_access_key_id"], SecretAccessKey: values["aws_secret_access_key"], SessionToken: values["aws_session_token"],
		}
		if v.AccessKeyID == "" || v.SecretAccessKey == "" {
			return v, fmt.Errorf("it has no aws_access_key_id and aws_secret_access_key: %w", errNothing)
		}
		return v, nil
	}}
}

// chain asks the sources in their order and remembers the first answer until
// shortly before it expires.
type chain struct {
	sources []Source
	now     func() time.Time
	log     *slog.Logger // nil: nowhere
	warn    sync.Once

	mu      sync.Mutex
	value   credentials.Value
	refresh time.Time // when to ask again; zero with a value: never
	source  string    // name of where value is from
}

const (
	earlier = 5 * time.Minute // a temporary key is replaced this long before it ends
	soon    = time.Minute     // until the next try, when that did not work
)

func (c *chain) IsExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value.AccessKeyID == "" || !c.refresh.IsZero() && !c.now().Before(c.refresh)
}

func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	v, err := c.ask(ctx)
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if c.value.AccessKeyID != "" && now.Before(c.value.Expiration) {
			c.refresh = now.Add(soon)
			return c.value, nil
		}
		return v, err
	}
	v.SignerType = credentials.SignatureV4
	c.value, c.refresh = v, time.Time{}
	if !v.Expiration.IsZero() {
		left := v.Expiration.Sub(now)
		c.refresh = now.Add(max(left-earlier, left*4/5, soon/60))
	}
	return v, nil
}

// ask returns the first credentials found, or what each source said.
func (c *chain) ask(ctx context.Context) (credentials.Value, error) {
	sentinel := bucket.ErrPermission
	var said []string
	for _, s := range c.sources {
		v, err := s.retrieve(ctx)
		if err == nil && !v.Expiration.IsZero() && !c.now().Before(v.Expiration) {
			err = fmt.Errorf("the credentials expired at %s", v.Expiration.Format(time.RFC3339))
		}
		if err == nil {
			c.note(ctx, s, v)
			c.mu.Lock()
			c.source = s.name
			c.mu.Unlock()
			return v, nil
		}
		if !errors.Is(err, errNothing) {
			sentinel = bucket.ErrUnavailable
		}
		said = append(said, s.name+": "+strings.TrimSuffix(err.Error(), ": "+errNothing.Error()))
	}
	return credentials.Value{}, fmt.Errorf("%w: no credentials found (%s)", sentinel, strings.Join(said, "; "))
}

// Signer returns where the credentials come from that sign the requests, such as
// "environment", and nothing of the credentials themselves. It asks for them
// when no request has yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	if b.at.Anonymous {
		return "nobody: requests are not signed (anonymous=true)", nil
	}
	if _, err := b.creds.GetWithContext(&credentials.CredContext{Context: ctx}); err != nil {
		return "", err
	}
	b.chain.mu.Lock()
	defer b.chain.mu.Unlock()
	return b.chain.source, nil
}

// note warns once of permanent keys where the machine's own identity was asked
// for first.
func (c *chain) note(ctx context.Context, s Source, v credentials.Value) {
	if c.log == nil || s.identity || v.SessionToken != "" || !slices.ContainsFunc(c.sources, func(s Source) bool { return s.identity }) {
		return
	}
	c.warn.Do(func() {
		c.log.WarnContext(ctx, "this machine uses permanent keys, which stay valid when they leak: give it an instance role where there is one",
			"bucket", "s3", "keys", s.name)
	})
}
