package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the parts of the new root are made, on a tmpfs over the host's /tmp
// that only this mount namespace sees.
const (
	workshop = "/tmp"
	upperDir = workshop + "/upper"
	overWork = workshop + "/work"
	newRoot  = workshop + "/root"
)

// hidden are the host's files that a fresh machine does not have.
var hidden = [...]string{
	"/etc/bootwell", "/var/lib/bootwell", "/usr/local/bin/bootwell-agent", "/etc/cron.d/bootwell",
	"/etc/systemd/system/bootwell.service", "/etc/systemd/system/bootwell.timer",
	"/etc/systemd/system/timers.target.wants/bootwell.timer", "/var/lib/cloud", "/.dockerenv",
}

// emptied are the folders that are fresh and in memory, with their modes.
var emptied = [...]struct {
	path string
	mode fs.FileMode
}{
	{"/run", 0o755}, {"/tmp", 0o777 | fs.ModeSticky}, {"/var/tmp", 0o777 | fs.ModeSticky}, {"/root", 0o700}, {"/home", 0o755},
}

// makeRoot gives this process, which is alone in its namespaces, the file
// system of the new machine.
func makeRoot(s setup) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	// The files to share may lie below what is covered next.
	shares, err := openShares(s.Binds)
	if err != nil {
		return err
	}
	host, err := hostMounts()
	if err != nil {
		return err
	}
	if err := mount("tmpfs", workshop, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, d := range []string{upperDir, overWork, newRoot} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := fillUpper(s); err != nil {
		return err
	}
	if err := mount(newRoot, newRoot, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := (&layers{mounts: host, userNS: s.UserNS}).add("/"); err != nil {
		return err
	}
	for _, step := range []func() error{mountKernel, mountDevices, emptyFolders} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := bindShares(s.Binds, shares); err != nil {
		return err
	}
	if err := enter(newRoot); err != nil {
		return err
	}
	return writeIdentity(s)
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, strings.TrimPrefix(target, newRoot), err)
	}
	return nil
}

func mountKernel() error {
	if err := mount("proc", newRoot+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if mount("sysfs", newRoot+"/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "") == nil {
		return nil
	}
	// With the host's network, sysfs is the host's.
	return mount("/sys", newRoot+"/sys", "", unix.MS_BIND|unix.MS_REC, "")
}

func mountDevices() error {
	dev := newRoot + "/dev"
	if err := mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return err
	}
	for _, n := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := os.WriteFile(dev+"/"+n, nil, 0o600); err != nil {
			return err
		}
		if err := mount("/dev/"+n, dev+"/"+n, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(to, dev+"/"+name); err != nil {
			return err
		}
	}
	for _, d := range []string{"pts", "shm"} {
		if err := os.Mkdir(dev+"/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := mount("devpts", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return err
	}
	if err := mount("tmpfs", dev+"/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	if err := unix.Mkfifo(dev+"/console", 0o600); err != nil {
		return fmt.Errorf("make console: %w", err)
	}
	return nil
}

func emptyFolders() error {
	for _, e := range emptied {
		at := newRoot + e.path
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=%04o", unixMode(e.mode))); err != nil {
			return err
		}
	}
	return os.Mkdir(newRoot+"/run/lock", 0o1777)
}

// openShares opens what is to be shared before anything covers it.
func openShares(binds []Bind) ([]int, error) {
	var fds []int
	for _, b := range binds {
		fd, err := unix.Open(b.Host, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("share %s: %w", b.Host, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func bindShares(binds []Bind, fds []int) error {
	for i, b := range binds {
		source, target := fmt.Sprintf("/proc/self/fd/%d", fds[i]), filepath.Join(newRoot, b.Path)
		fi, err := os.Stat(source)
		if err != nil {
			return fmt.Errorf("share %s: %w", b.Host, err)
		}
		if err := makePlace(target, fi.IsDir()); err != nil {
			return fmt.Errorf("share %s: %w", b.Host, err)
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("share %s: %w", b.Host, err)
		}
		_ = unix.Close(fds[i])
		if !b.ReadOnly {
			continue
		}
		if err := remountReadOnly(target); err != nil {
			return fmt.Errorf("share %s read only: %w", b.Host, err)
		}
	}
	return nil
}

// remountReadOnly keeps the flags that the mount has, because a user
// namespace may not clear them.
func remountReadOnly(target string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
}

func makePlace(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// enter makes root the root of this process and lets go of the host's.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// Both the same: the old root is stacked on the new one and is taken
	// off at once (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	return os.Chdir("/")
}

func writeIdentity(s setup) error {
	files := map[string]string{
		"/etc/hostname":   s.Hostname + "\n",
		"/etc/hosts":      "127.0.0.1 localhost " + s.Hostname + "\n::1 localhost\n",
		"/etc/machine-id": s.MachineID + "\n",
	}
	if s.OnlyRoot {
		// Package managers drop root for downloads, which needs a user.
		files["/etc/apt/apt.conf.d/99-sandbox"] = "APT::Sandbox::User \"root\";\n"
	}
	for name, text := range files {
		// The host may have a link here that leads into its /run.
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
