// Command floor is the least that a program can do: one signed conditional GET
// of one tar.gz, unpacked beside the tree that is there, and a link flipped to
// it. It checks nothing but the sums of gzip. bench/peers holds the others
// against it.
package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: floor URL FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func run(url, dir string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	tag, err := os.ReadFile(filepath.Join(dir, "etag"))
	if err == nil {
		req.Header.Set("If-None-Match", string(tag))
	}
	req.Header.Set("X-Amz-Content-Sha256", emptySHA256)
	signer.SignV4(*req, os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), "", os.Getenv("AWS_REGION"))
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return nil
	case http.StatusOK:
	default:
		return errors.New(resp.Status)
	}
	tree := fmt.Sprintf("tree-%d", time.Now().UnixNano())
	if err := unpack(resp.Body, filepath.Join(dir, tree)); err != nil {
		return err
	}
	return flip(dir, tree, resp.Header.Get("ETag"))
}

// flip shows the new tree, and removes the one before the last.
func flip(dir, tree, tag string) error {
	current, next := filepath.Join(dir, "current"), filepath.Join(dir, "next")
	last, _ := os.Readlink(current)
	if err := os.Symlink(tree, next); err != nil {
		return err
	}
	if err := os.Rename(next, current); err != nil {
		return err
	}
	trees, err := filepath.Glob(filepath.Join(dir, "tree-*"))
	if err != nil {
		return err
	}
	for _, t := range trees {
		if base := filepath.Base(t); base != tree && base != last {
			if err := os.RemoveAll(t); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "etag"), []byte(tag), 0o600)
}

func unpack(r io.Reader, dir string) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, z) // to the sum at its end
			return err
		}
		if err != nil {
			return err
		}
		if err := entry(t, h, filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(h.Name, "./")))); err != nil {
			return err
		}
	}
}

func entry(r io.Reader, h *tar.Header, p string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(p, fs.FileMode(h.Mode).Perm())
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, p)
	case tar.TypeReg:
		f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(h.Mode).Perm())
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	default:
		return fmt.Errorf("%s: type %c", h.Name, h.Typeflag)
	}
}
