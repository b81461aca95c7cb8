package bucket

import "context"

// An Admin is a bucket whose provider can make it and say how it is set up.
// It is for operators: VMs have no right to either. [As] finds it below
// decorators.
type Admin interface {
	// Create makes the bucket: private, public access blocked, old versions of
	// objects kept, as far as the provider's API can. Its error wraps ErrExists
	// when there is a bucket of that name, which is left as it is.
	Create(ctx context.Context) error

	// Setup asks how the bucket is set up. What may not or cannot be asked is
	// Unknown, with the reason in Notes; only a bucket that is not there or
	// cannot be reached is an error.
	Setup(ctx context.Context) (Setup, error)
}

// A Setup is how a bucket is set up, as far as its provider tells.
type Setup struct {
	Public   Answer   // whether people without credentials can read or list it
	Versions Answer   // whether overwritten and deleted objects are kept
	Region   string   // where it is; "": not known
	Notes    []string // what could not be asked, and why; a sentence each
}

// An Answer is yes, no or not known.
type Answer int

// The answers.
const (
	Unknown Answer = iota
	Yes
	No
)

// A Remote is a bucket behind a network. [As] finds it below decorators.
type Remote interface {
	// Endpoint returns the URL that requests go to, scheme and host at least,
	// and the file of certificates trusted besides the system's ("": none).
	Endpoint() (url, ca string)
}

// As returns b, or the first bucket below it, as a T. A decorator that lets
// what is below it be used has a method Unwrap.
func As[T any](b Bucket) (T, bool) {
	for b != nil {
		if t, ok := b.(T); ok {
			return t, true
		}
		u, ok := b.(interface{ Unwrap() Bucket })
		if !ok {
			break
		}
		b = u.Unwrap()
	}
	var none T
	return none, false
}

// A Caller is a bucket that can ask by which name its own access rules know
// the identity it uses. [As] finds it below decorators.
type Caller interface {
	// CallerID asks. Its error wraps ErrUnsupported where the bucket has no
	// such name.
	CallerID(ctx context.Context) (string, error)
}
