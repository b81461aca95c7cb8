package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bootwell/bootwell/internal/release"
	"github.com/google/renameio/v2"
)

// LockName is the name of the file beside the project file that the tool
// writes and people commit.
const LockName = "bootwell.lock"

const maxLockBytes = 64 << 10

// ErrLock reports a lock file that cannot be understood.
var ErrLock = errors.New("not a bootwell.lock")

// A Lock pins what user-data contains beside the project file's own words, so
// that user-data stays the same bytes from release to release.
type Lock struct {
	Root   release.Digest            `json:"root,omitzero"`    // of 1.root.json: the anchor
	Agents map[string]release.Digest `json:"agents,omitempty"` // compressed agent by CPU: amd64, arm64
}

// ReadLock reads the lock of the project in dir. Its error wraps
// [fs.ErrNotExist] if there is none and [ErrLock] if it is damaged.
func ReadLock(dir string) (Lock, error) {
	var l Lock
	f, err := os.Open(filepath.Join(dir, LockName))
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("read %s: run bootwell init first: %w", LockName, err)
	}
	if err != nil {
		return l, fmt.Errorf("read %s: %w", LockName, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLockBytes+1))
	if err != nil {
		return l, fmt.Errorf("read %s: %w", LockName, err)
	}
	return parseLock(b)
}

func parseLock(b []byte) (Lock, error) {
	var l Lock
	if len(b) > maxLockBytes {
		return l, fmt.Errorf("read %s: over %d bytes: %w", LockName, maxLockBytes, ErrLock)
	}
	if bytes.HasPrefix(b, []byte("<<<<<<<")) || bytes.Contains(b, []byte("\n<<<<<<<")) {
		return l, fmt.Errorf("read %s: it holds a merge conflict: take one side whole: %w", LockName, ErrLock)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return Lock{}, fmt.Errorf("read %s: restore it from version control: %w: %w", LockName, err, ErrLock)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Lock{}, fmt.Errorf("read %s: text after its end: %w", LockName, ErrLock)
	}
	for arch, digest := range l.Agents {
		if arch == "" || digest.IsZero() {
			return Lock{}, fmt.Errorf("read %s: agent %q has no digest: %w", LockName, arch, ErrLock)
		}
	}
	return l, nil
}

// WriteLock writes the lock of the project in dir, whole or not at all. Equal
// locks give equal bytes.
func WriteLock(dir string, l Lock) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", LockName, err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, LockName), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", LockName, err)
	}
	return nil
}
