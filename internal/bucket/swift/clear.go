package swift

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// A clear transport warns once when a token, or the secret for one, goes over
// http: to Keystone, or to where its catalog says that the storage is. Clouds
// inside of a company are so.
type clear struct {
	next http.RoundTripper
	log  *slog.Logger
	at   Location
	once *sync.Once
}

func newClear(at Location, o Options, next http.RoundTripper) http.RoundTripper {
	if o.Logger == nil {
		return next
	}
	return clear{next, o.Logger, at, new(sync.Once)}
}

// RoundTrip implements [http.RoundTripper].
func (c clear) RoundTrip(req *http.Request) (*http.Response, error) {
	secret := req.Header.Get("X-Auth-Token") != "" || strings.HasSuffix(req.URL.Path, "/auth/tokens")
	if secret && !wire.Private(req.URL.String()) {
		c.once.Do(func() {
			c.log.Warn("tokens go to this bucket over http, for everybody on the way to read", "bucket", c.at.String(), "server", req.URL.Host)
		})
	}
	return c.next.RoundTrip(req)
}
