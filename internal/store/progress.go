package store

import "sync"

// A meter hands progress to the caller from one goroutine at a time. Its zero
// value and nil report nothing.
type meter struct {
	mu sync.Mutex
	fn func(Progress)
	p  Progress
}

func newMeter(fn func(Progress)) *meter { return &meter{fn: fn} }

// phase starts a phase of total bytes (0: not known).
func (m *meter) phase(name string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p = Progress{Phase: name, Total: total}
	m.tell()
}

// wait starts the phase of waiting for another publisher.
func (m *meter) wait(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p = Progress{Phase: PhaseWait, Text: text}
	m.tell()
}

func (m *meter) add(bytes int64, objects int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Done += bytes
	m.p.Objects += objects
	if m.p.Phase != PhaseWait {
		m.tell()
	}
}

func (m *meter) tell() {
	if m.fn != nil {
		m.fn(m.p)
	}
}
