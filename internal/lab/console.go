package lab

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Line is one line of a console.
type Line struct {
	Number int           // from 0
	After  time.Duration // since the machine was started for the first time
	Text   string        // without the end of line
}

// Console keeps the lines that a machine wrote, with their times. It keeps
// the first maxConsole lines. It is safe for concurrent use.
type Console struct {
	mu      sync.Mutex
	start   time.Time
	lines   []Line
	partial []byte
	changed chan struct{}
	tee     io.Writer
}

const (
	maxConsole     = 200_000
	maxConsoleLine = 4096
)

func newConsole(tee io.Writer) *Console {
	return &Console{start: time.Now(), changed: make(chan struct{}), tee: tee}
}

// Write takes raw console bytes; it never fails.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tee != nil {
		_, _ = c.tee.Write(p)
	}
	for _, b := range p {
		switch {
		case b == '\n' || len(c.partial) >= maxConsoleLine:
			c.endLine()
			if b != '\n' {
				c.partial = append(c.partial, b)
			}
		case b != '\r':
			c.partial = append(c.partial, b)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

func (c *Console) endLine() {
	if len(c.lines) < maxConsole {
		c.lines = append(c.lines, Line{Number: len(c.lines), After: time.Since(c.start), Text: string(c.partial)})
	}
	c.partial = c.partial[:0]
}

// Lines returns the whole lines so far.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Line(nil), c.lines...)
}

// String is the console's text, each line after its time in seconds.
func (c *Console) String() string {
	var b strings.Builder
	for _, l := range c.Lines() {
		fmt.Fprintf(&b, "%7.2f %s\n", l.After.Seconds(), l.Text)
	}
	return b.String()
}

// Wait returns the first line, from line number from on, that contains text.
// It waits for it until ctx ends.
func (c *Console) Wait(ctx context.Context, from int, text string) (Line, error) {
	for {
		c.mu.Lock()
		for ; from < len(c.lines); from++ {
			if strings.Contains(c.lines[from].Text, text) {
				l := c.lines[from]
				c.mu.Unlock()
				return l, nil
			}
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, fmt.Errorf("wait for %q on the console: %w", text, ctx.Err())
		}
	}
}
