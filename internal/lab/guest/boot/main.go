// Command boot is the only program of the first file system of a QEMU guest.
// As process 1 it mounts the guest's disk, leaves a service of its own in
// the guest's /run, which lives in memory, and hands over to the disk's
// init. As that service it executes what the lab asks for. So the disk
// itself stays as its distribution made it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/bootwell/bootwell/internal/lab/guest"
)

const (
	service = "/run/bootwell-lab/agent"
	unit    = `[Unit]
Description=Console of the test laboratory
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=` + service + `
Restart=always
KillMode=process
OOMScoreAdjust=-900
`
	portName = "bootwell.lab"
)

func main() {
	if os.Getpid() != 1 {
		serve()
		return
	}
	if err := boot(); err != nil {
		fmt.Println("lab: boot:", err)
		time.Sleep(time.Second)
		_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// modules are loaded in this order; the build puts them at the root.
var modules = [...]string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "virtio_console"}

func boot() error {
	if err := syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, m := range modules {
		if err := load("/" + m + ".ko"); err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	for i := 0; ; i++ {
		if _, err := os.Stat("/dev/vda"); err == nil {
			break
		}
		if i > 1000 {
			return fmt.Errorf("no disk came up")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := syscall.Mount("/dev/vda", "/root", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	if err := leaveService("/root"); err != nil {
		return err
	}
	return handOver()
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(file) // this file system stays in memory
	none := []byte{0}
	finitModule := uintptr(313)
	if runtime.GOARCH == "arm64" {
		finitModule = 273
	}
	if _, _, e := syscall.Syscall(finitModule, f.Fd(), uintptr(unsafe.Pointer(&none[0])), 0); e != 0 {
		return e
	}
	return nil
}

// leaveService writes the service to a new /run on the disk's mount.
func leaveService(root string) error {
	if err := syscall.Mount("tmpfs", root+"/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755,size=20%"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	wants := root + "/run/systemd/system/sysinit.target.wants"
	for _, d := range []string{filepath.Dir(root + service), wants} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(root+service, self, 0o755); err != nil {
		return err
	}
	_ = os.Remove("/init")
	if err := os.WriteFile(root+"/run/systemd/system/bootwell-lab.service", []byte(unit), 0o644); err != nil {
		return err
	}
	return os.Symlink("../bootwell-lab.service", wants+"/bootwell-lab.service")
}

func handOver() error {
	if err := syscall.Mount("/dev", "/root/dev", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ())
}

// serve answers the lab as often as it comes.
func serve() {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	hello := fmt.Sprintf("%s/%d", strings.TrimSpace(string(id)), os.Getpid())
	for {
		if port := findPort(); port != "" {
			// Blocking, because a port without a listener has no other way
			// to make a writer wait.
			if fd, err := syscall.Open(port, syscall.O_RDWR|syscall.O_CLOEXEC, 0); err == nil {
				f := os.NewFile(uintptr(fd), port)
				_ = guest.Serve(f, hello, nil)
				_ = f.Close()
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func findPort() string {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(n))
		}
	}
	return ""
}
