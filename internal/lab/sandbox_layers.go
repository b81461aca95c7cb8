package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// layers lays overlays over the host's folders.
//
// A user namespace may not see below a mount of the host, so no overlay may
// have a folder with mounts in it as its lower layer. Such a folder is made
// anew, and its parts are looked at one by one.
type layers struct {
	mounts map[string]string // mount point to type, of the host
	userNS bool
	count  int
}

// diskTypes are the file systems that hold programs and data.
var diskTypes = [...]string{"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "erofs", "squashfs", "overlay"}

// kernelDirs and what else is mounted over, or of no use, is an empty folder.
var emptyDirs = [...]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/home", "/root", "/boot", "/snap", "/lost+found", "/media", "/mnt", "/var/lib/docker", "/var/lib/containerd"}

func (l *layers) add(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil // gone, or not for this user
	}
	target := filepath.Join(newRoot, path)
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	case fi.Mode().IsRegular():
		return l.addFile(path, target, fi)
	case !fi.IsDir():
		return nil
	}
	if path != "/" {
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(target, fi.Mode()); err != nil {
		return err
	}
	fstype, mounted := l.mounts[path]
	switch {
	case slices.Contains(emptyDirs[:], path), mounted && !slices.Contains(diskTypes[:], fstype):
		return nil
	case l.mountsBelow(path):
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil
		}
		for _, e := range entries {
			if err := l.add(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	return l.overlay(path, target, fi.Mode())
}

// addFile copies small files and shares others.
func (l *layers) addFile(path, target string, fi fs.FileInfo) error {
	b, err := os.ReadFile(upperDir + path)
	if err != nil && fi.Size() <= copyLimit {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		if err := os.WriteFile(target, b, 0o600); err != nil {
			return err
		}
		return os.Chmod(target, fi.Mode())
	}
	if os.WriteFile(target, nil, 0o600) == nil && unix.Mount(path, target, "", unix.MS_BIND, "") == nil {
		return nil
	}
	return nil // not readable by this user
}

func (l *layers) mountsBelow(path string) bool {
	for m := range l.mounts {
		if strings.HasPrefix(m, strings.TrimSuffix(path, "/")+"/") && m != path {
			return true
		}
	}
	return false
}

func (l *layers) overlay(path, target string, mode fs.FileMode) error {
	upper, work := upperDir+path, fmt.Sprintf("%s/%d", overWork, l.count)
	l.count++
	if err := os.MkdirAll(upper, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(upper, mode); err != nil {
		return err
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", escapeOption(path), escapeOption(upper), work)
	if l.userNS {
		// Deleted folders are marked in user.* attributes there; kernels
		// before 6.6 have none on tmpfs and take the mount without.
		if unix.Mount("overlay", target, "overlay", 0, data+",userxattr") == nil {
			return nil
		}
	}
	return mount("overlay", target, "overlay", 0, data)
}

// escapeOption writes a path as an overlay mount option has it.
func escapeOption(path string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(path)
}

// hostMounts are the mount points of this process and their types.
func hostMounts() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		head, rest, ok := strings.Cut(line, " - ")
		f := strings.Fields(head)
		if !ok || len(f) < 5 {
			continue
		}
		fstype, _, _ := strings.Cut(rest, " ")
		out[unescape.Replace(f[4])] = fstype
	}
	return out, nil
}
