package agent

import (
	"encoding/json"
	"fmt"

	"github.com/bootwell/bootwell/internal/release"
)

const maxMemoryBytes = 8 << 20

// A memory is the durable [step.Memory] of one VM and role. A memory that
// cannot be read is empty: steps then run once more.
type memory struct {
	path string
	keys map[string]release.Digest
}

func loadMemory(p Paths) *memory {
	m := &memory{path: p.Steps(), keys: map[string]release.Digest{}}
	b, err := readBounded(m.path, maxMemoryBytes)
	if err != nil {
		return m
	}
	if json.Unmarshal(b, &m.keys) != nil || m.keys == nil {
		setAside(m.path)
		m.keys = map[string]release.Digest{}
	}
	return m
}

// Last implements [step.Memory].
func (m *memory) Last(key string) (release.Digest, bool) {
	d, ok := m.keys[key]
	return d, ok
}

// Remember implements [step.Memory].
func (m *memory) Remember(key string, inputs release.Digest) error {
	if m.keys[key] == inputs {
		return nil
	}
	m.keys[key] = inputs
	if inputs.IsZero() {
		delete(m.keys, key)
	}
	// The folder is flushed before the next step begins, or with the result.
	if err := putJSON(m.path, m.keys, 0o600); err != nil {
		return fmt.Errorf("remember step: %w", err)
	}
	return nil
}

// forget empties the memory: each step is new to this VM again.
func (m *memory) forget() error {
	m.keys = map[string]release.Digest{}
	return removeFile(m.path)
}
