package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/release"
)

// A victim is what a child process needs to be the agent of a world, and
// where it is to be killed.
type victim struct {
	Dir     string
	Anchor  release.Digest
	Now     time.Time
	Point   string // first time it is reached there
	Trace   string // file that gets a line for each point
	Install string // agent to install; "": a run
}

const victimEnv = "BOOTWELL_AGENT_TEST_VICTIM"

func TestMain(m *testing.M) {
	if v := os.Getenv(victimEnv); v != "" {
		os.Exit(beVictim(v))
	}
	os.Exit(m.Run())
}

// beVictim is one call of the agent in a process of its own.
func beVictim(text string) int {
	var v victim
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return 9
	}
	w := &world{dir: v.Dir, now: v.Now, anchor: v.Anchor}
	w.agent = w.newAgent()
	var err error
	if w.agent.Bucket, err = file.OpenDir(w.path("bucket"), file.Options{}); err != nil {
		return 9
	}
	trace, err := os.OpenFile(v.Trace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 9
	}
	w.agent.passed = func(point string) {
		fmt.Fprintln(trace, point)
		if point == v.Point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if v.Install != "" {
		// They may be ignored where the tests run, as below nohup.
		ends := make(chan os.Signal, 1)
		signal.Notify(ends, syscall.SIGHUP, syscall.SIGINT)
		go func() {
			<-ends
			os.Exit(2)
		}()
		w.agent.Command = func(ctx context.Context, name string, args ...string) ([]byte, error) {
			return exec.CommandContext(ctx, name, args...).CombinedOutput()
		}
		_, _, err = w.agent.Install(context.Background(), InstallOptions{Executable: v.Install})
	} else {
		_, err = w.agent.Run(context.Background(), Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// victim runs the agent in its own process, killed at point ("": not), and
// returns the points it passed.
func (w *world) victim(point string) (points []string, killed bool) {
	w.t.Helper()
	c := w.process(victim{Point: point})
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		killed = exit.Sys().(syscall.WaitStatus).Signaled()
		if exit.ExitCode() == 9 {
			w.t.Fatalf("the child did not start: %s", out)
		}
	}
	b, _ := os.ReadFile(w.path("trace"))
	return strings.Fields(string(b)), killed
}

// process returns the agent in a process of its own, not started yet.
func (w *world) process(v victim) *exec.Cmd {
	w.t.Helper()
	v.Dir, v.Anchor, v.Now, v.Trace = w.dir, w.anchor, w.now, w.path("trace")
	_ = os.Remove(v.Trace)
	text, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), victimEnv+"="+string(text))
	return c
}

// clone copies the world's folder, so that many deaths start from one life.
func (w *world) clone(t *testing.T) *world {
	t.Helper()
	c := &world{t: t, dir: t.TempDir(), now: w.now, anchor: w.anchor}
	if out, err := exec.Command("cp", "-a", w.dir+"/.", c.dir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v %s", err, out)
	}
	c.inner = openFolder(t, c.path("bucket"))
	c.agent = c.newAgent()
	c.agent.Bucket = c.inner
	return c
}

// A scene is a VM just before something happens to it, and what must be true
// once it has converged.
type scene struct {
	setUp   func(w *world)
	state   string
	release string
	good    string
	file    string // content of the file a
}

func scenes() map[string]scene {
	return map[string]scene{
		"first": {
			setUp: func(w *world) { w.publish(w.two("one")) },
			state: release.StateChanged, release: "r1", good: "r1", file: "one",
		},
		"update": {
			setUp: func(w *world) {
				w.publish(w.two("one"))
				w.victim("")
				w.publish(w.two("two"))
				w.pass(5 * time.Minute)
			},
			state: release.StateChanged, release: "r2", good: "r2", file: "two",
		},
		"second update": { // the tree of r1 becomes that of r3
			setUp: func(w *world) {
				for _, text := range []string{"one", "two", "three"} {
					w.publish(w.two(text))
					if text != "three" {
						w.victim("")
					}
					w.pass(5 * time.Minute)
				}
			},
			state: release.StateChanged, release: "r3", good: "r3", file: "three",
		},
		"drift": {
			setUp: func(w *world) {
				w.publish(w.two("one"))
				w.victim("")
				w.write(w.vm("a"), "drift")
				w.pass(time.Hour)
			},
			state: release.StateChanged, release: "r1", good: "r1", file: "one",
		},
		"quarantine": {
			setUp: func(w *world) {
				w.publish(w.two("one"))
				w.victim("")
				bad := w.two("bad")
				bad.Attempts = 1
				bad.Checks = []release.Check{check("never", "false")}
				w.publish(bad)
				w.pass(5 * time.Minute)
			},
			state: release.StateFailed, release: "r1", good: "r1", file: "one",
		},
	}
}

// two is a role of two steps; paths go through the environment of the file's
// own folder, since a world may be moved.
func (w *world) two(text string) release.Role {
	return role(
		run("first", `echo x >>"$PWD/../../../../../first"`),
		run("second", fmt.Sprintf(`f="$PWD/../../../../../a"
if [ "$(cat "$f" 2>/dev/null)" != %q ]; then printf %%s %q >"$f"; echo changed=true >>"$BOOTWELL_OUTPUT"; fi`, text, text)),
	)
}

// TestKilled kills the agent with SIGKILL at each point of each scene, starts
// it again until it has settled, and looks whether the VM then is what it
// would have been.
func TestKilled(t *testing.T) {
	for name, sc := range scenes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFileWorld(t)
			sc.setUp(w)
			points, _ := w.clone(t).victim("")
			if len(points) < 10 || !slices.Contains(points, "Committed") {
				t.Fatalf("the run passed only %v", points)
			}
			slices.Sort(points)
			for _, point := range slices.Compact(points) {
				t.Run("in_"+point, func(t *testing.T) {
					c := w.clone(t)
					if _, killed := c.victim(point); !killed {
						t.Fatal("the agent was not killed")
					}
					c.converges(sc)
				})
			}
		})
	}
}

// converges starts the agent until it has nothing left to do, and checks what
// then is true.
func (w *world) converges(sc scene) {
	w.t.Helper()
	for range 3 {
		w.victim("")
		w.pass(5 * time.Minute)
	}
	w.whole()
	for where, get := range map[string]func() (*release.Report, error){
		"on the VM":     func() (*release.Report, error) { return Status(w.agent.Paths) },
		"in the bucket": func() (*release.Report, error) { return w.reported(), nil },
	} {
		r, err := get()
		if err != nil {
			w.t.Fatal(err)
		}
		// A run that was cut off after its last change finds nothing left to change.
		if r.State == release.StateOK {
			r.State = release.StateChanged
		}
		if r.State != sc.state || r.Release != sc.release || r.LastGood != sc.good || r.Run == nil {
			w.t.Errorf("the report %s says %s %s (good %s, %s), want %s %s", where, r.State, r.Release, r.LastGood, r.Reason, sc.state, sc.release)
		}
	}
	if last := w.state().last(); w.reported().Run.ID != last.ID && !quiet(last) {
		w.t.Errorf("the run %s was never reported", last.ID)
	}
	if got := w.text("a"); got != sc.file {
		w.t.Errorf("the file holds %q, want %q", got, sc.file)
	}
	runs := w.lines("first")
	if points, _ := w.victim(""); slices.Contains(points, "Journaled") || w.lines("first") != runs {
		w.t.Errorf("there is no end: passed %v", points)
	}
}

// TestKilled_in_TheSameStepForEver is the power cut that a step brings about
// itself: the loop ends, with the last good release.
func TestKilled_in_TheSameStepForEver(t *testing.T) {
	w := newFileWorld(t)
	w.publish(w.two("one"))
	w.victim("")
	w.publish(w.two("two"))
	deaths := 0
	for deaths < 2*maxSameCut {
		w.pass(5 * time.Minute)
		w.reboot()
		// The second step of r2; r1 is let through.
		points, killed := w.victim("Applying_step_2_Enter")
		if !killed {
			t.Fatalf("not killed after %d deaths: %v", deaths, points)
		}
		deaths++
		if w.state().Quarantine != nil {
			break
		}
	}
	if deaths != maxSameCut+2 {
		t.Fatalf("%d deaths until the release was refused", deaths)
	}
	w.converges(scene{state: release.StateFailed, release: "r1", good: "r1", file: "one"})
	if r := w.reported(); !strings.Contains(r.Reason, "cut off 11 times") || !strings.Contains(r.Reason, "step 2") {
		t.Fatalf("reason %q", r.Reason)
	}
}

// TestKilled_LeavesNoLock shows that the lock dies with the process.
func TestKilled_LeavesNoLock(t *testing.T) {
	w := newFileWorld(t)
	w.publish(w.two("one"))
	w.victim("Applying_step_1_Enter")
	unlock, err := lock(w.agent.Paths)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
