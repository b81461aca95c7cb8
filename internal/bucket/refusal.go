package bucket

import "errors"

// The causes of a refusal, where a server or a provider knows them. Each is an
// [ErrPermission] as well, and reads like it: the words beside it say more. A
// right that is missing is ErrPermission without any of them.
var (
	ErrCredentials error = &refusal{"ErrCredentials"} // the server does not accept them: wrong, or ended where it does not tell
	ErrExpired     error = &refusal{"ErrExpired"}     // they were good once
	ErrClock       error = &refusal{"ErrClock"}       // this machine's clock is too far from the server's
	ErrRegion      error = &refusal{"ErrRegion"}      // the bucket is in another region: see [RegionError]
)

// ErrNoCredentials goes with ErrPermission when no source has credentials, and
// with ErrUnavailable when none has and one could not be asked.
var ErrNoCredentials = errors.New("no credentials")

type refusal struct{ name string }

func (*refusal) Error() string      { return ErrPermission.Error() }
func (*refusal) Unwrap() error      { return ErrPermission }
func (r *refusal) GoString() string { return "bucket." + r.name }

// A RegionError is an [ErrRegion] of a server that told where the bucket is.
type RegionError struct{ Region string }

func (*RegionError) Error() string { return ErrPermission.Error() }

// Unwrap returns [ErrRegion].
func (*RegionError) Unwrap() error { return ErrRegion }

// Causes are those of a refusal.
func Causes() []error {
	return []error{ErrCredentials, ErrExpired, ErrClock, ErrRegion, ErrNoCredentials}
}

// Refused reports whether err is a refusal for want of a right alone.
func Refused(err error) bool {
	if !errors.Is(err, ErrPermission) {
		return false
	}
	for _, c := range Causes() {
		if errors.Is(err, c) {
			return false
		}
	}
	return true
}

// Because returns err, word for word, with a cause beside those it has.
func Because(err, cause error) error { return &because{err, cause} }

type because struct{ err, cause error }

func (b *because) Error() string   { return b.err.Error() }
func (b *because) Unwrap() []error { return []error{b.err, b.cause} }
