package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// Optional reports whether a bucket with a whole project may lack the object
// called key: the next root, which is looked for in vain most of the time, a
// short cut for metadata or from one manifest to another, and what VMs and publishers write for
// themselves.
func Optional(key string) bool {
	if name, manifest := strings.CutPrefix(key, manifestPrefix); manifest {
		return strings.Contains(name, "-")
	}
	for _, prefix := range []string{"tuf/bundles/", reportPrefix, "logs/", "locks/"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	name, metadata := strings.CutPrefix(key, "tuf/metadata/")
	return metadata && strings.HasSuffix(name, ".root.json") && name != "1.root.json"
}

// elsewhere lists what another bucket of the project may do better: nothing
// that is signed is at fault, only what this bucket holds or answers.
var elsewhere = []error{
	bucket.ErrUnavailable, bucket.ErrNoBucket, bucket.ErrPermission, bucket.ErrNotExist, bucket.ErrTruncated, bucket.ErrTooLarge,
	trust.ErrUntrusted, trust.ErrRollback, trust.ErrExpired, trust.ErrNotInit,
}

// ReadAny calls f, which reads from b. Where b is a [bucket.Mirrored] it calls f
// again with the next bucket, as long as f fails for something that another
// bucket may have better. What remains when none has is what was wrong with
// the first bucket: a mirror that lags behind an unreachable one is no attack.
func ReadAny(ctx context.Context, b bucket.Bucket, f func() error) error {
	err := f()
	m, several := bucket.As[*bucket.Mirrored](b)
	for several && err != nil && ctx.Err() == nil {
		if !slices.ContainsFunc(elsewhere, func(e error) bool { return errors.Is(err, e) }) || !m.Leave(err) {
			return m.First(err)
		}
		err = f()
	}
	return err
}

// MergeReports yields every VM's newest report of all sources, in the order
// of their names. A source that fails is told to failed, by its index, and what
// it has not given by then is left out.
func MergeReports(ctx context.Context, sources []ReportSource, failed func(source int, err error)) iter.Seq[ReportEntry] {
	return func(yield func(ReportEntry) bool) {
		heads := make([]*reportHead, len(sources))
		for i, src := range sources {
			next, stop := iter.Pull2(src.Reports(ctx))
			defer stop()
			heads[i] = &reportHead{next: next, failed: func(err error) { failed(i, err) }}
		}
		var first sync.WaitGroup
		for _, h := range heads {
			first.Go(func() { h.entry, h.err, h.ok = h.next() })
		}
		first.Wait()
		for _, h := range heads {
			h.told()
		}
		for {
			var best *reportHead
			for _, h := range heads {
				if h.ok && (best == nil || h.entry.key < best.entry.key) {
					best = h
				}
			}
			if best == nil {
				return
			}
			newest, key := best.entry, best.entry.key
			for _, h := range heads {
				if h.ok && h.entry.key == key {
					if h.entry.newer(newest) {
						newest = h.entry
					}
					h.advance()
				}
			}
			if !yield(newest) {
				return
			}
		}
	}
}

// A reportHead is where the listing of one source is.
type reportHead struct {
	next   func() (ReportEntry, error, bool)
	failed func(error)
	entry  ReportEntry
	err    error
	ok     bool
}

func (h *reportHead) advance() {
	h.entry, h.err, h.ok = h.next()
	h.told()
}

// told passes on that the source failed.
func (h *reportHead) told() {
	if h.ok && h.err != nil {
		h.ok = false
		h.failed(h.err)
	}
}

// newer reports whether e tells later news of its VM than f. A VM counts its
// reports; where one of the two cannot be read, the servers' times decide.
func (e ReportEntry) newer(f ReportEntry) bool {
	if e.Summary != nil && f.Summary != nil && e.Summary.Sequence != f.Summary.Sequence {
		return e.Summary.Sequence > f.Summary.Sequence
	}
	return e.Modified.After(f.Modified)
}

// NewestReport returns a VM's newest report of all stores, and the index of the
// store that has it. bucket.ErrNotExist if no store has one; another error only
// if none could give one.
func NewestReport(ctx context.Context, stores []*Store, vm string) (newest *release.Report, at int, err error) {
	for i, s := range stores {
		r, rerr := s.Report(ctx, vm)
		switch {
		case rerr == nil && (newest == nil || r.Sequence > newest.Sequence):
			newest, at = r, i
		case rerr != nil && (err == nil || errors.Is(err, bucket.ErrNotExist)):
			err = rerr
		}
	}
	if newest != nil {
		return newest, at, nil
	}
	return nil, 0, fmt.Errorf("report of %s: %w", vm, err)
}
