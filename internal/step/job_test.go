package step

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

func TestRun_Platform(t *testing.T) {
	r, _ := fixture(t, nil)
	for _, c := range []struct {
		only         []string
		want, reason string
	}{
		{nil, release.ResultChanged, ""},
		{[]string{"debian-*"}, release.ResultChanged, ""},
		{[]string{"ubuntu-24.04", "debian-12"}, release.ResultChanged, ""},
		{[]string{"rocky-*"}, release.ResultSkipped, "not for debian-12"},
		{[]string{"[deb"}, release.ResultFailed, "not a pattern"},
	} {
		r.Memory = nil
		s := shell("true")
		s.Only = c.only
		expect(t, r, s, c.want, c.reason)
	}
}

func TestRun_Guards(t *testing.T) {
	r, _ := fixture(t, nil)
	flag := filepath.Join(t.TempDir(), "flag")
	s := shell("echo made >" + flag)
	s.Creates, s.Rerun = flag, release.RerunAlways
	expect(t, r, s, release.ResultChanged, "")
	expect(t, r, s, release.ResultUnchanged, flag+" exists")

	s = shell("exit 9")
	s.Unless = "test -e " + flag
	expect(t, r, s, release.ResultUnchanged, "unless exited 0")
	must(t, os.Remove(flag))
	expect(t, r, s, release.ResultFailed, "exit 9")

	s = shell("true")
	s.Unless, s.Timeout = "sleep 60", release.Duration(100*time.Millisecond)
	expect(t, r, s, release.ResultFailed, "unless timed out after 100ms")
}

// What a guard watches is made again when it vanishes, though the inputs are
// the same.
func TestRun_GuardBeatsRerun(t *testing.T) {
	r, _ := fixture(t, nil)
	flag := filepath.Join(t.TempDir(), "flag")
	s := shell("echo made >" + flag)
	s.Creates = flag
	expect(t, r, s, release.ResultChanged, "")
	must(t, os.Remove(flag))
	expect(t, r, s, release.ResultChanged, "")
	must(t, os.Remove(flag))
	s.Rerun = release.RerunNever
	expect(t, r, s, release.ResultUnchanged, "ran once on this VM")
}

func TestRun_RerunRule(t *testing.T) {
	files := map[string]src{
		"a.sh":        {text: "#!/bin/sh\necho run >>$BW_out\n", mode: 0o755},
		"conf/x.conf": {text: "one"}, "other": {text: "o"},
	}
	out := filepath.Join(t.TempDir(), "out")
	runs := func() int { b, _ := os.ReadFile(out); return strings.Count(string(b), "run") }
	setup := func(change func(map[string]src, *Runner, *release.Step), mem Memory) (*Runner, release.Step) {
		fs := map[string]src{}
		for k, v := range files {
			fs[k] = v
		}
		s := script("a.sh")
		s.Inputs = []string{"conf/**"}
		r := &Runner{Vars: release.Vars{"out": out, "n": "1"}}
		change(fs, r, &s)
		r2, _ := fixture(t, fs)
		r2.Vars, r2.Memory = r.Vars, mem
		return r2, s
	}
	none := func(map[string]src, *Runner, *release.Step) {}
	mem := &memory{m: map[string]release.Digest{}}
	r, s := setup(none, mem)
	expect(t, r, s, release.ResultChanged, "")
	expect(t, r, s, release.ResultUnchanged, "inputs are the same as at the last success")
	if runs() != 1 {
		t.Fatalf("%d runs, want 1", runs())
	}
	for name, change := range map[string]func(map[string]src, *Runner, *release.Step){
		"script": func(f map[string]src, _ *Runner, _ *release.Step) {
			f["a.sh"] = src{text: f["a.sh"].text + "#\n", mode: 0o755}
		},
		"input":    func(f map[string]src, _ *Runner, _ *release.Step) { f["conf/x.conf"] = src{text: "two"} },
		"new file": func(f map[string]src, _ *Runner, _ *release.Step) { f["conf/y"] = src{text: "y"} },
		"variable": func(_ map[string]src, r *Runner, _ *release.Step) { r.Vars["n"] = "2" },
		"args":     func(_ map[string]src, _ *Runner, s *release.Step) { s.Args = []string{"-v"} },
		"env":      func(_ map[string]src, _ *Runner, s *release.Step) { s.Env = map[string]string{"A": "b"} },
	} {
		r, s := setup(change, mem)
		before := runs()
		expect(t, r, s, release.ResultChanged, "")
		if runs() != before+1 {
			t.Errorf("%s changed: not run", name)
		}
		r, s = setup(none, mem)
		expect(t, r, s, release.ResultChanged, "") // back again differs too
	}
	for name, change := range map[string]func(map[string]src, *Runner, *release.Step){
		"file that is no input": func(f map[string]src, _ *Runner, _ *release.Step) { f["other"] = src{text: "p"} },
		"timeout":               func(_ map[string]src, _ *Runner, s *release.Step) { s.Timeout = release.Duration(time.Hour) },
	} {
		r, s := setup(change, mem)
		if got := r.Run(context.Background(), s); got.Result != release.ResultUnchanged {
			t.Errorf("%s changed: %s, want unchanged", name, got.Result)
		}
	}
}

func TestRun_OnlySuccessIsRemembered(t *testing.T) {
	r, _ := fixture(t, nil)
	s := shell(`test -e "$FLAG"`)
	flag := filepath.Join(t.TempDir(), "flag")
	s.Env = map[string]string{"FLAG": flag}
	for _, rerun := range []string{release.RerunChanged, release.RerunNever} {
		s.Rerun, s.Name = rerun, rerun
		_ = os.Remove(flag)
		expect(t, r, s, release.ResultFailed, "exit 1")
		expect(t, r, s, release.ResultFailed, "exit 1")
		must(t, os.WriteFile(flag, nil, 0o600))
		expect(t, r, s, release.ResultChanged, "")
		expect(t, r, s, release.ResultUnchanged, "")
	}
	r.Memory = &memory{m: map[string]release.Digest{}, err: errors.New("disk full")}
	expect(t, r, shell("true"), release.ResultFailed, "cannot be remembered: disk full")
}

func TestRun_WhatExitZeroMeans(t *testing.T) {
	for _, c := range []struct{ rerun, say, want string }{
		{release.RerunChanged, "", release.ResultChanged},
		{release.RerunNever, "", release.ResultChanged},
		{release.RerunAlways, "", release.ResultUnchanged},
		{release.RerunAlways, "changed=true", release.ResultChanged},
		{release.RerunChanged, "changed=false", release.ResultUnchanged},
		{release.RerunChanged, "changed=true\nchanged=false", release.ResultUnchanged},
		{release.RerunAlways, "changed=maybe", release.ResultUnchanged},
		{release.RerunAlways, "later=thing\r\n changed=true \r\n", release.ResultChanged},
	} {
		r, _ := fixture(t, nil)
		s := shell("printf %s \"$SAY\" >$BOOTWELL_OUTPUT")
		s.Rerun, s.Env = c.rerun, map[string]string{"SAY": c.say}
		res := r.Run(context.Background(), s)
		if res.Result != c.want {
			t.Errorf("%s, %q: %s, want %s", c.rerun, c.say, res.Result, c.want)
		}
		if c.say == "changed=maybe" && !strings.Contains(res.Reason, "neither true nor false") {
			t.Errorf("reason %q does not say that the output was wrong", res.Reason)
		}
		if left, _ := os.ReadDir(r.Scratch); len(left) > 0 {
			t.Errorf("%s was left in the scratch folder", left[0].Name())
		}
	}
}

func TestRun_OutputReplacedByPipe(t *testing.T) {
	r, _ := fixture(t, nil)
	expect(t, r, shell("rm $BOOTWELL_OUTPUT; mkfifo $BOOTWELL_OUTPUT"), release.ResultChanged, "no longer a file")
	expect(t, r, shell("rm $BOOTWELL_OUTPUT; ln -s /etc/passwd $BOOTWELL_OUTPUT"), release.ResultChanged, "BOOTWELL_OUTPUT")
}

func TestRun_RebootAndAgain(t *testing.T) {
	r, _ := fixture(t, nil)
	res := expect(t, r, shell("exit 194"), release.ResultChanged, "asked for a reboot")
	if !res.Reboot || !res.Again {
		t.Errorf("reboot %v again %v, want both", res.Reboot, res.Again)
	}
	if len(r.Memory.(*memory).m) != 0 {
		t.Error("a step that is to be called again was remembered")
	}
}

func TestRun_RebootField(t *testing.T) {
	r, _ := fixture(t, nil)
	r.Root = t.TempDir()
	s := shell("true")
	s.Reboot = release.RebootIfChanged
	if !r.Run(context.Background(), s).Reboot {
		t.Error("if-changed: a changed step asks for no reboot")
	}
	if r.Run(context.Background(), s).Reboot {
		t.Error("if-changed: an unchanged step asks for a reboot")
	}
	s.Reboot = release.RebootIfRequired
	if r.Run(context.Background(), s).Reboot {
		t.Error("if-required: a reboot though the system asks for none")
	}
	must(t, os.MkdirAll(filepath.Join(r.Root, "run"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.Root, "run/reboot-required"), nil, 0o644))
	if !r.Run(context.Background(), s).Reboot {
		t.Error("if-required: no reboot though the system asks for one")
	}
}

func TestRun_Retries(t *testing.T) {
	r, _ := fixture(t, nil)
	n := filepath.Join(t.TempDir(), "n")
	s := shell(`echo x >>` + n + `; test $(wc -l <` + n + `) -ge 3`)
	s.Retries = 4
	if res := expect(t, r, s, release.ResultChanged, ""); res.Attempts != 3 {
		t.Errorf("%d attempts, want 3", res.Attempts)
	}
	s = shell("exit 5")
	s.Retries = 2
	if res := expect(t, r, s, release.ResultFailed, "exit 5"); res.Attempts != 3 {
		t.Errorf("%d attempts, want 3", res.Attempts)
	}
	s = script("no/such.sh")
	s.Retries = 5
	if res := expect(t, r, s, release.ResultFailed, "no/such.sh is not in the release"); res.Attempts > 1 {
		t.Errorf("%d attempts at what no attempt can mend", res.Attempts)
	}
}

func TestRun_DryRunChangesNothing(t *testing.T) {
	dir := t.TempDir()
	r, _ := fixture(t, map[string]src{"a.sh": {text: "#!/bin/sh\ntouch " + dir + "/ran\n", mode: 0o755}, "t/x": {text: "x"}, "t/y/z": {text: "z"}})
	must(t, os.WriteFile(filepath.Join(dir, "old"), []byte("a\nb\n"), 0o600))
	must(t, os.Symlink("old", filepath.Join(dir, "link")))
	r.DryRun, r.Diff = true, true
	before := snapshot(t, dir) + snapshot(t, r.Scratch)
	always := shell("touch " + dir + "/ran")
	always.Rerun = release.RerunAlways
	expect(t, r, always, release.ResultSkipped, "would run")
	expect(t, r, shell("touch "+dir+"/ran"), release.ResultChanged, "would run")
	expect(t, r, script("a.sh"), release.ResultChanged, "would run")
	res := expect(t, r, filesStep(
		release.FileItem{To: dir + "/old", Content: text("a\nc\n")},
		release.FileItem{To: dir + "/new/deep", Content: text("n\n"), Validate: "touch " + dir + "/validated; test -e %s"},
		release.FileItem{To: dir + "/link", State: release.StateAbsent},
		release.FileItem{To: dir + "/dir", State: release.StateDirectory},
		release.FileItem{To: dir + "/l2", Link: "old"},
		release.FileItem{To: dir + "/tree", From: "t"},
		release.FileItem{To: dir + "/owned", Content: text("o"), Owner: "nobody-yet"},
	), release.ResultChanged, dir+"/old +1 -1")
	if after := snapshot(t, dir) + snapshot(t, r.Scratch); after != before {
		t.Errorf("a dry run changed the machine:\n%s\nwas\n%s", after, before)
	}
	for _, want := range []string{"-b\n+c\n", "+n\n", "+++ " + dir + "/new/deep"} {
		if !strings.Contains(res.Diff, want) {
			t.Errorf("diff lacks %q:\n%s", want, res.Diff)
		}
	}
	if len(res.Changes) != 8 {
		t.Errorf("changes %q, want 8", res.Changes)
	}
	if n := r.Memory.(*memory).writes; n != 0 {
		t.Errorf("a dry run wrote to the memory %d times", n)
	}
}

func TestRun_Cancelled(t *testing.T) {
	r, _ := fixture(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	s := shell("sleep 600")
	s.Retries = 3
	res := r.Run(ctx, s)
	if res.Result != release.ResultFailed || res.Reason != "cancelled" || res.Attempts != 1 {
		t.Errorf("%+v", res)
	}
}

func TestRun_UnknownKind(t *testing.T) {
	r, _ := fixture(t, nil)
	expect(t, r, release.Step{Name: "x", Kind: "ansible"}, release.ResultFailed, `knows no step of kind "ansible": update it`)
}
