package swift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A session gives each request its credentials. It remembers a token until
// shortly before it ends. It is safe for concurrent use.
type session struct {
	at      Location
	sources []Source
	send    http.RoundTripper
	log     *slog.Logger
	now     func() time.Time
	young   time.Duration // how long a token that was new cannot have ended

	turn chan struct{} // held while a token is asked for
	last atomic.Pointer[grant]

	skew      atomic.Int64 // nanoseconds this clock is ahead of Swift's
	temporary atomic.Bool  // requests are signed as temporary URLs
	readOnly  atomic.Bool
	warned    bool // guarded by turn
}

// A grant is what lets requests through. It does not change.
type grant struct {
	storage   string // URL of the account, without a slash at its end
	region    string // of storage; "": not known
	token     string
	temp      *tempURL // instead of token
	renewable bool
	born      time.Time
	renew     time.Time // when to ask again; zero: never
	ends      time.Time // zero: not known
}

const (
	earlier = 5 * time.Minute // a token is replaced this long before it ends
	soon    = time.Minute     // until the next try, when that did not work
)

func newSession(at Location, o Options, send http.RoundTripper) *session {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &session{at: at, sources: o.Sources, send: send, log: log, now: time.Now, young: time.Minute, turn: make(chan struct{}, 1)}
}

// get returns a grant in force that is not bad (nil: none is).
func (s *session) get(ctx context.Context, bad *grant) (*grant, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if g := s.last.Load(); g != nil && g != bad && !g.due(s.now()) {
		return g, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	old := s.last.Load()
	if old != nil && old != bad && !old.due(s.now()) {
		return old, nil
	}
	g, err := s.ask(ctx)
	if err != nil {
		if old == nil || old == bad || !s.now().Before(old.ends) {
			return nil, err
		}
		still := *old
		still.renew = s.now().Add(soon)
		g = &still
	}
	s.temporary.Store(g.temp != nil)
	s.readOnly.Store(g.temp != nil && g.temp.key == nil)
	s.last.Store(g)
	return g, nil
}

func (g *grant) due(now time.Time) bool { return !g.renew.IsZero() && !now.Before(g.renew) }

// lives sets the times of a grant that lives this long.
func (g *grant) lives(d time.Duration) {
	g.ends = g.born.Add(d)
	g.renew = g.born.Add(max(d-earlier, d*4/5, soon/60))
}

// mayHaveEnded reports whether a request that the credentials did not count for
// is worth another with a new token.
func (s *session) mayHaveEnded(g *grant) bool {
	return g.renewable && s.now().Sub(g.born) >= s.young
}

// saw remembers how far the server's clock is.
func (s *session) saw(date string) {
	if t, err := http.ParseTime(date); err == nil {
		s.skew.Store(int64(time.Since(t)))
	}
}

// ask makes a grant of the first credentials found, or says what each source
// said.
func (s *session) ask(ctx context.Context) (*grant, error) {
	sentinel := bucket.ErrPermission
	var said []string
	for _, src := range s.sources {
		if src.token != nil {
			g, err := s.fromFunc(ctx, src)
			if err == nil || !errors.Is(err, errNothing) {
				return g, err
			}
			said = append(said, src.name+": "+err.Error())
			continue
		}
		v, err := src.find(ctx)
		if err == nil {
			s.warn(src, v)
			g, err := s.exchange(ctx, v)
			if err != nil {
				return nil, fmt.Errorf("credentials of %s: %w", src.name, err)
			}
			return g, nil
		}
		if done := ctx.Err(); done != nil {
			return nil, done
		}
		if !errors.Is(err, errNothing) {
			sentinel = bucket.ErrUnavailable
		}
		said = append(said, src.name+": "+strings.TrimSuffix(err.Error(), ": "+errNothing.Error()))
	}
	return nil, fmt.Errorf("%w: no credentials found (%s)", sentinel, strings.Join(said, "; "))
}

// warn tells once that a VM has more than it needs.
func (s *session) warn(src Source, v values) {
	k := v.kind()
	if !src.vm || s.warned || k != kindPassword && k != kindTempKey {
		return
	}
	s.warned = true
	what := "a user's password"
	if k == kindTempKey {
		what = "the account's key for temporary URLs"
	}
	s.log.Warn("this VM holds "+what+"; an application credential with access rules can do less harm", "source", src.name)
}

func (s *session) fromFunc(ctx context.Context, src Source) (*grant, error) {
	g := &grant{born: s.now(), renewable: true}
	token, storage, expires, err := src.token(ctx)
	if err != nil {
		if done := ctx.Err(); done != nil {
			return nil, done
		}
		return nil, fmt.Errorf("%w: credentials of %s: %w", bucket.ErrPermission, src.name, err)
	}
	if s.at.Storage != "" {
		storage = s.at.Storage
	}
	if g.storage, err = accountURL(storage); err != nil {
		return nil, fmt.Errorf("credentials of %s: storage: %w", src.name, err)
	}
	g.token, g.region = token, s.at.Region
	if !expires.IsZero() {
		g.lives(expires.Sub(g.born))
	}
	return g, nil
}

// exchange makes a grant of settings.
func (s *session) exchange(ctx context.Context, v values) (*grant, error) {
	switch v.kind() {
	case kindAppCredential, kindPassword:
		return s.login(ctx, v)
	case kindToken:
		storage, err := accountURL(s.storage(v))
		if err != nil {
			return nil, fmt.Errorf("os_storage_url: %w", err)
		}
		return &grant{storage: storage, region: s.at.Region, token: v["os_auth_token"], born: s.now()}, nil
	}
	temp, err := newTempURL(v, s.now)
	if err != nil {
		return nil, err
	}
	if s.storage(v) == "" {
		return nil, fmt.Errorf("%w: temporary URLs need the account's URL: add storage=https://HOST/v1/AUTH_ID to the bucket's", bucket.ErrPermission)
	}
	storage, err := accountURL(s.storage(v))
	if err != nil {
		return nil, fmt.Errorf("os_storage_url: %w", err)
	}
	return &grant{storage: storage, region: s.at.Region, temp: temp, born: s.now()}, nil
}

func (s *session) storage(v values) string {
	if s.at.Storage != "" {
		return s.at.Storage
	}
	return v["os_storage_url"]
}
