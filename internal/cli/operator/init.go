package operator

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/examples"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/project"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/store"
	"github.com/bootwell/bootwell/internal/trust"
)

type initFlags struct {
	bucket, example, name, keys string
	noPassphrase, create        bool
	lifetime                    time.Duration
}

func newInitCmd(s *cli.Session) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use: "init", GroupID: "project", Args: cobra.NoArgs,
		Short: "Make a project here: bootwell.yaml, keys, and its place in the bucket",
		Long: `Writes bootwell.yaml from what it finds in the folder (nothing that is there is
changed), makes the signing keys, and writes the project's root of trust to the
bucket. Run it again after an error: it goes on where it stopped.`,
		Example: `  bootwell init --bucket s3://acme-provision/prod?region=eu-west-1
  bootwell init --bucket gs://acme-provision?project=acme --create-bucket
  bootwell init --example web         a complete project with a folder as bucket`,
		RunE: func(c *cobra.Command, _ []string) error { return runInit(c.Context(), s, f) },
	}
	c.Flags().StringVar(&f.bucket, "bucket", "", "`URL` of the bucket: s3://bucket/prefix or file:///folder")
	c.Flags().StringVar(&f.example, "example", "", "start from this complete `example`: "+strings.Join(examples.Names(), ", "))
	c.Flags().StringVar(&f.name, "project", "", "`name` of the project (default: the folder's name)")
	c.Flags().StringVar(&f.keys, "keys", "", "`folder` for the private keys (default: in the user's config folder)")
	c.Flags().BoolVar(&f.noPassphrase, "no-passphrase", false, "keep the private keys in clear (for CI and trials)")
	c.Flags().BoolVar(&f.create, "create-bucket", false, "make the bucket first: private, old versions kept, public access blocked, as far as its API can")
	c.Flags().DurationVar(&f.lifetime, "lifetime", trust.DefaultLifetime, "how long signatures are good (`duration`)")
	return c
}

func runInit(ctx context.Context, s *cli.Session, f initFlags) error {
	if f.lifetime < time.Hour {
		return cli.Usage(fmt.Sprintf("--lifetime %s is too short", f.lifetime), "at least 1h; 2160h is 90 days")
	}
	created, err := initFiles(s, f)
	if err != nil {
		return err
	}
	w, err := loadProject(s, false)
	if err != nil {
		return err
	}
	s.Say("  %s %-18s %s", s.Glyph("ok"), project.FileName, roleNames(w.roles))
	keys, err := w.initKeys(f, &created)
	if err != nil {
		return err
	}
	if err := ignoreState(w.proj.Dir); err != nil {
		return err
	}
	caps, err := w.initBucket(ctx, f, keys)
	if err != nil {
		return err
	}
	w.warnAgents()
	if s.JSON {
		return s.Event(map[string]any{"project": w.proj.Name, "created": created, "root": w.lock.Root, "agents": w.lock.Agents, "bucket": map[string]any{"url": w.proj.Bucket, "if_absent": caps.IfAbsent, "if_match": caps.IfMatch},
			"next": []string{"bootwell publish"}})
	}
	s.Say("Next:  bootwell publish · then bootwell user-data %s", slices.Min(slices.Collect(maps.Keys(w.roles))))
	return nil
}

// initFiles writes the project's files unless there is a project already.
func initFiles(s *cli.Session, f initFlags) ([]string, error) {
	if isFile(filepath.Join(s.Dir, project.FileName)) {
		if f.bucket != "" || f.example != "" {
			return nil, cli.Usage(project.FileName+" is here already", "edit bucket: in it, or start in an empty folder; bootwell init alone goes on with it")
		}
		return nil, nil
	}
	if f.example != "" {
		if !slices.Contains(examples.Names(), f.example) {
			return nil, cli.Usage(fmt.Sprintf("no example is called %q", f.example), "there are: "+strings.Join(examples.Names(), ", "))
		}
		return examples.Write(f.example, s.Dir, f.bucket)
	}
	if f.bucket == "" {
		return nil, cli.Usage("init needs to know the bucket", "for example --bucket s3://acme-provision/prod?region=eu-west-1 or --bucket file://./bucket, or try --example web")
	}
	return project.Init(s.Dir, project.InitOptions{Name: f.name, Bucket: f.bucket})
}

// initKeys makes the keys that are missing and loads those that are there.
func (w *workspace) initKeys(f initFlags, created *[]string) (trust.Keys, error) {
	dir := w.keyDir(f.keys)
	ask := once(passphrase(w.s))
	if f.noPassphrase {
		ask = func(string) ([]byte, error) { return nil, nil }
	}
	var got [2]trust.Key
	for i, name := range []string{opsKey, onlineKey} {
		var err error
		if isFile(filepath.Join(dir, name+".key")) {
			got[i], err = trust.LoadKey(dir, name, ask)
		} else {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return trust.Keys{}, fmt.Errorf("make key folder: %w", err)
			}
			got[i], err = trust.NewKey(dir, name, ask)
			*created = append(*created, filepath.Join(dir, name+".key"))
		}
		if err != nil {
			return trust.Keys{}, err
		}
	}
	w.s.Say("  %s %-18s %s, private half in %s", w.s.Glyph("ok"), "signing keys", got[0].Fingerprint(), dir)
	return trust.Keys{Ops: got[0], Online: got[1]}, nil
}

// initBucket writes the root of trust, or recognises its own from before.
func (w *workspace) initBucket(ctx context.Context, f initFlags, keys trust.Keys) (bucket.Caps, error) {
	if u, err := url.Parse(w.url); err == nil && u.Scheme == "file" && !isFolder(u.Path) {
		if err := os.MkdirAll(u.Path, 0o755); err != nil {
			return bucket.Caps{}, fmt.Errorf("make bucket folder: %w", err)
		}
	}
	if err := w.open(ctx); err != nil {
		return bucket.Caps{}, err
	}
	if f.create && !strings.HasPrefix(w.url, "file:") { // a folder was made above
		if err := w.createBucket(ctx); err != nil {
			return bucket.Caps{}, err
		}
	}
	caps := w.b.Caps()
	if caps.ReadOnly {
		return caps, cli.Usage(fmt.Sprintf("bucket %s can only be read", w.proj.Bucket), "name the bucket you publish to in bucket:, and the read address with: bootwell user-data --bucket")
	}
	if w.lock.Root.IsZero() {
		root, err := trust.Init(ctx, w.b, keys, time.Now(), f.lifetime)
		if err != nil {
			return caps, fmt.Errorf("initialise %s: %w", w.proj.Bucket, err)
		}
		w.lock.Root = root
	}
	if len(w.lock.Agents) == 0 {
		w.lock.Agents = digests(findAgents(w.s))
	}
	if err := project.WriteLock(w.proj.Dir, w.lock); err != nil {
		return caps, err
	}
	if _, err := w.view(ctx); err != nil && !errors.Is(err, trust.ErrNoRelease) {
		return caps, err
	}
	w.close()
	note := "reachable, writable, conditional writes work"
	if err := probe(ctx, w.b); err != nil {
		note = fmt.Sprintf("reachable, writable; %v", err)
	}
	w.s.Say("  %s %-18s %s", w.s.Glyph("ok"), "bucket", note)
	return caps, nil
}

// probe shows whether the store really obeys create-only writes: some
// S3-compatible services and proxies drop the header silently.
func probe(ctx context.Context, b bucket.Bucket) error {
	key := "locks/probe-" + rand.Text()
	put := func() error {
		_, err := b.Put(ctx, key, bytes.NewReader([]byte("probe")), bucket.Condition{IfAbsent: true})
		return err
	}
	if err := put(); err != nil {
		return fmt.Errorf("conditional writes do not work (%w): publish from one place at a time", err)
	}
	err := put()
	// Publishers need no right to delete; a left-over probe does no harm.
	_ = b.Delete(ctx, key)
	if !errors.Is(err, bucket.ErrExists) {
		return errors.New("the store ignores conditional writes: publish from one place at a time")
	}
	return nil
}

func (w *workspace) warnAgents() {
	if len(w.lock.Agents) == 0 {
		w.s.Say("  %s no agent binary is beside this command, so user-data cannot be made yet: bootwell publish --pin-agent does it later", w.s.Glyph("warning"))
	}
}

func digests(found map[string]store.Agent) map[string]release.Digest {
	m := map[string]release.Digest{}
	for arch, a := range found {
		m[arch] = a.Digest
	}
	return m
}

// ignoreState keeps local state out of git.
func ignoreState(dir string) error {
	p := filepath.Join(dir, ".gitignore")
	b, err := os.ReadFile(p)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read .gitignore: %w", err)
	}
	if slices.Contains(strings.Split(string(b), "\n"), ".bootwell/") {
		return nil
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	if err := os.WriteFile(p, append(b, ".bootwell/\n"...), 0o644); err != nil {
		return fmt.Errorf("write .gitignore: %w", err)
	}
	return nil
}

func isFolder(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}

func roleNames(roles map[string]release.Role) string {
	return strings.Join(slices.Sorted(maps.Keys(roles)), ", ")
}
