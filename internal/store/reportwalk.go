package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A foundReport is the object of one VM's report, and then what became of it.
type foundReport struct {
	folder string // below reports/
	vm     string // whose it is; the folder if that is no VM's
	bucket.Object
	crowded bool // there is much else below the VM's prefix
	missing bool // and no report; Object is one of the others

	summary *release.Summary // nil: not read, or err
	fetched bool             // by a GET just now
	err     error            // what is wrong with this one report
}

func (f *foundReport) warn() string {
	if !f.crowded {
		return ""
	}
	return fmt.Sprintf("over %d other objects lie where only its report belongs: somebody uses its right to write", maxBeside)
}

// A reportWalk lists the reports, or those between two folders. Each VM may write
// what it likes below its own prefix; what that costs a reader is bounded by VM.
type reportWalk struct {
	b      bucket.Bucket
	vms    *atomic.Int64            // of all walks of a listing
	take   func(*foundReport) error // is told at once of what is found; may be nil
	found  []*foundReport
	folder string // in which the walk is
	has    bool   // its report is found
	beside int    // objects seen there that are no report
}

// listReports lists all reports, one for each VM. The folders in bounds, in the
// order of their keys, are where the listing is cut into parts that are asked for
// side by side; they need not be there. take is called by several goroutines.
func (s *Store) listReports(ctx context.Context, bounds []string, take func(*foundReport) error) ([]*foundReport, error) {
	var vms atomic.Int64
	walks := make([]reportWalk, len(bounds)+1)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(reportLists)
	for i := range walks {
		w := &walks[i]
		*w = reportWalk{b: s.Bucket, vms: &vms, take: take}
		var after, end string
		if i > 0 {
			after = behind(bounds[i-1])
		}
		if i < len(bounds) {
			end = behind(bounds[i])
		}
		g.Go(func() error { return w.walk(ctx, after, end) })
	}
	err := g.Wait()
	var found []*foundReport
	for i := range walks {
		found = append(found, walks[i].found...)
	}
	if err != nil {
		return found, fmt.Errorf("list reports: %w", err)
	}
	return onePerVM(found), nil
}

// behind is a key after all objects of a folder and before those of the next:
// "0" is what follows "/".
func behind(folder string) string { return reportPrefix + folder + "0" }

// walk goes over the objects after a key, up to end.
func (w *reportWalk) walk(ctx context.Context, after, end string) error {
	for {
		var err error
		if after, err = w.from(ctx, after, end); err != nil || after == "" {
			return err
		}
	}
}

// onePerVM sorts by VM and leaves out a VM's folder that anybody may have
// written to when it has one that the bucket's rules confine it to.
func onePerVM(found []*foundReport) []*foundReport {
	slices.SortFunc(found, func(a, b *foundReport) int {
		order := cmp.Or(strings.Compare(a.vm, b.vm), b.Modified.Compare(a.Modified))
		if ca := a.folder != a.vm; a.vm == b.vm && ca != (b.folder != b.vm) {
			order = map[bool]int{true: -1, false: 1}[ca]
		}
		return order
	})
	return slices.CompactFunc(found, func(a, b *foundReport) bool { return a.vm == b.vm })
}

// from walks over the objects after a key, up to end ("": all). It stops in a
// crowd, and returns from where to go on; "" at the end.
func (w *reportWalk) from(ctx context.Context, after, end string) (string, error) {
	for o, err := range w.b.List(ctx, reportPrefix, after) {
		if err != nil {
			return "", err
		}
		if end != "" && o.Key > end {
			return "", nil
		}
		folder, name, below := strings.Cut(strings.TrimPrefix(o.Key, reportPrefix), "/")
		if !below {
			continue
		}
		if folder != w.folder {
			if w.vms.Add(1) > maxVMs {
				return "", fmt.Errorf("over %d VMs: %w", maxVMs, bucket.ErrTooLarge)
			}
			w.folder, w.has, w.beside = folder, false, 0
		}
		if name == reportFile {
			w.has = true
			if err := w.add(&foundReport{folder: folder, Object: o}); err != nil {
				return "", err
			}
			continue
		}
		if w.beside++; w.beside > maxBeside {
			return behind(folder), w.crowd(ctx, o)
		}
	}
	return "", nil
}

func (w *reportWalk) add(f *foundReport) error {
	f.vm = cmp.Or(release.FolderVM(f.folder), f.folder)
	w.found = append(w.found, f)
	if w.take == nil {
		return nil
	}
	return w.take(f)
}

// crowd looks for the report of a VM among many other objects, of which o is one.
func (w *reportWalk) crowd(ctx context.Context, o bucket.Object) error {
	if w.has {
		w.found[len(w.found)-1].crowded = true
		return nil
	}
	f := &foundReport{folder: w.folder, Object: o, missing: true, crowded: true}
	for r, err := range w.b.List(ctx, reportKey(w.folder), "") {
		if err != nil {
			return err
		}
		if r.Key == reportKey(w.folder) {
			f.Object, f.missing = r, false
		}
		break
	}
	return w.add(f)
}
