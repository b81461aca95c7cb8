package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A foundReport is the object of one VM's report.
type foundReport struct {
	folder string // below reports/
	bucket.Object
	crowded bool // there is much else below the VM's prefix
	missing bool // and no report; Object is one of the others
}

func (f foundReport) warn() string {
	if !f.crowded {
		return ""
	}
	return fmt.Sprintf("over %d other objects lie where only its report belongs: somebody uses its right to write", maxBeside)
}

// A reportWalk lists the reports. Each VM may write what it likes below its
// own prefix; what that costs a reader is bounded by VM.
type reportWalk struct {
	b      bucket.Bucket
	found  []foundReport
	vms    int
	folder string // in which the walk is
	has    bool   // its report is found
	beside int    // objects seen there that are no report
}

func (s *Store) listReports(ctx context.Context) ([]foundReport, error) {
	w := &reportWalk{b: s.Bucket}
	after := ""
	for {
		var err error
		after, err = w.from(ctx, after)
		if err != nil {
			return nil, fmt.Errorf("list reports: %w", err)
		}
		if after == "" {
			break
		}
	}
	return onePerVM(w.found), nil
}

// name is the VM's, or the folder if that is no VM's.
func (f foundReport) name() string { return cmp.Or(release.FolderVM(f.folder), f.folder) }

// onePerVM sorts by VM and leaves out a VM's folder that anybody may have
// written to when it has one that the bucket's rules confine it to.
func onePerVM(found []foundReport) []foundReport {
	slices.SortFunc(found, func(a, b foundReport) int {
		order := cmp.Or(strings.Compare(a.name(), b.name()), b.Modified.Compare(a.Modified))
		if ca := a.folder != a.name(); a.name() == b.name() && ca != (b.folder != b.name()) {
			order = map[bool]int{true: -1, false: 1}[ca]
		}
		return order
	})
	return slices.CompactFunc(found, func(a, b foundReport) bool { return a.name() == b.name() })
}

// ofVM reads an object of a VM from its folder, which a list finds: only that
// tells whether the bucket's rules confine the VM to one. Who may not list
// reads from the folder of the VM's name.
func (s *Store) ofVM(ctx context.Context, vm string, key func(folder string) string, limit int64) ([]byte, error) {
	folder := vm
	found, err := s.listReports(ctx)
	if err != nil && !errors.Is(err, bucket.ErrPermission) && !errors.Is(err, bucket.ErrUnsupported) {
		return nil, err
	}
	for _, f := range found {
		if f.name() == vm {
			folder = f.folder
		}
	}
	b, _, err := bucket.ReadAll(ctx, s.Bucket, key(folder), bucket.GetOptions{}, limit)
	return b, err
}

// from walks over the objects after a key. It stops in a crowd, and returns
// from where to go on; "" at the end.
func (w *reportWalk) from(ctx context.Context, after string) (string, error) {
	for o, err := range w.b.List(ctx, reportPrefix, after) {
		if err != nil {
			return "", err
		}
		folder, name, below := strings.Cut(strings.TrimPrefix(o.Key, reportPrefix), "/")
		if !below {
			continue
		}
		if folder != w.folder {
			if w.vms++; w.vms > maxVMs {
				return "", fmt.Errorf("over %d VMs: %w", maxVMs, bucket.ErrTooLarge)
			}
			w.folder, w.has, w.beside = folder, false, 0
		}
		if name == reportFile {
			w.found, w.has = append(w.found, foundReport{folder: folder, Object: o}), true
			continue
		}
		if w.beside++; w.beside > maxBeside {
			// "0" is what follows "/", so nothing of the next VM is left out.
			return reportPrefix + folder + "0", w.crowd(ctx, o)
		}
	}
	return "", nil
}

// crowd looks for the report of a VM among many other objects, of which o is one.
func (w *reportWalk) crowd(ctx context.Context, o bucket.Object) error {
	if !w.has {
		f := foundReport{folder: w.folder, Object: o, missing: true}
		for r, err := range w.b.List(ctx, reportKey(w.folder), "") {
			if err != nil {
				return err
			}
			if r.Key == reportKey(w.folder) {
				f = foundReport{folder: w.folder, Object: r}
			}
			break
		}
		w.found = append(w.found, f)
	}
	w.found[len(w.found)-1].crowded = true
	return nil
}
