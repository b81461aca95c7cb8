package step

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/needs"
	"github.com/bootwell/bootwell/internal/release"
)

// alive reports whether the process whose id is in the file lives.
func alive(t testing.TB, file string) bool {
	t.Helper()
	pid := readPid(t, file)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	st, ok := parseStat(string(b))
	return ok && !st.zombie
}

func readPid(t testing.TB, file string) int {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return pid
		}
	}
	t.Fatalf("%s has no process id", file)
	return 0
}

func killLater(t testing.TB, file string) {
	pid := readPid(t, file)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
}

func TestExec_TimeoutKillsEverything(t *testing.T) {
	needs.Tool(t, "setsid")
	dir := t.TempDir()
	text := `
		trap '' TERM
		sleep 600 & echo $! >child
		setsid sh -c 'trap "" TERM; echo $$ >daemon; while :; do sleep 1; done' &
		(setsid sh -c '(sh -c "trap \"\" TERM; echo \$\$ >double; exec sleep 600" &) &' &)
		sh -c 'env -i /bin/sh -c "echo \$\$ >clean; exec sleep 600"' &
		while :; do sleep 1; done`
	for _, noGroup := range []bool{false, true} {
		t.Run(fmt.Sprintf("without cgroup %v", noGroup), func(t *testing.T) {
			r, _ := fixture(t, nil)
			r.Tree = filepath.Join(dir, strconv.FormatBool(noGroup))
			must(t, os.Mkdir(r.Tree, 0o755))
			s := shell(text)
			s.Timeout = release.Duration(time.Second)
			if noGroup {
				noCgroup(t, r, s)
			} else {
				expect(t, r, s, release.ResultFailed, "timed out after 1s")
			}
			for _, name := range []string{"child", "daemon", "double", "clean"} {
				if p := filepath.Join(r.Tree, name); alive(t, p) {
					killLater(t, p)
					t.Errorf("%s lives on after the timeout", name)
				}
			}
		})
	}
}

// noCgroup runs s as on a machine without control groups: by process group,
// descent and marker alone.
func noCgroup(t *testing.T, r *Runner, s release.Step) {
	t.Helper()
	out, err := newStream(&sink{}, 0, nil)
	must(t, err)
	cmd, err := r.start(command{argv: []string{"/bin/sh", "-euc", s.Run}}, "0123456789abcdef", nil, out.w, out.w)
	must(t, err)
	out.start()
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.Timeout.Std(), timedOut(s.Timeout))
	defer cancel()
	if cause := r.await(ctx, &process{pid: cmd.Process.Pid, id: "0123456789abcdef"}); cause == nil {
		t.Error("ended by itself")
	}
	out.finish()
	_ = cmd.Wait()
}

// A cleared environment and a session of its own hide a double fork from
// everything but the control group.
func TestExec_CgroupCatchesHiddenOrphan(t *testing.T) {
	needs.Tool(t, "setsid")
	probe := newCgroup(runID())
	if probe == nil {
		needs.Skip(t, "cgroup2", "no cgroup v2, or no right to make a group")
	}
	probe.close()
	own, err := ownCgroup()
	must(t, err)
	before, _ := filepath.Glob(filepath.Join(own, "bootwell-*"))
	r, _ := fixture(t, nil)
	s := shell(`(setsid env -i /bin/sh -c '(echo $$ >hidden; exec /bin/sleep 600)' &) ; sleep 600`)
	s.Timeout = release.Duration(500 * time.Millisecond)
	expect(t, r, s, release.ResultFailed, "timed out")
	if p := filepath.Join(r.Tree, "hidden"); alive(t, p) {
		killLater(t, p)
		t.Error("the hidden orphan lives on")
	}
	left, _ := filepath.Glob(filepath.Join(own, "bootwell-*"))
	for _, g := range left {
		if !slices.Contains(before, g) {
			t.Errorf("the control group %s is left", g)
		}
	}
}

// The step ends with its main process although a daemon holds its output, and
// the daemon neither dies of that nor of what it writes later.
func TestExec_DaemonSurvivesSuccess(t *testing.T) {
	r, _ := fixture(t, nil)
	start := time.Now()
	expect(t, r, shell(`nohup sh -c 'echo $$ >pid; while :; do echo tick; touch ticked; sleep 0.02; done' & while ! test -e ticked; do sleep 0.01; done`),
		release.ResultChanged, "")
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the step waited %v for a process that never ends", took)
	}
	pid := filepath.Join(r.Tree, "pid")
	killLater(t, pid)
	for range 2 { // it writes again after the pipe's reader is gone
		must(t, os.Remove(filepath.Join(r.Tree, "ticked")))
		waitFor(t, func() bool { _, err := os.Stat(filepath.Join(r.Tree, "ticked")); return err == nil })
	}
	if !alive(t, pid) {
		t.Error("the daemon died")
	}
}

func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("did not happen")
}

func TestExec_FailureKillsJobsNotDaemons(t *testing.T) {
	needs.Tool(t, "setsid")
	r, _ := fixture(t, nil)
	expect(t, r, shell(`sleep 600 & echo $! >job
		setsid sh -c 'echo $$ >daemon; exec sleep 600' & while ! test -s daemon; do sleep 0.01; done; exit 3`), release.ResultFailed, "exit 3")
	killLater(t, filepath.Join(r.Tree, "job"))
	killLater(t, filepath.Join(r.Tree, "daemon"))
	waitFor(t, func() bool { return !alive(t, filepath.Join(r.Tree, "job")) })
	if !alive(t, filepath.Join(r.Tree, "daemon")) {
		t.Error("a daemon with its own session was killed for another's failure")
	}
}

func TestExec_TermFirst(t *testing.T) {
	r, _ := fixture(t, nil)
	r.grace = 10 * time.Second
	s := shell(`trap 'echo tidied >tidy; exit 0' TERM; while :; do sleep 0.02; done`)
	s.Timeout = release.Duration(200 * time.Millisecond)
	expect(t, r, s, release.ResultFailed, "timed out after 200ms")
	if b, _ := os.ReadFile(filepath.Join(r.Tree, "tidy")); string(b) != "tidied\n" {
		t.Error("the step had no chance to tidy up")
	}
}

func TestExec_ForkStorm(t *testing.T) {
	r, _ := fixture(t, nil)
	s := shell(`trap '' TERM; storm() { sleep 0.05; storm & storm2=1; wait; }; for i in 1 2 3 4; do (while :; do (sleep 0.01) & sleep 0.01; done) & done; echo $! >last; wait`)
	s.Timeout = release.Duration(300 * time.Millisecond)
	expect(t, r, s, release.ResultFailed, "timed out")
	if alive(t, filepath.Join(r.Tree, "last")) {
		t.Error("the storm goes on")
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func TestExec_HugeOutputBoundedMemory(t *testing.T) {
	const size = 256 << 20
	r, _ := fixture(t, nil)
	log := &counter{}
	r.Log = log
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	res := expect(t, r, shell(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo; echo the end; exit 4", size)), release.ResultFailed, "exit 4")
	runtime.ReadMemStats(&after)
	if log.n < size {
		t.Errorf("%d bytes were logged, want at least %d", log.n, size)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("%d bytes were allocated for %d bytes of output", got, size)
	}
	if res.Tail != "the end" || len(res.Tail) > release.MaxTailBytes {
		t.Errorf("tail %.100q (%d bytes)", res.Tail, len(res.Tail))
	}
}

// All that was written before the end is there, though the writer is slow.
func TestExec_NoOutputLost(t *testing.T) {
	r, _ := fixture(t, nil)
	log := &slow{}
	r.Log = log
	expect(t, r, shell("seq 1 20000"), release.ResultChanged, "")
	if !strings.HasSuffix(log.b.String(), "\n19999\n20000\n") || strings.Count(log.b.String(), "\n") != 20000 {
		t.Errorf("%d lines, ends with %.40q", strings.Count(log.b.String(), "\n"), log.b.String()[max(0, log.b.Len()-40):])
	}
}

type slow struct{ b bytes.Buffer }

func (s *slow) Write(p []byte) (int, error) { time.Sleep(5 * time.Millisecond); return s.b.Write(p) }

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestExec_BrokenLogIsNoFailure(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Log = broken{}
	expect(t, r, shell("echo a; seq 1 100000"), release.ResultChanged, "")
	r.Log = nil
	expect(t, r, shell("echo b"), release.ResultChanged, "")
}

func TestExec_TailIsCleanText(t *testing.T) {
	r, _ := fixture(t, nil)
	res := expect(t, r, shell(`printf 'ok\033[31mred\033[0m\000\007 \377\376 \342\200\256rtl \033]0;title\007done\rnext\r\nlast\tone\n'; exit 1`), release.ResultFailed, "exit 1")
	if want := "okred \ufffd rtl done\nnext\nlast\tone"; res.Tail != want {
		t.Errorf("tail %q, want %q", res.Tail, want)
	}
	res = expect(t, r, shell(`i=0; while test $i -lt 3000; do echo "line $i é"; i=$((i+1)); done; exit 1`), release.ResultFailed, "exit 1")
	if len(res.Tail) > release.MaxTailBytes || !utf8.ValidString(res.Tail) || !strings.HasPrefix(res.Tail, "line ") || !strings.HasSuffix(res.Tail, "line 2999 é") {
		t.Errorf("tail of %d bytes: %.30q … ", len(res.Tail), res.Tail)
	}
}

func TestExec_StdinFdsAndGroup(t *testing.T) {
	r, log := fixture(t, nil)
	fd, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0) // without O_CLOEXEC
	must(t, err)
	defer syscall.Close(fd)
	expect(t, r, shell(`readlink /proc/self/fd/0; ls /proc/self/fd | sort -n | tr '\n' ' '; cat; ps -o pgid= -p $$ >pgid; echo $$ >pid`), release.ResultChanged, "")
	if log.String() != "/dev/null\n0 1 2 3 " {
		t.Errorf("input or descriptors: %q", log.String())
	}
	if readPid(t, filepath.Join(r.Tree, "pid")) != readPid(t, filepath.Join(r.Tree, "pgid")) {
		t.Error("the step is not its own process group")
	}
}

func TestExec_Environment(t *testing.T) {
	t.Setenv("LEAKED", "secret")
	t.Setenv("https_proxy", "http://proxy.example:3128")
	t.Setenv("PATH", "/nowhere:"+os.Getenv("PATH"))
	r, log := fixture(t, nil)
	r.Facts.Region, r.Facts.Zone = "eu-west-1", "eu-west-1a"
	var vars release.Vars
	must(t, vars.UnmarshalJSON([]byte(`{"server_name":"www.acme.example","workers":12345678901,"on":true,"list":["a b","c",4],"text":"x=1 $y","we-ird":"w"}`)))
	r.Vars = vars
	s := shell("env | sort; pwd")
	s.Env = map[string]string{"LANG": "de_DE.UTF-8", "OWN": "1", "BOOTWELL_RUN": "forged"}
	expect(t, r, s, release.ResultChanged, "")
	got := log.String()
	for _, want := range []string{
		"PATH=" + basePath, "LANG=de_DE.UTF-8", "DEBIAN_FRONTEND=noninteractive", "OWN=1", "https_proxy=http://proxy.example:3128",
		"BOOTWELL_ROLE=web", "BOOTWELL_RELEASE=r43", "BOOTWELL_INSTANCE_ID=i-1", "BOOTWELL_CLOUD=aws", "BOOTWELL_REGION=eu-west-1",
		"BOOTWELL_ZONE=eu-west-1a", "BOOTWELL_CHANNEL=stable", "BOOTWELL_STEP=s", "BOOTWELL_PHASE=apply", "BOOTWELL_OUTPUT=" + r.Scratch,
		"BW_server_name=www.acme.example", "BW_workers=12345678901", "BW_on=true", `BW_list=["a b","c",4]`, "BW_text=x=1 $y", "BW_we_ird=w", r.Tree + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the environment lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "LEAKED") || strings.Contains(got, "forged") {
		t.Errorf("the environment has what it should not:\n%s", got)
	}
	r.Vars = release.Vars{"bad": "a\x00b"}
	expect(t, r, shell("true"), release.ResultFailed, "BW_bad")
}

func TestExec_Signal(t *testing.T) {
	r, _ := fixture(t, nil)
	expect(t, r, shell("kill -SEGV $$"), release.ResultFailed, "killed by SIGSEGV")
}

func TestExec_TreeGone(t *testing.T) {
	r, _ := fixture(t, nil)
	must(t, os.RemoveAll(r.Tree))
	expect(t, r, shell("true"), release.ResultFailed, "working folder "+r.Tree+": no such file or directory")
}

func TestScript_CannotBeRun(t *testing.T) {
	elf, err := os.ReadFile("/bin/true")
	must(t, err)
	foreign := append([]byte(nil), elf[:128]...)
	foreign[18], foreign[19] = 0xf3, 0x00 // RISC-V
	r, _ := fixture(t, map[string]src{
		"ok.sh":      {text: "#!/bin/sh\nexit 0\n", mode: 0o755},
		"plain.sh":   {text: "#!/bin/sh -eu\nexit 0\n"},
		"noline.sh":  {text: "exit 0\n", mode: 0o755},
		"neither.sh": {text: "exit 0\n"},
		"crlf.sh":    {text: "#!/bin/sh\r\nexit 0\r\n", mode: 0o755},
		"interp.sh":  {text: "#!/usr/bin/nosuch -x\n", mode: 0o755},
		"rel.sh":     {text: "#!sh\n", mode: 0o755},
		"folder.sh":  {text: "#!/etc\n", mode: 0o755},
		"true":       {text: string(elf), mode: 0o755},
		"foreign":    {text: string(foreign), mode: 0o755},
		"data":       {text: "\x00\x01\x02", mode: 0o755},
		"empty":      {text: "", mode: 0o755},
		"link.sh":    {link: "ok.sh"},
		"loop":       {link: "loop"},
	})
	for name, c := range map[string]struct{ want, reason string }{
		"ok.sh": {release.ResultChanged, ""}, "plain.sh": {release.ResultChanged, ""}, "noline.sh": {release.ResultChanged, ""},
		"true": {release.ResultChanged, ""}, "link.sh": {release.ResultChanged, ""}, "empty": {release.ResultChanged, ""},
		"neither.sh": {release.ResultFailed, "is not executable and has no #! line"},
		"crlf.sh":    {release.ResultFailed, "has Windows line ends"},
		"interp.sh":  {release.ResultFailed, "its interpreter /usr/bin/nosuch: no such file or directory"},
		"rel.sh":     {release.ResultFailed, "absolute path"},
		"folder.sh":  {release.ResultFailed, "is not executable"},
		"foreign":    {release.ResultFailed, "exec format error"},
		"data":       {release.ResultFailed, "neither a script nor a program"},
		"loop":       {release.ResultFailed, "too many links"},
		"missing":    {release.ResultFailed, "is not in the release"},
	} {
		t.Run(name, func(t *testing.T) { expect(t, r, script(name), c.want, c.reason) })
	}
}

func TestScript_ChangedOnTheVM(t *testing.T) {
	r, _ := fixture(t, map[string]src{"a.sh": {text: "#!/bin/sh\nexit 0\n", mode: 0o755}, "b.sh": {text: "#!/bin/sh\n", mode: 0o755}})
	p := filepath.Join(r.Tree, "a.sh")
	const why = "a.sh does not match the release: it was changed on this VM"
	for _, text := range []string{"#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n# longer", "#!/bin/sh", ""} {
		must(t, os.WriteFile(p, []byte(text), 0o755))
		expect(t, r, script("a.sh"), release.ResultFailed, why)
	}
	must(t, os.Remove(p))
	expect(t, r, script("a.sh"), release.ResultFailed, "a.sh cannot be read")
	must(t, os.Symlink("/bin/true", p))
	expect(t, r, script("a.sh"), release.ResultFailed, "a.sh cannot be read")
	must(t, os.Remove(p))
	must(t, syscall.Mkfifo(p, 0o755))
	expect(t, r, script("a.sh"), release.ResultFailed, "a.sh")
}

func TestScript_Args(t *testing.T) {
	r, log := fixture(t, map[string]src{"a.sh": {text: "#!/bin/sh\nfor a; do echo \"[$a]\"; done\n"}})
	expect(t, r, script("a.sh", "a b", "", "$(id)", "-n"), release.ResultChanged, "")
	if want := "[a b]\n[]\n[$(id)]\n[-n]\n"; log.String() != want {
		t.Errorf("got %q, want %q", log.String(), want)
	}
}

func TestScript_User(t *testing.T) {
	r, log := fixture(t, nil)
	s := shell("id -un; id -u; id -G; echo $HOME $USER; echo err >/dev/stderr; echo changed=false >$BOOTWELL_OUTPUT")
	s.User = "no-such-user"
	expect(t, r, s, release.ResultFailed, `no user "no-such-user" on this VM`)
	if os.Geteuid() != 0 {
		s.User = "root"
		expect(t, r, s, release.ResultFailed, "the agent must be root for that")
	}
	needs.Root(t)
	must(t, os.Chmod(r.Scratch, 0o755))
	openParents(t, r.Tree)
	openParents(t, r.Scratch)
	s.User = "daemon"
	expect(t, r, s, release.ResultUnchanged, "")
	if want := "daemon\n1\n1\n/usr/sbin daemon\nerr\n"; log.String() != want {
		t.Errorf("got %q, want %q", log.String(), want)
	}
}

// openParents lets other users into a test's folder.
func openParents(t testing.TB, p string) {
	for ; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
}
