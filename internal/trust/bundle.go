package trust

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A bundle is one object with copies of others: what a reader of a state asks
// for next, after its timestamp.json. It is one zstd stream (RFC 8878) of, for
// each copy, a line with its key, a space and its size in bytes, and then the
// bytes. In the form for those who hold the state before, that state's metadata
// are the stream's raw dictionary.
//
// A bundle needs no signature: a copy counts for as much as what the bucket
// would have answered, and is verified like it. Copies that are named by their
// digest and differ from it are left out when it is read.
const (
	bundlePrefix = "tuf/bundles/"

	// What a reader takes of one. Metadata are bounded to less than half of it,
	// and a writer leaves a bundle out that would be larger.
	maxBundleBytes    = 2 << 20
	maxBundleUnpacked = 8 << 20
	maxBundleObjects  = 256

	bundleDict = 1 // marks streams with a dictionary
)

// fullBundle is the bundle of the newest state. Its name is known to machines
// that know nothing yet. A copy in it that is of another state has another name
// than what they then ask for.
const fullBundle = bundlePrefix + "full.zst"

// nextBundleKey names the bundle of the state with the timestamp.json to, for
// those who hold the state with the timestamp.json from.
func nextBundleKey(from, to []byte) string {
	return bundlePrefix + release.DigestOf(from).Hex() + "-" + release.DigestOf(to).Hex() + ".zst"
}

// dictionary is what both sides of a bundle know of the state before.
func dictionary(f files) []byte {
	var b []byte
	for _, name := range []string{targetsFile, timestampFile, snapshotFile, channelsFile, releasesFile} {
		b = append(b, f[name]...)
	}
	return b
}

// versionedKey names a role's metadata of one version.
func versionedKey(name string, version int64) string {
	return metadataPrefix + strconv.FormatInt(version, 10) + "." + name
}

var errBundle = errors.New("bundle is not well-formed")

// packBundle returns the bundle of objects by key. dict is nil for the form
// that needs none.
func packBundle(objects map[string][]byte, dict []byte) ([]byte, error) {
	plain := joinObjects(objects)
	if len(plain) > maxBundleUnpacked || len(objects) > maxBundleObjects {
		return nil, fmt.Errorf("%d objects of %d bytes: %w", len(objects), len(plain), bucket.ErrTooLarge)
	}
	opts := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(maxBundleUnpacked), zstd.WithEncoderLevel(zstd.SpeedBetterCompression)}
	if len(dict) > 0 {
		opts = append(opts, zstd.WithEncoderDictRaw(bundleDict, dict))
	}
	e, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	defer e.Close()
	packed := e.EncodeAll(plain, nil)
	if len(packed) > maxBundleBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(packed), bucket.ErrTooLarge)
	}
	return packed, nil
}

// unpackBundle returns the copies in a bundle that a reader may use. It takes
// maxBundleUnpacked bytes of memory at most, whatever the bundle says.
func unpackBundle(packed, dict []byte) (map[string][]byte, error) {
	opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(maxBundleUnpacked + len(dict))), zstd.WithDecodeAllCapLimit(true)}
	if len(dict) > 0 {
		opts = append(opts, zstd.WithDecoderDictRaw(bundleDict, dict))
	}
	d, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	defer d.Close()
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, fmt.Errorf("%w: %w", errBundle, err)
	}
	size := uint64(maxBundleUnpacked)
	if h.HasFCS {
		size = min(size, h.FrameContentSize)
	}
	plain, err := d.DecodeAll(packed, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBundle, err)
	}
	return parseBundle(plain)
}

func parseBundle(plain []byte) (map[string][]byte, error) {
	objects, err := splitObjects(plain, maxBundleObjects)
	maps.DeleteFunc(objects, func(key string, data []byte) bool { return !carriable(key, data) })
	return objects, err
}

// joinObjects writes for each object a line with its key, a space and its size,
// and then the object.
func joinObjects(objects map[string][]byte) []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(&b, "%s %d\n", key, len(objects[key]))
		b.Write(objects[key])
	}
	return b.Bytes()
}

// splitObjects is the way back. The objects share the memory of b.
func splitObjects(b []byte, most int) (map[string][]byte, error) {
	objects := map[string][]byte{}
	for n := 0; len(b) > 0; n++ {
		line, _, ok := bytes.Cut(b[:min(len(b), bucket.MaxKey+32)], []byte("\n"))
		key, text, spaced := strings.Cut(string(line), " ")
		size, err := strconv.ParseUint(text, 10, 32)
		if !ok || !spaced || err != nil || bucket.CheckKey(key) != nil || n == most {
			return nil, fmt.Errorf("object %d: %w", n+1, errBundle)
		}
		rest := b[len(line)+1:]
		if size > uint64(len(rest)) {
			return nil, fmt.Errorf("%s ends after %d of %d bytes: %w", key, len(rest), size, errBundle)
		}
		objects[key], b = rest[:size:size], rest[size:]
	}
	return objects, nil
}

var (
	bundledMetadata = pattern(`^tuf/metadata/[1-9][0-9]{0,17}\.(snapshot|targets|releases|channels)\.json$`)
	bundledTarget   = pattern(`^tuf/targets/(?:releases|channels)/([0-9a-f]{64})\.[A-Za-z0-9][A-Za-z0-9._-]*$`)
	bundledPack     = pattern(`^packs/([0-9a-f]{64})$`)
	bundledManifest = pattern(`^manifests/[0-9a-f]{64}(?:-[0-9a-f]{64})?\.zst$`)
)

// carriable reports whether a copy may be used: roots and timestamp.json are
// asked for themselves, and nothing else is written once and for all.
func carriable(key string, data []byte) bool {
	if bundledMetadata().MatchString(key) || bundledManifest().MatchString(key) {
		return true
	}
	for _, re := range []*regexp.Regexp{bundledTarget(), bundledPack()} {
		if m := re.FindStringSubmatch(key); m != nil {
			return release.DigestOf(data).Hex() == m[1]
		}
	}
	return false
}
