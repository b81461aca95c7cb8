package step

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// listsAge is the age from which package lists are renewed before an install.
const listsAge = 24 * time.Hour

// An apt is the package manager of Debian and its descendants.
type apt struct {
	*Runner
	get string // path of apt-get
}

// installed reads dpkg's whole database: that takes one process, as a question
// for one package does, and also shows what provides a virtual package.
func (a *apt) installed(ctx context.Context, _ []string) (inventory, error) {
	dpkg, ok := a.tool("dpkg-query")
	if !ok {
		return inventory{}, final(fmt.Errorf("dpkg-query is not installed"))
	}
	res, err := a.query(ctx, dpkg, "-W", "-f", `${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${Provides}\n`)
	if err == nil {
		err = a.ended("dpkg-query", res)
	}
	if err != nil {
		return inventory{}, err
	}
	if res.truncated {
		return inventory{}, fmt.Errorf("dpkg-query: output is over %d bytes", maxCapture)
	}
	v, _ := parseDpkg(res.stdout)
	return v, nil
}

// parseDpkg reads the lines that installed asks for, and reports whether dpkg
// was interrupted. The states are those of dpkg-query(1): the second letter is
// the package's, i for installed; U, F, H, W and t are half-way.
func parseDpkg(b []byte) (v inventory, broken bool) {
	v = inventory{versions: map[string][]string{}, provided: map[string]string{}}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := strings.Split(sc.Text(), "\t")
		if len(f) != 5 || len(f[0]) < 2 {
			continue
		}
		broken = broken || strings.ContainsRune("UFHWt", rune(f[0][1])) || len(f[0]) > 2 && f[0][2] == 'R'
		if f[0][1] != 'i' {
			continue
		}
		name, arch, version := f[1], f[2], f[3]
		v.versions[name] = append(v.versions[name], version)
		v.versions[name+":"+arch] = append(v.versions[name+":"+arch], version)
		v.count++
		for p := range strings.SplitSeq(f[4], ",") {
			p, _, _ = strings.Cut(strings.TrimSpace(p), " ")
			if p != "" {
				v.provided[p] = name
			}
		}
	}
	return v, broken
}

// aptArgs come before each command that changes something: it never asks,
// keeps configuration files that were changed, and waits for other users of
// dpkg (apt 1.9.11; older ones fail and are tried again).
func aptArgs() []string {
	return []string{
		"-y", "-q", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
		"-o", fmt.Sprintf("DPkg::Lock::Timeout=%d", int(lockWait.Seconds())), "-o", "Dpkg::Use-Pty=0",
	}
}

// installArgs are the arguments of one install of all of pkgs.
func aptInstallArgs(pkgs []release.Package) []string {
	args := append(aptArgs(), "install")
	for _, p := range pkgs {
		if p.Version != "" {
			args = append(args, "--allow-downgrades")
			break
		}
	}
	for _, p := range pkgs {
		if p.Version != "" {
			p.Name += "=" + p.Version
		}
		args = append(args, p.Name)
	}
	return args
}

// aptError picks apt's own words.
var aptError = pattern(`(?m)^E: (.*)$`)

// aptFetch matches what new package lists can mend.
var aptFetch = pattern(`404 +Not Found|Hash Sum mismatch|Failed to fetch|Unable to fetch some archives`)

func (a *apt) plan(ctx context.Context, pkgs []release.Package) map[string]string {
	res, err := a.simulate(ctx, pkgs)
	if err != nil {
		return nil
	}
	return parseSimulated(res.stdout)
}

// aptInst matches "Inst nginx [1.22.1-8] (1.22.1-9 Debian:12.1/stable [amd64])".
var aptInst = pattern(`(?m)^Inst (\S+) (?:\[[^]]*\] )?\(([^ )]+)`)

func parseSimulated(b []byte) map[string]string {
	m := map[string]string{}
	for _, f := range aptInst().FindAllSubmatch(b, -1) {
		m[string(f[1])] = string(f[2])
	}
	return m
}

// simulate asks apt what it would do; it takes no lock and no network.
func (a *apt) simulate(ctx context.Context, pkgs []release.Package) (result, error) {
	args := append([]string{a.get, "-s"}, aptInstallArgs(pkgs)...)
	res, err := a.query(ctx, args...)
	if err != nil {
		return res, err
	}
	if err := a.ended("apt-get", res); err != nil {
		return res, withReason(err, res, aptError())
	}
	return res, a.exact(ctx, pkgs)
}

// exact refuses names that apt would take for a regular expression: when there
// is no package g.. it installs each whose name has a g and two letters more.
func (a *apt) exact(ctx context.Context, pkgs []release.Package) error {
	for _, p := range pkgs {
		if !strings.ContainsAny(p.Name, ".+") {
			continue
		}
		tool, ok := a.tool("apt-cache")
		if !ok {
			return final(errors.New("apt-cache is not installed"))
		}
		name, _, _ := strings.Cut(p.Name, ":")
		res, err := a.query(ctx, tool, "pkgnames", name)
		if err == nil {
			err = a.ended("apt-cache", res)
		}
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Split(string(res.stdout), "\n"), name) {
			return fmt.Errorf("no package is called %s", p.Name)
		}
	}
	return nil
}

// install renews the package lists only if they lack a package, are older than
// a day, or name files that the servers no longer have.
func (a *apt) install(ctx context.Context, pkgs []release.Package) error {
	if err := a.mend(ctx); err != nil {
		return err
	}
	updated := false
	update := func() error { updated = true; return a.update(ctx) }
	_, known := a.simulate(ctx, pkgs)
	if known != nil || a.listsOld() {
		err := update()
		if err != nil && known != nil {
			return fmt.Errorf("%w (%w)", known, err)
		}
		if known != nil {
			if _, err := a.simulate(ctx, pkgs); err != nil {
				return err
			}
		}
	}
	argv := append([]string{a.get}, aptInstallArgs(pkgs)...)
	run := func() (result, error) {
		return a.retryLocked(ctx, func() (result, error) { return a.act(ctx, argv...) })
	}
	res, err := run()
	if err != nil && !res.cut() && !updated && aptFetch().Match(append(res.stderr, res.stdout...)) {
		if err := update(); err != nil {
			return err
		}
		res, err = run()
	}
	return withReason(err, res, aptError())
}

func (a *apt) remove(ctx context.Context, names []string) error {
	if err := a.mend(ctx); err != nil {
		return err
	}
	argv := append(append([]string{a.get}, aptArgs()...), append([]string{"remove"}, names...)...)
	res, err := a.retryLocked(ctx, func() (result, error) { return a.act(ctx, argv...) })
	return withReason(err, res, aptError())
}

// mend finishes what an interrupted dpkg left; apt-get refuses to work on it.
func (a *apt) mend(ctx context.Context) error {
	dpkg, ok := a.tool("dpkg-query")
	if !ok {
		return nil
	}
	res, err := a.query(ctx, dpkg, "-W", "-f", `${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t\n`)
	if err != nil {
		return err
	}
	_, broken := parseDpkg(res.stdout)
	if !broken && !a.journalLeft() {
		return nil
	}
	dpkg, ok = a.tool("dpkg")
	if !ok {
		return nil
	}
	res, err = a.retryLocked(ctx, func() (result, error) {
		return a.act(ctx, dpkg, "--force-confdef", "--force-confold", "--configure", "-a")
	})
	if err != nil {
		// The install that follows may bring what is missing; if not, it says so.
		a.logf("dpkg --configure -a: %v", withReason(err, res, aptError()))
	}
	return context.Cause(ctx)
}

// journalLeft reports whether dpkg was killed while it wrote its database.
func (a *apt) journalLeft() bool {
	entries, err := os.ReadDir(a.abs("/var/lib/dpkg/updates"))
	return err == nil && len(entries) > 0
}

const aptLists = "/var/lib/apt/lists"

func (a *apt) update(ctx context.Context) error {
	res, err := a.retryLocked(ctx, func() (result, error) { return a.act(ctx, a.get, "-q", "update") })
	if err != nil {
		return fmt.Errorf("update package lists: %w", withReason(err, res, aptError()))
	}
	// The lists' own times are those of the servers' files.
	now := time.Now()
	_ = os.Chtimes(a.abs(aptLists), now, now)
	return nil
}

// listsOld reports whether the last update is more than a day ago.
func (a *apt) listsOld() bool {
	var last time.Time
	for _, p := range []string{"/var/lib/apt/periodic/update-success-stamp", aptLists} {
		if fi, err := os.Stat(a.abs(p)); err == nil && fi.ModTime().After(last) {
			last = fi.ModTime()
		}
	}
	return time.Since(last) > listsAge
}
