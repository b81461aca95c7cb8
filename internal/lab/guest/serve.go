package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// environment is what every command gets, and then its own variables.
func environment(extra []string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb",
	}, extra...)
}

// stragglers is how long the outputs of a command that ended are read on
// when another process still holds them open.
const stragglers = 300 * time.Millisecond

// server is one conversation.
type server struct {
	mu    sync.Mutex // guards out
	out   io.Writer
	hello string
	jobMu sync.Mutex
	jobs  map[uint64]*job
}

// job is one command on its way.
type job struct {
	cmd   *exec.Cmd
	input chan []byte   // nil ends the standard input
	done  chan struct{} // closed when the command ended
}

// Serve announces itself with hello and executes requests from conn until it
// ends or breaks. If console is not nil its bytes are sent along.
func Serve(conn io.ReadWriter, hello string, console io.Reader) error {
	s := &server{out: conn, hello: hello, jobs: map[uint64]*job{}}
	if err := s.send(Reply{Hello: hello}); err != nil {
		return err
	}
	if console != nil {
		go func() { _, _ = io.Copy(stream{s, func(b []byte) Reply { return Reply{Console: b} }}, console) }()
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 64<<10), MaxLine)
	for lines.Scan() {
		var r Request
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		s.handle(r)
	}
	return lines.Err()
}

func (s *server) send(r Reply) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.out.Write(append(b, '\n'))
	return err
}

func (s *server) handle(r Request) {
	switch r.Op {
	case Start:
		s.start(r)
		return
	case Greet:
		_ = s.send(Reply{Hello: s.hello})
		return
	}
	s.jobMu.Lock()
	j := s.jobs[r.ID]
	s.jobMu.Unlock()
	if j == nil {
		return
	}
	switch r.Op {
	case Input:
		j.give(r.Stdin)
	case EOF:
		j.give(nil)
	case Kill:
		_ = syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (s *server) start(r Request) {
	if len(r.Args) == 0 {
		s.exit(r.ID, 127, "no command given\n")
		return
	}
	// The lookup uses this process's PATH, which is the machine's.
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Env = environment(r.Env)
	cmd.Dir = "/"
	if r.Dir != "" {
		cmd.Dir = r.Dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout = stream{s, func(b []byte) Reply { return Reply{ID: r.ID, Out: b} }}
	cmd.Stderr = stream{s, func(b []byte) Reply { return Reply{ID: r.ID, Err: b} }}
	cmd.WaitDelay = stragglers
	pr, pw, err := os.Pipe()
	if err != nil {
		s.exit(r.ID, 127, err.Error()+"\n")
		return
	}
	cmd.Stdin = pr
	err = cmd.Start()
	_ = pr.Close()
	if err != nil {
		_ = pw.Close()
		s.exit(r.ID, 127, fmt.Sprintf("cannot start %s: %v\n", r.Args[0], err))
		return
	}
	j := &job{cmd: cmd, input: make(chan []byte, 4096), done: make(chan struct{})}
	s.jobMu.Lock()
	s.jobs[r.ID] = j
	s.jobMu.Unlock()
	go j.feed(pw)
	go s.wait(r.ID, j)
}

func (j *job) give(b []byte) {
	select {
	case j.input <- b:
	case <-j.done:
	}
}

// feed hands the standard input over until its end or the command's.
func (j *job) feed(w *os.File) {
	defer w.Close()
	for {
		select {
		case b := <-j.input:
			if b == nil {
				return
			}
			_, _ = w.Write(b)
		case <-j.done:
			return
		}
	}
}

func (s *server) wait(id uint64, j *job) {
	err := j.cmd.Wait()
	s.jobMu.Lock()
	delete(s.jobs, id)
	s.jobMu.Unlock()
	close(j.done)
	code := 0
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		code = ee.ExitCode()
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
	}
	s.exit(id, code, "")
}

func (s *server) exit(id uint64, code int, message string) {
	if message != "" {
		_ = s.send(Reply{ID: id, Err: []byte(message)})
	}
	_ = s.send(Reply{ID: id, Exit: &code})
}

// stream sends what is written to it as replies of at most MaxData.
type stream struct {
	s     *server
	reply func([]byte) Reply
}

func (w stream) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += MaxData {
		if err := w.s.send(w.reply(p[n:min(n+MaxData, len(p))])); err != nil {
			return n, err
		}
	}
	return len(p), nil
}
