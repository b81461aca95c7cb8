package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TimingEnv is the variable in which the bootstrap hands over when it did
// what: a Python list of seconds since boot, each followed by a word.
const TimingEnv = "BOOTWELL_TIMING"

// A Timing tells where the time of a run's call went: from the first line of
// the user-data at a first boot, else from the start of the agent, to the end
// of its report.
type Timing struct {
	Run     string  `json:"run"`
	First   bool    `json:"first_boot"`    // it begins with the user-data
	Began   float64 `json:"began"`         // seconds from the boot of the kernel to the first span
	Seconds float64 `json:"seconds"`       // from there to the end of the last one
	Other   float64 `json:"other_seconds"` // in no span
	Spans   []Span  `json:"phases"`        // by start
}

// A Span is a part of the way.
type Span struct {
	Name    string  `json:"name"`
	Depth   int     `json:"depth,omitempty"` // of how many spans it is a part
	Beside  bool    `json:"beside,omitempty"`
	Start   float64 `json:"start"` // seconds after the first span began
	Seconds float64 `json:"seconds"`
}

const (
	maxSpans      = 500
	maxMarkBytes  = 4 << 10
	ticksPerSec   = 100 // USER_HZ, the same on all CPUs that the agent is for
	maxBootScript = time.Hour
)

// A Beginning is when the agent's process began, and what was before it. It is
// not safe for concurrent use.
type Beginning struct {
	now    time.Time // at which boot was read
	boot   float64   // seconds since boot at now
	start  float64   // of the process; the bootstrap's, if that became the agent; 0: not looked up
	parent float64   // of the parent process; the user-data script, if there was a bootstrap
	marks  []mark    // of the bootstrap
}

type mark struct {
	at   float64 // seconds since boot
	word string
}

// ReadBeginning looks when this process began. marks is the text of
// [TimingEnv], or "".
func ReadBeginning(marks string) *Beginning {
	b := &Beginning{now: time.Now(), boot: sinceBoot()}
	if marks == "" {
		return b
	}
	b.parent = startOf(strconv.Itoa(os.Getppid()), b.boot)
	b.marks = parseMarks(marks, b.boot)
	if len(b.marks) > 0 && b.started() > b.marks[0].at+1.0/ticksPerSec {
		b.marks = nil
	}
	return b
}

// started looks up start, which a call without a run does without.
func (b *Beginning) started() float64 {
	if b.start == 0 {
		b.start = startOf("self", b.boot)
	}
	return b.start
}

// at is the time of the clock at a time since boot.
func (b *Beginning) at(boot float64) time.Time {
	return b.now.Add(time.Duration((boot - b.boot) * float64(time.Second)))
}

func sinceBoot() float64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return float64(t.Sec) + float64(t.Nsec)/1e9
}

// startOf returns when a process began, in seconds since boot (proc_pid_stat(5),
// field 22), or now where that is not known.
func startOf(pid string, now float64) float64 {
	text := string(readSmall("/proc/" + pid + "/stat"))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return now
	}
	n, err := strconv.ParseUint(fields[19], 10, 63)
	at := float64(n) / ticksPerSec
	if err != nil || at > now {
		return now
	}
	return at
}

// parseMarks reads what the bootstrap says. Text that is nothing of the kind,
// or of another boot, gives no marks.
func parseMarks(text string, now float64) []mark {
	if len(text) > maxMarkBytes {
		return nil
	}
	var out []mark
	last := 0.0
	for _, m := range markPattern().FindAllStringSubmatch(text, -1) {
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil || at < last || at > now {
			return nil
		}
		out, last = append(out, mark{at, m[2]}), at
	}
	return out
}

// markPattern finds a time and the word after it; what is no word, such as an
// error, ends a try that failed. Made where it is needed, which is once in the
// life of a VM.
func markPattern() *regexp.Regexp {
	return regexp.MustCompile(`(?:^\[|, )(\d{1,12}\.\d{1,12}), (?:'([a-z]{1,20})')?`)
}

// A timeline collects what became of the time of one call.
type timeline struct {
	from  *Beginning
	parts []part
	open  string // the part under way
	since time.Time
}

// A part is a span by the clock.
type part struct {
	name     string
	from, to time.Time
	beside   bool
}

// newTimeline begins with what b knows. nil begins now.
func newTimeline(b *Beginning) *timeline {
	if b == nil {
		now := sinceBoot()
		b = &Beginning{now: time.Now(), boot: now, start: now}
	}
	return &timeline{from: b}
}

// before are the parts before the call, and when they began, since boot.
func (b *Beginning) before() (began float64, parts []part) {
	start := b.started()
	switch {
	case start >= b.boot:
		return start, nil
	case len(b.marks) == 0:
		return start, []part{{name: "start", from: b.at(start), to: b.now}}
	}
	began = start
	if b.parent < start && start-b.parent < maxBootScript.Seconds() {
		began = b.parent
	}
	last := b.at(b.marks[len(b.marks)-1].at)
	parts = []part{{name: "user-data", from: b.at(began), to: last}, {name: "find Python", from: b.at(began), to: b.at(start)}}
	from := start
	for i, m := range b.marks {
		parts = append(parts, part{name: m.name(i), from: b.at(from), to: b.at(m.at)})
		from = m.at
	}
	return began, append(parts, part{name: "start", from: last, to: b.now})
}

// name is the part of the bootstrap that m ends.
func (m mark) name(i int) string {
	switch {
	case i == 0:
		return "start Python"
	case m.word == "signed":
		return "identity"
	case m.word == "got":
		return "download"
	case m.word == "starting":
		return "unpack"
	}
	return "try again"
}

func (l *timeline) add(name string, from, to time.Time) *part {
	if l == nil || len(l.parts) >= maxSpans {
		return &part{}
	}
	l.parts = append(l.parts, part{name: name, from: from, to: to})
	return &l.parts[len(l.parts)-1]
}

// turn ends the part that is under way, if it is another one than name, and
// begins that. "" begins none.
func (l *timeline) turn(name string) {
	if l == nil || l.open == name {
		return
	}
	now := time.Now()
	if l.open != "" {
		l.add(l.open, l.since, now)
	}
	l.open, l.since = name, now
}

// timing is what was collected so far, for the run called id.
func (l *timeline) timing(id string) *Timing {
	if l == nil {
		return nil
	}
	began, before := l.from.before()
	origin := l.from.at(began)
	t := &Timing{Run: id, First: len(l.from.marks) > 0, Began: round(began)}
	for _, p := range slices.Concat(before, l.parts) {
		t.Spans = append(t.Spans, Span{
			Name: p.name, Beside: p.beside,
			Start: max(p.from.Sub(origin).Seconds(), 0), Seconds: max(p.to.Sub(p.from).Seconds(), 0),
		})
	}
	slices.SortStableFunc(t.Spans, func(a, b Span) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(b.Seconds, a.Seconds))
	})
	var open []float64 // ends of the spans that the next one may be a part of
	covered := 0.0
	for i := range t.Spans {
		s := &t.Spans[i]
		end := s.Start + s.Seconds
		t.Seconds = max(t.Seconds, end)
		if !s.Beside {
			for len(open) > 0 && open[len(open)-1] <= s.Start+1e-6 {
				open = open[:len(open)-1]
			}
			s.Depth = len(open)
			if len(open) == 0 {
				covered += s.Seconds
			}
			open = append(open, end)
		}
		s.Start, s.Seconds = round(s.Start), round(s.Seconds)
	}
	t.Other = round(max(t.Seconds-covered, 0))
	t.Seconds = round(t.Seconds)
	return t
}

// round keeps microseconds.
func round(s float64) float64 { return float64(int64(s*1e6+0.5)) / 1e6 }

// phase notes that the part of the call which began at from is over. Called
// from one goroutine at a time.
func (s *session) phase(name string, from time.Time) {
	s.times.turn("")
	s.times.add(name, from, time.Now())
}

// ReadTiming returns where the time of a run went; id "" is the newest one.
// The error is [ErrNoRun] when there is no such run.
func ReadTiming(p Paths, id string) (*Timing, error) {
	if id == "" {
		id = newestRun(p)
	}
	if !validRunID(id) {
		return nil, fmt.Errorf("run %.40q: %w", id, ErrNoRun)
	}
	f, err := readRun(p, id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && f.Timing == nil {
		return nil, fmt.Errorf("timing of run %s: %w", id, ErrNoRun)
	}
	if err != nil {
		return nil, err
	}
	return f.Timing, nil
}

// readRun reads the result of a run.
func readRun(p Paths, id string) (runFile, error) {
	var f runFile
	b, err := readBounded(p.RunResult(id), maxStateBytes)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fmt.Errorf("read run %s: %w", id, err)
	}
	return f, nil
}
