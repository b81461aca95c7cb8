package cli_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

const columns = 80

// onTerminal runs c with a terminal for each of its streams that is not set,
// and returns all that the terminal was sent. type, if not nil, is told what
// came so far and may type.
func onTerminal(t *testing.T, c *exec.Cmd, typing func(tty *os.File, soFar string)) string {
	t.Helper()
	master, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	stuck := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	defer stuck.Stop()
	var raw bytes.Buffer
	for b := make([]byte, 4096); ; {
		n, err := master.Read(b)
		raw.Write(b[:n])
		if errors.Is(err, syscall.EIO) || errors.Is(err, io.EOF) { // nobody has the other end any more
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if typing != nil {
			typing(master, raw.String())
		}
	}
	_ = c.Wait()
	return raw.String()
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// rows are what stays on a screen after raw was sent to it. It knows what the
// commands may send: text, colours, return, and "erase to the end of the line".
func rows(t *testing.T, raw string) []string {
	t.Helper()
	lines, row, col := [][]rune{nil}, 0, 0
	newline := func() {
		if row++; row == len(lines) {
			lines = append(lines, nil)
		}
	}
	text := []rune(sgr.ReplaceAllString(raw, ""))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			newline()
		case c == '\r':
			col = 0
		case c == '\x1b' && string(text[i:min(i+3, len(text))]) == "\x1b[K":
			lines[row] = lines[row][:min(col, len(lines[row]))]
			i += 2
		case c < ' ':
			t.Fatalf("the screen is sent %q", text[i:min(i+10, len(text))])
		default:
			if col == columns {
				newline()
				col = 0
			}
			for len(lines[row]) <= col {
				lines[row] = append(lines[row], ' ')
			}
			lines[row][col] = c
			col++
		}
	}
	var out []string
	for _, l := range lines {
		out = append(out, strings.TrimRight(string(l), " "))
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

func shows(t *testing.T, raw string, want ...string) {
	t.Helper()
	got := rows(t, raw)
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("row %d is too many: %q", i+1, got[i])
		case i >= len(got):
			t.Errorf("row %d is missing: %s", i+1, want[i])
		case !regexp.MustCompile("^" + want[i] + "$").MatchString(got[i]):
			t.Errorf("row %d: %q, want %s", i+1, got[i], want[i])
		}
	}
	if t.Failed() {
		t.Logf("sent %q", raw)
	}
}

func replaceIn(t *testing.T, name, from, to string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(from)) {
		t.Fatalf("no %q in %s", from, b)
	}
	if err := os.WriteFile(name, bytes.ReplaceAll(b, []byte(from), []byte(to)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// with returns c with more in its environment.
func with(c *exec.Cmd, env ...string) *exec.Cmd {
	c.Env = append(c.Env, env...)
	return c
}

// TestScreen_LastFrame: what was drawn over and over leaves nothing behind but
// whole lines.
func TestScreen_LastFrame(t *testing.T) {
	o := newOperator(t)
	o.steps(t, "- run: \"true\"\n")
	raw := onTerminal(t, o.command("publish"), nil)
	shows(t, raw,
		"web-example · 1 role, 1 step · from a folder without git",
		"",
		"  ROLE   STEPS   COMPARED WITH r1   FILES    TO FETCH",
		"  web    1       = same             1\\.[0-9] kB   0 B",
		"",
		"r1 already holds exactly this: nothing to publish",
		"r1",
	)

	o.steps(t, "- run: \"true\"\n- run: \"false\"\n")
	replaceIn(t, filepath.Join(o.project, "bootwell.yaml"), "false", "echo something else")
	o.write(t, "big.txt", strings.Repeat("x", 1<<20))
	raw = onTerminal(t, with(o.command("publish"), "TERM=xterm-256color"), nil)
	shows(t, raw,
		"web-example · 1 role, 2 steps · from a folder without git",
		"",
		"  ROLE   STEPS   COMPARED WITH r2 +FILES    TO FETCH",
		"  web    2       ~ run echo something else, run fal.*   1\\.[0-9] MB   .*",
		"",
		"  ✔ uploaded   [0-9]+ objects, [0-9]+ already there, .* s",
		"  ✔ signed     SHA256:.*",
		"",
		`Published r3 \([0-9a-f]+\)\. VMs take it at their next poll\.`,
		"Next:  bootwell status",
		"r3",
	)
	if !strings.Contains(raw, "\x1b[32m✔\x1b[0m uploaded") {
		t.Errorf("no colour in %q", raw)
	}
	if !strings.Contains(raw, "\r\x1b[K") {
		t.Errorf("no progress was drawn: the test shows nothing; sent %q", raw)
	}
	raw = onTerminal(t, o.command("status"), nil)
	shows(t, raw,
		`web-example · stable r3 · 0 VMs · read in 0\.[0-9] s`,
		`No VM has reported yet\.`,
		"Next:  bootwell user-data ROLE   and give that text to a VM",
	)
	o.reportOf(t, failedReport())
	raw = onTerminal(t, o.command("status"), nil)
	shows(t, raw,
		`web-example · stable r3 · 1 VM · read in 0\.[0-9] s`,
		"",
		"ROLE  VMS  OK .*",
		"web     1   0 .*",
		"",
		"FAILED, grouped",
		"    1  web  r1  site: exit status 1",
		"",
		"Next:  bootwell status --vms --state failed · bootwell logs i-1",
	)
}

func failedReport() *release.Report {
	return &release.Report{
		Schema: release.SchemaVersion, VM: "i-1", Role: "web", State: release.StateFailed, Release: "r1", Time: time.Now(), Heartbeat: release.Duration(time.Hour),
		Reason: "r1 failed: step site failed: exit status 1",
		Run: &release.Run{ID: "1", Release: "r1", Result: release.ResultFailed, Started: time.Now(), Steps: []release.StepResult{
			{Name: "files", Kind: "files", Result: release.ResultChanged},
			{Name: "site", Kind: "run", Result: release.ResultFailed, Reason: "exit status 1"},
		}},
	}
}

func TestScreen_Init(t *testing.T) {
	o := newOperator(t)
	raw := onTerminal(t, o.command("init", "--no-passphrase"), nil)
	got := rows(t, raw)
	if len(got) < 4 || !strings.HasPrefix(got[0], "  ✔ bootwell.yaml ") || got[len(got)-1] != "Next:  bootwell publish · then bootwell user-data web" {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(raw, "\x1b[32m✔\x1b[0m") {
		t.Errorf("no colour in %q", raw)
	}
}

// TestScreen_Passphrase types one on a terminal, which does not show it.
func TestScreen_Passphrase(t *testing.T) {
	o := newOperator(t)
	keys := t.TempDir()
	dir := t.TempDir()
	prompts := 0
	typing := func(tty *os.File, soFar string) {
		if n := strings.Count(soFar, "Passphrase for the keys"); n > prompts {
			prompts = n
			for { // until nothing is shown of what is typed
				s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				if err != nil {
					t.Error(err)
					return
				}
				if s.Lflag&unix.ECHO == 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if _, err := tty.WriteString("correct horse\n"); err != nil {
				t.Error(err)
			}
		}
	}
	raw := onTerminal(t, o.command("init", "--example", "web", "-C", dir, "--keys", keys), typing)
	if prompts == 0 || strings.Contains(raw, "horse") || !strings.Contains(raw, "Next:") {
		t.Fatalf("%d prompts; sent %q", prompts, raw)
	}
	c := o.command("publish", "-C", dir, "--keys", keys)
	if stdout, stderr, code := finished(t, with(c, "BOOTWELL_PASSPHRASE=correct horse")); code != 0 {
		t.Errorf("the passphrase that was typed does not open the keys: exit code %d: %s%s", code, stdout, stderr)
	}
	if _, _, code := finished(t, with(o.command("publish", "-C", dir, "--keys", keys), "BOOTWELL_PASSPHRASE=wrong")); code != 4 {
		t.Errorf("exit code %d with another passphrase, want 4", code)
	}
}

// TestScreen_Plainer: what takes colour, drawing and glyphs away.
func TestScreen_Plainer(t *testing.T) {
	o := newOperator(t)
	o.reportOf(t, failedReport())
	commands := [][]string{{"init", "--no-passphrase"}, {"publish"}, {"status"}, {"status", "i-1"}, {"status", "--vms"}, {"releases"}}
	for name, x := range map[string]struct {
		env    string
		args   []string
		colour bool
		escape bool // to draw
		utf8   bool
	}{
		"as it is":        {"TERM=xterm", nil, true, true, true},
		"NO_COLOR":        {"NO_COLOR=1", nil, false, true, true},
		"NO_COLOR, empty": {"NO_COLOR=", nil, true, true, true},
		"--no-color":      {"TERM=xterm", []string{"--no-color"}, false, true, true},
		"TERM=dumb":       {"TERM=dumb", nil, false, false, true},
		"CI":              {"CI=true", nil, false, false, true},
		"--progress":      {"TERM=xterm", []string{"--progress", "plain"}, false, false, true},
		"LANG=C":          {"LANG=C", nil, true, true, false},
		"LC_ALL=C":        {"LC_ALL=C", nil, true, true, false},
		"LC_ALL=POSIX":    {"LC_ALL=POSIX", []string{"--no-color"}, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var all string
			for i, args := range commands {
				o.write(t, "file.txt", name+strings.Repeat("x", i))
				raw := onTerminal(t, with(o.command(append(args, x.args...)...), x.env), nil)
				rows(t, raw)
				all += raw
			}
			if got := sgr.MatchString(all); got != x.colour && (x.colour || name != "--progress") {
				t.Errorf("colour: %v, want %v in %q", got, x.colour, all)
			}
			if !x.escape && name != "--progress" && strings.Contains(all, "\x1b") {
				t.Errorf("there are escapes in %q", all)
			}
			if got := strings.IndexFunc(all, func(c rune) bool { return c > '~' }) >= 0; got != x.utf8 {
				t.Errorf("more than ASCII: %v, want %v in %q", got, x.utf8, all)
			}
			if failed := map[bool]string{true: "✖", false: "x"}[x.utf8]; !strings.Contains(sgr.ReplaceAllString(all, ""), " "+failed+" exit status 1") {
				t.Errorf("no sign for the failed step in %q", all)
			}
		})
	}
}

// TestScreen_EachStreamForItself: a result that goes to a file or pipe has no
// escapes, while the story is drawn on a terminal.
func TestScreen_EachStreamForItself(t *testing.T) {
	o := newOperator(t)
	o.reportOf(t, failedReport())
	redirected := func(args ...string) (stdout, screen string) {
		var out bytes.Buffer
		c := o.command(args...)
		c.Stdout = &out
		screen = onTerminal(t, c, nil)
		return out.String(), screen
	}
	stdout, screen := redirected("publish")
	if stdout != "r1\n" {
		t.Errorf("stdout %q, want r1", stdout)
	}
	if !strings.Contains(screen, "\x1b[32m✔") || !strings.Contains(screen, "\r\x1b[K") {
		t.Errorf("the story is not drawn: %q", screen)
	}
	for _, args := range [][]string{{"status"}, {"status", "i-1"}, {"status", "--vms"}, {"releases"}, {"status", "--json"}, {"user-data", "web"}} {
		if stdout, _ = redirected(args...); stdout == "" || strings.Contains(stdout, "\x1b") {
			t.Errorf("%v: stdout %q", args, stdout)
		}
	}
	// The other way round: a terminal for the result, the story in a file.
	var story bytes.Buffer
	c := o.command("status", "i-1")
	c.Stderr = &story
	if raw := onTerminal(t, c, nil); !strings.Contains(raw, "\x1b[31m✖\x1b[0m") {
		t.Errorf("no colour in %q", raw)
	}
	o.write(t, "new.txt", "new")
	c = o.command("publish")
	c.Stderr = &story
	if raw := onTerminal(t, c, nil); raw != "r2\r\n" {
		t.Errorf("the terminal is sent %q", raw)
	}
	if !strings.Contains(story.String(), "publish: uploaded") || strings.Contains(story.String(), "\x1b") {
		t.Errorf("the story is %q", &story)
	}
	// Asked for by force, unless NO_COLOR says otherwise.
	for env, want := range map[string]bool{"CLICOLOR_FORCE=1": true, "FORCE_COLOR=1": true, "A=b": false} {
		stdout, _, _ := finished(t, with(o.command("status", "i-1"), env))
		if got := strings.Contains(stdout, "\x1b[31m✖\x1b[0m"); got != want {
			t.Errorf("%s: colour %v, want %v: %q", env, got, want, stdout)
		}
		if stdout, _, _ = finished(t, with(o.command("status", "i-1"), env, "NO_COLOR=1")); strings.Contains(stdout, "\x1b") {
			t.Errorf("%s and NO_COLOR: %q", env, stdout)
		}
	}
}
