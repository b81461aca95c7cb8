package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// maxAlike is how many objects with the same start are looked at before the rest
// of them is passed over.
const maxAlike = 200

// ofVM reads an object of a VM from its folder, which a list finds: only that
// tells whether the bucket's rules confine the VM to one. Who may not list
// reads from the folder of the VM's name.
func (s *Store) ofVM(ctx context.Context, vm string, key func(folder string) string, limit int64) ([]byte, error) {
	folder := vm
	search := folderSearch{b: s.Bucket, vm: vm}
	err := search.run(ctx)
	if err != nil && !errors.Is(err, bucket.ErrPermission) && !errors.Is(err, bucket.ErrUnsupported) {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	if found := onePerVM(search.found); err == nil && len(found) > 0 {
		folder = found[0].folder
	}
	b, _, err := bucket.ReadAll(ctx, s.Bucket, key(folder), bucket.GetOptions{}, limit)
	return b, err
}

// A folderSearch looks for the folders of one VM among those of all. A folder
// that confines a VM begins with an identity, letters and digits, and a colon:
// what begins otherwise, and what begins with the identity of others, is passed
// over when there is much of it.
type folderSearch struct {
	b       bucket.Bucket
	vm      string
	found   []*foundReport
	folder  string // in which the search is
	folders int
	start   string // letters and digits, and what follows them, of the last objects
	alike   int    // that begin so
}

func (f *folderSearch) run(ctx context.Context) error {
	after := ""
	for {
		var err error
		if after, err = f.from(ctx, after); err != nil || after == "" {
			return err
		}
	}
}

// from looks at the objects after a key, and returns from where to go on; "" at
// the end.
func (f *folderSearch) from(ctx context.Context, after string) (string, error) {
	for o, err := range f.b.List(ctx, reportPrefix, after) {
		if err != nil {
			return "", err
		}
		rest := strings.TrimPrefix(o.Key, reportPrefix)
		folder, name, below := strings.Cut(rest, "/")
		if !below {
			continue
		}
		if folder != f.folder {
			if f.folders++; f.folders > maxVMs {
				return "", fmt.Errorf("over %d VMs: %w", maxVMs, bucket.ErrTooLarge)
			}
			f.folder = folder
		}
		if name == reportFile {
			f.add(folder, o)
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return !release.ValidVM(string(r)) })
		if start := rest[:end+1]; start != f.start {
			f.start, f.alike = start, 0
		}
		if f.alike++; f.alike > maxAlike && rest[end] < 0x7f {
			return reportPrefix + rest[:end] + string(rest[end]+1), f.ask(ctx)
		}
	}
	return "", nil
}

func (f *folderSearch) add(folder string, o bucket.Object) {
	if release.FolderVM(folder) == f.vm {
		f.found = append(f.found, &foundReport{folder: folder, vm: f.vm, Object: o})
	}
}

// ask looks for the VM's folder among those of an identity that are passed over.
func (f *folderSearch) ask(ctx context.Context) error {
	folder := f.start + f.vm
	if !strings.HasSuffix(f.start, ":") {
		return nil
	}
	for _, known := range f.found {
		if known.folder == folder {
			return nil
		}
	}
	for o, err := range f.b.List(ctx, reportKey(folder), "") {
		if err != nil {
			return err
		}
		if o.Key == reportKey(folder) {
			f.add(folder, o)
		}
		break
	}
	return nil
}
