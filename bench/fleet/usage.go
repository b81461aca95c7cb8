package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A usage is CPU time: of this process with all its VMs and the proxy, of what
// the VMs' steps started, and of the server.
type usage struct{ agents, steps, server time.Duration }

func (u usage) sub(v usage) usage {
	return usage{u.agents - v.agents, u.steps - v.steps, u.server - v.server}
}

func (s *stage) used() (u usage) {
	of := func(who int) time.Duration {
		var r unix.Rusage
		if unix.Getrusage(who, &r) != nil {
			return 0
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return usage{of(unix.RUSAGE_SELF), of(unix.RUSAGE_CHILDREN), serverCPU()}
}

// serverCPU is that of the child of this process that serves (proc(5)).
func serverCPU() (d time.Duration) {
	const tick = time.Second / 100 // USER_HZ
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(pids)) {
			text, _ := os.ReadFile("/proc/" + pid + "/stat")
			// The name in brackets may hold anything.
			end := strings.LastIndexByte(string(text), ')')
			if end < 0 || !strings.Contains(string(text[:end]), "(versitygw") {
				continue
			}
			if f := strings.Fields(string(text[end+1:])); len(f) > 12 {
				user, _ := strconv.Atoi(f[11])
				system, _ := strconv.Atoi(f[12])
				d += time.Duration(user+system) * tick
			}
		}
	}
	return d
}
