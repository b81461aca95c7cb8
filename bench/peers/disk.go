package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// putAway moves a folder out of the way; it is deleted with everything else.
func (b *bench) putAway(dir string) error {
	if _, err := os.Lstat(dir); os.IsNotExist(err) {
		return nil
	}
	b.away++
	return os.Rename(dir, filepath.Join(filepath.Dir(dir), fmt.Sprintf("away-%d", b.away)))
}
