package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/lab/guest"
)

// conn is the lab's end of the conversation with package guest inside a
// machine. It survives a restart of the machine's end: commands that were
// running then end with ErrGone, later ones work.
type conn struct {
	console io.Writer
	hello   chan struct{} // closed at the first hello
	dead    chan struct{} // closed when the stream ended

	mu     sync.Mutex // guards what follows
	stream io.ReadWriteCloser
	next   uint64
	calls  map[uint64]*call
	err    error // why there is no machine
	boot   string

	writeMu sync.Mutex
}

// killWait is how long a killed command may take to end before the caller
// hears of it all the same.
const killWait = 5 * time.Second

// call is one command that waits for its end.
type call struct {
	stdout, stderr bytes.Buffer
	tee            io.Writer
	code           int
	err            error
	done           chan struct{}
}

// newConn starts to listen on stream. Console bytes that come over it go to
// console.
func newConn(stream io.ReadWriteCloser, console io.Writer) *conn {
	c := &conn{stream: stream, console: console, hello: make(chan struct{}), dead: make(chan struct{}), calls: map[uint64]*call{}}
	go c.listen()
	return c
}

func (c *conn) listen() {
	lines := bufio.NewScanner(c.stream)
	lines.Buffer(make([]byte, 64<<10), guest.MaxLine)
	for lines.Scan() {
		var r guest.Reply
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			c.handle(r)
		}
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = ErrGone
	}
	c.drop()
	c.mu.Unlock()
	close(c.dead)
}

func (c *conn) handle(r guest.Reply) {
	if r.Console != nil {
		_, _ = c.console.Write(r.Console)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch k := c.calls[r.ID]; {
	case r.Hello != "":
		if c.boot == "" {
			close(c.hello)
		} else if c.boot != r.Hello {
			c.drop()
		}
		c.boot = r.Hello
	case r.Failed != "":
		c.err = errors.New(r.Failed)
		if r.Denied {
			c.err = fmt.Errorf("%w: %s", ErrForbidden, r.Failed)
		}
	case k == nil:
	case r.Exit != nil:
		k.code = *r.Exit
		delete(c.calls, r.ID)
		close(k.done)
	default:
		keep(&k.stdout, r.Out)
		keep(&k.stderr, r.Err)
		if k.tee != nil {
			_, _ = k.tee.Write(append(r.Out, r.Err...))
		}
	}
}

func keep(b *bytes.Buffer, p []byte) {
	b.Write(p[:min(len(p), max(0, MaxOutput-b.Len()))])
}

// drop ends the calls of a machine that stopped. c.mu is held.
func (c *conn) drop() {
	for id, k := range c.calls {
		k.err = ErrGone
		delete(c.calls, id)
		close(k.done)
	}
}

// ready waits until the machine's end has spoken.
func (c *conn) ready(ctx context.Context) error {
	select {
	case <-c.hello:
		return nil
	case <-c.dead:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the machine: %w", ctx.Err())
	}
}

func (c *conn) send(r guest.Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) >= guest.MaxLine {
		return fmt.Errorf("arguments and environment of %d bytes are too long for the lab", len(b))
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if _, err := c.stream.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// greet asks the machine's end to say hello, for a machine that was running
// before this conversation began. The empty line ends what an earlier one may
// have left half said.
func (c *conn) greet() error {
	c.writeMu.Lock()
	_, err := c.stream.Write([]byte("\n"))
	c.writeMu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return c.send(guest.Request{Op: guest.Greet})
}

// begin registers a new call.
func (c *conn) begin(tee io.Writer) (uint64, *call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.next++
	k := &call{tee: tee, done: make(chan struct{})}
	c.calls[c.next] = k
	return c.next, k, nil
}

func (c *conn) exec(ctx context.Context, cmd Command) (Result, error) {
	if err := c.ready(ctx); err != nil {
		return Result{}, err
	}
	id, k, err := c.begin(cmd.Tee)
	if err != nil {
		return Result{}, err
	}
	if err := c.request(id, cmd); err != nil {
		return Result{}, err
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		if err := c.send(guest.Request{ID: id, Op: guest.Kill}); err != nil {
			return Result{}, err
		}
		select {
		case <-k.done:
		case <-time.After(killWait):
		}
		return Result{}, fmt.Errorf("run %q: %w", cmd.Args, ctx.Err())
	}
	if k.err != nil {
		return Result{}, fmt.Errorf("run %q: %w", cmd.Args, k.err)
	}
	return Result{Stdout: k.stdout.Bytes(), Stderr: k.stderr.Bytes(), Code: k.code}, nil
}

// request sends the command and its whole standard input.
func (c *conn) request(id uint64, cmd Command) error {
	if err := c.send(guest.Request{ID: id, Op: guest.Start, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir}); err != nil {
		return err
	}
	for in := cmd.Stdin; len(in) > 0; {
		n := min(len(in), guest.MaxData)
		if err := c.send(guest.Request{ID: id, Op: guest.Input, Stdin: in[:n]}); err != nil {
			return err
		}
		in = in[n:]
	}
	return c.send(guest.Request{ID: id, Op: guest.EOF})
}

// close ends the conversation and waits for the listener.
func (c *conn) close() {
	_ = c.stream.Close()
	<-c.dead
}
