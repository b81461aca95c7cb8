// Package store keeps releases and reports in a bucket: it packs and
// publishes a tree, fetches what a VM lacks, and reads what VMs say.
//
//   - To publish is to upload packs and commit signed pointers to them.
//   - To stage is to write a release's tree to a folder, verified and whole.
package store

import (
	"errors"
	"log/slog"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// ErrTree reports a tree that cannot be a release; the error names every
// offending file and what to do.
var ErrTree = errors.New("cannot be published")

// ErrNoRole reports a role that the release does not have.
var ErrNoRole = errors.New("release has no such role")

// ErrStaged reports that a staged tree differs from its manifest.
var ErrStaged = errors.New("staged tree differs from its release")

// ErrNoSpace reports that the disk cannot hold the release. Nothing was written.
var ErrNoSpace = errors.New("not enough disk space")

// A Store is a project's releases and reports in one bucket. Safe for
// concurrent use.
type Store struct {
	Bucket bucket.Bucket
	Log    *slog.Logger

	// Folder is where a VM's own reports and logs are written, when that is not
	// its name (see [release.FolderVM]).
	Folder string
}

// An Agent is an agent binary to be offered to new VMs.
type Agent struct {
	Arch   string         // amd64, arm64
	Path   string         // of the xz-compressed binary, read only if the bucket lacks it; "" when it must not
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
	Describe func() release.Source // may be nil; gives Source, and is called once while the tree is read
	Agents   []Agent
	Owner    string         // shown to others who find the lock taken
	DryRun   bool           // tell what would be published; write nothing, sign nothing
	Progress func(Progress) // may be nil; called from one goroutine at a time

	// Cache is a folder of this user in which a publish remembers the tree and
	// what the bucket holds, for the next one to be quick; "": none. It may be
	// removed at any time. One folder serves one project in one bucket.
	Cache string
}

// Progress tells how far a publish or stage is.
type Progress struct {
	Phase       string // scan, pack (dry run), wait, upload, sign; verify, fetch, unpack
	Done, Total int64  // bytes; Total 0: not known
	Objects     int
	Text        string // wait: one line that says for whom and until when; told once
}

// Phases of a publish that callers know.
const (
	PhaseScan = "scan" // of the tree
	PhaseWait = "wait" // for another publisher
)

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

// A RoleChange says how one role differs from the release before. Changed
// names steps (in their order, those that are gone last), then "check NAME",
// "vars: NAME", "schedule", "platforms", "files" (the globs, or a file that they
// ask for and no step or check names), "attempts", "description", "order of
// steps" and "order of checks". A role without globs gets all files of the
// project; a file that no step or check names is no change of it.
type RoleChange struct {
	Role    string
	Change  string // same, new, changed, removed
	Steps   int
	Changed []string // what differs, as said above; empty unless Change is changed
	Bytes   int64    // content of the role's files
	Delta   int64    // stored bytes a VM one release behind will fetch
}

// FileChanges are paths, sorted.
type FileChanges struct{ Added, Changed, Removed []string }

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

// StageOptions say where a tree goes.
type StageOptions struct {
	Dir      string   // must not exist or be a left-over of an earlier try; its parent must exist
	Role     string   // stage only the files this role needs; "": all
	Reuse    []Staged // trees on the same file system whose unchanged files may be linked
	Spare    Staged   // a tree on the same file system that nobody needs any more: it is turned into the new one
	Remember bool     // write an index of the tree beside it (see [HasIndex])
	Progress func(Progress)
}

// A Staged is a tree that Stage finished, and its manifest, which may be nil in
// [StageOptions] where the tree has an index.
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
