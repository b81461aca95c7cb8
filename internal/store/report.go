package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	maxLog      = 1 << 20   // unpacked
	logHead     = 256 << 10 // of a longer log that is kept
	maxVMs      = 100_000
	maxBeside   = 100 // objects beside a VM's report that are walked over before the rest is skipped
	reportGets  = 16
	reportBatch = 128 // reports in memory at once

	reportPrefix = "reports/"
	reportFile   = "report.json"
)

// PutReport writes the VM's report.
func (s *Store) PutReport(ctx context.Context, r release.Report) error {
	if !release.ValidVM(r.VM) {
		return fmt.Errorf("write report: VM name %.200q: %w", r.VM, release.ErrFormat)
	}
	b, err := r.Bytes()
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if _, err := s.Bucket.Put(ctx, reportKey(cmp.Or(s.Folder, r.VM)), bytes.NewReader(b), bucket.Condition{}); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func reportKey(vm string) string    { return reportPrefix + vm + "/" + reportFile }
func logKey(vm, name string) string { return "logs/" + vm + "/" + name }

// PutLog writes the log of one run to slot n mod release.MaxReportedRuns of
// the VM (zstd, at most 1 MiB unpacked: the start and the end of longer ones)
// and returns its object name below logs/<vm>/. Logs are not beside reports, so
// that a list of all reports is no list of all logs.
func (s *Store) PutLog(ctx context.Context, vm string, n int64, log []byte) (string, error) {
	if !release.ValidVM(vm) || n < 0 {
		return "", fmt.Errorf("write log: run %d of VM %.200q: %w", n, vm, release.ErrFormat)
	}
	c, err := sharedCoders()
	if err != nil {
		return "", fmt.Errorf("write log: %w", err)
	}
	name := fmt.Sprintf("%d.zst", n%release.MaxReportedRuns)
	z := c.normal.EncodeAll(shorten(log), nil)
	if _, err := s.Bucket.Put(ctx, logKey(cmp.Or(s.Folder, vm), name), bytes.NewReader(z), bucket.Condition{}); err != nil {
		return "", fmt.Errorf("write log: %w", err)
	}
	return name, nil
}

// shorten keeps the start and the end of a log that is too long.
func shorten(log []byte) []byte {
	if len(log) <= maxLog {
		return log
	}
	mark := fmt.Appendf(nil, "\n[… %d bytes left out …]\n", len(log)-maxLog)
	tail := log[len(log)-(maxLog-logHead-len(mark)):]
	return slices.Concat(log[:logHead], mark, tail)
}

// RunLog returns a log that PutLog wrote, unpacked and bounded. It is the
// VM's claim: its text may be hostile.
func (s *Store) RunLog(ctx context.Context, vm, name string) ([]byte, error) {
	slot, ok := strings.CutSuffix(name, ".zst")
	if !release.ValidVM(vm) || !ok || len(slot) != 1 || slot[0] < '0' || slot[0] > '9' {
		return nil, fmt.Errorf("read log %.100q of VM %.200q: %w", name, vm, release.ErrFormat)
	}
	z, err := s.ofVM(ctx, vm, func(folder string) string { return logKey(folder, name) }, maxStored(maxLog))
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	b, err := inflate(z, nil, maxLog)
	if err != nil {
		return nil, fmt.Errorf("read log %s of %s: %w: %w", name, vm, err, release.ErrFormat)
	}
	return b, nil
}

// A ReportEntry is a report as found in the bucket. Err is set, and Report is
// nil, for one that cannot be read; VM and Modified (the server's time) are
// always set. A VM whose name is none that bootwell gives is shown quoted.
type ReportEntry struct {
	VM       string
	Modified time.Time
	Report   *release.Report
	Warn     string // what is odd about a report that could be read; "": nothing
	Err      error

	key string // by which the listing is sorted: the VM's name, or its folder if that is no VM's
}

// Report returns one VM's latest report; bucket.ErrNotExist if there is none.
func (s *Store) Report(ctx context.Context, vm string) (*release.Report, error) {
	if !release.ValidVM(vm) {
		return nil, fmt.Errorf("read report: VM name %.200q: %w", vm, release.ErrFormat)
	}
	b, err := s.ofVM(ctx, vm, reportKey, release.MaxReportBytes)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return parseReport(b, vm)
}

// parseReport reads a report that was found where the one of vm belongs.
func parseReport(b []byte, vm string) (*release.Report, error) {
	r, err := release.ParseReport(b)
	if err != nil {
		return nil, err
	}
	if r.VM != vm {
		return nil, fmt.Errorf("report of %s: it says that it is of %.200q: %w", vm, r.VM, release.ErrFormat)
	}
	return r, nil
}

// Reports yields every VM's latest report in the order of their names: LIST,
// then a GET (in parallel) for each report whose ETag is not in the cache in
// cacheDir ("": no cache). An error ends it; over 100,000 VMs are
// bucket.ErrTooLarge. Other objects that a VM put below its prefix are skipped,
// and when they are many, the entry says so.
func (s *Store) Reports(ctx context.Context, cacheDir string) iter.Seq2[ReportEntry, error] {
	return func(yield func(ReportEntry, error) bool) {
		found, err := s.listReports(ctx)
		if err != nil {
			yield(ReportEntry{}, err)
			return
		}
		c := reportCache{dir: cacheDir, s: s}
		c.keep(found)
		for batch := range slices.Chunk(found, reportBatch) {
			entries := make([]ReportEntry, len(batch))
			g, gctx := errgroup.WithContext(ctx)
			g.SetLimit(reportGets)
			for i, f := range batch {
				g.Go(func() error {
					var err error
					entries[i], err = c.entry(gctx, f)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				yield(ReportEntry{}, fmt.Errorf("read reports: %w", err))
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// A reportCache keeps reports by VM and ETag in a folder. Anything wrong with
// it costs a GET and nothing else.
type reportCache struct {
	dir string
	s   *Store
}

type cachedReport struct {
	ETag   string          `json:"etag"`
	Report json.RawMessage `json:"report"`
}

const cacheSuffix = ".report"

// keep removes the reports of VMs that are gone.
func (c reportCache) keep(found []foundReport) {
	if c.dir == "" {
		return
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		c.s.log().Warn("reports are not cached", "dir", c.dir, "err", err)
		return
	}
	live := make(map[string]bool, len(found))
	for _, f := range found {
		live[f.folder+cacheSuffix] = true
	}
	ents, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range ents {
		if strings.HasSuffix(e.Name(), cacheSuffix) && !live[e.Name()] {
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}

// entry returns the report in f. Its error ends the listing; what is wrong
// with this one report is in the entry.
func (c reportCache) entry(ctx context.Context, f foundReport) (ReportEntry, error) {
	vm := f.name()
	e := ReportEntry{VM: vm, key: vm, Modified: f.Modified, Warn: f.warn()}
	if release.FolderVM(f.folder) == "" {
		e.VM = fmt.Sprintf("%.140q", f.folder)
		e.Err = fmt.Errorf("report of %s: no VM has such a name: %w", e.VM, release.ErrFormat)
		return e, nil
	}
	if f.missing {
		e.Err = fmt.Errorf("report of %s: there is none, but %s: %w", e.VM, f.warn(), bucket.ErrNotExist)
		return e, nil
	}
	had := c.load(f.folder)
	if f.ETag != "" && had.ETag == f.ETag {
		if e.Report, e.Err = parseReport(had.Report, vm); e.Err == nil {
			return e, nil
		}
	}
	b, o, err := bucket.ReadAll(ctx, c.s.Bucket, f.Key, bucket.GetOptions{IfNoneMatch: had.ETag}, release.MaxReportBytes)
	switch {
	case errors.Is(err, bucket.ErrNotModified):
		b, o.ETag = had.Report, had.ETag
	case ctx.Err() != nil || errors.Is(err, bucket.ErrUnavailable):
		return e, err
	case err != nil:
		e.Err = fmt.Errorf("read report: %w", err)
		return e, nil
	}
	if e.Report, e.Err = parseReport(b, vm); e.Err == nil && o.ETag != had.ETag {
		c.store(f.folder, cachedReport{o.ETag, b})
	}
	return e, nil
}

func (c reportCache) load(vm string) cachedReport {
	var had cachedReport
	if c.dir == "" {
		return had
	}
	f, err := openRegular(filepath.Join(c.dir, vm+cacheSuffix))
	if err != nil {
		return had
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*release.MaxReportBytes))
	if err != nil || json.Unmarshal(b, &had) != nil {
		return cachedReport{}
	}
	if _, err := parseReport(had.Report, vm); err != nil {
		return cachedReport{}
	}
	return had
}

// store writes without fsync: a torn entry does not parse, and is fetched again.
func (c reportCache) store(vm string, r cachedReport) {
	if c.dir == "" || r.ETag == "" {
		return
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = writeCache(c.dir, vm+cacheSuffix, b)
	}
	if err != nil {
		c.s.log().Warn("a report is not cached", "vm", vm, "err", err)
	}
}

func writeCache(dir, name string, b []byte) error {
	t, err := os.CreateTemp(dir, name+".*.tmp")
	if err != nil {
		return err
	}
	_, err = t.Write(b)
	if err = errors.Join(err, t.Close()); err == nil {
		err = os.Rename(t.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(t.Name())
	}
	return err
}
