// Package examples holds complete projects that `bootwell init --example`
// starts from and the demo runs.
package examples

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

//go:embed all:web
var files embed.FS

// bucketLine is how every example names its bucket.
const bucketLine = "bucket: file://./bucket"

// ErrUnknown reports a name that no example has.
var ErrUnknown = errors.New("no such example")

// Names returns the names of the examples, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// FS returns the files of an example. Scripts lack their executable bit in it.
// Its error wraps [ErrUnknown].
func FS(name string) (fs.FS, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("example %q: %w", name, ErrUnknown)
	}
	sub, err := fs.Sub(files, name)
	if err != nil {
		return nil, fmt.Errorf("example %q: %w", name, err)
	}
	return sub, nil
}

// Write writes an example to dir, with bucket as its bucket ("" for a folder
// beside the project file), and returns the paths written, relative to dir. It
// overwrites nothing: when a file of the example is there already it writes
// none, with an error that wraps [fs.ErrExist].
func Write(name, dir, bucket string) ([]string, error) {
	example, err := FS(name)
	if err != nil {
		return nil, err
	}
	var paths []string
	err = fs.WalkDir(example, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(p))); err == nil {
			return fmt.Errorf("%s is here already: start in an empty folder: %w", p, fs.ErrExist)
		}
		paths = append(paths, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("write example %q: %w", name, err)
	}
	for i, p := range paths {
		if err := write(example, dir, p, bucket); err != nil {
			return paths[:i], fmt.Errorf("write example %q: %w", name, err)
		}
	}
	return paths, nil
}

func write(example fs.FS, dir, p, bucket string) error {
	b, err := fs.ReadFile(example, p)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if bytes.HasPrefix(b, []byte("#!")) {
		mode = 0o755
	}
	if p == "bootwell.yaml" && bucket != "" {
		line, _, _ := bytes.Cut(b[bytes.Index(b, []byte(bucketLine)):], []byte("\n"))
		b = bytes.Replace(b, line, []byte(fmt.Sprintf("bucket: %q", bucket)), 1)
	}
	to := filepath.Join(dir, filepath.FromSlash(p))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
