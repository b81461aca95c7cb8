package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskBytes is the size of the file systems that trees are written to. Their
// files are sparse.
const diskBytes = 48 << 30

// freshDisk makes dir a new file system, so that no measurement pays for what
// others have deleted before it. Where that is not allowed, dir is a folder.
func (b *bench) freshDisk(ctx context.Context, dir string) (clean func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	image := dir + ".ext4"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	remove := func() { os.RemoveAll(dir); os.Remove(image) }
	if err := os.Truncate(image, diskBytes); err != nil {
		remove()
		return nil, err
	}
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-E", "nodiscard", image},
		{"mount", "-o", "loop,noinit_itable", image, dir},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(b.story, "peers: trees share a file system with everything else: %s: %v: %.200s\n", argv[0], err, out)
			return remove, nil
		}
	}
	return func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(b.story, "peers: umount: %v: %.200s\n", err, out)
			return
		}
		remove()
	}, nil
}

// sharedMemory is a file system in memory, which Linux has for POSIX shared
// memory; see shm_overview(7).
const sharedMemory = "/dev/shm"

// memoryFolder makes a folder in memory for what machines have in /run, which
// is in memory there. "" where there is none to be had.
func memoryFolder(story io.Writer) string {
	var at unix.Statfs_t
	if err := unix.Statfs(sharedMemory, &at); err != nil || at.Type != unix.TMPFS_MAGIC {
		fmt.Fprintf(story, "peers: /run of the VMs is on the disk: %s is no tmpfs\n", sharedMemory)
		return ""
	}
	dir, err := os.MkdirTemp(sharedMemory, "bootwell-bench-")
	if err != nil {
		fmt.Fprintf(story, "peers: /run of the VMs is on the disk: %v\n", err)
		return ""
	}
	return dir
}

// mountRun gives s's VM an empty /run in memory.
func (s *site) mountRun() error {
	if s.memory == "" {
		return nil
	}
	dir := filepath.Join(s.memory, s.bucket)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Symlink(dir, filepath.Join(s.vm, "run"))
}

// putAway moves a folder out of the way; it is deleted with everything else.
func (b *bench) putAway(dir string) error {
	if _, err := os.Lstat(dir); os.IsNotExist(err) {
		return nil
	}
	b.away++
	return os.Rename(dir, filepath.Join(filepath.Dir(dir), fmt.Sprintf("away-%d", b.away)))
}
