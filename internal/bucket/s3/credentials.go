package s3

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Source is one place where credentials may be. The caller of Open names
// them in the order in which they are tried; nothing else is ever asked.
type Source struct {
	name     string
	retrieve func(ctx context.Context) (Keys, error)
	region   func(ctx context.Context) (string, error) // nil: this place knows no region
	warn     bool                                      // permanent keys on a VM
}

// OperatorSources is the environment, as the AWS tools read it. They never ask a
// metadata service; profiles, roles and single sign-on are for a [KeySource].
func OperatorSources() []Source { return []Source{Environment()} }

// VMSources are the instance's role, then the file, then the environment. A
// machine that has keys and is not one of EC2's does not wait long for the
// metadata service that it may not have.
func VMSources(file string) []Source {
	sources := []Source{instanceRole("", func() time.Duration { return patience("/sys", file) }), StaticFile(file), Environment()}
	sources[1].warn, sources[2].warn = true, true
	return sources
}

// Static is a key pair the caller has; token is "" for a permanent one.
func Static(accessKey, secretKey, token string) Source {
	return Source{name: "static keys", retrieve: func(context.Context) (Keys, error) {
		return Keys{AccessKey: accessKey, SecretKey: secretKey, SessionToken: token}, nil
	}}
}

// Environment is AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
func Environment() Source {
	return Source{name: "environment", retrieve: func(context.Context) (Keys, error) {
		v := Keys{
			AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
		}
		switch {
		case v.AccessKey == "" && v.SecretKey == "":
			return v, fmt.Errorf("AWS_ACCESS_KEY_ID is not set: %w", wire.ErrNothing)
		case v.AccessKey == "" || v.SecretKey == "":
			return v, fmt.Errorf("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: %w", wire.ErrNothing)
		}
		return v, nil
	}}
}

// StaticFile is aws_access_key_id, aws_secret_access_key and aws_session_token
// in a credentials file (see [wire.Credentials]).
func StaticFile(path string) Source {
	return Source{name: "file " + path, retrieve: func(context.Context) (Keys, error) {
		values, err := wire.Credentials(path)
		if err != nil {
			return Keys{}, fmt.Errorf("%w: %w", err, wire.ErrNothing)
		}
		v := Keys{
			AccessKey: values["aws_access_key_id"], SecretKey: values["aws_secret_access_key"], SessionToken: values["aws_session_token"],
		}
		if v.AccessKey == "" || v.SecretKey == "" {
			return v, fmt.Errorf("it has no aws_access_key_id and aws_secret_access_key: %w", wire.ErrNothing)
		}
		return v, nil
	}}
}

// newChain is a chain of the sources.
func newChain(sources []Source, log *slog.Logger) *wire.Chain[Keys] {
	all := make([]wire.Source[Keys], len(sources))
	for i, s := range sources {
		all[i] = wire.Source[Keys]{Name: s.name, Warn: s.warning, Get: func(ctx context.Context) (Keys, time.Time, error) {
			v, err := s.retrieve(ctx)
			return v, v.Expires, err
		}}
	}
	return wire.NewChain(log, all...)
}

func (s Source) warning(v Keys) string {
	if !s.warn || v.SessionToken != "" {
		return ""
	}
	return "this machine uses permanent keys, which stay valid when they leak: give it an instance role where there is one"
}

// Signer returns where the credentials come from that sign the requests, such as
// "environment", and nothing of the credentials themselves. It asks for them
// when no request has yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	if b.at.Anonymous {
		return "nobody: requests are not signed (anonymous=true)", nil
	}
	g, err := b.keys.Get(ctx)
	if err != nil {
		return "", err
	}
	return g.Source, nil
}
