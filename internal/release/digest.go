package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrDigest reports text that is not a digest.
var ErrDigest = errors.New("not a sha256 digest")

// A Digest is the SHA-256 of some content. It is comparable; the zero Digest
// stands for "none". Its only spelling is "sha256:" and 64 lower-case
// hexadecimal digits.
type Digest struct{ sum [sha256.Size]byte }

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return Digest{sha256.Sum256(b)} }

// DigestFromSum wraps a finished SHA-256 sum.
func DigestFromSum(sum [sha256.Size]byte) Digest { return Digest{sum} }

// ParseDigest reads the one spelling of a digest. Its error wraps [ErrDigest].
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 2*sha256.Size || h != strings.ToLower(h) {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w", s, ErrDigest)
	}
	b, err := hex.DecodeString(h)
	if err != nil {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w", s, ErrDigest)
	}
	return Digest{[sha256.Size]byte(b)}, nil
}

// String returns the one spelling of d; the zero Digest is "".
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return "sha256:" + d.Hex()
}

// Hex returns the bare 64 hexadecimal digits, as used in object names.
func (d Digest) Hex() string { return hex.EncodeToString(d.sum[:]) }

// Short returns the first twelve digits, for people.
func (d Digest) Short() string { return d.Hex()[:12] }

// Sum returns the bare sum.
func (d Digest) Sum() [sha256.Size]byte { return d.sum }

// IsZero reports whether d is the zero Digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; "" is the zero Digest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	p, err := ParseDigest(string(b))
	*d = p
	return err
}
