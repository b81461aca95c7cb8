package swift

import "context"

// Signer returns where the credentials come from that go with the requests, and
// nothing of the credentials themselves. It asks for them when no request has
// yet.
func (b *Bucket) Signer(ctx context.Context) (source string, err error) {
	g, err := b.auth.Get(ctx)
	if err != nil {
		return "", lacking(err)
	}
	return g.Source, nil
}

// CredentialsTo returns the URLs to which passwords, secrets, tokens or signed
// URLs go, as far as they are known: who reads them on the way can use them.
func (b *Bucket) CredentialsTo() []string {
	g := b.auth.Last()
	var to []string
	if g == nil || g.Value.renewable {
		if asked := b.auth.keystone.Load(); b.at.Auth != "" {
			to = append(to, b.at.Auth)
		} else if asked != nil {
			to = append(to, *asked)
		}
	}
	if g != nil {
		to = append(to, g.Value.storage)
	}
	return to
}
