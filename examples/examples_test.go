package examples

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			paths, err := Write(name, dir, "s3://acme/prod?region=x")
			if err != nil || !slices.Contains(paths, "bootwell.yaml") {
				t.Fatal(paths, err)
			}
			text, err := os.ReadFile(filepath.Join(dir, "bootwell.yaml"))
			if err != nil || !strings.Contains(string(text), "bucket: \"s3://acme/prod?region=x\"\n") || strings.Contains(string(text), "./bucket") {
				t.Errorf("%v\n%s", err, text)
			}
			for _, p := range paths {
				b, err := os.ReadFile(filepath.Join(dir, p))
				if err != nil {
					t.Fatal(err)
				}
				st, err := os.Stat(filepath.Join(dir, p))
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(string(b), "#!") != (st.Mode()&0o111 != 0) {
					t.Errorf("%s has mode %v", p, st.Mode())
				}
			}
			if again, err := Write(name, dir, ""); !errors.Is(err, fs.ErrExist) || len(again) != 0 {
				t.Errorf("again: %v %v", again, err)
			}
		})
	}
}

func TestWrite_OverwritesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write("web", dir, ""); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

func TestFS_Unknown(t *testing.T) {
	if _, err := FS("nope"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if _, err := Write("demo", t.TempDir(), ""); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}
