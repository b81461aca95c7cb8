package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	reportGets  = 48   // at once
	reportLists = 8    // parts of a listing at once
	reportsPart = 950  // known reports in a part: a page of a listing has a thousand, and some VMs are new
	reportQueue = 4096 // found, and waiting for their turn
)

// A ReportEntry is what a report in the bucket says. Err is set, and Summary is
// nil, for one that cannot be read; VM and Modified (the server's time) are
// always set. A VM whose name is none that bootwell gives is shown quoted.
type ReportEntry struct {
	VM       string
	Modified time.Time
	Summary  *release.Summary
	Warn     string // what is odd about a report that could be read; "": nothing
	Err      error

	key string // by which the listing is sorted: the VM's name, or its folder if that is no VM's
}

// A ReportSource is one of the buckets to which the VMs of a project report.
type ReportSource struct {
	Store    *Store
	CacheDir string                // for what was read last; "": nothing is kept
	Progress func(found, read int) // may be nil; called by one goroutine at a time
}

// Reports yields every VM's latest report in the order of their names: LIST, in
// parts side by side where the last time tells how to cut them, and meanwhile a
// GET (in parallel) for each report whose ETag is not in the cache. An error ends
// it; over 100,000 VMs are bucket.ErrTooLarge. Other objects that a VM put below
// its prefix are skipped, and when they are many, the entry says so.
func (src ReportSource) Reports(ctx context.Context) iter.Seq2[ReportEntry, error] {
	return func(yield func(ReportEntry, error) bool) {
		found, err := src.read(ctx)
		if err != nil {
			yield(ReportEntry{}, err)
			return
		}
		for i, f := range found {
			found[i] = nil // the caller has it now
			if !yield(f.entry(), nil) {
				return
			}
		}
	}
}

// entry is what the caller gets to see of f.
func (f *foundReport) entry() ReportEntry {
	e := ReportEntry{VM: f.vm, key: f.vm, Modified: f.Modified, Summary: f.summary, Warn: f.warn(), Err: f.err}
	if !release.ValidVM(f.vm) {
		e.VM = fmt.Sprintf("%.140q", f.folder)
	}
	return e
}

// read lists and reads the reports, and keeps the cache.
func (src ReportSource) read(ctx context.Context) ([]*foundReport, error) {
	s := src.Store
	cache, err := loadReports(src.CacheDir)
	if err != nil {
		s.log().Warn("cached reports are not used", "dir", src.CacheDir, "err", err)
	}
	var bounds []string
	if s.Bucket.Caps().ListFrom {
		bounds = cache.bounds(reportsPart)
	}
	g, gctx := errgroup.WithContext(ctx)
	r := &reportReader{s: s, cache: cache, queue: make(chan *foundReport, reportQueue), progress: src.Progress}
	var found []*foundReport
	g.Go(func() error {
		defer close(r.queue)
		var err error
		found, err = s.listReports(gctx, bounds, func(f *foundReport) error { return r.take(gctx, f) })
		return err
	})
	for range reportGets {
		g.Go(func() error { return r.work(gctx) })
	}
	err = g.Wait()
	if serr := cache.save(found, err != nil); serr != nil {
		s.log().Warn("reports are not cached", "dir", src.CacheDir, "err", serr)
	}
	if err != nil {
		return nil, fmt.Errorf("read reports: %w", err)
	}
	return found, nil
}

// A reportReader fills in what found reports say, from the cache or by a GET.
type reportReader struct {
	s     *Store
	cache *reportCache
	queue chan *foundReport // those that a GET is needed for

	mu          sync.Mutex
	listed, got int
	progress    func(found, read int)
}

// take sees a report as soon as it is listed.
func (r *reportReader) take(ctx context.Context, f *foundReport) error {
	switch had := r.cache.find(f.folder); {
	case !release.ValidVM(f.vm):
		f.err = fmt.Errorf("report of %.140q: no VM has such a name: %w", f.folder, release.ErrFormat)
	case f.missing:
		f.err = fmt.Errorf("report of %s: there is none, but %s: %w", f.vm, f.warn(), bucket.ErrNotExist)
	case had != nil && f.ETag == had.etag:
		// The strings of the listing are no longer needed.
		f.folder, f.vm, f.Key, f.ETag, f.summary = had.folder, had.summary.VM, "", had.etag, had.summary
	default:
		r.count(1, 0)
		select {
		case r.queue <- f:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.count(1, 1)
	return nil
}

func (r *reportReader) count(listed, got int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed, r.got = r.listed+listed, r.got+got
	if r.progress != nil {
		r.progress(r.listed, r.got)
	}
}

func (r *reportReader) work(ctx context.Context) error {
	for f := range r.queue {
		if err := r.get(ctx, f); err != nil {
			return err
		}
		r.count(0, 1)
	}
	return nil
}

// get reads one report. Its error ends the listing; what is wrong with this one
// report is in f.
func (r *reportReader) get(ctx context.Context, f *foundReport) error {
	var o bucket.GetOptions
	had := r.cache.find(f.folder)
	if had != nil && f.ETag == "" {
		o.IfNoneMatch = had.etag // a listing without ETags
	}
	b, obj, err := bucket.ReadAll(ctx, r.s.Bucket, reportKey(f.folder), o, release.MaxReportBytes)
	switch {
	case had != nil && errors.Is(err, bucket.ErrNotModified):
		f.ETag, f.summary = had.etag, had.summary
		return nil
	case ctx.Err() != nil || errors.Is(err, bucket.ErrUnavailable):
		return err
	case err != nil:
		f.err = fmt.Errorf("read report: %w", err)
		return nil
	}
	sum, err := release.ParseSummary(b)
	if err == nil {
		err = isOf(f.vm, sum.VM)
	}
	if err != nil {
		f.err = err
		return nil
	}
	f.ETag, f.summary, f.fetched = obj.ETag, sum, true
	return nil
}
