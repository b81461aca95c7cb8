package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/operator"
	"github.com/bootwell/bootwell/internal/agent"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// A vm is one simulated machine: a folder with what tells machines apart.
type vm struct {
	id    string
	root  string
	phase time.Duration // of its polls, as its timer has it
}

// newVM makes the machine number n below dir, with the schedule that its agent
// would write into the timer.
func newVM(dir string, n int, poll time.Duration) (*vm, error) {
	id := fmt.Sprintf("i-%016x", uint64(n+1)*0x9e3779b97f4a7c15)
	v := &vm{id: id, root: filepath.Join(dir, id)}
	v.phase = agent.ScheduleOf(poll, id).Phase + withinSecond(id)
	for name, text := range map[string]string{
		"etc/os-release":                    "ID=debian\nVERSION_ID=\"12\"\n",
		"etc/machine-id":                    fmt.Sprintf("%016x%016x\n", n, n),
		"proc/sys/kernel/random/boot_id":    "boot-" + id + "\n",
		"run/cloud-init/instance-data.json": `{"v1":{"instance_id":"` + id + `","cloud_name":"aws","region":"eu-west-1"}}`,
	} {
		name = filepath.Join(v.root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// withinSecond stands for the timer's RandomizedDelaySec=1s, which systemd draws
// from the machine-id once and for all.
func withinSecond(id string) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(id))
	return time.Duration(h.Sum32()) * time.Second >> 32
}

// agent is the agent that one start of the timer's service runs.
func (v *vm) agent(b bucket.Bucket, url string, anchor release.Digest, now func() time.Time) *agent.Agent {
	return &agent.Agent{
		Config:  agent.Config{Project: operator.Name, Bucket: url, Role: operator.RoleName, Channel: "stable", Root: anchor},
		Paths:   agent.Paths{Root: v.root},
		Bucket:  b,
		Now:     now,
		Version: "bench",
		Command: func(context.Context, string, ...string) ([]byte, error) { return nil, nil },
	}
}

// become gives v the state of another VM after its first contact, under v's own
// name. Files that the agent only ever replaces are shared.
func (v *vm) become(model *vm) error {
	from := agent.Paths{Root: model.root}.State()
	to := agent.Paths{Root: v.root}.State()
	own := map[string]bool{"state.json": true, "status.json": true}
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		copy := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(copy, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			text, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(text, copy)
		case !own[rel] && d.Name() != "lock":
			return os.Link(name, copy)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		mine := strings.ReplaceAll(string(text), model.id, v.id)
		return os.WriteFile(copy, []byte(mine), 0o600)
	})
}
