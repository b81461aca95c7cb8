package trust

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A disk is the little that durable state needs of a file system. Names are
// relative and slash-separated. What Write wrote is on the disk when it
// returns; that a name is there, or gone, only after Sync of its folder.
type disk interface {
	Read(name string, max int64) ([]byte, error) // an error if there is more than max
	Write(name string, b []byte) error
	Rename(from, to string) error
	Mkdir(name string) error
	RemoveAll(name string) error
	Sync(folder string) error
}

// osDisk is a folder of the machine.
type osDisk struct{ dir string }

func (d osDisk) path(name string) string { return filepath.Join(d.dir, filepath.FromSlash(name)) }

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

func (d osDisk) Write(name string, b []byte) (err error) {
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

func (d osDisk) Rename(from, to string) error {
	// A folder in the file's place is damage, and would stay for ever.
	if info, err := os.Lstat(d.path(to)); err == nil && info.IsDir() {
		if err := os.RemoveAll(d.path(to)); err != nil {
			return err
		}
	}
	return os.Rename(d.path(from), d.path(to))
}

func (d osDisk) Mkdir(name string) error { return os.Mkdir(d.path(name), 0o700) }

func (d osDisk) RemoveAll(name string) error { return os.RemoveAll(d.path(name)) }

func (d osDisk) Sync(folder string) error {
	f, err := os.Open(d.path(folder))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
