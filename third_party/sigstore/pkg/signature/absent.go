package signature

import (
	"crypto"
	"errors"
)

// AlgorithmDetails would describe an algorithm of Sigstore's registry. This copy
// has no registry: see the README at the root of this module.
type AlgorithmDetails struct{}

var errNoRegistry = errors.New("this copy of sigstore has no registry of algorithms")

// GetDefaultAlgorithmDetails fails.
func GetDefaultAlgorithmDetails(crypto.PublicKey, ...LoadOption) (AlgorithmDetails, error) {
	return AlgorithmDetails{}, errNoRegistry
}

// GetOptsFromAlgorithmDetails returns opts.
func GetOptsFromAlgorithmDetails(_ AlgorithmDetails, opts ...LoadOption) []LoadOption { return opts }
