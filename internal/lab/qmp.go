package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// monitor speaks QMP with one QEMU process.
type monitor struct {
	mu     sync.Mutex
	stream io.ReadWriteCloser
	lines  *bufio.Scanner
}

// qmpReply is a greeting, an event or the answer to a command.
type qmpReply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

func newMonitor(stream io.ReadWriteCloser) *monitor {
	m := &monitor{stream: stream, lines: bufio.NewScanner(stream)}
	m.lines.Buffer(make([]byte, 64<<10), 4<<20)
	return m
}

// do executes one command and returns what it returned.
func (m *monitor) do(command string, args map[string]any) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if _, err := m.stream.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("qemu: %s: %w", command, errors.Join(ErrGone, err))
	}
	for m.lines.Scan() {
		var r qmpReply
		if err := json.Unmarshal(m.lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("qemu: %s: %w", command, err)
		}
		switch {
		case r.Error != nil:
			return nil, fmt.Errorf("qemu: %s: %s", command, r.Error.Desc)
		case r.Return != nil:
			return r.Return, nil
		}
	}
	return nil, fmt.Errorf("qemu: %s: %w", command, ErrGone)
}

// human executes a command of the human monitor, which answers nothing when
// all went well.
func (m *monitor) human(line string) error {
	out, err := m.do("human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return err
	}
	var text string
	if err := json.Unmarshal(out, &text); err != nil {
		return fmt.Errorf("qemu: %s: %w", line, err)
	}
	if text = strings.TrimSpace(text); text != "" {
		return fmt.Errorf("qemu: %s: %s", line, text)
	}
	return nil
}
