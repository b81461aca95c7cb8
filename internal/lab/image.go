package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/bootwell/bootwell/internal/lab/guest"
)

// Image is what a QEMU guest is made from.
type Image struct {
	Disk   string // raw ext4, never written by guests
	Kernel string // uncompressed, with a PVH entry
	Initrd string // a few modules and the lab's own first program
	Status string // dpkg's list of what is installed
}

// CacheEnv names the environment variable with the folder that keeps images.
const CacheEnv = "BOOTWELL_LAB_CACHE"

// MirrorEnv names the environment variable with the package mirrors for
// images, as mmdebstrap takes them, separated by newlines.
const MirrorEnv = "BOOTWELL_LAB_MIRROR"

// stockPackages are those of Debian's cloud images that matter here: no
// server but cron, no compiler, no agent.
var stockPackages = [...]string{
	"cloud-init", "linux-image-cloud-amd64", "systemd-sysv", "dbus", "udev", "ifupdown", "isc-dhcp-client", "netbase",
	"iproute2", "ca-certificates", "locales", "cron", "sudo",
}

// stockLocale is the answer that Debian's own cloud images give: without one
// cloud-init asks for a locale that no package of theirs has.
const stockLocale = `echo 'locales locales/default_environment_locale select C.UTF-8' | chroot "$1" debconf-set-selections`

// stockRecipe changes when images are to be built anew.
const stockRecipe = "bookworm, important, ext4 3G, lz4 vmlinux, 3"

// StockDebian returns an image of Debian 12 with cloud-init as its packages
// come, with nothing added and no configuration changed. The first call on a
// machine builds it, in about two minutes, and keeps it; builds that run at
// the same time wait for one another. It needs root, mmdebstrap, mke2fs, lz4
// and Go.
func StockDebian(ctx context.Context, log *slog.Logger) (Image, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if runtime.GOARCH != "amd64" {
		return Image{}, fmt.Errorf("build image: %w: only amd64 images are known", ErrForbidden)
	}
	root, err := cacheDir()
	if err != nil {
		return Image{}, err
	}
	recipe := stockRecipe + strings.Join(stockPackages[:], " ") + os.Getenv(MirrorEnv)
	base := filepath.Join(root, "debian12-"+hash([]byte(recipe)))
	if err := once(ctx, base, func(dir string) error {
		log.Info("build stock image", "into", base)
		return buildDebian(ctx, dir)
	}); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	sources, err := bootSources()
	if err != nil {
		return Image{}, err
	}
	initrd := base + "-initrd-" + hash(sources["all"])
	if err := once(ctx, initrd, func(dir string) error {
		return buildInitrd(ctx, dir, base, sources)
	}); err != nil {
		return Image{}, fmt.Errorf("build initrd: %w", err)
	}
	return Image{Disk: filepath.Join(base, "disk.raw"), Kernel: filepath.Join(base, "vmlinux"), Initrd: filepath.Join(initrd, "initrd"), Status: filepath.Join(base, "status")}, nil
}

func cacheDir() (string, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find cache folder: %w; set %s", err, CacheEnv)
		}
		dir = filepath.Join(user, "bootwell-lab")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	return dir, nil
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// once makes the folder dir with build, unless it is there. build gets
// another name for it; the folder appears whole or not at all.
func once(ctx context.Context, dir string, build func(dir string) error) error {
	lock := flock.New(dir + ".lock")
	if _, err := lock.TryLockContext(ctx, 200e6); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	defer lock.Close()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	// Leftovers of a build that was killed: the lock says nobody is at it.
	old, err := filepath.Glob(dir + ".tmp*")
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := removeTree(o); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".tmp")
	if err != nil {
		return err
	}
	defer removeTree(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := build(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// removeTree removes a folder unless something is mounted in it, which could
// be a part of the host.
func removeTree(dir string) error {
	mounts, err := hostMounts()
	if err != nil {
		return err
	}
	if l := (&layers{mounts: mounts}); l.mountsBelow(dir) {
		return fmt.Errorf("remove %s: something is mounted in it", dir)
	}
	return os.RemoveAll(dir)
}

// command runs a program and shows the tail of its output when it fails.
func command(ctx context.Context, dir string, stdin []byte, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", name, err, tail(errs.String(), 1500))
	}
	return out.Bytes(), nil
}

// isolated runs a program with mounts and processes of its own, so that
// whatever ends it, nothing stays mounted in the folder that is then removed.
func isolated(ctx context.Context, dir, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, ErrMissing)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// The signal comes when the starting thread ends, not only the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, tail(string(out), 1500))
	}
	return nil
}

func buildDebian(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: an image with files of all users needs root", ErrForbidden)
	}
	tree := filepath.Join(dir, "tree")
	defer removeTree(tree)
	args := []string{"--quiet", "--variant=important", "--essential-hook=" + stockLocale, "--include=" + strings.Join(stockPackages[:], ","), "bookworm", tree}
	if m := os.Getenv(MirrorEnv); m != "" {
		args = append(args, strings.Split(m, "\n")...)
	}
	if err := isolated(ctx, dir, "mmdebstrap", args...); err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk.raw")
	if _, err := command(ctx, dir, nil, "mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", tree, disk, "3G"); err != nil {
		return err
	}
	if _, err := command(ctx, dir, nil, "cp", filepath.Join(tree, "var/lib/dpkg/status"), filepath.Join(dir, "status")); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("%d kernels in the image, want 1", len(kernels))
	}
	if err := unpackKernel(ctx, kernels[0], filepath.Join(dir, "vmlinux")); err != nil {
		return err
	}
	return keepModules(filepath.Join(tree, "lib/modules"), filepath.Join(dir, "modules"))
}

// unpackKernel takes the kernel proper out of a bzImage: QEMU starts it at
// its PVH entry, which saves unpacking it in emulation. The offsets are of
// the x86 boot protocol's setup header.
func unpackKernel(ctx context.Context, from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	payload, err := kernelPayload(b)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(from), err)
	}
	// lz4 complains of the length that follows the stream; the ELF magic
	// shows whether it did its work.
	out, err := command(ctx, "", payload, "lz4", "-dc", "-")
	if !bytes.HasPrefix(out, []byte("\x7fELF")) {
		return fmt.Errorf("unpack %s: %w", filepath.Base(from), errors.Join(errors.New("no LZ4 stream with an ELF file in it"), err))
	}
	return os.WriteFile(to, out, 0o644)
}

func kernelPayload(b []byte) ([]byte, error) {
	if len(b) < 0x260 || string(b[0x202:0x206]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	sectors := int(b[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := uint64(sectors+1)*512 + uint64(binary.LittleEndian.Uint32(b[0x248:]))
	end := start + uint64(binary.LittleEndian.Uint32(b[0x24c:]))
	if end > uint64(len(b)) {
		return nil, errors.New("the payload ends after the file")
	}
	return b[start:end], nil
}

// keepModules copies what the first program loads.
func keepModules(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), "virtio") || filepath.Ext(path) != ".ko" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, d.Name()), b, 0o644)
	})
}

// bootSources are the files of the first program's module, and "all" of
// them in one.
func bootSources() (map[string][]byte, error) {
	const module = "internal/lab/guest"
	files := map[string][]byte{"go.mod": []byte("module github.com/bootwell/bootwell\n\ngo 1.26\n")}
	var all []byte
	err := fs.WalkDir(guest.Source, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := guest.Source.ReadFile(path)
		files[module+"/"+path] = b
		all = append(all, b...)
		return err
	})
	files["all"] = all
	return files, err
}

func buildInitrd(ctx context.Context, dir, base string, sources map[string][]byte) error {
	src := filepath.Join(dir, "src")
	defer os.RemoveAll(src)
	for name, b := range sources {
		to := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return err
		}
	}
	_, err := command(ctx, src, nil, "env", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off", "GOOS=linux",
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "./internal/lab/guest/boot")
	if err != nil {
		return err
	}
	archive := &cpio{}
	archive.add("dev", 0o040755, nil, 0, 0)
	archive.add("root", 0o040755, nil, 0, 0)
	archive.add("dev/console", 0o020600, nil, 5, 1)
	files, err := filepath.Glob(filepath.Join(base, "modules", "*.ko"))
	if err != nil {
		return err
	}
	for _, f := range append(files, filepath.Join(dir, "init")) {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		archive.add(filepath.Base(f), 0o100755, b, 0, 0)
	}
	return os.WriteFile(filepath.Join(dir, "initrd"), archive.close(), 0o644)
}

// cpio writes an archive in the "newc" format of the kernel's initramfs.
type cpio struct {
	out bytes.Buffer
	ino int
}

func (c *cpio) add(name string, mode int, data []byte, major, minor int) {
	c.ino++
	fmt.Fprintf(&c.out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.out.WriteString(name + "\x00")
	c.pad()
	c.out.Write(data)
	c.pad()
}

func (c *cpio) pad() { c.out.Write(make([]byte, -c.out.Len()&3)) }

func (c *cpio) close() []byte {
	c.add("TRAILER!!!", 0, nil, 0, 0)
	return c.out.Bytes()
}
