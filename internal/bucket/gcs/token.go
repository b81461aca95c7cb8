package gcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
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

// ErrNothing is wrapped by the error of a source that has no credentials, and
// would have none if it were asked again now.
var ErrNothing = errors.New("nothing there")

// TokenSource is any other place. get is called when there is no token, or when
// the last one is about to end; its error wraps [ErrNothing] where that is so.
func TokenSource(name string, get func(ctx context.Context) (Token, error)) Source {
	return Source{name: name, token: func(ctx context.Context, _ *http.Client) (Token, error) { return get(ctx) }}
}

// Static is a token the caller has.
func Static(token string) Source {
	return TokenSource("given token", func(context.Context) (Token, error) { return Token{Value: token}, nil })
}

// tokens asks the sources in their order and remembers the first answer until
// shortly before it ends.
type tokens struct {
	sources []Source
	client  *http.Client
	log     *slog.Logger
	now     func() time.Time

	turn    chan struct{} // whoever has put in its one element has the fields below
	token   Token
	source  string    // name of where token is from
	refresh time.Time // when to ask again; zero with a token: never
	warned  bool
}

func newTokens(sources []Source, client *http.Client, log *slog.Logger) *tokens {
	return &tokens{sources: sources, client: client, log: log, turn: make(chan struct{}, 1),
		// Without its monotonic part: that one stands still while a VM is suspended.
		now: func() time.Time { return time.Now().Round(0) }}
}

const (
	earlier = 5 * time.Minute // a token is replaced this long before it ends
	soon    = time.Minute     // until the next try, when that did not work
)

// get returns a token for one request.
func (t *tokens) get(ctx context.Context) (string, error) {
	token, _, err := t.named(ctx)
	return token, err
}

// named returns also where the token is from.
func (t *tokens) named(ctx context.Context) (token, source string, err error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	now := t.now()
	if t.token.Value != "" && (t.refresh.IsZero() || now.Before(t.refresh)) {
		return t.token.Value, t.source, nil
	}
	fresh, err := t.ask(ctx)
	if err != nil {
		if t.token.Value != "" && now.Before(t.token.Expires) {
			t.refresh = now.Add(soon)
			return t.token.Value, t.source, nil
		}
		return "", "", err
	}
	t.token, t.refresh = fresh, time.Time{}
	if !fresh.Expires.IsZero() {
		left := fresh.Expires.Sub(now)
		t.refresh = now.Add(max(left-earlier, left*4/5, time.Second))
	}
	return fresh.Value, t.source, nil
}

// forget drops a token that the server refused, so that the next get asks for
// another. It reports whether another may exist.
func (t *tokens) forget(value string) bool {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	if t.token.Value == value {
		again := !t.token.Expires.IsZero()
		t.token, t.refresh = Token{}, time.Time{}
		return again
	}
	return true
}

// ask returns the first token found, or what each source said.
func (t *tokens) ask(ctx context.Context) (Token, error) {
	sentinel := bucket.ErrPermission
	var said []string
	for _, s := range t.sources {
		token, err := s.token(ctx, t.client)
		if err == nil {
			err = t.check(token)
		}
		if err == nil {
			t.source = s.name
			if s.key && !t.warned {
				t.warned = true
				t.log.WarnContext(ctx, "using a permanent key; the service account of the VM would need none", "source", s.name)
			}
			return token, nil
		}
		if !errors.Is(err, ErrNothing) && !errors.Is(err, bucket.ErrPermission) {
			sentinel = bucket.ErrUnavailable
		}
		said = append(said, s.name+": "+strings.TrimSuffix(err.Error(), ": "+ErrNothing.Error()))
	}
	return Token{}, fmt.Errorf("%w: no credentials found (%s)", sentinel, strings.Join(said, "; "))
}

func (t *tokens) check(token Token) error {
	if token.Value == "" || strings.ContainsFunc(token.Value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("it gave no valid token")
	}
	if !token.Expires.IsZero() && !t.now().Before(token.Expires) {
		return fmt.Errorf("the token expired at %s", token.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}
