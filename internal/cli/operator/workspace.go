package operator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/term"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/fleet"
	"github.com/bootwell/bootwell/internal/project"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

// A workspace is a project on the operator's machine: its file, its lock file
// and, once connected, its bucket.
type workspace struct {
	s     *cli.Session
	proj  *project.Project
	roles map[string]release.Role
	lock  project.Lock
	url   string
	b     bucket.Bucket
	store *store.Store
	main  *store.Store // only of the project's bucket, where store is of its mirrors too; nil: it cannot be opened
	close func()
}

// loadProject reads and checks the project file, and shows what is wrong with
// it. Warnings are shown only if asked for.
func loadProject(s *cli.Session, warn bool) (*workspace, error) {
	at := s.Dir
	if s.File != "" {
		at = s.File
		if !filepath.IsAbs(at) {
			at = filepath.Join(s.Dir, at)
		}
	}
	p, err := project.Load(at)
	var diags project.Diagnostics
	switch {
	case errors.As(err, &diags):
		return nil, showDiagnostics(s, diags, warn)
	case errors.Is(err, fs.ErrNotExist):
		return nil, cli.Usage(err.Error(), "start a project with: bootwell init")
	case err != nil:
		return nil, err
	}
	if err := showDiagnostics(s, p.Warnings(), warn); err != nil {
		return nil, err
	}
	roles, _ := p.Resolve()
	w := &workspace{s: s, proj: p, roles: roles, url: p.Bucket, close: func() {}}
	w.lock, err = project.ReadLock(p.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Usage(err.Error(), "bootwell.lock is written by bootwell init and kept in git")
	}
	return w, nil
}

// steps is how many steps all roles have.
func (w *workspace) steps() int {
	n := 0
	for _, r := range w.roles {
		n += len(r.Steps)
	}
	return n
}

// counts is the size of the project in words.
func (w *workspace) counts() string {
	return cli.Plural(len(w.roles), "role") + ", " + cli.Plural(w.steps(), "step")
}

// connect opens the bucket. The project must have been initialised.
func (w *workspace) connect(ctx context.Context) error {
	if w.lock.Root.IsZero() {
		return fmt.Errorf("read %s: %w", project.LockName, trust.ErrNotInit)
	}
	return w.open(ctx)
}

func (w *workspace) open(ctx context.Context) error {
	b, err := w.s.Open(ctx, w.url)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", w.proj.Bucket, err)
	}
	w.b = b
	w.store = &store.Store{Bucket: b, Log: w.s.Logger()}
	w.main = w.store
	return nil
}

// connectAny is connect for a command that only reads: it can do with a mirror
// when the bucket is away.
func (w *workspace) connectAny(ctx context.Context) error {
	err := w.connect(ctx)
	if len(w.proj.Mirrors) == 0 || w.lock.Root.IsZero() {
		return err
	}
	list := []bucket.Mirror{{URL: w.url, Bucket: w.b, Err: err}}
	usable := err == nil
	for _, url := range w.proj.Mirrors {
		m := bucket.Mirror{URL: url}
		if m.Bucket, m.Err = w.s.Open(ctx, url); m.Err != nil {
			m.Bucket = nil
		}
		usable = usable || m.Bucket != nil
		list = append(list, m)
	}
	if !usable {
		return err
	}
	w.b = bucket.Mirrors(list, store.Optional)
	w.store = &store.Store{Bucket: w.b, Log: w.s.Logger()}
	return nil
}

// bucketTrouble returns what was found wrong with the project's bucket itself
// while its mirrors helped out.
func (w *workspace) bucketTrouble() error {
	if m, several := bucket.As[*bucket.Mirrored](w.b); several {
		for _, t := range m.Troubles() {
			if t.Index == 0 {
				return t.Err
			}
		}
	}
	return nil
}

// client returns the verifying client with its durable state. When another
// command of this user has that state in use, this one verifies from the
// anchor in a folder of its own.
func (w *workspace) client() (*trust.Client, error) {
	dir := filepath.Join(stateDir(w.s), "trust", w.lock.Root.Hex())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	l := flock.New(filepath.Join(dir, "lock"))
	if ok, err := l.TryLock(); err != nil || !ok {
		tmp, err := os.MkdirTemp("", "bootwell-trust-")
		if err != nil {
			return nil, fmt.Errorf("make state folder: %w", err)
		}
		dir = tmp
		w.close = func() { os.RemoveAll(tmp) }
	} else {
		w.close = func() { l.Unlock() }
	}
	return &trust.Client{Bucket: w.b, Dir: filepath.Join(dir, "state"), Anchor: w.lock.Root, Now: time.Now, Log: w.s.Logger()}, nil
}

// view refreshes and returns the verified state of the bucket.
func (w *workspace) view(ctx context.Context) (*trust.View, error) {
	c, err := w.client()
	if err != nil {
		return nil, err
	}
	var v *trust.View
	err = store.ReadAny(ctx, w.b, func() (err error) {
		v, err = c.Refresh(ctx)
		return err
	})
	if len(w.proj.Mirrors) > 0 && err != nil && elsewhere(err) {
		if last, lerr := c.Last(); lerr == nil {
			w.s.Say("  %s no bucket has the newest state: going by what was verified here last", w.s.Glyph("warning"))
			v, err = last, nil
		}
	}
	if err != nil {
		w.close()
		w.close = func() {}
		return nil, fmt.Errorf("verify %s: %w", w.proj.Bucket, err)
	}
	for _, x := range v.Warn {
		w.s.Say("  %s %s", w.s.Glyph("warning"), x)
	}
	return v, nil
}

// publisher returns the signing side, with this user's keys.
func (w *workspace) publisher(keyDir string) (*trust.Publisher, error) {
	keys, err := loadKeys(w.s, w.keyDir(keyDir))
	if err != nil {
		return nil, err
	}
	c, err := w.client()
	if err != nil {
		return nil, err
	}
	return &trust.Publisher{Client: c, Keys: keys, Now: time.Now, Log: w.s.Logger()}, nil
}

// previewer returns a publisher without keys, for dry runs: who may read the
// bucket may see what a publish would do.
func (w *workspace) previewer() (*trust.Publisher, error) {
	c, err := w.client()
	if err != nil {
		return nil, err
	}
	return &trust.Publisher{Client: c, Now: time.Now, Log: w.s.Logger()}, nil
}

func (w *workspace) keyDir(flag string) string {
	if flag == "" {
		flag = w.s.Getenv("BOOTWELL_KEYS")
	}
	if flag != "" {
		return flag
	}
	return filepath.Join(configDir(w.s), "keys", w.proj.Name)
}

// Names of the key files of a project.
const (
	opsKey    = "ops"
	onlineKey = "online"
)

func loadKeys(s *cli.Session, dir string) (trust.Keys, error) {
	ask := once(passphrase(s))
	ops, err := trust.LoadKey(dir, opsKey, ask)
	if errors.Is(err, fs.ErrNotExist) {
		return trust.Keys{}, cli.Hint(err, "the signing keys of a project are made by bootwell init; another machine needs a copy of that folder, or --keys DIR")
	}
	if err != nil {
		return trust.Keys{}, err
	}
	online, err := trust.LoadKey(dir, onlineKey, ask)
	return trust.Keys{Ops: ops, Online: online}, err
}

// once asks for one passphrase and uses it for all key files.
func once(p trust.Passphrase) trust.Passphrase {
	var got []byte
	return func(name string) ([]byte, error) {
		if got != nil {
			return got, nil
		}
		var err error
		got, err = p(name)
		return got, err
	}
}

// passphrase takes it from the environment, a file, or a terminal.
func passphrase(s *cli.Session) trust.Passphrase {
	return func(name string) ([]byte, error) {
		if v := s.Getenv("BOOTWELL_PASSPHRASE"); v != "" {
			return []byte(v), nil
		}
		if f := s.Getenv("BOOTWELL_PASSPHRASE_FILE"); f != "" {
			b, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("read passphrase: %w", err)
			}
			return []byte(strings.TrimRight(string(b), "\r\n")), nil
		}
		in, ok := s.Stdin.(*os.File)
		if !ok || !s.Interactive() {
			return nil, cli.Usage(fmt.Sprintf("key %s needs a passphrase", name),
				"nobody is here to ask: set BOOTWELL_PASSPHRASE or BOOTWELL_PASSPHRASE_FILE, or for trials make keys with bootwell init --no-passphrase")
		}
		fmt.Fprintf(s.Stderr, "Passphrase for the keys of this project: ")
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(s.Stderr)
		if err != nil {
			return nil, fmt.Errorf("read passphrase: %w", err)
		}
		return b, nil
	}
}

func xdg(s *cli.Session, env, def string) string {
	if d := s.Getenv(env); filepath.IsAbs(d) {
		return filepath.Join(d, "bootwell")
	}
	home := s.Getenv("HOME")
	if home == "" {
		// Never the working folder: it may be a repository, and keys go here.
		home = "/root"
		if u, err := user.Current(); err == nil && u.HomeDir != "" {
			home = u.HomeDir
		}
	}
	return filepath.Join(home, def, "bootwell")
}

func configDir(s *cli.Session) string { return xdg(s, "XDG_CONFIG_HOME", ".config") }
func stateDir(s *cli.Session) string  { return xdg(s, "XDG_STATE_HOME", ".local/state") }
func cacheDir(s *cli.Session) string  { return xdg(s, "XDG_CACHE_HOME", ".cache") }

// source asks git where the tree comes from. Without git or a repository the
// release just does not know its commit; the error is git's, of a repository
// that it does not read.
func source(ctx context.Context, s *cli.Session, dir, note string) (release.Source, error) {
	src := release.Source{Time: time.Now().UTC().Truncate(time.Second), By: owner(s), Note: note, Tool: s.Version}
	git := func(args ...string) (string, error) {
		c := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		out, err := c.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = errors.New(fleet.Clean(string(exit.Stderr), 300))
		}
		return strings.TrimSpace(string(out)), err
	}
	if !inRepository(dir) && s.Getenv("GIT_DIR") == "" {
		return src, nil
	}
	status, err := git("status", "--porcelain=v2", "--branch", "--", ".")
	if err == nil {
		src.Commit, src.Branch, src.Dirty = parseStatus(status)
		return src, nil
	}
	// It cannot tell whether something changed; what is checked out it may.
	commit, unknown := git("rev-parse", "--verify", "HEAD")
	if unknown != nil {
		// "dubious ownership" must not pass for "no repository".
		if inRepository(dir) {
			return src, err
		}
		return src, nil
	}
	src.Commit, src.Dirty = commit, true
	src.Branch, _ = git("symbolic-ref", "--short", "-q", "HEAD")
	return src, nil
}

// parseStatus reads what git-status(1) prints in its second format. A repository
// without a commit has nothing to tell, a detached head no branch.
func parseStatus(text string) (commit, branch string, dirty bool) {
	for line := range strings.SplitSeq(text, "\n") {
		oid, isCommit := strings.CutPrefix(line, "# branch.oid ")
		head, isBranch := strings.CutPrefix(line, "# branch.head ")
		switch {
		case isCommit:
			commit = oid
		case isBranch && head != "(detached)":
			branch = head
		case line != "" && !strings.HasPrefix(line, "#"):
			dirty = true
		}
	}
	if commit == "(initial)" {
		return "", "", false
	}
	return commit, branch, dirty
}

// inRepository reports whether dir or a folder above it has a .git.
func inRepository(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil { // as git sees it
		dir = real
	}
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return false
		}
		dir = up
	}
}

// owner names who publishes, for people who read it elsewhere.
func owner(s *cli.Session) string {
	name := s.Getenv("BOOTWELL_BY")
	if name != "" {
		return name
	}
	name = "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// publishCache is where a publish of this project to its bucket remembers what
// it has read.
func (w *workspace) publishCache() string {
	return filepath.Join(cacheDir(w.s), "publish", w.lock.Root.Hex(), release.DigestOf([]byte(w.url)).Short())
}

// agents returns the agent binaries that the lock pins, with the files on this
// machine that may be them.
func (w *workspace) agents() []store.Agent {
	paths := agentPaths(w.s)
	var list []store.Agent
	for arch, d := range w.lock.Agents {
		list = append(list, store.Agent{Arch: arch, Digest: d, Path: paths[arch]})
	}
	return list
}

// findAgents returns the agents on this machine, by architecture.
func findAgents(s *cli.Session) map[string]store.Agent {
	found := map[string]store.Agent{}
	for arch, p := range agentPaths(s) {
		if b, err := os.ReadFile(p); err == nil {
			found[arch] = store.Agent{Arch: arch, Path: p, Digest: release.DigestOf(b)}
		}
	}
	return found
}

// agentPaths looks for bootwell-agent-linux-<arch>.xz beside this command and
// where packages put it; BOOTWELL_AGENTS names another folder.
func agentPaths(s *cli.Session) map[string]string {
	var dirs []string
	if d := s.Getenv("BOOTWELL_AGENTS"); d != "" {
		dirs = append(dirs, d)
	}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dirs = append(dirs, filepath.Dir(exe), filepath.Join(filepath.Dir(exe), "..", "lib", "bootwell"))
	}
	dirs = append(dirs, "/usr/lib/bootwell")
	paths := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, d := range dirs {
			p := filepath.Join(d, "bootwell-agent-linux-"+arch+".xz")
			if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
				paths[arch] = p
				break
			}
		}
	}
	return paths
}
