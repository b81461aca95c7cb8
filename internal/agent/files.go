package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// ErrBusy reports that another agent works on this VM.
var ErrBusy = errors.New("another run is under way on this VM")

// ErrDisk reports that the VM's disk cannot be written: it is full, read-only
// or broken.
var ErrDisk = errors.New("disk cannot be written")

// lock takes the agent's lock. The kernel releases it when the process ends,
// however it ends; children do not inherit it.
func lock(p Paths) (unlock func(), err error) {
	if err := os.MkdirAll(p.State(), 0o755); err != nil {
		return nil, diskError(err)
	}
	l := flock.New(p.Lock(), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock: %w", diskError(err))
	}
	if !ok {
		return nil, fmt.Errorf("lock %s: %w", p.Lock(), ErrBusy)
	}
	return func() { _ = l.Close() }, nil
}

// diskError marks what only the machine's owner can mend.
func diskError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EIO):
		return fmt.Errorf("%w: %w", err, ErrDisk)
	}
	return err
}

// replaceFile replaces the file's content whole and durably.
func replaceFile(name string, b []byte, perm os.FileMode) error {
	if err := putFile(name, b, perm); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// putFile replaces the file's content whole. After a power cut the file is this
// one or the one before, unless syncDir came between.
func putFile(name string, b []byte, perm os.FileMode) error {
	if err := renameio.WriteFile(name, b, perm, renameio.WithTempDir(filepath.Dir(name))); err != nil {
		return fmt.Errorf("write %s: %w", name, diskError(err))
	}
	return nil
}

// placeFile replaces the file's content whole, for whoever reads it, but leaves
// it to the system when that reaches the disk: after a power cut the file can
// be empty or the one before.
func placeFile(name string, b []byte, perm os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name))
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Chmod(perm), f.Close())
		if err == nil {
			err = os.Rename(f.Name(), name)
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, diskError(err))
	}
	return nil
}

// replaceJSON is replaceFile with v as JSON.
func replaceJSON(name string, v any, perm os.FileMode) error {
	if err := putJSON(name, v, perm); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// putJSON is putFile with v as JSON.
func putJSON(name string, v any, perm os.FileMode) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return putFile(name, append(b, '\n'), perm)
}

// replaceLink makes name a link to target, atomically and durably.
func replaceLink(target, name string) error {
	if have, err := os.Readlink(name); err == nil && have == target {
		return nil
	}
	if err := putLink(target, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// putLink is replaceLink without the flush.
func putLink(target, name string) error {
	if have, err := os.Readlink(name); err == nil && have == target {
		return nil
	}
	if err := renameio.Symlink(target, name); err != nil {
		return fmt.Errorf("link %s: %w", name, diskError(err))
	}
	return nil
}

// removeFile removes a file durably; that there is none is no error.
func removeFile(name string) error {
	if err := os.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", name, diskError(err))
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync %s: %w", dir, diskError(err))
	}
	return nil
}

// setAside renames a file that cannot be read, so that its bytes are kept for
// people and a new one can take its place.
func setAside(name string) {
	if os.Rename(name, name+".broken") != nil {
		_ = os.Remove(name)
	}
}

// clearLeftovers removes the temporary files and folders that a killed agent
// left in dir: renameio names them after their destination, with a dot before
// and digits behind.
func clearLeftovers(dir string, names ...string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		for _, n := range names {
			rest, ok := strings.CutPrefix(e.Name(), "."+n)
			if ok && rest != "" && strings.Trim(rest, "0123456789") == "" {
				_ = os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	}
}
