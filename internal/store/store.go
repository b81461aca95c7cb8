// Package store keeps releases and reports in a bucket: it packs and
// publishes a tree, fetches what a VM lacks, and reads what VMs say.
//
//   - To publish is to upload packs and commit signed pointers to them.
//   - To stage is to write a release's tree to a folder, verified and whole.
package store

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// ErrTree reports a tree that cannot be a release; the error names every
// offending file and what to do.
var ErrTree = errors.New("cannot be published")

// ErrNoSpace reports that the disk cannot hold the release. Nothing was written.
var ErrNoSpace = errors.New("not enough disk space")

// A Store is a project's releases and reports in one bucket. Safe for
// concurrent use.
type Store struct {
	Bucket bucket.Bucket
	Log    *slog.Logger
}

// An Agent is an agent binary to be offered to new VMs.
type Agent struct {
	Arch   string         // amd64, arm64
	Path   string         // of the xz-compressed binary; "" when the bucket must have it already
	Digest release.Digest // of the compressed bytes: the object is agents/<hex>
}

// PublishOptions say what becomes a release.
type PublishOptions struct {
	Dir      string   // the project folder
	Ignore   []string // doublestar globs left out, besides .git and .bootwell
	Project  string
	Channel  string // "stable" if empty
	Roles    map[string]release.Role
	Source   release.Source
	Agents   []Agent
	Owner    string // shown to others who find the lock taken
	DryRun   bool
	Progress func(Progress) // may be nil; called from one goroutine at a time
}

// Progress tells how far a publish or stage is.
type Progress struct {
	Phase       string // scan, pack, upload, sign, fetch, unpack
	Done, Total int64  // bytes; Total 0: not known
	Objects     int
}

// Published says what a publish did.
type Published struct {
	Release  string
	Digest   release.Digest // of the manifest
	New      bool           // false: the channel already holds exactly this tree
	Previous string         // "" for the first release
	Roles    []RoleChange   // by name, also unchanged ones
	Files    FileChanges    // of the whole tree
	Uploaded int            // objects
	Present  int            // objects that were there already
	Bytes    int64          // uploaded
	Seconds  float64
}

// A RoleChange says how one role differs from the release before.
type RoleChange struct {
	Role    string
	Change  string // same, new, changed, removed
	Steps   int
	Changed []string // names of the steps that differ, or whose files do
	Bytes   int64    // content of the role's files
	Delta   int64    // stored bytes a VM one release behind will fetch
}

// FileChanges are paths, sorted.
type FileChanges struct{ Added, Changed, Removed []string }

// Publish packs the tree, uploads what no recent release holds, and commits
// the new release and the channel in one step. It takes the lock, and builds
// again on the new state when another publisher won, so that no release is
// lost. Killed anywhere, it leaves the bucket's visible state as it was. The
// same tree again is no release: Published.New is false.
func (s *Store) Publish(ctx context.Context, p *trust.Publisher, o PublishOptions) (Published, error) {
	return Published{}, errors.ErrUnsupported
}

// A ReleaseInfo is one line of the list of releases.
type ReleaseInfo struct {
	Name     string
	Digest   release.Digest
	Size     int64 // of the manifest
	Channels []string
	Source   release.Source
	Roles    []string
	Files    int
}

// Releases returns the live releases, newest first.
func (s *Store) Releases(ctx context.Context, v *trust.View) ([]ReleaseInfo, error) {
	return nil, errors.ErrUnsupported
}

// Channel returns the verified channel. trust.ErrNoRelease when nothing is
// published on it; release.ErrWrongFleet when it is of another project.
func (s *Store) Channel(ctx context.Context, v *trust.View, project, name string) (*release.Channel, error) {
	return nil, errors.ErrUnsupported
}

// Manifest returns the verified manifest of the release called name. With
// have (a manifest this machine holds) it travels as a delta where the bucket
// has one, else compressed, else plain.
func (s *Store) Manifest(ctx context.Context, v *trust.View, name string, have *release.Manifest) (*release.Manifest, error) {
	return nil, errors.ErrUnsupported
}

// StageOptions say where a tree goes.
type StageOptions struct {
	Dir      string   // must not exist or be a left-over of an earlier try; its parent must exist
	Role     string   // stage only the files this role needs; "": all
	Reuse    []Staged // trees on the same file system whose unchanged files may be linked
	Progress func(Progress)
}

// A Staged is a tree that Stage finished, and its manifest.
type Staged struct {
	Dir      string
	Manifest *release.Manifest
}

// StageStats say what staging cost.
type StageStats struct {
	Files, Reused int
	Requests      int
	Fetched       int64 // bytes from the bucket
	Written       int64
}

// Stage writes the tree of m to o.Dir: every byte verified, modes and links
// set, fsynced, and nothing in it that is not in m. It fetches ranges of packs
// in parallel, whole packs when most is needed. A tree that is already
// complete is verified and left alone; wrong files in it are replaced.
// Memory does not grow with the size of files.
func (s *Store) Stage(ctx context.Context, m *release.Manifest, o StageOptions) (StageStats, error) {
	return StageStats{}, errors.ErrUnsupported
}

// VerifyStaged reports the first difference between a staged tree and its
// manifest (content, modes, links, extra files), or nil.
func VerifyStaged(ctx context.Context, st Staged, role string) error { return errors.ErrUnsupported }

// PutReport writes the VM's report.
func (s *Store) PutReport(ctx context.Context, r release.Report) error { return errors.ErrUnsupported }

// PutLog writes the log of one run to slot n mod release.MaxReportedRuns of
// the VM (zstd, at most 1 MiB unpacked: the start and the end of longer ones)
// and returns its object name below reports/<vm>/.
func (s *Store) PutLog(ctx context.Context, vm string, n int64, log []byte) (string, error) {
	return "", errors.ErrUnsupported
}

// RunLog returns a log that PutLog wrote, unpacked and bounded.
func (s *Store) RunLog(ctx context.Context, vm, name string) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// A ReportEntry is a report as found in the bucket. Err is set, and Report is
// nil, for one that cannot be read; VM and Modified (the server's time) are
// always set.
type ReportEntry struct {
	VM       string
	Modified time.Time
	Report   *release.Report
	Err      error
}

// Reports yields every VM's latest report in the order of their names: LIST,
// then a GET (in parallel) for each report whose ETag is not in the cache in
// cacheDir ("": no cache).
func (s *Store) Reports(ctx context.Context, cacheDir string) iter.Seq2[ReportEntry, error] {
	return func(yield func(ReportEntry, error) bool) { yield(ReportEntry{}, errors.ErrUnsupported) }
}

// Report returns one VM's latest report; bucket.ErrNotExist if there is none.
func (s *Store) Report(ctx context.Context, vm string) (*release.Report, error) {
	return nil, errors.ErrUnsupported
}
