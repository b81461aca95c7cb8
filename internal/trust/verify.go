package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// The roles of a project besides root, and their files in a set.
const (
	roleReleases = "releases" // what people sign
	roleChannels = "channels" // what automation may sign

	rootBase      = "root.json" // after the version and a dot
	timestampFile = "timestamp.json"
	snapshotFile  = "snapshot.json"
	targetsFile   = "targets.json"
	releasesFile  = "releases.json"
	channelsFile  = "channels.json"
)

// The largest metadata a client reads.
const (
	maxRootBytes      = 32 << 10
	maxTimestampBytes = 16 << 10
	maxSnapshotBytes  = 64 << 10
	maxTargetsBytes   = 1 << 20 // targets, releases, channels: about 7,000 live releases
	maxRoots          = 256     // rotations that one client follows
)

// lifeField is our field in signed metadata: their whole life from signing to
// expiry, as text of a [time.Duration]. TUF itself has only the end.
const lifeField = "x-bootwell-lifetime"

// idField is our field in the first root: random text. Without it, two
// projects that one script sets up with the same keys within a second would
// have the same root, and so to all who know a project by its anchor be one,
// set back and forth.
const idField = "x-bootwell-id"

// files are the metadata of one state by name: 1.root.json to N.root.json, and
// without their versions timestamp, snapshot, targets, releases, channels.
type files map[string][]byte

// nonRoot returns the names of all files but roots, in the order in which
// they are verified.
func nonRoot() []string {
	return []string{timestampFile, snapshotFile, targetsFile, releasesFile, channelsFile}
}

func rootFile(n int64) string { return strconv.FormatInt(n, 10) + "." + rootBase }

// roots returns how many roots f has, from the first without a gap.
func (f files) roots() int64 {
	n := int64(0)
	for f[rootFile(n+1)] != nil {
		n++
	}
	return n
}

// A set is a verified, consistent state of all metadata.
type set struct {
	files     files
	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	releases  *metadata.Metadata[metadata.TargetsType]
	channels  *metadata.Metadata[metadata.TargetsType]
}

// verify checks f from the anchor down to the delegated roles. Nothing may be
// expired at ref. Its errors wrap ErrUntrusted, ErrRollback or ErrExpired.
func verify(anchor release.Digest, f files, ref time.Time) (s *set, err error) {
	defer recovered(&err)
	if err := checkAnchor(anchor, f[rootFile(1)]); err != nil {
		return nil, err
	}
	t, err := trustedmetadata.New(f[rootFile(1)])
	if err != nil {
		return nil, refusal(rootFile(1), nil, ref, err)
	}
	t.RefTime = ref
	for n := int64(2); n <= f.roots(); n++ {
		if _, err := t.UpdateRoot(f[rootFile(n)]); err != nil {
			return nil, refusal(rootFile(n), nil, ref, err)
		}
	}
	for _, name := range nonRoot() {
		if err := verifyOne(t, name, f[name]); err != nil {
			return nil, refusal(name, f[name], ref, err)
		}
	}
	s = &set{files: f, root: t.Root, timestamp: t.Timestamp, snapshot: t.Snapshot,
		targets: t.Targets[metadata.TARGETS], releases: t.Targets[roleReleases], channels: t.Targets[roleChannels]}
	return s, s.checkDelegations()
}

func checkAnchor(anchor release.Digest, root []byte) error {
	if got := release.DigestOf(root); got != anchor {
		return fmt.Errorf("1.root.json has the digest %v, but this machine was told to trust %v: it is another project's or a forgery: %w", got, anchor, ErrUntrusted)
	}
	return nil
}

func verifyOne(t *trustedmetadata.TrustedMetadata, name string, b []byte) (err error) {
	switch name {
	case timestampFile:
		_, err = t.UpdateTimestamp(b)
	case snapshotFile:
		_, err = t.UpdateSnapshot(b, false)
	case targetsFile:
		_, err = t.UpdateTargets(b)
	default:
		_, err = t.UpdateDelegatedTargets(b, strings.TrimSuffix(name, ".json"), metadata.TARGETS)
	}
	return err
}

// checkDelegations holds releases and channels to their own paths. A role
// that delegates further is refused: go-tuf does not verify a role again that
// is reached through a second parent.
func (s *set) checkDelegations() error {
	for role, m := range map[string]*metadata.Metadata[metadata.TargetsType]{roleReleases: s.releases, roleChannels: s.channels} {
		if m.Signed.Delegations != nil {
			return fmt.Errorf("%s.json delegates to other roles: %w", role, ErrUntrusted)
		}
		if !s.owns(role, role+"/x.json") {
			return fmt.Errorf("targets.json does not delegate %s/* to the role %s: %w", role, role, ErrUntrusted)
		}
	}
	return nil
}

// owns reports whether role is the one that signs the target called name.
func (s *set) owns(role, name string) bool {
	rs := s.targets.Signed.Delegations.GetRolesForTarget(name)
	return len(rs) > 0 && rs[0].Name == role
}

// targetList returns the well-formed targets of releases and channels. What a
// role signs outside its paths counts for nothing (TUF specification 4.5).
func (s *set) targetList(log *slog.Logger) map[string]Target {
	ts := map[string]Target{}
	for role, m := range map[string]*metadata.Metadata[metadata.TargetsType]{roleReleases: s.releases, roleChannels: s.channels} {
		for name, f := range m.Signed.Targets {
			if !targetName().MatchString(name) || !s.owns(role, name) || f == nil ||
				len(f.Hashes["sha256"]) != 32 || f.Length < 0 || f.Length > maxTargetBytes {
				log.Warn("signed target is ignored", "role", role, "target", name)
				continue
			}
			ts[name] = Target{Name: name, Size: f.Length, Digest: release.DigestFromSum([32]byte(f.Hashes["sha256"]))}
		}
	}
	return ts
}

// versions returns the version of each role but root.
func (s *set) versions() map[string]int64 {
	return map[string]int64{
		timestampFile: s.timestamp.Signed.Version, snapshotFile: s.snapshot.Signed.Version, targetsFile: s.targets.Signed.Version,
		releasesFile: s.releases.Signed.Version, channelsFile: s.channels.Signed.Version,
	}
}

// keyIDs returns the keys that may sign a role's file.
func (s *set) keyIDs(file string) []string { ids, _ := signersOf(s.root, s.targets, file); return ids }

// signersOf returns the key ids and the threshold of a role's file.
func signersOf(root *metadata.Metadata[metadata.RootType], targets *metadata.Metadata[metadata.TargetsType], file string) ([]string, int) {
	role := strings.TrimSuffix(file, ".json")
	if r, ok := root.Signed.Roles[role]; ok && r != nil {
		return r.KeyIDs, r.Threshold
	}
	if targets != nil && targets.Signed.Delegations != nil {
		for _, r := range targets.Signed.Delegations.Roles {
			if r.Name == role {
				return r.KeyIDs, r.Threshold
			}
		}
	}
	return nil, 0
}

// lives returns the life of each role.
func (s *set) lives() []life {
	return []life{
		lifeOf(s.root.Signed.Expires, s.root.Signed.UnrecognizedFields, RootLifetime),
		lifeOf(s.targets.Signed.Expires, s.targets.Signed.UnrecognizedFields, RootLifetime),
		lifeOf(s.releases.Signed.Expires, s.releases.Signed.UnrecognizedFields, DefaultLifetime),
		lifeOf(s.channels.Signed.Expires, s.channels.Signed.UnrecognizedFields, DefaultLifetime),
		lifeOf(s.snapshot.Signed.Expires, s.snapshot.Signed.UnrecognizedFields, DefaultLifetime),
		lifeOf(s.timestamp.Signed.Expires, s.timestamp.Signed.UnrecognizedFields, DefaultLifetime),
	}
}

func lifeOf(expires time.Time, extra map[string]any, def time.Duration) life {
	text, _ := extra[lifeField].(string)
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		def = d
	}
	return life{expires: expires, whole: def}
}

// recovered turns a panic of the verifier into a refusal: go-tuf panics on
// some well-signed but malformed metadata, such as a null where an object
// belongs.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("metadata is malformed (%v): %w", r, ErrUntrusted)
	}
}

// refusal says in our words why go-tuf refused the file called name.
func refusal(name string, b []byte, ref time.Time, err error) error {
	var away *fetchError
	var local *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &away):
		return away.err
	case errors.As(err, &local), errors.As(err, &link):
		return fmt.Errorf("work on metadata: %w", err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return expiry(name, b, ref, err)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}) && !strings.HasSuffix(name, rootBase):
		return fmt.Errorf("%s: %s: %w", name, message(err), ErrRollback)
	}
	return fmt.Errorf("%s: %s: %w", name, message(err), ErrUntrusted)
}

func expiry(name string, b []byte, ref time.Time, err error) error {
	if strings.HasPrefix(message(err), "final root") {
		return fmt.Errorf("the newest root.json is past its date (this machine's time is %s): %w", ref.Format(time.DateTime), ErrExpired)
	}
	var m struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if json.Unmarshal(b, &m) != nil || m.Signed.Expires.IsZero() {
		return fmt.Errorf("%s is past its date: %w", name, ErrExpired)
	}
	return fmt.Errorf("%s was good until %s UTC, and this machine's time is %s: %w",
		name, m.Signed.Expires.UTC().Format(time.DateTime), ref.UTC().Format(time.DateTime), ErrExpired)
}

// message returns the sentence in one of go-tuf's errors without its label.
func message(err error) string {
	var (
		unsigned *metadata.ErrUnsignedMetadata
		version  *metadata.ErrBadVersionNumber
		expired  *metadata.ErrExpiredMetadata
		hash     *metadata.ErrLengthOrHashMismatch
	)
	switch {
	case errors.As(err, &unsigned):
		return unsigned.Msg
	case errors.As(err, &version):
		return version.Msg
	case errors.As(err, &expired):
		return expired.Msg
	case errors.As(err, &hash):
		return hash.Msg
	}
	return err.Error()
}

// missing says what it means that a metadata object is not in the bucket.
func missing(name string, known bool) error {
	switch {
	case name == rootFile(1):
		return fmt.Errorf("there is no %s%s: %w", metadataPrefix, name, ErrNotInit)
	case name == timestampFile && !known:
		return fmt.Errorf("there is a root but no timestamp.json, so the project was never set up to its end; run bootwell init again: %w", ErrNotInit)
	}
	return fmt.Errorf("the signed metadata are incomplete, %s%s is gone: %w", metadataPrefix, name, bucket.ErrNotExist)
}
