package step

import (
	"bufio"
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// An apk is the package manager of Alpine.
type apk struct {
	*Runner
	path string
}

// installed reads apk's database, a text file of paragraphs.
func (a *apk) installed(context.Context, []string) (inventory, error) {
	b, err := a.readBounded("/lib/apk/db/installed")
	if err != nil {
		return inventory{}, err
	}
	return parseApk(b), nil
}

// parseApk reads lines P: (name), V: (version) and p: (provides); an empty
// line ends a package (apk-package(5)).
func parseApk(b []byte) inventory {
	v := inventory{versions: map[string][]string{}, provided: map[string]string{}}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	name := ""
	for sc.Scan() {
		k, val, ok := strings.Cut(sc.Text(), ":")
		switch {
		case !ok:
			name = ""
		case k == "P":
			name = val
		case k == "V" && name != "":
			v.versions[name] = append(v.versions[name], val)
		case k == "p" && name != "":
			for f := range strings.FieldsSeq(val) {
				if i := strings.IndexAny(f, "=<>~"); i >= 0 {
					f = f[:i]
				}
				v.provided[f] = name
			}
		}
	}
	return v
}

func (a *apk) plan(context.Context, []release.Package) map[string]string { return nil }

// args are what comes before each command that changes something.
func (a *apk) args(cmd string, rest ...string) []string {
	return append([]string{a.path, "--wait", strconv.Itoa(int(lockWait.Seconds())), "--no-progress", cmd}, rest...)
}

var apkError = pattern(`(?m)^ERROR: (.*)$`)

// apkUnknown matches what a new index can mend.
var apkUnknown = pattern(`no such package|unable to select packages|unsatisfiable constraints|No such file or directory|HTTP error 404`)

func (a *apk) install(ctx context.Context, pkgs []release.Package) error {
	var names []string
	for _, p := range pkgs {
		if p.Version != "" {
			p.Name += "=" + p.Version
		}
		names = append(names, p.Name)
	}
	add := func() (result, error) {
		return a.retryLocked(ctx, func() (result, error) { return a.act(ctx, a.args("add", names...)...) })
	}
	res, err := add()
	if err != nil && !res.cut() && apkUnknown().Match(append(res.stdout, res.stderr...)) {
		if up, uerr := a.act(ctx, a.args("update")...); uerr != nil {
			return withReason(uerr, up, apkError())
		}
		res, err = add()
	}
	return withReason(err, res, apkError())
}

func (a *apk) remove(ctx context.Context, names []string) error {
	res, err := a.retryLocked(ctx, func() (result, error) { return a.act(ctx, a.args("del", names...)...) })
	return withReason(err, res, apkError())
}
