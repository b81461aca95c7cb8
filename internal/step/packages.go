package step

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// lockWait is how long package managers wait for each other.
const lockWait = 5 * time.Minute

// A packager is a system's package manager. Its installed asks no network and
// takes no lock. Install and remove do all they are given by one command.
// The one for apt is tested on real packages; those for dnf, yum, zypper and
// apk are tested on output in their documented form and by the commands they build.
type packager interface {
	installed(ctx context.Context, names []string) (inventory, error)
	// plan returns the versions that install would bring, as far as they are
	// known without the network.
	plan(ctx context.Context, pkgs []release.Package) map[string]string
	install(ctx context.Context, pkgs []release.Package) error
	remove(ctx context.Context, names []string) error
}

// An inventory holds the versions of installed packages by name. A name that
// only another package provides is in provided.
type inventory struct {
	versions map[string][]string
	provided map[string]string // name → package
	match    func(have, want string) bool
	count    int // of all packages; 0 if that was not asked
}

func (v inventory) has(name string) bool {
	_, ok := v.provided[name]
	return ok || len(v.versions[name]) > 0
}

func (v inventory) version(name string) string { return strings.Join(v.versions[name], ", ") }

// right reports whether p is as it must be.
func (v inventory) right(p release.Package) bool {
	switch {
	case p.Absent:
		return len(v.versions[p.Name]) == 0
	case p.Version == "":
		return v.has(p.Name)
	}
	return slices.ContainsFunc(v.versions[p.Name], func(have string) bool {
		return have == p.Version || v.match != nil && v.match(have, p.Version)
	})
}

// packageName and packageVersion let in what the four families use, and
// nothing a tool could take for an option, a pattern or another request.
var (
	packageName    = pattern(`^[A-Za-z0-9_]([A-Za-z0-9._+:~-]*[A-Za-z0-9_+])?$`)
	packageVersion = pattern(`^[A-Za-z0-9_][A-Za-z0-9._+:~^-]*$`)
)

// packager finds the system's package manager.
func (r *Runner) packager() (packager, error) {
	if r.mgr != nil {
		return r.mgr, nil
	}
	for _, c := range []struct {
		tool string
		make func(path string) packager
	}{
		{"apt-get", func(p string) packager { return &apt{Runner: r, get: p} }},
		{"dnf", func(p string) packager { return &rpm{Runner: r, path: p, kind: "dnf"} }},
		{"zypper", func(p string) packager { return &rpm{Runner: r, path: p, kind: "zypper"} }},
		{"yum", func(p string) packager { return &rpm{Runner: r, path: p, kind: "yum"} }},
		{"apk", func(p string) packager { return &apk{Runner: r, path: p} }},
	} {
		if p, ok := r.tool(c.tool); ok {
			r.mgr = c.make(p)
			return r.mgr, nil
		}
	}
	return nil, errors.New("no package manager: none of apt-get, dnf, zypper, yum and apk is installed")
}

// packages brings the packages of the step to their states.
func (j *job) packages(ctx context.Context) error {
	var names []string
	for _, p := range j.step.Packages {
		if !packageName().MatchString(p.Name) || p.Version != "" && !packageVersion().MatchString(p.Version) {
			return final(fmt.Errorf("%q %s is no name of a package", p.Name, p.Version))
		}
		names = append(names, p.Name)
	}
	mgr, err := j.packager()
	if err != nil {
		return final(err)
	}
	before, err := mgr.installed(ctx, names)
	if err != nil {
		return err
	}
	var add []release.Package
	var drop []string
	for _, p := range j.step.Packages {
		switch {
		case before.right(p):
		case p.Absent:
			drop = append(drop, p.Name)
		default:
			add = append(add, p)
		}
	}
	if len(add)+len(drop) == 0 {
		return nil
	}
	if j.DryRun {
		j.wouldInstall(ctx, mgr, before, add, drop)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	err = do(ctx, mgr, add, drop)
	after, qerr := mgr.installed(ctx, names)
	if qerr != nil {
		return errors.Join(err, qerr)
	}
	j.packageChanges(before, after)
	if err != nil {
		return err
	}
	for _, p := range j.step.Packages {
		if !after.right(p) {
			return notRight(after, p)
		}
	}
	return nil
}

func do(ctx context.Context, mgr packager, add []release.Package, drop []string) error {
	if len(drop) > 0 {
		if err := mgr.remove(ctx, drop); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		return mgr.install(ctx, add)
	}
	return nil
}

// notRight says what is wrong after a package manager that reported success.
func notRight(v inventory, p release.Package) error {
	switch {
	case p.Absent:
		return fmt.Errorf("%s is still installed", p.Name)
	case !v.has(p.Name):
		return fmt.Errorf("%s is not installed although the package manager reported success", p.Name)
	}
	return fmt.Errorf("%s %s is installed, not %s", p.Name, v.version(p.Name), p.Version)
}

// packageChanges records how the asked-for packages differ.
func (j *job) packageChanges(before, after inventory) {
	installed := 0
	for _, p := range j.step.Packages {
		old, now := before.version(p.Name), after.version(p.Name)
		switch {
		case old == now:
		case old == "":
			installed++
			j.changed("installed %s %s", p.Name, now)
		case now == "":
			j.changed("removed %s", p.Name)
		default:
			j.changed("changed %s %s -> %s", p.Name, old, now)
		}
	}
	if n := after.count - before.count - installed; n > 0 && installed > 0 {
		j.changed("and %s that came along", plural(n, "package"))
	}
}

func (j *job) wouldInstall(ctx context.Context, mgr packager, before inventory, add []release.Package, drop []string) {
	for _, name := range drop {
		j.changed("remove %s", name)
	}
	if len(add) == 0 {
		return
	}
	versions := mgr.plan(ctx, add)
	for _, p := range add {
		to := p.Version
		if to == "" {
			to = versions[p.Name]
		}
		if old := before.version(p.Name); old != "" {
			j.changed("change %s %s -> %s", p.Name, old, to)
			continue
		}
		j.changed("%s", strings.TrimSpace("install "+p.Name+" "+to))
	}
}

// retryLocked runs f until it fails for another reason than that somebody else
// holds the package manager's lock.
func (r *Runner) retryLocked(ctx context.Context, f func() (result, error)) (result, error) {
	pause := r.pause
	if pause == 0 {
		pause = 3 * time.Second
	}
	for end := time.Now().Add(lockWait); ; {
		res, err := f()
		if err == nil || !lockHeld(res) || time.Now().After(end) {
			return res, err
		}
		r.logf("the package manager is busy; trying again in %v", pause)
		if sleep(ctx, pause) != nil {
			return res, err
		}
	}
}

var lockWords = pattern(`Could not get lock|Unable to lock|Unable to acquire the dpkg|is locked by another process|System management is locked|Unable to lock database|Another app is currently holding the yum lock`)

func lockHeld(res result) bool {
	return lockWords().Match(res.stderr) || lockWords().Match(res.tail)
}

// withReason adds the words of a tool that say why it failed.
func withReason(err error, res result, pick *regexp.Regexp) error {
	if err == nil {
		return nil
	}
	for _, out := range [][]byte{res.stderr, res.stdout} {
		if m := pick.FindSubmatch(out); m != nil {
			return fmt.Errorf("%w: %s", err, cut(strings.TrimSpace(clean(string(m[1]))), 300))
		}
	}
	if l := lastLine(res.tail); l != "" {
		return fmt.Errorf("%w: %s", err, l)
	}
	return err
}
