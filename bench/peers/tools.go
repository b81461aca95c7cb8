package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/bootwell/bootwell/bench/world"
)

// A tool is a program that peers are made of.
type tool struct {
	name    string
	env     string   // a variable that names another one
	version []string // arguments that print it
}

var tools = map[string]tool{
	"curl":         {"curl", "BOOTWELL_CURL", []string{"--version"}},
	"tar":          {"tar", "", []string{"--version"}},
	"gzip":         {"gzip", "", []string{"--version"}},
	"git":          {"git", "BOOTWELL_GIT", []string{"--version"}},
	"aws":          {"aws", "BOOTWELL_AWS", []string{"--version"}},
	"rclone":       {"rclone", "BOOTWELL_RCLONE", []string{"version"}},
	"mc":           {"mc", "BOOTWELL_MC", []string{"--version"}},
	"casync":       {"casync", "BOOTWELL_CASYNC", []string{"--version"}},
	"restic":       {"restic", "BOOTWELL_RESTIC", []string{"version"}},
	"ansible-pull": {"ansible-pull", "BOOTWELL_ANSIBLE_PULL", []string{"--version"}},
	"versitygw":    {"versitygw", "BOOTWELL_VERSITYGW", []string{"--version"}},
}

// find returns the path of a tool: what its variable names, what contrib/ci
// built, what the distribution installed, what PATH has. "": none.
func find(name string) string {
	t := tools[name]
	if p := os.Getenv(t.env); t.env != "" && p != "" {
		return p
	}
	for _, p := range []string{filepath.Join(world.Cache(), "bin", name), filepath.Join("/usr/bin", name), filepath.Join("/bin", name)} {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	return world.Binary(name, t.env)
}

var versionText = regexp.MustCompile(`v?\d+\.\d+[^\s,;)\]]*|\b\d+\b`)

// version asks a tool for its version.
func version(ctx context.Context, name, path string) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, tools[name].version...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true", "LC_ALL=C.UTF-8"}
	out, _ := cmd.Output()
	first, _, _ := strings.Cut(string(out), "\n")
	if v := versionText.FindString(first); v != "" {
		return v
	}
	if v := moduleVersion(ctx, path); v != "" {
		return v
	}
	return strings.TrimSpace(first)
}

// moduleVersion is for programs that `go install` made.
func moduleVersion(ctx context.Context, path string) string {
	out, err := exec.CommandContext(ctx, "go", "version", "-m", path).Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "mod" {
			return f[2]
		}
	}
	return ""
}

// build compiles what belongs to this benchmark into dir.
func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
		"github.com/bootwell/bootwell/bench/peers/floor", "github.com/bootwell/bootwell/bench/peers/meter")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build floor and meter: %w: %s", err, said.String())
	}
	return nil
}

// ours finds the two commands of bootwell: in the folder of the variable
// BOOTWELL_BIN, or in bin/ of the source tree that the benchmark runs in.
func ours() (operator, agent string, err error) {
	dir := os.Getenv("BOOTWELL_BIN")
	if dir == "" {
		top, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			return "", "", fmt.Errorf("find the source tree: %w", err)
		}
		dir = filepath.Join(strings.TrimSpace(string(top)), "bin")
	}
	operator, agent = filepath.Join(dir, "bootwell"), filepath.Join(dir, "bootwell-agent-linux-"+arch())
	for _, p := range []string{operator, agent} {
		if _, err := os.Stat(p); err != nil {
			return "", "", errors.Join(errors.New("run make build first"), err)
		}
	}
	return operator, agent, nil
}
