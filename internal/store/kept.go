package store

import (
	"os"
	"path/filepath"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// A kept holds manifests and channels of the last releases in a folder of the
// operator's machine, each under its digest. Nothing there is trusted: what is
// read is measured by what is signed. Without a folder it holds nothing.
type kept struct{ cache string }

func (k kept) folder() string { return filepath.Join(k.cache, "signed") }

// get returns the content of a target, or nil.
func (k kept) get(t trust.Target) []byte {
	if k.cache == "" {
		return nil
	}
	b, err := readAtMost(filepath.Join(k.folder(), t.Digest.Hex()), t.Size)
	if err != nil || release.DigestOf(b) != t.Digest {
		return nil
	}
	return b
}

// put keeps b, whose digest is d, if that can be done.
func (k kept) put(d release.Digest, b []byte) {
	if k.cache != "" {
		replaceFile(filepath.Join(k.folder(), d.Hex()), b)
	}
}

// prune removes all but the channels of v and its newest releases.
func (k kept) prune(v *trust.View) {
	if k.cache == "" {
		return
	}
	wanted := map[string]bool{}
	releases := listed(v)
	for _, t := range append(releases[:min(len(releases), recentKnown)], v.Targets("channels/")...) {
		wanted[t.Digest.Hex()] = true
	}
	ents, err := os.ReadDir(k.folder())
	if err != nil {
		return
	}
	for _, e := range ents {
		if !wanted[e.Name()] {
			os.Remove(filepath.Join(k.folder(), e.Name()))
		}
	}
}
