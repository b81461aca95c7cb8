package step

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailKept   = 16 << 10 // raw bytes; what is shown is less
	drainLimit = 1 << 20  // the largest buffer a pipe can have by default
)

// A ring keeps the last bytes written to it.
type ring struct {
	buf  []byte
	next int
	full bool
}

func (g *ring) write(p []byte) {
	if g.buf == nil {
		g.buf = make([]byte, tailKept)
	}
	if len(p) > len(g.buf) {
		p = p[len(p)-len(g.buf):]
	}
	n := copy(g.buf[g.next:], p)
	if n < len(p) {
		copy(g.buf, p[n:])
	}
	g.full = g.full || g.next+len(p) >= len(g.buf)
	g.next = (g.next + len(p)) % len(g.buf)
}

func (g *ring) bytes() []byte {
	if !g.full {
		return append([]byte(nil), g.buf[:g.next]...)
	}
	return append(append([]byte(nil), g.buf[g.next:]...), g.buf[:g.next]...)
}

// A sink takes the output of one command from its streams.
type sink struct {
	mu   sync.Mutex
	tail ring
	log  io.Writer // nil: not logged
}

func (s *sink) write(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail.write(p)
	if s.log != nil {
		// A log that is full or broken must not change what a step does.
		_, _ = s.log.Write(p)
	}
}

// A stream is a pipe from a command to a sink. The end given to the command is
// open for reading too, so that whoever still has it when the reader is gone is
// not killed by SIGPIPE: a daemon that a script started must outlive the step.
type stream struct {
	r       *os.File
	w       *os.File
	sink    *sink
	capture int // bytes to keep besides
	kept    []byte
	cut     bool // more was written than kept
	done    chan struct{}
}

func newStream(s *sink, capture int, owner *account) (*stream, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	w := p[1]
	if both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", w), unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(w)
		w = both
	}
	if owner != nil {
		// Else "echo >/dev/stderr" of a step with a user is refused.
		_ = unix.Fchown(w, owner.uid, owner.gid)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe: %w", err), unix.Close(p[0]), unix.Close(w))
	}
	return &stream{r: os.NewFile(uintptr(p[0]), "pipe"), w: os.NewFile(uintptr(w), "pipe"), sink: s, capture: capture, done: make(chan struct{})}, nil
}

// start begins to copy.
func (s *stream) start() {
	go func() {
		defer close(s.done)
		buf := make([]byte, 32<<10)
		for {
			n, err := s.r.Read(buf)
			s.take(buf[:n])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.drain(buf)
				return
			}
			if err != nil {
				return
			}
		}
	}()
}

func (s *stream) take(p []byte) {
	if len(p) == 0 {
		return
	}
	s.sink.write(p)
	if n := min(s.capture-len(s.kept), len(p)); n > 0 {
		s.kept = append(s.kept, p[:n]...)
		s.cut = s.cut || n < len(p)
	} else if s.capture > 0 {
		s.cut = true
	}
}

// drain takes what is in the pipe already and waits for nothing.
func (s *stream) drain(buf []byte) {
	_ = s.r.SetReadDeadline(time.Time{})
	raw, err := s.r.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < drainLimit; {
		var n int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool { n, rerr = unix.Read(int(fd), buf); return true }); err != nil || rerr != nil || n <= 0 {
			return
		}
		s.take(buf[:n])
		total += n
	}
}

// finish takes what the command has written by now and closes the pipe. What
// survivors write afterwards fills its buffer and then fails with EAGAIN.
func (s *stream) finish() {
	_ = s.r.SetReadDeadline(time.Now())
	<-s.done
	s.close()
}

func (s *stream) close() {
	if raw, err := s.w.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetNonblock(int(fd), true) })
	}
	_ = s.r.Close()
	_ = s.w.Close()
}

// A bounded collects text up to a limit and says when there was more.
type bounded struct {
	b     []byte
	limit int
	over  bool
}

func (b *bounded) write(s string) {
	if b.over {
		return
	}
	if len(b.b)+len(s) > b.limit {
		b.over = true
		s = cut(s, max(b.limit-len(b.b), len("…"))) + "\n"
	}
	b.b = append(b.b, s...)
}

func (b *bounded) String() string { return string(b.b) }
