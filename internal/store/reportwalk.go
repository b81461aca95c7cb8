package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

// A foundReport is the object of one VM's report.
type foundReport struct {
	vm string
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
	vm     string // whose prefix the walk is in
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
	slices.SortFunc(w.found, func(a, b foundReport) int { return strings.Compare(a.vm, b.vm) })
	return w.found, nil
}

// from walks over the objects after a key. It stops in a crowd, and returns
// from where to go on; "" at the end.
func (w *reportWalk) from(ctx context.Context, after string) (string, error) {
	for o, err := range w.b.List(ctx, reportPrefix, after) {
		if err != nil {
			return "", err
		}
		vm, name, below := strings.Cut(strings.TrimPrefix(o.Key, reportPrefix), "/")
		if !below {
			continue
		}
		if vm != w.vm {
			if w.vms++; w.vms > maxVMs {
				return "", fmt.Errorf("over %d VMs: %w", maxVMs, bucket.ErrTooLarge)
			}
			w.vm, w.has, w.beside = vm, false, 0
		}
		if name == reportFile {
			w.found, w.has = append(w.found, foundReport{vm: vm, Object: o}), true
			continue
		}
		if w.beside++; w.beside > maxBeside {
			// "0" is what follows "/", so nothing of the next VM is left out.
			return reportPrefix + vm + "0", w.crowd(ctx, o)
		}
	}
	return "", nil
}

// crowd looks for the report of a VM among many other objects, of which o is one.
func (w *reportWalk) crowd(ctx context.Context, o bucket.Object) error {
	if !w.has {
		f := foundReport{vm: w.vm, Object: o, missing: true}
		for r, err := range w.b.List(ctx, reportKey(w.vm), "") {
			if err != nil {
				return err
			}
			if r.Key == reportKey(w.vm) {
				f = foundReport{vm: w.vm, Object: r}
			}
			break
		}
		w.found = append(w.found, f)
	}
	w.found[len(w.found)-1].crowded = true
	return nil
}
