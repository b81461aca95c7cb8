package agent

import (
	"bytes"
	"encoding/json"
)

// A lazy is a part of the state whose text is parsed when it is asked for. Most
// calls of the agent do not: to learn the types of what it holds takes
// encoding/json as long as all else in a poll that finds nothing new. It is not
// safe for concurrent use.
type lazy[T any] struct {
	text  []byte
	value *T // nil: not asked for
}

func lazyOf[T any](v *T) *lazy[T] { return &lazy[T]{value: v} }

// get returns the value; nil if there is none, or its text is no T.
func (l *lazy[T]) get() *T {
	if l == nil {
		return nil
	}
	if l.value == nil {
		v := new(T)
		if json.Unmarshal(l.text, v) != nil {
			return nil
		}
		l.value = v
	}
	return l.value
}

// read reports whether somebody has asked for the value, or set it.
func (l *lazy[T]) read() bool { return l != nil && l.value != nil }

// raw returns the text that was read from the disk.
func (l *lazy[T]) raw() []byte {
	if l == nil {
		return nil
	}
	return l.text
}

// MarshalJSON implements [json.Marshaler].
func (l *lazy[T]) MarshalJSON() ([]byte, error) {
	if l.value == nil {
		return l.text, nil
	}
	return json.Marshal(l.value)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *lazy[T]) UnmarshalJSON(b []byte) error {
	l.text, l.value = bytes.Clone(b), nil
	return nil
}
