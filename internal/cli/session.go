// Package cli is what the commands of bootwell share: streams and global
// flags, the way results, stories and errors are shown, and the exit codes.
// The commands themselves are in the packages operator and vm below it.
//
// stdout carries the result, stderr the story. With --json, stdout carries
// JSON only.
package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Modes of showing progress.
const (
	ProgressAuto  = "auto"
	ProgressTTY   = "tty"
	ProgressPlain = "plain"
	ProgressJSON  = "json"
	ProgressQuiet = "quiet"
)

const heartbeat = 30 * time.Second

// A Session is one invocation of a command. Main fills the streams, the
// environment and the wiring; flags are filled when the command line is read.
type Session struct {
	Tool    string // bootwell or bootwell-agent
	Version string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Open    bucket.Opener
	Bare    bool // plain lines carry no command's name: something else, such as the journal, says who speaks

	Dir      string // -C
	File     string // -f
	JSON     bool
	JSONInto string
	Progress string
	Quiet    bool
	Verbose  bool
	NoColor  bool
	Timeout  time.Duration

	heed     func() // see Heed
	command  string // name of the running command; "" until it begins
	mode     string // resolved from Progress
	color    bool   // on stderr
	outColor bool   // on stdout
	utf8     bool
	into     *os.File
	drawn    time.Time
	line     bool // an unfinished progress line is on the screen
}

// NewSession returns a session on the process's own streams.
func NewSession(tool, version string, open bucket.Opener) *Session {
	return &Session{Tool: tool, Version: version, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Open: open}
}

// AddFlags adds the global flags to root. Each has an environment variable
// BOOTWELL_<FLAG>; the flag wins.
func (s *Session) AddFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.BoolVar(&s.JSON, "json", false, "print JSON on stdout, and nothing else there")
	f.StringVar(&s.JSONInto, "json-into", "", "also write the JSON to this `file`")
	f.StringVar(&s.Progress, "progress", ProgressAuto, "how to show the story: auto, tty, plain, json or quiet (`mode`)")
	f.BoolVarP(&s.Quiet, "quiet", "q", false, "print the result only")
	f.BoolVarP(&s.Verbose, "verbose", "v", false, "tell more on stderr")
	f.BoolVar(&s.NoColor, "no-color", false, "no colour (also NO_COLOR)")
	f.DurationVar(&s.Timeout, "timeout", 0, "give up after this `duration`, with exit code 124")
}

// Run executes root with args and returns the exit code. It traps panics,
// Ctrl-C and SIGTERM, applies --timeout, and shows the error, once.
func (s *Session) Run(root *cobra.Command, args []string) (code int) {
	ctx, stop := s.heeding(context.Background())
	defer stop()
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(s.Stderr, "%s: internal error: %v\nThis is a bug in bootwell. Please report it with these lines:\n%s\n", s.Tool, p, debug.Stack())
			code = ExitInternal
		}
	}()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetIn(s.Stdin)
	root.SetOut(s.Stdout)
	root.SetErr(s.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usage(err.Error(), "see: "+c.CommandPath()+" --help")
	})
	err := s.execute(ctx, root)
	if ctx.Err() != nil && err != nil && !errors.Is(err, errTimeout) {
		err = fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	s.endLine()
	code = s.finish(err)
	if s.into != nil {
		if cerr := s.into.Close(); cerr != nil && code == 0 {
			fmt.Fprintf(s.Stderr, "error: write %s: %v\n", s.JSONInto, cerr)
			code = ExitFailed
		}
	}
	return code
}

// SignalsLater is the annotation of a command that calls [Session.Heed] itself:
// until then Ctrl-C and SIGTERM end the process as they end any other.
const SignalsLater = "signals-later"

// heeding returns a context that ends with a signal once Heed was called.
func (s *Session) heeding(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	stop := func() {}
	s.heed = sync.OnceFunc(func() {
		var caught context.Context
		caught, stop = signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(caught, cancel)
	})
	return ctx, func() { cancel(); stop() }
}

// Heed has Ctrl-C and SIGTERM end the command's context from now on, not the
// process. It costs three threads.
func (s *Session) Heed() {
	if s.heed != nil {
		s.heed()
	}
}

func (s *Session) execute(ctx context.Context, root *cobra.Command) error {
	cancel := func() {}
	defer func() { cancel() }()
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if c.Annotations[SignalsLater] == "" {
			s.Heed()
		}
		if err := s.begin(c); err != nil {
			return err
		}
		if s.Timeout > 0 {
			var tctx context.Context
			tctx, cancel = context.WithTimeoutCause(ctx, s.Timeout, errTimeout)
			c.SetContext(tctx)
		}
		return nil
	}
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(c.Context()), errTimeout) {
		return fmt.Errorf("%w of %s: %w", errTimeout, s.Timeout, err)
	}
	var u *UsageError
	if s.command == "" && !errors.As(err, &u) {
		// No command has begun: the command line itself is wrong.
		return Usage(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", " "), "see: "+c.CommandPath()+" --help")
	}
	return err
}

// begin reads flags from the environment and decides how to show things.
func (s *Session) begin(c *cobra.Command) error {
	s.command = strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
	var bad error
	// Only global flags: a step of a release sees BOOTWELL_ROLE and its like,
	// and may well call these commands.
	c.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		env := "BOOTWELL_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := s.Getenv(env); v != "" && !f.Changed && bad == nil {
			if err := f.Value.Set(v); err != nil {
				bad = Usage(fmt.Sprintf("%s=%q: %v", env, v, err), "unset it or give it a value that --"+f.Name+" takes")
			}
		}
	})
	if bad != nil {
		return bad
	}
	if s.JSONInto != "" {
		f, err := os.Create(s.JSONInto)
		if err != nil {
			return Usage(fmt.Sprintf("--json-into: %v", err), "give the path of a file that can be written")
		}
		s.into = f
	}
	return s.chooseMode()
}

func (s *Session) chooseMode() error {
	tty := isTerminal(s.Stderr) && s.Getenv("TERM") != "dumb" && s.Getenv("CI") == ""
	switch s.Progress {
	case ProgressAuto, "":
		s.mode = ProgressPlain
		if tty {
			s.mode = ProgressTTY
		}
	case ProgressTTY, ProgressPlain, ProgressQuiet:
		s.mode = s.Progress
	case ProgressJSON:
		s.mode, s.JSON = ProgressQuiet, true
	default:
		return Usage(fmt.Sprintf("--progress %q is not known", s.Progress), "use auto, tty, plain, json or quiet")
	}
	if s.Quiet {
		s.mode = ProgressQuiet
	}
	force := s.Getenv("CLICOLOR_FORCE") != "" || s.Getenv("FORCE_COLOR") != ""
	wanted := !s.NoColor && s.Getenv("NO_COLOR") == "" && s.Getenv("TERM") != "dumb"
	s.color = wanted && (tty || force) && s.mode == ProgressTTY
	s.outColor = wanted && (force || isTerminal(s.Stdout) && s.Getenv("CI") == "")
	loc := strings.ToLower(cmp.Or(s.Getenv("LC_ALL"), s.Getenv("LC_CTYPE"), s.Getenv("LANG")))
	s.utf8 = strings.Contains(loc, "utf-8") || strings.Contains(loc, "utf8")
	return nil
}

var ascii = strings.NewReplacer("·", "-", "…", "...")

// local writes our own punctuation as the locale has it.
func (s *Session) local(text string) string {
	if s.utf8 {
		return text
	}
	return ascii.Replace(text)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Interactive reports whether somebody is there to answer a question.
func (s *Session) Interactive() bool {
	return isTerminal(s.Stdin) && isTerminal(s.Stderr) && s.Getenv("CI") == "" && !s.JSON
}

// Command returns the name of the running command, such as "publish".
func (s *Session) Command() string { return s.command }

// Plain reports whether the story goes to a pipe or log rather than a screen.
func (s *Session) Plain() bool { return s.mode == ProgressPlain }

// Printf writes to stdout: the result.
func (s *Session) Printf(format string, a ...any) {
	s.endLine()
	fmt.Fprintf(s.Stdout, s.local(format), a...)
}

// Say writes one line of the story to stderr; in plain mode with the
// command's name before it. An empty line is only for screens.
func (s *Session) Say(format string, a ...any) {
	if s.mode == ProgressQuiet {
		return
	}
	s.endLine()
	line := s.local(fmt.Sprintf(format, a...))
	if s.mode == ProgressPlain {
		if line = strings.TrimSpace(line); line == "" {
			return
		}
		if !s.Bare {
			line = s.command + ": " + line
		}
	}
	fmt.Fprintln(s.Stderr, line)
}

// Alarm is Say for what went wrong; in a systemd journal it has the priority
// of an error (sd-daemon(3)).
func (s *Session) Alarm(format string, a ...any) {
	if s.mode == ProgressPlain && s.Bare && s.Getenv("JOURNAL_STREAM") != "" {
		format = "<3>" + format
	}
	s.Say(format, a...)
}

// Screen writes lines that only a screen needs.
func (s *Session) Screen(format string, a ...any) {
	if s.mode == ProgressTTY {
		s.Say(format, a...)
	}
}

// Tell shows text on a screen and plain in a pipe.
func (s *Session) Tell(screen, plain string) {
	if s.mode == ProgressTTY {
		s.Say("%s", screen)
	} else {
		s.Say("%s", plain)
	}
}

// Update draws text over the unfinished last line of a screen, at most ten
// times a second. A pipe gets a line each half minute, so that a long upload
// in CI does not look dead.
func (s *Session) Update(format string, a ...any) {
	if s.mode == ProgressPlain {
		if s.drawn.IsZero() {
			s.drawn = time.Now()
		} else if time.Since(s.drawn) > heartbeat {
			s.drawn = time.Now()
			s.Say(format, a...)
		}
		return
	}
	if s.mode != ProgressTTY || !isTerminal(s.Stderr) || time.Since(s.drawn) < 100*time.Millisecond {
		return
	}
	s.drawn = time.Now()
	text := s.local(fmt.Sprintf(format, a...))
	if w := s.width(); len([]rune(text)) > w-1 {
		text = string([]rune(text)[:w-1])
	}
	fmt.Fprintf(s.Stderr, "\r\x1b[K%s", text)
	s.line = true
}

func (s *Session) endLine() {
	if s.line {
		fmt.Fprint(s.Stderr, "\r\x1b[K")
		s.line = false
	}
}

func (s *Session) width() int {
	if f, ok := s.Stderr.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 80
}

// Event writes v as one line of JSON when --json or --json-into asks for it.
func (s *Session) Event(v any) error {
	if !s.JSON && s.into == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	b = append(b, '\n')
	if s.JSON {
		if _, err := s.Stdout.Write(b); err != nil {
			return fmt.Errorf("write stdout: %w", err)
		}
	}
	if s.into != nil {
		if _, err := s.into.Write(b); err != nil {
			return fmt.Errorf("write %s: %w", s.JSONInto, err)
		}
	}
	return nil
}

// Start writes the first line of a JSON stream.
func (s *Session) Start() error {
	return s.Event(map[string]any{"type": "version", "schema": "1.0", "tool": s.Tool, "tool_version": s.Version})
}

// Glyphs by meaning; the second form is for locales without UTF-8.
var glyphs = map[string][2]string{
	"ok": {"✔", "ok"}, "failed": {"✖", "x"}, "changed": {"~", "~"}, "unchanged": {"=", "="}, "skipped": {"–", "-"},
	"warning": {"!", "!"}, "restarted": {"↻", "r"}, "waiting": {"·", "."}, "bar": {"█", "#"},
}

// Glyph returns the sign for a result, coloured on a screen. The colour only
// repeats what the sign says.
func (s *Session) Glyph(name string) string { return s.glyph(name, s.color) }

// Sign is Glyph for what goes to stdout.
func (s *Session) Sign(name string) string { return s.glyph(name, s.outColor) }

func (s *Session) glyph(name string, color bool) string {
	g := glyphs[name][1]
	if s.utf8 {
		g = glyphs[name][0]
	}
	colors := map[string]string{"ok": "32", "failed": "31", "changed": "33", "warning": "33"}
	if c := colors[name]; c != "" && color {
		return "\x1b[" + c + "m" + g + "\x1b[0m"
	}
	return g
}

// Color reports whether coloured text may be written to stderr.
func (s *Session) Color() bool { return s.color }

// Logger returns the log for libraries: warnings, and everything with -v. On a
// VM the story tells the warnings already.
func (s *Session) Logger() *slog.Logger {
	level := slog.LevelWarn
	if s.Verbose {
		level = slog.LevelDebug
	}
	if (s.mode == ProgressQuiet || s.Bare) && !s.Verbose {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(s.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// Plural returns "1 object" or "3 objects".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
