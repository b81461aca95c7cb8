package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

const metricsFile = "bootwell.prom"

// lacksMetrics reports whether the collector is there and the file for it is not.
func (s *session) lacksMetrics() bool {
	dir := s.metricsDir()
	if !isDir(dir) {
		return false
	}
	_, err := os.Lstat(filepath.Join(dir, metricsFile))
	return err != nil
}

func (s *session) metricsDir() string {
	if s.Config.Metrics != "" {
		return s.Paths.at(s.Config.Metrics)
	}
	return s.Paths.Metrics()
}

// writeMetrics writes bootwell.prom for the textfile collector of Prometheus'
// node exporter (text exposition format 0.0.4), if its folder is there.
func (s *session) writeMetrics(r *release.Report) {
	dir := s.metricsDir()
	if !isDir(dir) {
		return
	}
	name := filepath.Join(dir, metricsFile)
	text := []byte(metrics(r))
	if old, err := readBounded(name, 64<<10); err == nil && string(old) == string(text) {
		return
	}
	clearLeftovers(dir, metricsFile)
	if err := placeFile(name, text, 0o644); err != nil {
		s.logger().Warn("metrics not written", "err", err)
	}
}

// metrics is the text for r. Labels have few values: never names of steps.
func metrics(r *release.Report) string {
	var b strings.Builder
	gauge := func(name, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
	}
	gauge("bootwell_agent_info", "What this VM runs.")
	fmt.Fprintf(&b, "bootwell_agent_info{version=%s,role=%s,release=%s} 1\n", label(r.Facts.Agent), label(r.Role), label(r.Release))
	gauge("bootwell_state", "1 for the state the VM is in.")
	for _, st := range []string{release.StateOK, release.StateChanged, release.StateApplying, release.StateFailed, release.StateHeld} {
		fmt.Fprintf(&b, "bootwell_state{state=%s} %d\n", label(st), truth(r.State == st))
	}
	if !r.LastSuccess.IsZero() {
		gauge("bootwell_last_success_timestamp_seconds", "End of the last run whose steps and checks were good.")
		fmt.Fprintf(&b, "bootwell_last_success_timestamp_seconds %d\n", r.LastSuccess.Unix())
	}
	if r.Run == nil {
		return b.String()
	}
	gauge("bootwell_last_run_timestamp_seconds", "Start of the last run.")
	fmt.Fprintf(&b, "bootwell_last_run_timestamp_seconds %d\n", r.Run.Started.Unix())
	gauge("bootwell_last_run_duration_seconds", "How long the last run took.")
	fmt.Fprintf(&b, "bootwell_last_run_duration_seconds %.3f\n", r.Run.Seconds)
	steps, checks := map[string]int{}, map[string]int{}
	for _, s := range r.Run.Steps {
		steps[s.Result]++
	}
	for _, c := range r.Run.Checks {
		checks[c.Result]++
	}
	gauge("bootwell_last_run_steps", "Steps of the last run by result.")
	for _, res := range []string{release.ResultUnchanged, release.ResultChanged, release.ResultFailed, release.ResultSkipped} {
		fmt.Fprintf(&b, "bootwell_last_run_steps{result=%s} %d\n", label(res), steps[res])
	}
	gauge("bootwell_checks", "Checks of the last run by result.")
	for _, res := range []string{release.CheckPassed, release.CheckFailed} {
		fmt.Fprintf(&b, "bootwell_checks{result=%s} %d\n", label(res), checks[res])
	}
	return b.String()
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label quotes a label's value as the text format wants it.
func label(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(v) + `"`
}
