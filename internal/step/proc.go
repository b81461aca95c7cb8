package step

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// markerName is the variable by which a command's processes are known.
const markerName = "BOOTWELL_RUN"

// A process is a started command and all that came out of it.
type process struct {
	pid   int // also its process group
	id    string
	group *cgroup
}

// wait returns when the main process has ended, without reaping it, and
// reports whether it exited with 0.
func (p *process) wait() bool {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	// siginfo_t(3type) of a child, 64-bit: three words, padding, then si_pid,
	// si_uid and si_status. x/sys names only the first three.
	status := (*[7]int32)(unsafe.Pointer(&info))[6]
	const exited = 1 // CLD_EXITED
	return info.Code == exited && status == 0
}

// killGroup kills what is left in the process group.
func (p *process) killGroup() { _ = unix.Kill(-p.pid, unix.SIGKILL) }

// terminate tells everything to end, waits for at most grace, and kills what
// is still there, until nothing is.
func (p *process) terminate(grace time.Duration) {
	_ = unix.Kill(-p.pid, unix.SIGTERM)
	known := p.members(nil)
	signal(known, unix.SIGTERM)
	for end := time.Now().Add(grace); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if known = p.members(known); len(known) == 0 {
			break
		}
	}
	// A process that forks as fast as it is killed needs more than one pass.
	// One that hangs in the kernel cannot be waited for.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p.group.kill()
		p.killGroup()
		if known = p.members(known); len(known) == 0 {
			return
		}
		signal(known, unix.SIGKILL)
	}
}

func signal(procs map[int]string, s unix.Signal) {
	for pid := range procs {
		_ = unix.Kill(pid, s)
	}
}

// members returns the living processes of p, by their id and start time: those
// in its control group or process group, those that carry its marker, those of
// known that still live, and the descendants of all of these. An environment
// cleared by a process does not hide it from its parent's line, and an orphan
// still has its environment.
func (p *process) members(known map[int]string) map[int]string {
	all := processes()
	in := map[int]string{}
	for pid, st := range all {
		if pid == p.pid || st.pgrp == p.pid || known[pid] == st.start && st.start != "" || carries(pid, p.id) {
			in[pid] = st.start
		}
	}
	for _, pid := range p.group.pids() {
		if st, ok := all[pid]; ok {
			in[pid] = st.start
		}
	}
	for grew := true; grew; {
		grew = false
		for pid, st := range all {
			if _, ok := in[pid]; ok {
				continue
			}
			if _, ok := in[st.ppid]; ok {
				in[pid] = st.start
				grew = true
			}
		}
	}
	for pid := range in {
		if all[pid].zombie || pid == os.Getpid() {
			delete(in, pid)
		}
	}
	return in
}

// A procStat is what is used of /proc/<pid>/stat.
type procStat struct {
	ppid, pgrp int
	zombie     bool
	start      string
}

// processes returns the processes in sight.
func processes() map[int]procStat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	all := make(map[int]procStat, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", n, "stat"))
		if err != nil {
			continue
		}
		if st, ok := parseStat(string(b)); ok {
			all[pid] = st
		}
	}
	return all
}

// parseStat reads a line of proc_pid_stat(5). The command's name, in
// parentheses, may itself hold blanks and parentheses.
func parseStat(s string) (procStat, bool) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 {
		return procStat{}, false
	}
	ppid, err1 := strconv.Atoi(f[1])
	pgrp, err2 := strconv.Atoi(f[2])
	return procStat{ppid: ppid, pgrp: pgrp, zombie: f[0] == "Z" || f[0] == "X", start: f[19]}, err1 == nil && err2 == nil
}

// carries reports whether the process has the marker in the environment it
// was started with.
func carries(pid int, id string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(append([]byte{0}, b...), []byte("\x00"+markerName+"="+id+"\x00"))
}

// A cgroup is a control group (v2) of one command. A nil one is none.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group below the agent's own, or returns nil where there is
// no cgroup v2 or no right to it. No controllers are used, so that the rule
// against processes in inner groups does not apply.
func newCgroup(id string) *cgroup {
	own, err := ownCgroup()
	if err != nil {
		return nil
	}
	old, _ := filepath.Glob(filepath.Join(own, "bootwell-*"))
	for _, p := range old {
		_ = os.Remove(p) // refused while somebody lives in it
	}
	g := &cgroup{path: filepath.Join(own, "bootwell-"+id)}
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil
	}
	if g.dir, err = os.Open(g.path); err != nil {
		_ = os.Remove(g.path)
		return nil
	}
	return g
}

// ownCgroup returns the folder of this process's group in the unified hierarchy.
func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		rel, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			p := filepath.Join(mount, rel)
			if _, err := os.Stat(filepath.Join(p, "cgroup.procs")); err != nil {
				continue
			}
			if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
				return p, nil
			}
		}
	}
	return "", os.ErrNotExist
}

// pids returns the processes in g and the groups below it.
func (g *cgroup) pids() []int {
	if g == nil {
		return nil
	}
	var pids []int
	_ = filepath.WalkDir(g.path, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// kill kills all in g at once, where the kernel can (5.14).
func (g *cgroup) kill() {
	if g != nil {
		_ = os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0)
	}
}

// close removes g unless somebody lives on in it.
func (g *cgroup) close() {
	if g == nil {
		return
	}
	_ = g.dir.Close()
	// The kernel counts a killed process for a moment longer than it shows it.
	for range 20 {
		if os.Remove(g.path) == nil || len(g.pids()) > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
