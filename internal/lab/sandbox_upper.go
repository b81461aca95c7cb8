package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fillUpper prepares the upper layer of the overlay: it covers the hidden
// files and, where the host's root is nobody in the machine, gives it
// folders of its own.
//
// In a user namespace the host's folders belong to an id that is not mapped,
// and not even the machine's root may write there. A folder that is in both
// layers has the owner of the upper one, so the upper layer repeats the
// host's folders; and the files of /etc, which programs rewrite in place,
// are copied.
func fillUpper(s setup) error {
	if s.UserNS {
		if err := ownTree("/", 0); err != nil {
			return err
		}
		if err := shadowFiles(); err != nil {
			return err
		}
	}
	for _, h := range hidden {
		if err := cover(h); err != nil {
			return fmt.Errorf("hide %s: %w", h, err)
		}
	}
	return nil
}

// cover puts a whiteout over path, if the host has it.
func cover(path string) error {
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	if err := repeatFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.RemoveAll(upperDir + path); err != nil {
		return err
	}
	return unix.Mknod(upperDir+path, unix.S_IFCHR, 0)
}

// repeatFolder makes dir and its parents in the upper layer, as the host has
// them.
func repeatFolder(dir string) error {
	if dir == "/" {
		return nil
	}
	if err := repeatFolder(filepath.Dir(dir)); err != nil {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if err := os.Mkdir(upperDir+dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(upperDir+dir, fi.Mode())
}

// Folders deeper than these stay the host's: /usr/share/doc has thousands.
const (
	depthUsual = 4
	depthEtc   = 12
	copyLimit  = 4 << 20 // bytes of one copied file
)

// unowned are folders that are mounted over, or that no program changes.
var unowned = [...]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/root", "/home", "/boot", "/mnt", "/media", "/usr/share/doc", "/usr/include", "/var/lib/docker", "/var/lib/containerd"}

// rewritten are folders outside /etc whose files are rewritten or locked in
// place by the package manager.
var rewritten = [...]string{"/var/lib/dpkg", "/var/lib/dpkg/triggers", "/var/lib/dpkg/updates", "/var/cache/debconf", "/var/lib/apt/lists", "/var/cache/apt/archives"}

// ownTree repeats the folders below dir. What cannot be read is left out.
func ownTree(dir string, depth int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	etc := dir == "/etc" || strings.HasPrefix(dir, "/etc/")
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if owned := ownFolder(path); owned && (depth < depthUsual || etc && depth < depthEtc) {
				if err := ownTree(path, depth+1); err != nil {
					return err
				}
			}
		case e.Type().IsRegular() && (etc || slices.Contains(rewritten[:], dir)):
			if err := ownFile(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownFolder reports whether it made the folder.
func ownFolder(path string) bool {
	if slices.Contains(unowned[:], path) {
		return false
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return false
	}
	return os.Mkdir(upperDir+path, 0o700) == nil && os.Chmod(upperDir+path, fi.Mode()|0o700) == nil
}

// ownFile copies a file, or covers one that only the host's root may read,
// such as a lock file.
func ownFile(path string) error {
	fi, err := os.Lstat(path)
	if err != nil || fi.Size() > copyLimit && filepath.Dir(path) != "/var/lib/dpkg" {
		return nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return unix.Mknod(upperDir+path, unix.S_IFCHR, 0)
	}
	if err != nil {
		return nil
	}
	if err := os.WriteFile(upperDir+path, b, 0o600); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return os.Chmod(upperDir+path, fi.Mode())
}

// shadowFiles makes the password files, which no user may copy, so that
// users can be added. No account in them has a password.
func shadowFiles() error {
	for from, to := range map[string]string{"/etc/passwd": "/etc/shadow", "/etc/group": "/etc/gshadow"} {
		if fi, err := os.Lstat(upperDir + to); err == nil && fi.Mode().IsRegular() {
			continue
		}
		if err := os.Remove(upperDir + to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, err := os.ReadFile(from)
		if err != nil {
			continue
		}
		var out bytes.Buffer
		for line := range strings.Lines(string(b)) {
			name, _, _ := strings.Cut(line, ":")
			if to == "/etc/shadow" {
				fmt.Fprintf(&out, "%s:*:19700:0:99999:7:::\n", name)
			} else {
				fmt.Fprintf(&out, "%s:*::\n", name)
			}
		}
		if err := os.WriteFile(upperDir+to, out.Bytes(), 0o600); err != nil {
			return fmt.Errorf("make %s: %w", to, err)
		}
	}
	return nil
}
