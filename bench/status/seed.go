package main

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// etagAttr is where the gateway's folders keep the ETag of an object.
const etagAttr = "user.etag"

// vmName is a name as EC2 gives them.
func vmName(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	return fmt.Sprintf("i-0%08x%08x", r.Uint32(), r.Uint32())
}

// reportOf is the report of VM n after its generation-th change: most VMs are
// in order, a few have failed, and every one tells of its last runs.
func reportOf(n, generation int, now time.Time) release.Report {
	r := rand.New(rand.NewPCG(uint64(n), uint64(generation)))
	role, zone := []string{"web", "app", "db", "worker"}[n%4], string(rune('a'+n%3))
	begun := now.Add(-time.Duration(r.IntN(86400)) * time.Second)
	vm := vmName(n)
	rep := release.Report{
		Schema: 1, Project: "bench", VM: vm, Role: role, Channel: "stable", Sequence: int64(100 + generation), BootID: id(r) + id(r), Time: begun,
		State: release.StateOK, Release: "r43", LastGood: "r43", Wanted: "r43", LastSuccess: begun, NextRun: now.Add(5 * time.Minute),
		Heartbeat: release.Duration(48 * time.Hour),
		Facts: release.Facts{
			InstanceID: vm, Hostname: "ip-10-1-2-3.eu-west-1.compute.internal", Cloud: "aws", Region: "eu-west-1", Zone: "eu-west-1" + zone,
			Platform: "debian-12", Arch: "amd64", Kernel: "6.1.0-28-cloud-amd64", CPUs: 4, MemoryMB: 15834, Init: "systemd", Agent: "0.9.0",
		},
	}
	run := &release.Run{ID: id(r), Why: release.WhyRelease, Release: "r43", Started: begun, Seconds: r.Float64() * 40, Result: release.ResultChanged, Attempt: 1, Log: "3.zst"}
	for i, name := range []string{"base packages", "hardening", "kernel settings", "users", "nginx", "site config", "log shipping", "monitoring"} {
		s := release.StepResult{Name: name, Kind: "files", Result: release.ResultUnchanged, Seconds: r.Float64(), Attempts: 1}
		if i == 4 || i == 5 {
			s.Result, s.Changes = release.ResultChanged, []string{"/etc/nginx/nginx.conf +3 -1", "installed nginx 1.22.1-9+deb12u" + fmt.Sprint(r.IntN(9))}
		}
		run.Steps = append(run.Steps, s)
	}
	for _, name := range []string{"home page", "health", "disk", "time"} {
		run.Checks = append(run.Checks, release.CheckResult{Name: name, Kind: "http", Result: release.CheckPassed, Seconds: r.Float64(), Attempts: 1})
	}
	if n%200 == 17 {
		rep.State, rep.Release, rep.Reason, run.Result = release.StateFailed, "r42", "step site config failed", release.ResultFailed
		run.Steps[5].Result, run.Steps[5].Reason = release.ResultFailed, "exit status 1"
		run.Steps[5].Tail = fmt.Sprintf("nginx: [emerg] unknown directive \"brotli\" in /etc/nginx/nginx.conf:%d\n", r.IntN(90))
	}
	rep.Run = run
	for i := range 8 {
		rep.History = append(rep.History, release.RunBrief{
			ID: id(r), Why: release.WhyRelease, Release: fmt.Sprintf("r%d", 42-i), Started: begun.Add(-time.Duration(i+1) * 24 * time.Hour),
			Seconds: r.Float64() * 30, Result: release.ResultChanged, Log: fmt.Sprintf("%d.zst", i),
		})
	}
	return rep
}

func id(r *rand.Rand) string { return fmt.Sprintf("%016x", r.Uint64()) }

// write puts a report into the gateway's folder as a PUT would: the file, and
// its ETag in an attribute. It returns the report's length.
func write(bucketDir string, rep release.Report) (int, error) {
	b, err := rep.Bytes()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(bucketDir, "reports", rep.VM)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	name := filepath.Join(dir, "report.json")
	if err := os.WriteFile(name+".tmp", b, 0o644); err != nil {
		return 0, err
	}
	sum := md5.Sum(b)
	if err := unix.Setxattr(name+".tmp", etagAttr, []byte(`"`+hex.EncodeToString(sum[:])+`"`), 0); err != nil {
		return 0, fmt.Errorf("set ETag of %s: %w", name, err)
	}
	return len(b), os.Rename(name+".tmp", name)
}

// seed writes the reports of every step-th of n VMs.
func seed(bucketDir string, n, step, generation int, now time.Time) (bytes int64, err error) {
	const writers = 8
	var g errgroup.Group
	var total atomic.Int64
	for k := range writers {
		g.Go(func() error {
			for i := k * step; i < n; i += writers * step {
				l, err := write(bucketDir, reportOf(i, generation, now))
				if err != nil {
					return err
				}
				total.Add(int64(l))
			}
			return nil
		})
	}
	err = g.Wait()
	return total.Load(), err
}
