package trust

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A Key is one ed25519 key. Private is nil for a public key only.
type Key struct {
	Name    string // file name without extension, such as "ops"
	Public  ed25519.PublicKey
	Private ed25519.PrivateKey
}

// Fingerprint returns "SHA256:" and the base64 of the public key's SHA-256,
// as ssh-keygen shows keys.
func (k Key) Fingerprint() string { return "" }

// A Passphrase is asked for the key file called name. It is called only for
// files that are encrypted, and by NewKey.
type Passphrase func(name string) ([]byte, error)

// NewKey makes a key and writes dir/name.key (mode 0600, create only;
// encrypted unless the passphrase is empty) and dir/name.pub.
func NewKey(dir, name string, p Passphrase) (Key, error) { return Key{}, errors.ErrUnsupported }

// LoadKey reads dir/name.key. Errors wrap ErrKey and name the file and remedy.
func LoadKey(dir, name string, p Passphrase) (Key, error) { return Key{}, errors.ErrUnsupported }

// Keys are the signing keys of a solo project: Ops signs root, targets,
// releases and channels, Online signs snapshot and timestamp.
type Keys struct {
	Ops, Online Key
}

// Lifetimes of signed metadata.
const (
	DefaultLifetime = 90 * 24 * time.Hour  // timestamp, snapshot, releases, channels
	RootLifetime    = 365 * 24 * time.Hour // root and targets
)

// Init writes the metadata of a new, empty project to b and returns the
// anchor. It is create-only: ErrInit when there is a project already.
func Init(ctx context.Context, b bucket.Bucket, k Keys, now time.Time, life time.Duration) (release.Digest, error) {
	return release.Digest{}, errors.ErrUnsupported
}

// A Publisher signs changes to a project's targets.
type Publisher struct {
	Client *Client // verifies what is there before anything is signed on top of it
	Keys   Keys
	Life   time.Duration // 0: DefaultLifetime
	Now    func() time.Time
	Log    *slog.Logger
}

// A Change is what one commit does to the targets. Blobs are the content of
// the targets by name (releases/…json, channels/…json); Remove names targets
// that no longer count.
type Change struct {
	Blobs  map[string][]byte
	Remove []string
}

// Lock takes the publishers' lock object locks/publish (create-only, with
// owner and expiry; an expired one is taken over with IfMatch) and returns its
// release. ErrLocked names the holder. The lock only spares work: Commit is
// safe without it where the bucket has IfMatch.
func (p *Publisher) Lock(ctx context.Context, owner string, ttl time.Duration) (unlock func(context.Context) error, err error) {
	return nil, errors.ErrUnsupported
}

// View returns the verified present state to build a Change on.
func (p *Publisher) View(ctx context.Context) (*View, error) { return nil, errors.ErrUnsupported }

// Commit makes c visible at once and whole, on top of base: it writes the
// target blobs, the delegated metadata, the snapshot (each create-only) and
// then timestamp.json with IfMatch, which is the commit. ErrConflict when
// base is no longer the present state; nothing is visible then, and the
// caller builds its change again on a fresh View.
func (p *Publisher) Commit(ctx context.Context, base *View, c Change) (*View, error) {
	return nil, errors.ErrUnsupported
}

// Resign renews the expiry of the metadata these keys sign, without a change.
func (p *Publisher) Resign(ctx context.Context) (*View, error) { return nil, errors.ErrUnsupported }
