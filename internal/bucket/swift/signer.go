package swift

import (
	"context"
	"time"
)

// An origin is where credentials are from.
type origin struct {
	source string
	auth   string // Keystone as they name it, or ""
}

// noting returns sources that leave a note when they have credentials.
func (b *Bucket) noting(sources []Source) []Source {
	out := make([]Source, len(sources))
	for i, s := range sources {
		find, token := s.find, s.token
		if find != nil {
			s.find = func(ctx context.Context) (values, error) {
				v, err := find(ctx)
				if err == nil {
					auth, _ := keystoneURL(v["os_auth_url"])
					b.from.Store(&origin{s.name, auth})
				}
				return v, err
			}
		}
		if token != nil {
			s.token = func(ctx context.Context) (string, string, time.Time, error) {
				text, storage, ends, err := token(ctx)
				if err == nil {
					b.from.Store(&origin{s.name, ""})
				}
				return text, storage, ends, err
			}
		}
		out[i] = s
	}
	return out
}

// Signer returns where the credentials come from that go with the requests, and
// nothing of the credentials themselves. It asks for them when no request has
// yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	if _, err := b.auth.get(ctx, nil); err != nil {
		return "", lacking(err)
	}
	if from := b.from.Load(); from != nil {
		source = from.source
	}
	return source, nil
}

// CredentialsTo returns the URLs to which passwords, secrets, tokens or signed
// URLs go, as far as they are known: who reads them on the way can use them.
func (b *Bucket) CredentialsTo() []string {
	g, from := b.auth.last.Load(), b.from.Load()
	var to []string
	add := func(url string) {
		if url != "" {
			to = append(to, url)
		}
	}
	if g == nil || g.temp == nil && g.renewable {
		add(b.at.Auth)
		if b.at.Auth == "" && from != nil {
			add(from.auth)
		}
	}
	if g != nil {
		add(g.storage)
	}
	return to
}
