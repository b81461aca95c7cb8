package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// Points of a run that the journal records.
const (
	pointApplying  = "applying"  // step Step is about to run, runs, or has just ended; before the first one, current may not be flipped yet
	pointRebooting = "rebooting" // a reboot was asked for; step Step is next
	pointChecking  = "checking"  // all steps have run
)

// Bounds that end loops which no single run can see.
const (
	maxReboots   = 3  // asked for by one run
	maxSameCut   = 10 // runs cut off at the same step, one after the other
	maxCuts      = 28 // runs cut off anywhere, one after the other
	maxJournal   = 8 << 20
	maxRebootAsk = 5 // times to ask for a reboot that does not come
)

// A journal is where a run is. It is written before each step and removed when
// the run's result is in the state.
type journal struct {
	Schema   int    `json:"schema"`
	Run      string `json:"run"`
	Why      string `json:"why"`
	Target   ref    `json:"target"`
	Fallback bool   `json:"fallback,omitempty"`
	Attempt  int    `json:"attempt,omitempty"`

	Started time.Time            `json:"started"`
	BootID  string               `json:"boot_id,omitempty"`
	PID     int                  `json:"pid,omitempty"`
	Point   string               `json:"point"`
	Step    int                  `json:"step"` // index of the step to run (next)
	Steps   []release.StepResult `json:"steps,omitempty"`
	Stopped bool                 `json:"stopped,omitempty"` // the agent was asked to stop and did so in order

	Reboots int  `json:"reboots,omitempty"` // asked for so far
	Asked   int  `json:"asked,omitempty"`   // times the present one was asked for
	Cuts    cuts `json:"cuts,omitzero"`
}

// cuts counts the runs before this one that were cut off.
type cuts struct {
	Step  int    `json:"step"` // at which the last one was
	Point string `json:"point,omitempty"`
	Same  int    `json:"same"`  // cut off there, one after the other
	Total int    `json:"total"` // cut off anywhere
}

// loadJournal returns the journal, or nil when no run was under way. One that
// cannot be read is set aside: what it told is that a run was cut off at an
// unknown place, which the returned empty journal says too.
func loadJournal(p Paths) (j *journal, note string, err error) {
	b, err := readBounded(p.Journal(), maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err == nil {
		j, err = parseJournal(b)
	}
	if err != nil {
		setAside(p.Journal())
		return &journal{Schema: stateSchema, Point: pointApplying}, fmt.Sprintf("the journal of a run could not be read (%s)", oneLine(err.Error(), 200)), nil
	}
	return j, "", nil
}

// parseJournal reads and bounds the text of a journal.
func parseJournal(b []byte) (*journal, error) {
	j := &journal{}
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("parse journal: %w", err)
	}
	switch j.Point {
	case pointApplying, pointRebooting, pointChecking:
	default:
		return nil, fmt.Errorf("parse journal: point %.20q: %w", j.Point, release.ErrFormat)
	}
	if j.Schema != stateSchema || j.Run != "" && !validRunID(j.Run) || j.Step < 0 || len(j.Steps) > release.MaxFiles {
		return nil, fmt.Errorf("parse journal: %w", release.ErrFormat)
	}
	return j, nil
}

// write records the journal. The next action may begin only after it.
func (j *journal) write(p Paths) error {
	if err := j.put(p); err != nil {
		return err
	}
	return syncDir(p.State())
}

// put is write for who flushes the state folder afterwards.
func (j *journal) put(p Paths) error {
	j.PID = os.Getpid()
	return putJSON(p.Journal(), j, 0o600)
}

// cutOff returns the count of cut-off runs for the run that comes after j. A
// run that was stopped in order within the same boot is no cut: somebody
// pressed Ctrl-C. A stop by a shutdown is one, since a step that reboots by
// itself would otherwise do so for ever.
func (j *journal) cutOff(boot string) cuts {
	if j.Stopped && j.BootID == boot {
		return j.Cuts
	}
	c := cuts{Step: j.Step, Point: j.Point, Same: 1, Total: j.Cuts.Total + 1}
	if j.Cuts.Total > 0 && j.Cuts.Step == j.Step && j.Cuts.Point == j.Point {
		c.Same = j.Cuts.Same + 1
	}
	return c
}

func (c cuts) endless() bool { return c.Same > maxSameCut || c.Total > maxCuts }
