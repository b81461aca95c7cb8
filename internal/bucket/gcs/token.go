package gcs

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A Token is what requests are authorized with.
type Token struct {
	Value   string    // of the header "Authorization: Bearer VALUE"
	Expires time.Time // zero: not known, as of a token that the user gave
}

// A Source is one place where credentials may be. The caller of Open names
// them in the order in which they are tried; nothing else is ever asked.
type Source struct {
	name  string
	key   bool // a permanent key: using it is worth a warning
	token func(ctx context.Context, client *http.Client) (Token, error)
}

// TokenSource is any other place. get is called when there is no token, or when
// the last one is about to end; its error wraps [wire.ErrNothing] where that is so.
func TokenSource(name string, get func(ctx context.Context) (Token, error)) Source {
	return Source{name: name, token: func(ctx context.Context, _ *http.Client) (Token, error) { return get(ctx) }}
}

// Static is a token the caller has.
func Static(token string) Source {
	return TokenSource("given token", func(context.Context) (Token, error) { return Token{Value: token}, nil })
}

// chain of the sources, with which their requests are made through client.
func newChain(sources []Source, client *http.Client, log *slog.Logger) *wire.Chain[string] {
	all := make([]wire.Source[string], len(sources))
	for i, s := range sources {
		all[i] = wire.Source[string]{Name: s.name, Warn: s.warn, Get: func(ctx context.Context) (string, time.Time, error) {
			token, err := s.token(ctx, client)
			if err == nil && (token.Value == "" || strings.ContainsFunc(token.Value, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
				err = errors.New("it gave no valid token")
			}
			return token.Value, token.Expires, err
		}}
	}
	return wire.NewChain(log, all...)
}

func (s Source) warn(string) string {
	if !s.key {
		return ""
	}
	return "using a permanent key; the service account of the VM would need none"
}
