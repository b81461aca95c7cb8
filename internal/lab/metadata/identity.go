package metadata

import (
	"slices"
	"time"
)

// Identity is an identity that the VM has for other services of its cloud.
type Identity struct {
	// Azure. System is the one that belongs to the VM itself; a VM has one
	// such at most, and any number of those that are assigned to it.
	System     bool
	ClientID   string
	ObjectID   string
	ResourceID string // "/subscriptions/…/userAssignedIdentities/name"

	// Google Compute Engine. The first identity is the default one.
	Email  string
	Scopes []string
}

// Token is a bearer token that a store accepts until Expires.
type Token struct {
	Value   string
	Expires time.Time
}

// TokenFunc makes the token of an identity. For Azure, audience is the one
// resource it is asked for; for Google Compute Engine, the scopes. An error
// says that the identity gets no such token. It is called at each request.
type TokenFunc func(id Identity, audience []string) (Token, error)

// SetIdentities sets the VM's identities and what they get, from now on.
func (s *Service) SetIdentities(bearer TokenFunc, ids ...Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bearer, s.identities = bearer, slices.Clone(ids)
}

func (s *Service) identity() (TokenFunc, []Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bearer, s.identities
}
