package operator

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/needs"
)

// What git says of a project in each state of a repository.
func TestSource(t *testing.T) {
	needs.Tool(t, "git")
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	top := t.TempDir()
	dir := filepath.Join(top, "project")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(top, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "git", append([]string{"-C", top, "-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	check := func(at, commit, branch string, dirty bool) {
		t.Helper()
		src, err := source(t.Context(), cli.NewSession("bootwell", "1.2.3", nil), at, "a note")
		if err != nil || src.Commit != commit || src.Branch != branch || src.Dirty != dirty {
			t.Errorf("%q %q dirty %t, %v; want %q %q %t", src.Commit, src.Branch, src.Dirty, err, commit, branch, dirty)
		}
		if src.Note != "a note" || src.Tool != "1.2.3" || src.By == "" || src.Time.IsZero() {
			t.Errorf("%+v", src)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("project/f", "one")
	check(dir, "", "", false)
	git("init", "-q", "-b", "feature/x")
	check(dir, "", "", false)
	git("add", ".")
	git("commit", "-q", "-m", "first")
	commit := git("rev-parse", "HEAD")
	check(dir, commit, "feature/x", false)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	check(link, commit, "feature/x", false)
	write("elsewhere", "not in the project")
	check(dir, commit, "feature/x", false)
	write("project/untracked", "new")
	check(dir, commit, "feature/x", true)
	git("clean", "-qfd")
	write("project/f", "two")
	check(dir, commit, "feature/x", true)
	git("checkout", "-q", "--detach", "--force")
	check(dir, commit, "", false)
	// It cannot tell what changed, but what is checked out.
	write(".git/index", "damaged")
	check(dir, commit, "", true)
	write(".git/config", "[damaged")
	if src, err := source(t.Context(), cli.NewSession("bootwell", "", nil), dir, ""); err == nil || src.Commit != "" || src.Dirty {
		t.Errorf("%+v, %v", src, err)
	}
}
