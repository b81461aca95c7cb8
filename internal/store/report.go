package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	maxLog       = 1 << 20   // unpacked
	logHead      = 256 << 10 // of a longer log that is kept
	maxVMs       = 100_000
	maxBeside    = 100 // objects beside a VM's report that are walked over before the rest is skipped
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
	name := LogName(n)
	z := c.normal.EncodeAll(shorten(log), nil)
	if _, err := s.Bucket.Put(ctx, logKey(cmp.Or(s.Folder, vm), name), bytes.NewReader(z), bucket.Condition{}); err != nil {
		return "", fmt.Errorf("write log: %w", err)
	}
	return name, nil
}

// LogName returns the name that PutLog gives to the log of run n.
func LogName(n int64) string { return fmt.Sprintf("%d.zst", n%release.MaxReportedRuns) }

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
	b, err := inflate(z, maxLog)
	if err != nil {
		return nil, fmt.Errorf("read log %s of %s: %w: %w", name, vm, err, release.ErrFormat)
	}
	return b, nil
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
	if err := isOf(vm, r.VM); err != nil {
		return nil, err
	}
	return r, nil
}

// isOf reports ErrFormat unless a report found as that of vm says so itself.
func isOf(vm, says string) error {
	if vm != says {
		return fmt.Errorf("report of %s: it says that it is of %.200q: %w", vm, says, release.ErrFormat)
	}
	return nil
}
