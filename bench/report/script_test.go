package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

// goStub stands for go: it "builds" programs that leave results, and "runs"
// those that FAILS does not name; the one that SKIPS names has nothing to do.
const goStub = `#!/bin/sh
case $1 in
build)
  for p in peers report; do
    { echo '#!/bin/sh'; echo "$0 run ./bench/$p \"\$@\""; } >"$3$p"
    chmod +x "$3$p"
  done
  ;;
run)
  name=${2##*/}
  echo "$name" >>ran
  case " $FAILS " in *" $name "*) exit 1 ;; esac
  [ "$3" != -json ] || [ "$name" = "$SKIPS" ] || echo new >"$4"
  ;;
esac
`

// A tree is one in which contrib/ci/bench measures nothing, but does all the rest.
func tree(t *testing.T) string {
	dir := t.TempDir()
	script, err := os.ReadFile("../../contrib/ci/bench")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"contrib/ci/bench": string(script), "contrib/ci/bench-tools": "#!/bin/sh\n", "bin/go": goStub} {
		write(t, filepath.Join(dir, name), text)
	}
	for _, p := range programs {
		write(t, filepath.Join(dir, "bench/results", p+".json"), "old")
	}
	return dir
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestScript_GoesOnAndTellsWhatFailed(t *testing.T) {
	bash := needs.Tool(t, "bash")
	every := strings.Join(programs, " ")
	for name, c := range map[string]struct {
		kind, fails, skips, ran, left string
		code                          int
	}{
		"all is well":        {"all", "", "", every + " report", every, 0},
		"one fails":          {"all", "fleet", "", every + " report", "peers boot status releases", 1},
		"the first fails":    {"all", "peers releases", "", every + " report", "boot fleet status", 1},
		"one is skipped":     {"all", "", "boot", every + " report", "peers fleet status releases", 0},
		"no page":            {"all", "report", "", every + " report", every, 1},
		"peers alone":        {"standard", "", "", "peers report", "peers", 0},
		"peers alone, fails": {"standard", "peers", "", "peers report", "", 1},
		"no such":            {"none", "", "", "", "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t)
			cmd := exec.Command(bash, filepath.Join(dir, "contrib/ci/bench"), c.kind)
			cmd.Env = []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "FAILS=" + c.fails, "SKIPS=" + c.skips}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != c.code {
				t.Fatalf("%v, want exit status %d:\n%s", err, c.code, out)
			}
			if told := strings.Contains(string(out), "did not work: "+c.fails+"\n"); told != (c.fails != "") {
				t.Errorf("it does not tell that %s failed, or tells of others:\n%s", c.fails, out)
			}
			ran, _ := os.ReadFile(filepath.Join(dir, "ran"))
			if got := strings.Join(strings.Fields(string(ran)), " "); got != c.ran {
				t.Errorf("ran %s, want %s", got, c.ran)
			}
			var left []string
			for _, p := range programs {
				if text, _ := os.ReadFile(filepath.Join(dir, "bench/results", p+".json")); string(text) == "new\n" {
					left = append(left, p)
				} else if there := len(text) > 0; there == strings.Contains(" "+c.fails+" ", " "+p+" ") {
					t.Errorf("old results of %s are there: %v", p, there)
				}
			}
			if got := strings.Join(left, " "); got != c.left {
				t.Errorf("results of %s, want %s", got, c.left)
			}
		})
	}
}
