package trust

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// A disk is the little that durable state needs of a folder. What Write wrote is
// on the disk when it returns; that a name is there, or gone, only after Sync.
type disk interface {
	Read(name string, max int64) ([]byte, error) // an error if there is more than max
	Write(files map[string][]byte) error
	Rename(from, to string) error
	Sync() error
}

// osDisk is a folder of the machine.
type osDisk struct{ dir string }

func (d osDisk) path(name string) string { return filepath.Join(d.dir, name) }

func (d osDisk) Read(name string, max int64) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("read %s: over %d bytes", f.Name(), max)
	}
	return b, err
}

// Write has the files flushed side by side, so that the file system can do it
// at once.
func (d osDisk) Write(files map[string][]byte) error {
	var g errgroup.Group
	for name, b := range files {
		g.Go(func() error { return d.write(name, b) })
	}
	return g.Wait()
}

func (d osDisk) write(name string, b []byte) (err error) {
	if err := d.clear(name); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

// clear removes a folder in a file's place: it is damage, and would stay for
// ever.
func (d osDisk) clear(name string) error {
	if info, err := os.Lstat(d.path(name)); err == nil && info.IsDir() {
		return os.RemoveAll(d.path(name))
	}
	return nil
}

func (d osDisk) Rename(from, to string) error {
	if err := d.clear(to); err != nil {
		return err
	}
	return os.Rename(d.path(from), d.path(to))
}

func (d osDisk) Sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
