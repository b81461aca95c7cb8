package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A command is one process to be measured, with its descendants.
type command struct {
	argv []string
	env  []string // beside what all have
	dir  string
}

// sh is a command of the shell; the words of env are its variables.
func sh(script string, env ...string) command {
	return command{argv: []string{"/bin/sh", "-euc", script}, env: env}
}

// A sample is what one run of a command cost.
type sample struct {
	wall     time.Duration
	began    time.Duration // since the boot of the machine
	ready    time.Duration // until what was fetched could be used; 0: at the end
	cpu      time.Duration // user and system, all descendants
	rss      int64         // bytes, of the largest process
	requests int64
	conns    int64
	up, down int64
	err      error // of the command
	changed  int64 // bytes of the files that were changed before
}

// errLimit says that a command took longer than the benchmark waits.
var errLimit = errors.New("gave up waiting")

// measure runs c to its end. Traffic is counted at all lines.
func (b *bench) measure(ctx context.Context, c command) (sample, error) {
	syscall.Sync() // what the one before wrote is not this one's work
	for _, p := range b.lines {
		p.Reset()
	}
	var s sample
	err := b.run(ctx, c, &s)
	if errors.Is(err, errStart) {
		return s, err
	}
	s.err = err
	time.Sleep(5 * time.Millisecond) // the last bytes of a closing connection
	for _, p := range b.lines {
		n := p.Snapshot()
		s.requests += n.Requests
		s.conns += n.Connections
		s.up += n.Up
		s.down += n.Down
	}
	return s, ctx.Err()
}

var errStart = errors.New("meter did not work")

func (b *bench) run(ctx context.Context, c command, s *sample) error {
	limited, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	out := filepath.Join(b.dir, "cost.json")
	os.Remove(out)
	cmd := exec.CommandContext(limited, filepath.Join(b.bin, "meter"), append([]string{out}, c.argv...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"no_proxy=*", "TMPDIR=" + b.tmp}, append(b.world.Env(), c.env...)...)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = b.dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil && limited.Err() == nil {
		return fmt.Errorf("%w: %v: %s", errStart, err, said.String())
	}
	if limited.Err() != nil {
		s.wall = b.limit
		return errLimit
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return fmt.Errorf("%w: %v", errStart, err)
	}
	var cost struct {
		Began int64 `json:"began_ns"`
		Wall  int64 `json:"wall_ns"`
		CPU   int64 `json:"cpu_ns"`
		RSS   int64 `json:"rss_bytes"`
		Exit  int   `json:"exit"`
	}
	if err := json.Unmarshal(text, &cost); err != nil {
		return fmt.Errorf("%w: %v", errStart, err)
	}
	s.began, s.wall, s.cpu, s.rss = time.Duration(cost.Began), time.Duration(cost.Wall), time.Duration(cost.CPU), cost.RSS
	if cost.Exit != 0 {
		return fmt.Errorf("exit %d: %s", cost.Exit, strings.TrimSpace(said.String()))
	}
	return nil
}

// A tail keeps the end of what a command says.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.Buffer.Write(p)
	if extra := t.Len() - most; extra > 0 {
		t.Next(extra)
	}
	return len(p), nil
}
