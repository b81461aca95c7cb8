package swift

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// mounted calls read with the folder where device is mounted, or mounts it
// read-only for as long as read takes.
func mounted(device string, read func(folder string) (values, error)) (values, error) {
	real, err := filepath.EvalSymlinks(device)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is none: %w", wire.ErrNothing)
	}
	if err != nil {
		return nil, err
	}
	if folder := mountPoint(real); folder != "" {
		return read(folder)
	}
	folder, err := os.MkdirTemp("", "bootwell-config-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(folder)
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, kind := range []string{"iso9660", "vfat"} {
		if err = unix.Mount(real, folder, kind, flags, ""); err == nil {
			defer unix.Unmount(folder, unix.MNT_DETACH)
			return read(folder)
		}
	}
	return nil, fmt.Errorf("mount %s: %w", real, err)
}

// mountPoint returns where device is mounted, "" if it is nowhere.
func mountPoint(device string) string {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == device {
			return unescapeMount.Replace(f[1])
		}
	}
	return ""
}

// unescapeMount undoes what /proc/self/mounts does to names (proc(5)).
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
