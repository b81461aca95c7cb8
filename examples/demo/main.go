// Command demo runs bootwell's main job on this machine: it publishes the
// example project to a folder, boots a throw-away machine with the user-data
// that bootwell prints, changes the project, publishes again, and lets the
// same machine take the change. Nothing of it is left behind.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/internal/lab"
)

func main() {
	lab.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		if errors.Is(err, lab.ErrForbidden) {
			fmt.Fprintln(os.Stderr, "demo: run it as root, or where unprivileged user namespaces are allowed")
		}
		stop()
		os.Exit(1)
	}
}

// A demo is one telling of the story.
type demo struct {
	dir     string // throw-away home of project, keys and bucket
	project string
	bin     string
	machine lab.Instance
	began   time.Time
}

func run(ctx context.Context) (err error) {
	exe, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bootwell-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{dir: dir, project: filepath.Join(dir, "project"), bin: exe, began: time.Now()}
	for _, step := range []func(context.Context) error{d.publishFirst, d.boot, d.change, d.end} {
		if err := step(ctx); err != nil {
			if d.machine != nil {
				err = errors.Join(err, d.machine.Destroy())
			}
			return err
		}
	}
	return nil
}

func (d *demo) publishFirst(ctx context.Context) error {
	title("1. A project with a folder as its bucket")
	if err := os.MkdirAll(d.project, 0o755); err != nil {
		return err
	}
	if err := d.bootwell(ctx, nil, "init", "--example", "web", "--bucket", "file://"+d.dir+"/bucket", "--no-passphrase"); err != nil {
		return err
	}
	title("2. Publish: a signed release")
	return d.bootwell(ctx, nil, "publish", "-m", "first release")
}

func (d *demo) boot(ctx context.Context) error {
	title("3. A machine boots with the user-data, as cloud-init would run it")
	var text bytes.Buffer
	if err := d.bootwell(ctx, &text, "user-data", "web", "--cloud", "nocloud"); err != nil {
		return err
	}
	inst, err := lab.Sandbox{
		Hostname: "web-1",
		Binds:    []lab.Bind{{Host: d.dir + "/bucket", Path: d.dir + "/bucket"}},
		Console:  indented(os.Stdout),
	}.Create(ctx)
	if err != nil {
		return err
	}
	d.machine = inst
	r, err := lab.RunUserData(ctx, inst, text.Bytes(), lab.Identity{InstanceID: "i-demo0001", Cloud: "nocloud"})
	if err != nil {
		return fmt.Errorf("first boot: %w", err)
	}
	if len(r.Failures) > 0 {
		return fmt.Errorf("first boot: %s", strings.Join(r.Failures, "; "))
	}
	if err := d.look(ctx); err != nil {
		return err
	}
	title("4. The fleet, as the operator sees it")
	return d.bootwell(ctx, nil, "status")
}

// look shows what the machine became.
func (d *demo) look(ctx context.Context) error {
	return d.inside(ctx, "cat", "/etc/web-example/site.conf")
}

func (d *demo) change(ctx context.Context) error {
	title("5. Change the project and publish again")
	name := filepath.Join(d.project, "bootwell.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), "workers: 2", "workers: 8", 1)
	if changed == string(text) {
		return errors.New("the example has no workers: 2 to change")
	}
	fmt.Println("  (bootwell.yaml: workers: 2 becomes workers: 8)")
	if err := os.WriteFile(name, []byte(changed), 0o644); err != nil {
		return err
	}
	if err := d.bootwell(ctx, nil, "publish", "-m", "more workers"); err != nil {
		return err
	}
	title("6. The same machine takes it at its next poll")
	if err := d.inside(ctx, "bootwell-agent", "apply", "--timer"); err != nil {
		return err
	}
	if err := d.look(ctx); err != nil {
		return err
	}
	title("7. One poll later there is nothing to do: one conditional GET")
	if err := d.inside(ctx, "bootwell-agent", "apply", "--timer"); err != nil {
		return err
	}
	return d.bootwell(ctx, nil, "status")
}

func (d *demo) end(context.Context) error {
	if err := d.machine.Destroy(); err != nil {
		return fmt.Errorf("end the machine: %w", err)
	}
	title(fmt.Sprintf("Done in %.0f s. The machine is gone and nothing is left on this host.", time.Since(d.began).Seconds()))
	fmt.Println("Next: bootwell init --bucket s3://your-bucket/prefix in a folder of your own scripts")
	return nil
}

// bootwell runs the operator's command in the project, with a home of its own.
func (d *demo) bootwell(ctx context.Context, out *bytes.Buffer, args ...string) error {
	fmt.Printf("\n$ bootwell %s\n", strings.ReplaceAll(strings.Join(args, " "), d.dir, "…"))
	c := exec.CommandContext(ctx, filepath.Join(d.bin, "bootwell"), append([]string{"--progress", "tty"}, args...)...)
	c.Dir = d.project
	c.Env = append(os.Environ(), "HOME="+d.dir, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=", "XDG_STATE_HOME=", "AWS_EC2_METADATA_DISABLED=true")
	screen := indented(os.Stdout) // one for both, so that their order is kept
	c.Stdout, c.Stderr = screen, screen
	if out != nil {
		c.Stdout = out
	}
	if err := c.Run(); err != nil {
		return fmt.Errorf("bootwell %s: %w", args[0], err)
	}
	return nil
}

// inside runs a command on the machine.
func (d *demo) inside(ctx context.Context, args ...string) error {
	fmt.Printf("\nweb-1# %s\n", strings.Join(args, " "))
	r, err := d.machine.Exec(ctx, lab.Command{Args: args, Env: []string{"LANG=C.UTF-8"}, Tee: indented(os.Stdout)})
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("%s on the machine: exit code %d", args[0], r.Code)
	}
	return nil
}

func title(text string) { fmt.Printf("\n── %s\n", text) }

// indented sets what is written to it off from the story.
func indented(w io.Writer) io.Writer { return &indenter{w: w, start: true} }

type indenter struct {
	w     io.Writer
	start bool // of a line
}

func (i *indenter) Write(p []byte) (int, error) {
	var b bytes.Buffer
	for _, c := range p {
		if i.start && c != '\n' {
			b.WriteString("   ")
		}
		i.start = c == '\n'
		b.WriteByte(c)
	}
	if _, err := i.w.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}
