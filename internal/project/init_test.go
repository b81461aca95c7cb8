package project

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "My Shop")
	for name, text := range map[string]string{
		"scripts/b.sh": "#!/usr/bin/env bash\n", "scripts/a.sh": "#!/bin/sh -e\n", "tool.py": "#!/usr/bin/env python3\n", `we"ird: #.sh`: "#!/bin/sh\n", "new\nline.sh": "#!/bin/sh\n",
		"site.yml": "- hosts: all\n  tasks: []\n", "web.goss.yaml": "port: {}\n", ".git/hooks/x": "#!/bin/sh\n", "data.bin": "\x00\x01",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	created, err := Init(dir, InitOptions{Bucket: "s3://acme/prod?region=eu-west-1"})
	if err != nil || !slices.Equal(created, []string{FileName}) {
		t.Fatal(created, err)
	}
	p, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "my-shop" || p.Bucket != "s3://acme/prod?region=eu-west-1" || len(p.Warnings()) != 0 {
		t.Errorf("%+v", p)
	}
	roles, _ := p.Resolve()
	var scripts []string
	for _, s := range roles["web"].Steps {
		scripts = append(scripts, s.Script)
	}
	if !slices.Equal(scripts, []string{"scripts/a.sh", "scripts/b.sh", `we"ird: #.sh`}) {
		t.Errorf("scripts %q", scripts)
	}
	text, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil || !strings.Contains(string(text), "#   site.yml (an Ansible playbook)") || !strings.Contains(string(text), "#   web.goss.yaml (a goss file)") {
		t.Errorf("%v\n%s", err, text)
	}
	if _, err := Init(dir, InitOptions{Bucket: "s3://other"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, FileName)); string(again) != string(text) {
		t.Error("the project file was overwritten")
	}
}

func TestInit_EmptyFolder(t *testing.T) {
	dir := t.TempDir()
	if _, err := Init(dir, InitOptions{Name: "acme", Bucket: "file://./bucket"}); err != nil {
		t.Fatal(err)
	}
	p, err := Load(dir)
	if err != nil || len(p.Warnings()) != 0 {
		t.Fatal(p, err)
	}
}

func TestInit_BadOptions(t *testing.T) {
	for _, o := range []InitOptions{{Name: "Bad Name", Bucket: "s3://a"}, {Name: "a", Bucket: "nowhere"}} {
		dir := t.TempDir()
		if _, err := Init(dir, o); !errors.As(err, &Diagnostics{}) {
			t.Errorf("%v: %v", o, err)
		}
		if _, err := os.Stat(filepath.Join(dir, FileName)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: a file was written", o)
		}
	}
}

// TestExampleWeb holds the example valid; the package examples cannot, since
// it knows nothing of projects.
func TestExampleWeb(t *testing.T) {
	p, err := Load("../../examples/web")
	if err != nil {
		t.Fatal(err)
	}
	if w := p.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	roles, _ := p.Resolve()
	if len(roles["web"].Steps) != 4 || len(roles["web"].Checks) != 3 {
		t.Errorf("%+v", roles["web"])
	}
}
