package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// AptRepository returns a folder that is a flat apt repository with the
// named packages and all that img lacks for them, without what they only
// recommend. The packages come from the host's own package manager, so the
// host must have the release of the image. The folder is kept beside the
// image. A machine uses it with the source "deb [trusted=yes] URL ./".
func AptRepository(ctx context.Context, img Image, packages ...string) (string, error) {
	slices.Sort(packages)
	base := filepath.Dir(img.Disk) + "-apt-" + hash([]byte(strings.Join(packages, " ")))
	err := once(ctx, base, func(dir string) error {
		if err := sameRelease(); err != nil {
			return err
		}
		if err := downloadPackages(ctx, dir, img, packages); err != nil {
			return err
		}
		return indexPackages(ctx, dir)
	})
	if err != nil {
		return "", fmt.Errorf("make apt repository of %v: %w", packages, err)
	}
	return base, nil
}

func sameRelease() error {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(b), "VERSION_CODENAME=bookworm") || !strings.Contains(string(b), "ID=debian") {
		return fmt.Errorf("%w: the host is not Debian 12 as the image is", ErrMissing)
	}
	return nil
}

// downloadPackages lets apt find out what is to be added to the image.
func downloadPackages(ctx context.Context, dir string, img Image, packages []string) error {
	args := []string{"-s", "-o", "Dir::State::Status=" + img.Status, "-o", "APT::Install-Recommends=false", "install"}
	out, err := command(ctx, dir, nil, "apt-get", append(args, packages...)...)
	if err != nil {
		return err
	}
	download := []string{"-q", "download"}
	for line := range strings.Lines(string(out)) {
		// "Inst NAME [OLD] (VERSION ORIGIN [ARCH]) ..."
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Inst" {
			continue
		}
		for _, w := range f[2:] {
			if v, ok := strings.CutPrefix(w, "("); ok {
				download = append(download, f[1]+"="+v)
				break
			}
		}
	}
	if len(download) == 2 {
		return fmt.Errorf("the image has all of them")
	}
	_, err = command(ctx, dir, nil, "apt-get", download...)
	return err
}

// indexPackages writes Packages, Packages.gz and Release for the packages in
// dir (wiki.debian.org/DebianRepository/Format).
func indexPackages(ctx context.Context, dir string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	var index bytes.Buffer
	for _, deb := range debs {
		control, err := command(ctx, dir, nil, "dpkg-deb", "-f", deb)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		// Names with %3a for a colon are one more thing to get wrong.
		name := strings.ReplaceAll(filepath.Base(deb), "%3a", ".")
		if err := os.Rename(deb, filepath.Join(dir, name)); err != nil {
			return err
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s\nSize: %d\nSHA256: %x\n\n", bytes.TrimSpace(control), name, len(b), sha256.Sum256(b))
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(index.Bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	release := fmt.Sprintf("Suite: lab\nArchitectures: amd64 all\nDate: %s\nSHA256:\n", time.Now().UTC().Format(time.RFC1123))
	for _, f := range []struct {
		name    string
		content []byte
	}{{"Packages", index.Bytes()}, {"Packages.gz", zipped.Bytes()}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.content, 0o644); err != nil {
			return err
		}
		release += fmt.Sprintf(" %x %d %s\n", sha256.Sum256(f.content), len(f.content), f.name)
	}
	return os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644)
}
