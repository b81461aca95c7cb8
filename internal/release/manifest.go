package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// SchemaVersion is the version of the manifest, channel and report formats
// that this code writes. A reader refuses a higher one.
const SchemaVersion = 1

// Limits of a manifest; [ParseManifest] refuses what exceeds them.
const (
	MaxManifestBytes = 64 << 20
	MaxFiles         = 200_000
	MaxPathBytes     = 4096
	MaxFileBytes     = 64 << 30
	MaxChunkBytes    = 16 << 20
)

// Errors of reading manifests and channels.
var (
	ErrFormat     = errors.New("malformed")
	ErrNewer      = errors.New("made by a newer bootwell: upgrade this one")
	ErrWrongFleet = errors.New("belongs to another project")
)

// A Manifest lists everything in a release: its files, where their content is
// and the resolved roles. Its bytes are canonical JSON (RFC 8785), so equal
// manifests have equal digests. It is immutable once published.
type Manifest struct {
	Schema  int    `json:"schema"`
	Project string `json:"project"`
	Number  int    `json:"number"` // 43 for r43; also the counter that only grows
	Source  Source `json:"source"`

	Files []File          `json:"files"` // sorted by Path, each path once
	Packs []Pack          `json:"packs"`
	Roles map[string]Role `json:"roles"`
}

// A Source says where a release came from.
type Source struct {
	Time   time.Time `json:"time"`             // of publishing, UTC, whole seconds
	By     string    `json:"by,omitempty"`     // who published
	Commit string    `json:"commit,omitempty"` // git commit
	Branch string    `json:"branch,omitempty"`
	Dirty  bool      `json:"dirty,omitempty"` // the tree differed from Commit
	Note   string    `json:"note,omitempty"`  // the publisher's message
	Tool   string    `json:"tool"`            // version of bootwell
}

// A File is a regular file or, with Link set, a symbolic link of the tree.
// Folders are implied by the paths of files; an empty folder is a File with
// Dir set.
type File struct {
	Path   string `json:"path"`           // slash-separated, relative, clean, local
	Mode   uint32 `json:"mode,omitempty"` // permission bits, as in 0o755; unused for a link
	Dir    bool   `json:"dir,omitempty"`
	Link   string `json:"link,omitempty"` // target, relative, stays within the tree
	Size   int64  `json:"size,omitempty"`
	Digest Digest `json:"digest,omitzero"` // of the whole content; zero for links and folders

	// Blobs are the pieces of the content in their order: one for a small
	// file, the chunks of a large one, none for an empty one. In JSON, a file's
	// only piece has no digest and size of its own.
	Blobs []Blob `json:"blobs,omitempty"`
}

// A Blob is a piece of content and where it is: a zstd frame (RFC 8878) of
// Stored bytes at Offset of a pack, that unpacks to Size bytes with Digest.
type Blob struct {
	Digest Digest `json:"digest,omitzero"`
	Size   int64  `json:"size,omitzero"`
	Pack   int    `json:"pack"` // index in Manifest.Packs
	Offset int64  `json:"offset"`
	Stored int64  `json:"stored"`
}

// A Pack is one object packs/<hex> of the bucket.
type Pack struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"`
}

// Name returns the release's name, such as "r43".
func (m *Manifest) Name() string { return Name(m.Number) }

// Name returns the name of release n, such as "r43".
func Name(n int) string { return "r" + strconv.Itoa(n) }

// ParseName returns the number in a release's name. Its error wraps [ErrFormat].
func ParseName(s string) (int, error) {
	d, ok := strings.CutPrefix(s, "r")
	n, err := strconv.Atoi(d)
	if !ok || err != nil || n < 1 || Name(n) != s {
		return 0, fmt.Errorf("release name %.40q is not like r43: %w", s, ErrFormat)
	}
	return n, nil
}

// Find returns the file at p.
func (m *Manifest) Find(p string) (File, bool) {
	i := sort.Search(len(m.Files), func(i int) bool { return m.Files[i].Path >= p })
	if i < len(m.Files) && m.Files[i].Path == p {
		return m.Files[i], true
	}
	return File{}, false
}

// ParseManifest reads and checks a manifest: schema, limits, sorted local
// paths, links that stay inside, blobs that lie within their packs. Its error
// wraps [ErrFormat] or [ErrNewer]. Everything a reader relies on afterwards is
// checked here and nowhere else.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifestBytes {
		return nil, fmt.Errorf("parse manifest: %w", errTooLong(len(b)))
	}
	var m Manifest
	if err := decodeManifest(b, &m); err != nil {
		return nil, err
	}
	m.complete()
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("parse manifest: %w: %w", err, ErrFormat)
	}
	return &m, nil
}

func errTooLong(n int) error {
	return fmt.Errorf("%d bytes is over the limit of %d: %w", n, MaxManifestBytes, ErrFormat)
}

func (m *Manifest) check() error {
	switch {
	case m.Project == "":
		return errors.New("no project")
	case m.Number < 1:
		return fmt.Errorf("release number %d", m.Number)
	case len(m.Files) > MaxFiles:
		return fmt.Errorf("%d files is over the limit of %d", len(m.Files), MaxFiles)
	}
	for i, p := range m.Packs {
		if p.Digest.IsZero() || p.Size < 1 {
			return fmt.Errorf("pack %d has no digest or size", i)
		}
	}
	for i := range m.Files {
		f := &m.Files[i]
		if err := f.check(m.Packs); err != nil {
			return fmt.Errorf("file %.200q: %w", f.Path, err)
		}
		if i > 0 && m.Files[i-1].Path >= f.Path {
			return fmt.Errorf("file %.200q is out of order", f.Path)
		}
	}
	// A path below a link or a file would be written through it.
	above := "" // the folder of the file before: what lies above it is fine
	for i := range m.Files {
		dir := path.Dir(m.Files[i].Path)
		for d := dir; d != "." && d != above; d = path.Dir(d) {
			if g, ok := m.Find(d); ok && !g.Dir {
				return fmt.Errorf("file %.200q lies below %.200q, which is no folder", m.Files[i].Path, d)
			}
		}
		above = dir
	}
	return nil
}

func (f *File) check(packs []Pack) error {
	if err := CheckPath(f.Path); err != nil {
		return err
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("mode %o", f.Mode)
	}
	if f.Dir || f.Link != "" {
		if f.Dir && f.Link != "" || f.Size != 0 || len(f.Blobs) != 0 || !f.Digest.IsZero() {
			return errors.New("a link or folder with content")
		}
		if f.Link != "" {
			return CheckLink(f.Path, f.Link)
		}
		return nil
	}
	if f.Size < 0 || f.Size > MaxFileBytes || f.Digest.IsZero() {
		return fmt.Errorf("size %d or no digest", f.Size)
	}
	var sum int64
	for _, b := range f.Blobs {
		if b.Pack < 0 || b.Pack >= len(packs) || b.Size < 1 || b.Size > MaxChunkBytes || b.Stored < 1 || b.Offset < 0 ||
			b.Digest.IsZero() || b.Stored > packs[b.Pack].Size || b.Offset > packs[b.Pack].Size-b.Stored {
			return errors.New("a blob outside its pack")
		}
		sum += b.Size
	}
	if sum != f.Size {
		return fmt.Errorf("blobs hold %d of %d bytes", sum, f.Size)
	}
	return nil
}

// CheckPath reports why p cannot be a path of a release: it must be local,
// clean, slash-separated UTF-8 without NUL of at most [MaxPathBytes].
func CheckPath(p string) error {
	switch {
	case !utf8.ValidString(p):
		return fmt.Errorf("path %q is not UTF-8", p)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("path %q has a NUL byte", p)
	case len(p) > MaxPathBytes:
		return fmt.Errorf("path is over %d bytes", MaxPathBytes)
	case !fs.ValidPath(p) || p == ".":
		return fmt.Errorf("path %q is not local", p)
	}
	return nil
}

// CheckLink reports why a symbolic link at p may not point to target: the
// target must be relative and stay within the tree. A ".." after a name is
// refused, since that name may be a link to somewhere higher up.
func CheckLink(p, target string) error {
	if target == "" || !utf8.ValidString(target) || strings.ContainsRune(target, 0) || len(target) > MaxPathBytes {
		return fmt.Errorf("link target %.200q", target)
	}
	if path.IsAbs(target) {
		return fmt.Errorf("link points to the absolute path %.200q", target)
	}
	if c := path.Join(path.Dir(p), target); c == ".." || strings.HasPrefix(c, "../") {
		return fmt.Errorf("link to %.200q points outside the project", target)
	}
	named := false
	for part := range strings.SplitSeq(target, "/") {
		if part == ".." && named {
			return fmt.Errorf("link to %.200q goes up again after a name", target)
		}
		named = named || part != ".." && part != "." && part != ""
	}
	return nil
}

// A Channel is the signed pointer that tells VMs which release to have.
type Channel struct {
	Schema   int       `json:"schema"`
	Project  string    `json:"project"`
	Name     string    `json:"name"`
	Serial   int       `json:"serial"`   // grows by one with each change
	Release  string    `json:"release"`  // such as "r43"
	Manifest Digest    `json:"manifest"` // of the release's manifest bytes
	Floor    int       `json:"floor"`    // lowest release a VM may go back to: Release's own number, unless people sign a way back
	Time     time.Time `json:"time"`
}

// Bytes returns the canonical JSON of c.
func (c *Channel) Bytes() ([]byte, error) { return canonical(c) }

// MaxChannelBytes bounds a channel's bytes.
const MaxChannelBytes = 64 << 10

// ParseChannel reads and checks a channel. Its error wraps [ErrFormat] or [ErrNewer].
func ParseChannel(b []byte) (*Channel, error) {
	if len(b) > MaxChannelBytes {
		return nil, fmt.Errorf("parse channel: %d bytes is over the limit of %d: %w", len(b), MaxChannelBytes, ErrFormat)
	}
	var c Channel
	if err := decodeSchema(b, &c, "channel"); err != nil {
		return nil, err
	}
	if _, err := ParseName(c.Release); err != nil || c.Project == "" || c.Name == "" || c.Serial < 1 || c.Manifest.IsZero() {
		return nil, fmt.Errorf("parse channel: incomplete: %w", ErrFormat)
	}
	return &c, nil
}

// decodeSchema refuses a newer schema before it looks at anything else, since
// a newer format may mean something else by the same field.
func decodeSchema(b []byte, v any, what string) error {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("parse %s: %w: %w", what, err, ErrFormat)
	}
	if head.Schema > SchemaVersion {
		return fmt.Errorf("parse %s: schema %d: %w", what, head.Schema, ErrNewer)
	}
	if head.Schema < 1 {
		return fmt.Errorf("parse %s: no schema: %w", what, ErrFormat)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse %s: %w: %w", what, err, ErrFormat)
	}
	return nil
}

func decodeNumbers(b []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode vars: %w", err)
	}
	return m, nil
}
