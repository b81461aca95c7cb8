package step

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// An rpm is dnf, yum or zypper: the system's database is rpm's.
type rpm struct {
	*Runner
	path string
	kind string // dnf, yum or zypper
}

const rpmFormat = `%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n`

// installed asks rpm for each name, since its answers do not say to which
// question they belong when a name is provided by another package.
func (m *rpm) installed(ctx context.Context, names []string) (inventory, error) {
	v := inventory{versions: map[string][]string{}, provided: map[string]string{}, match: matchEVR}
	tool, ok := m.tool("rpm")
	if !ok {
		return v, final(errors.New("rpm is not installed"))
	}
	for _, name := range names {
		for _, how := range [][]string{{"-q"}, {"-q", "--whatprovides"}} {
			args := append(append([]string{tool}, how...), "--qf", rpmFormat, name)
			res, err := m.query(ctx, args...)
			if err != nil {
				return v, err
			}
			if res.cut() {
				return v, m.ended("rpm", res)
			}
			if res.code != 0 {
				if !rpmAbsent().Match(append(res.stdout, res.stderr...)) {
					return v, withReason(m.ended("rpm", res), res, rpmError())
				}
				continue
			}
			parseRpm(res.stdout, name, &v)
			break
		}
	}
	return v, nil
}

var (
	rpmAbsent = pattern(`is not installed|no package provides|not owned by any package`)
	rpmError  = pattern(`(?m)^(?:error|Error|ERROR): *(.*)$`)
)

// parseRpm adds what rpm says of the package asked for as name.
func parseRpm(b []byte, name string, v *inventory) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Split(sc.Text(), "\t")
		if len(f) != 4 || f[0] == "" {
			continue
		}
		evr := f[2]
		if f[1] != "0" && f[1] != "" && f[1] != "(none)" {
			evr = f[1] + ":" + evr
		}
		if name != f[0] && name != f[0]+"."+f[3] {
			v.provided[name] = f[0]
			continue
		}
		v.versions[name] = append(v.versions[name], evr)
	}
}

// matchEVR reports whether the installed epoch:version-release is what a
// project file means: the epoch and the release may be left out.
func matchEVR(have, want string) bool {
	if _, rest, ok := strings.Cut(have, ":"); ok && !strings.Contains(want, ":") {
		have = rest
	}
	if have == want {
		return true
	}
	i := strings.LastIndexByte(have, '-')
	return i > 0 && have[:i] == want
}

func (m *rpm) plan(context.Context, []release.Package) map[string]string { return nil }

// installArgs are the arguments of one install of all of pkgs.
func (m *rpm) installArgs(pkgs []release.Package) []string {
	args := []string{"-y", "install"}
	sep := "-"
	if m.kind == "zypper" {
		args = []string{"--non-interactive", "--quiet", "install", "--auto-agree-with-licenses", "--oldpackage"}
		sep = "="
	}
	for _, p := range pkgs {
		if p.Version != "" {
			p.Name += sep + p.Version
		}
		args = append(args, p.Name)
	}
	return args
}

func (m *rpm) removeArgs(names []string) []string {
	args := []string{"-y", "remove"}
	if m.kind == "zypper" {
		args = []string{"--non-interactive", "--quiet", "remove"}
	}
	return append(args, names...)
}

// zypperDone are exit statuses of zypper(8) that say that it worked: reboot
// needed, restart of the package manager needed, a repository was skipped.
var zypperDone = map[int]bool{102: true, 103: true, 106: true}

func (m *rpm) run(ctx context.Context, args []string) error {
	argv := append([]string{m.path}, args...)
	res, err := m.retryLocked(ctx, func() (result, error) { return m.act(ctx, argv...) })
	if err != nil && !res.cut() && m.kind == "zypper" && zypperDone[res.code] {
		return nil
	}
	return withReason(err, res, rpmError())
}

func (m *rpm) install(ctx context.Context, pkgs []release.Package) error {
	err := m.run(ctx, m.installArgs(pkgs))
	if m.kind != "yum" || err != nil {
		return err
	}
	// yum's install leaves a newer version alone and reports success.
	names := make([]string, len(pkgs))
	for i, p := range pkgs {
		names[i] = p.Name
	}
	now, err := m.installed(ctx, names)
	if err != nil {
		return err
	}
	var down []string
	for _, p := range pkgs {
		if p.Version != "" && len(now.versions[p.Name]) > 0 && !now.right(p) {
			down = append(down, p.Name+"-"+p.Version)
		}
	}
	if len(down) == 0 {
		return nil
	}
	return m.run(ctx, append([]string{"-y", "downgrade"}, down...))
}

func (m *rpm) remove(ctx context.Context, names []string) error {
	if err := m.run(ctx, m.removeArgs(names)); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}
