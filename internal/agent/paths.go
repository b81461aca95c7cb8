package agent

import (
	"path/filepath"

	"github.com/bootwell/bootwell/internal/release"
)

// Paths are the agent's places on a VM. Root goes before each absolute path:
// "" on a real machine, a folder in tests.
type Paths struct{ Root string }

func (p Paths) at(path string) string { return filepath.Join(p.Root, "/", path) }

// Config is the settings file that the bootstrap writes.
func (p Paths) Config() string { return p.at("/etc/bootwell/agent.yaml") }

// Hold is the file that stops runs while it is there; its text is the reason.
func (p Paths) Hold() string { return p.at("/etc/bootwell/hold") }

// Binary is where Install puts the agent.
func (p Paths) Binary() string { return p.at("/usr/local/bin/bootwell-agent") }

// OtherBinary is where the bootstrap puts the agent when /usr/local/bin cannot
// be written or run from.
func (p Paths) OtherBinary() string { return p.at("/var/lib/bootwell/bin/bootwell-agent") }

// Service is the systemd service unit.
func (p Paths) Service() string { return p.at("/etc/systemd/system/bootwell.service") }

// Timer is the systemd timer unit.
func (p Paths) Timer() string { return p.at("/etc/systemd/system/bootwell.timer") }

// Cron is the schedule where there is no systemd.
func (p Paths) Cron() string { return p.at("/etc/cron.d/bootwell") }

// Crontab is root's own crontab, which holds the schedule where cron is
// busybox's: /etc/crontabs is Alpine's place, the other one busybox's own.
func (p Paths) Crontab() string {
	if dir := p.at("/etc/crontabs"); isDir(dir) {
		return filepath.Join(dir, "root")
	}
	return p.at("/var/spool/cron/crontabs/root")
}

// State is the folder of everything durable.
func (p Paths) State() string { return p.at("/var/lib/bootwell") }

// Trust is the folder of verified metadata.
func (p Paths) Trust() string { return filepath.Join(p.State(), "trust") }

// Releases is the folder of staged trees and their manifests.
func (p Paths) Releases() string { return filepath.Join(p.State(), "releases") }

// Tree is the staged tree of the manifest with digest d.
func (p Paths) Tree(d release.Digest) string { return filepath.Join(p.Releases(), d.Hex()) }

// Manifest is the manifest with digest d, beside its tree.
func (p Paths) Manifest(d release.Digest) string {
	return filepath.Join(p.Releases(), d.Hex()+".json")
}

// Current is the link to the tree whose steps ran last.
func (p Paths) Current() string { return filepath.Join(p.State(), "current") }

// LastGood is the link to the last tree that passed its checks.
func (p Paths) LastGood() string { return filepath.Join(p.State(), "last-good") }

// StateFile is what the VM has and remembers.
func (p Paths) StateFile() string { return filepath.Join(p.State(), "state.json") }

// Journal is where a run is; absent when none is under way.
func (p Paths) Journal() string { return filepath.Join(p.State(), "journal.json") }

// Steps is the memory of the steps' inputs.
func (p Paths) Steps() string { return filepath.Join(p.State(), "steps.json") }

// Runs is the folder of logs and results.
func (p Paths) Runs() string { return filepath.Join(p.State(), "runs") }

// RunLog is the output of one run.
func (p Paths) RunLog(id string) string { return filepath.Join(p.Runs(), id+".log") }

// RunResult is the result of one run.
func (p Paths) RunResult(id string) string { return filepath.Join(p.Runs(), id+".json") }

// Lock is the file under flock(2) while the agent works.
func (p Paths) Lock() string { return filepath.Join(p.State(), "lock") }

// Run is the folder of what a reboot may take away.
func (p Paths) Run() string { return p.at("/run/bootwell") }

// Status is the last report, for programs on the VM.
func (p Paths) Status() string { return filepath.Join(p.Run(), "status.json") }

// StatusCopy is the same where a reboot does not take it away.
func (p Paths) StatusCopy() string { return filepath.Join(p.State(), "status.json") }

// Metrics is the folder of the Prometheus node exporter's textfile collector
// as Debian has it.
func (p Paths) Metrics() string { return p.at("/var/lib/prometheus/node-exporter") }
