package swift

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A session gives each request its credentials. It is safe for concurrent use.
type session struct {
	*wire.Chain[*grant]
	at   Location
	send http.RoundTripper
	now  func() time.Time

	keystone  atomic.Pointer[string] // URL of the one that was asked; nil: none yet
	skew      atomic.Int64           // nanoseconds this clock is ahead of Swift's
	temporary atomic.Bool            // requests are signed as temporary URLs
	readOnly  atomic.Bool
}

// A grant is what lets requests through. It does not change.
type grant struct {
	storage   string // URL of the account, without a slash at its end
	region    string // of storage; "": not known
	token     string
	temp      *tempURL  // instead of token
	renewable bool      // Keystone gave it
	ends      time.Time // zero: not known
}

func newSession(at Location, o Options, send http.RoundTripper) *session {
	s := &session{at: at, send: send, now: time.Now}
	all := make([]wire.Source[*grant], len(o.Sources))
	for i, src := range o.Sources {
		var k kind
		all[i] = wire.Source[*grant]{
			Name: src.name,
			Get: func(ctx context.Context) (*grant, time.Time, error) {
				v, err := src.find(ctx)
				if err != nil {
					return nil, time.Time{}, err
				}
				k = v.kind()
				g, err := s.exchange(ctx, v)
				if err != nil {
					return nil, time.Time{}, wire.Found(err)
				}
				s.temporary.Store(g.temp != nil)
				s.readOnly.Store(g.temp != nil && g.temp.key == nil)
				return g, g.ends, nil
			},
			Warn: func(*grant) string { return src.warning(k) },
		}
	}
	s.Chain = wire.NewChain(o.Logger, all...)
	return s
}

// warning is for a VM that has more than it needs.
func (src Source) warning(k kind) string {
	what := map[kind]string{kindPassword: "a user's password", kindTempKey: "the account's key for temporary URLs"}[k]
	if !src.vm || what == "" {
		return ""
	}
	return "this VM holds " + what + "; an application credential with access rules can do less harm"
}

// saw remembers how far the server's clock is.
func (s *session) saw(date string) {
	if t, err := http.ParseTime(date); err == nil {
		s.skew.Store(int64(time.Since(t)))
	}
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
		return &grant{storage: storage, region: s.at.Region, token: v["os_auth_token"]}, nil
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
	return &grant{storage: storage, region: s.at.Region, temp: temp}, nil
}

func (s *session) storage(v values) string {
	if s.at.Storage != "" {
		return s.at.Storage
	}
	return v["os_storage_url"]
}
