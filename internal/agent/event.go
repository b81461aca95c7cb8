package agent

import (
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// Kinds of an [Event], in the order in which a run tells them.
const (
	EventNote      = "note"       // Text: something to know that neither the report nor the error tells
	EventStage     = "stage"      // Phase, Done, Total: fetching and unpacking a release
	EventStart     = "start"      // ID, Release, Previous, Role, Why, Total (steps), Size, Attempt, Fallback: the steps begin
	EventStepStart = "step_start" // Index, Total, Name
	EventStepEnd   = "step_end"   // Index, Total, Name, Step
	EventCheck     = "check"      // Index, Total, Name, Check
	EventReboot    = "reboot"     // Name: of the step that asks for it
	EventResult    = "result"     // Run: one pass has ended
	EventEnd       = "end"        // Report: all is done; its NextRun tells when the next poll is due
)

// An Event is one line of the story of a run, for whoever shows it. Only the
// fields named at its Kind are set.
type Event struct {
	Kind     string               `json:"type"`
	Time     time.Time            `json:"time"`
	Text     string               `json:"text,omitempty"`
	Phase    string               `json:"phase,omitempty"`
	Done     int64                `json:"done,omitempty"` // bytes
	Total    int64                `json:"total,omitempty"`
	ID       string               `json:"id,omitempty"` // of the run
	Release  string               `json:"release,omitempty"`
	Previous string               `json:"previous,omitempty"`
	Role     string               `json:"role,omitempty"`
	Why      string               `json:"why,omitempty"`
	Size     int64                `json:"size,omitempty"` // bytes fetched for it
	Attempt  int                  `json:"attempt,omitempty"`
	Fallback bool                 `json:"fallback,omitempty"`
	Index    int                  `json:"index,omitempty"` // from 1
	Name     string               `json:"name,omitempty"`
	Step     *release.StepResult  `json:"step,omitempty"`
	Check    *release.CheckResult `json:"check,omitempty"`
	Run      *release.Run         `json:"run,omitempty"`
	Report   *release.Report      `json:"report,omitempty"`
}
