package step

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// A src is a file of a release under test.
type src struct {
	text string
	mode uint32
	link string
	dir  bool
}

// A memory is a Memory that counts its writes.
type memory struct {
	m      map[string]release.Digest
	writes int
	err    error
}

func (m *memory) Last(k string) (release.Digest, bool) { d, ok := m.m[k]; return d, ok }

func (m *memory) Remember(k string, d release.Digest) error {
	m.writes++
	if m.err != nil {
		return m.err
	}
	m.m[k] = d
	return nil
}

// fixture returns a runner whose tree holds files, and its log.
func fixture(t testing.TB, files map[string]src) (*Runner, *safeBuffer) {
	t.Helper()
	tree := t.TempDir()
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &release.Manifest{Schema: 1, Project: "acme", Number: 43}
	for p, f := range files {
		at := filepath.Join(tree, p)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		entry := release.File{Path: p, Mode: f.mode, Link: f.link, Dir: f.dir}
		switch {
		case f.dir:
			must(t, os.MkdirAll(at, 0o755))
		case f.link != "":
			must(t, os.Symlink(f.link, at))
		default:
			if entry.Mode == 0 {
				entry.Mode = 0o644
			}
			entry.Size, entry.Digest = int64(len(f.text)), release.DigestOf([]byte(f.text))
			must(t, os.WriteFile(at, []byte(f.text), 0o644))
			must(t, os.Chmod(at, os.FileMode(entry.Mode)))
		}
		m.Files = append(m.Files, entry)
	}
	slices.SortFunc(m.Files, func(a, b release.File) int { return strings.Compare(a.Path, b.Path) })
	log := &safeBuffer{}
	return &Runner{
		Tree: tree, Manifest: m, Role: "web", Release: "r43", Channel: "stable", Phase: "apply", Log: log, Scratch: t.TempDir(),
		Memory: &memory{m: map[string]release.Digest{}}, Facts: release.Facts{Platform: "debian-12", InstanceID: "i-1", Cloud: "aws"},
		grace: 300 * time.Millisecond, pause: time.Millisecond,
	}, log
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shell is a step of kind run.
func shell(text string) release.Step {
	return release.Step{Name: "s", Kind: release.KindRun, Run: text, Rerun: release.RerunChanged, Timeout: release.Duration(time.Minute)}
}

func script(p string, args ...string) release.Step {
	return release.Step{Name: "s", Kind: release.KindScript, Script: p, Args: args, Rerun: release.RerunChanged, Timeout: release.Duration(time.Minute)}
}

func filesStep(items ...release.FileItem) release.Step {
	for i := range items {
		if items[i].State == "" {
			items[i].State = release.StatePresent
		}
	}
	return release.Step{Name: "f", Kind: release.KindFiles, Files: items, Timeout: release.Duration(time.Minute)}
}

func text(s string) *string { return &s }

// expect runs s and compares result and a part of the reason.
func expect(t *testing.T, r *Runner, s release.Step, result, reason string) release.StepResult {
	t.Helper()
	res := r.Run(context.Background(), s)
	if res.Result != result || !strings.Contains(res.Reason, reason) {
		t.Fatalf("result %s (%q), want %s (%q)\nchanges %q\ntail %s", res.Result, res.Reason, result, reason, res.Changes, res.Tail)
	}
	if strings.ContainsAny(res.Reason, "\n\x1b") {
		t.Errorf("reason %q is not one clean line", res.Reason)
	}
	return res
}

// identity is what differs as soon as a file is written or its inode touched.
func identity(t testing.TB, p string) string {
	t.Helper()
	fi, err := os.Lstat(p)
	must(t, err)
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprint(st.Ino, st.Ctim, st.Mtim, st.Mode, st.Uid, st.Gid, st.Size)
}

// snapshot is the identity of everything below dir.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			fmt.Fprintln(&b, p, identity(t, p))
		}
		return err
	}))
	return b.String()
}
