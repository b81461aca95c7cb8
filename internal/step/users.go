package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// userName is what useradd of all families takes.
var userName = pattern(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?$`)

var accountError = pattern(`(?m)^(?:user|group)[a-z]*: (.*)$`)

// users brings the accounts of the step to their states. Each is looked up
// again, since one may need the group another brings.
func (j *job) users(ctx context.Context) error {
	for _, u := range j.step.Users {
		for _, n := range append([]string{u.Name, cmp.Or(u.Group, u.Name)}, u.Groups...) {
			if !userName().MatchString(n) {
				return final(fmt.Errorf("%q is no name of a user or group", n))
			}
		}
		for _, f := range []string{u.Home, u.Shell, u.Comment} {
			if strings.ContainsAny(f, ":\n\x00") {
				return final(fmt.Errorf("user %s: %q cannot be stored", u.Name, f))
			}
		}
		if err := j.account(ctx, u); err != nil {
			return fmt.Errorf("user %s: %w", u.Name, err)
		}
	}
	return nil
}

func (j *job) account(ctx context.Context, u release.User) error {
	a, err := j.accounts()
	if err != nil {
		return err
	}
	now, exists := a.user(u.Name)
	if u.Absent {
		if !exists {
			return nil
		}
		return j.alter(ctx, "removed user "+u.Name, deluserArgs(j.Runner, u))
	}
	for _, g := range neededGroups(a, u) {
		if err := j.alter(ctx, "created group "+g, groupArgs(j.Runner, g, u.System)); err != nil {
			return err
		}
	}
	if !exists {
		_, own := a.group(u.Name)
		if err := j.createUser(ctx, u, own); err != nil {
			return err
		}
	} else if err := j.modifyUser(ctx, a, now, u); err != nil {
		return err
	}
	if u.SSHKeys == nil {
		return nil
	}
	return j.authorizedKeys(u, now, exists)
}

// neededGroups are the groups u names that do not exist.
func neededGroups(a *accounts, u release.User) (names []string) {
	want := u.Groups
	if u.Group != "" {
		want = append([]string{u.Group}, want...)
	}
	for _, g := range want {
		if _, ok := a.group(g); !ok && !slices.Contains(names, g) {
			names = append(names, g)
		}
	}
	return names
}

// alter runs a tool that changes accounts; on a dry run it only says so.
func (j *job) alter(ctx context.Context, did string, argv []string) error {
	if j.DryRun {
		j.changed("%s", wouldDo(did))
		return nil
	}
	if argv == nil {
		return final(errors.New("the tools for accounts (useradd or adduser) are not installed"))
	}
	if err := j.touch(); err != nil {
		return err
	}
	res, err := j.act(ctx, argv...)
	if err != nil {
		return withReason(err, res, accountError())
	}
	j.changed("%s", did)
	return nil
}

// wouldDo turns "created user x" into "create user x".
func wouldDo(did string) string {
	verb, rest, _ := strings.Cut(did, " ")
	return map[string]string{"created": "create", "removed": "remove", "changed": "change"}[verb] + " " + rest
}

func groupArgs(r *Runner, name string, system bool) []string {
	if p, ok := r.tool("groupadd"); ok {
		if system {
			return []string{p, "-r", name}
		}
		return []string{p, name}
	}
	if p, ok := r.tool("addgroup"); ok {
		if system {
			return []string{p, "-S", name}
		}
		return []string{p, name}
	}
	return nil
}

func deluserArgs(r *Runner, u release.User) []string {
	for _, name := range []string{"userdel", "deluser"} {
		if p, ok := r.tool(name); ok {
			return []string{p, u.Name}
		}
	}
	return nil
}

// createUser makes the account, with no password: "*" rather than "!", which
// sshd without PAM takes for locked, also for keys. A user has a home unless
// it is a system account that names none.
func (j *job) createUser(ctx context.Context, u release.User, ownGroup bool) error {
	did := "created user " + u.Name
	if p, ok := j.tool("useradd"); ok {
		return j.alter(ctx, did, useraddArgs(p, u, ownGroup))
	}
	p, ok := j.tool("adduser")
	if !ok {
		return j.alter(ctx, did, nil)
	}
	if err := j.alter(ctx, did, adduserArgs(p, u, ownGroup)); err != nil {
		return err
	}
	if ctl, ok := j.tool("chpasswd"); ok && !j.DryRun {
		c := []string{"/bin/sh", "-c", `echo "$1:*" | "$2" -e`, "sh", u.Name, ctl}
		if res, err := j.act(ctx, c...); err != nil {
			return withReason(err, res, accountError())
		}
	}
	for _, g := range u.Groups {
		if err := j.alter(ctx, "changed user "+u.Name+" group +"+g, []string{p, u.Name, g}); err != nil {
			return err
		}
	}
	return nil
}

func useraddArgs(tool string, u release.User, ownGroup bool) []string {
	argv := []string{tool, "-p", "*"}
	if u.System {
		argv = append(argv, "-r")
	}
	if u.UID != nil {
		argv = append(argv, "-u", strconv.Itoa(*u.UID))
	}
	switch {
	case u.Group != "":
		argv = append(argv, "-g", u.Group)
	case ownGroup:
		argv = append(argv, "-g", u.Name)
	default:
		argv = append(argv, "-U")
	}
	if len(u.Groups) > 0 {
		argv = append(argv, "-G", strings.Join(u.Groups, ","))
	}
	if u.System && u.Home == "" {
		argv = append(argv, "-M")
	} else {
		argv = append(argv, "-m")
	}
	for _, f := range [][2]string{{"-d", u.Home}, {"-s", u.Shell}, {"-c", u.Comment}} {
		if f[1] != "" {
			argv = append(argv, f[0], f[1])
		}
	}
	return append(argv, u.Name)
}

// adduserArgs are those of BusyBox.
func adduserArgs(tool string, u release.User, ownGroup bool) []string {
	argv := []string{tool, "-D"}
	if u.System {
		argv = append(argv, "-S")
		if u.Home == "" {
			argv = append(argv, "-H")
		}
	}
	if u.UID != nil {
		argv = append(argv, "-u", strconv.Itoa(*u.UID))
	}
	if u.Group != "" {
		argv = append(argv, "-G", u.Group)
	} else if ownGroup {
		argv = append(argv, "-G", u.Name)
	}
	for _, f := range [][2]string{{"-h", u.Home}, {"-s", u.Shell}, {"-g", u.Comment}} {
		if f[1] != "" {
			argv = append(argv, f[0], f[1])
		}
	}
	return append(argv, u.Name)
}

// modifyUser changes what differs of an account, by one command. A new home is
// entered, not moved.
func (j *job) modifyUser(ctx context.Context, a *accounts, now account, u release.User) error {
	var args, what []string
	set := func(flag, val, word string) {
		args, what = append(args, flag, val), append(what, word)
	}
	if u.UID != nil && *u.UID != now.uid {
		set("-u", strconv.Itoa(*u.UID), fmt.Sprintf("uid %d -> %d", now.uid, *u.UID))
	}
	if g, ok := a.group(u.Group); u.Group != "" && (!ok || g.gid != now.gid) {
		set("-g", u.Group, "group "+a.groupName(now.gid)+" -> "+u.Group)
	}
	var more []string
	for _, name := range u.Groups {
		if g, ok := a.group(name); !ok || g.gid != now.gid && !slices.Contains(now.groups, g.gid) {
			more = append(more, name)
		}
	}
	for _, f := range []struct{ flag, old, new, word string }{
		{"-d", now.home, u.Home, "home"}, {"-s", now.shell, u.Shell, "shell"}, {"-c", now.comment, u.Comment, "comment"},
	} {
		if f.new != "" && f.new != f.old {
			set(f.flag, f.new, f.word+" -> "+f.new)
		}
	}
	tool, ok := j.tool("usermod")
	if len(more) > 0 && ok {
		args = append([]string{"-a", "-G", strings.Join(more, ",")}, args...)
		what = append(what, "groups +"+strings.Join(more, ","))
	}
	switch {
	case len(args)+len(more) == 0:
		return nil
	case ok || j.DryRun:
		return j.alter(ctx, "changed user "+u.Name+" "+strings.Join(what, ", "), append(append([]string{tool}, args...), u.Name))
	case len(args) > 0:
		return final(fmt.Errorf("%s: needs usermod (install the package shadow)", strings.Join(what, ", ")))
	}
	add, ok := j.tool("addgroup")
	if !ok {
		return j.alter(ctx, "", nil)
	}
	for _, g := range more {
		if err := j.alter(ctx, "changed user "+u.Name+" groups +"+g, []string{add, u.Name, g}); err != nil {
			return err
		}
	}
	return nil
}

// authorizedKeys makes ~/.ssh/authorized_keys hold exactly the keys. The home
// belongs to the user, who may have put links anywhere in it: all work is done
// within the opened home, so that none of them leads root out of it.
func (j *job) authorizedKeys(u release.User, now account, existed bool) error {
	want := []byte(strings.Join(u.SSHKeys, "\n") + "\n")
	if j.DryRun && !existed {
		j.changed("change ssh keys of %s", u.Name)
		return nil
	}
	a, err := j.accounts()
	if err != nil {
		return err
	}
	now, ok := a.user(u.Name)
	if !ok {
		return errors.New("is not in /etc/passwd")
	}
	if now.home == "" || now.home == "/" {
		return final(errors.New("has no home folder for ssh keys"))
	}
	home, err := os.OpenRoot(j.abs(now.home))
	if errors.Is(err, fs.ErrNotExist) && !j.DryRun {
		if err := j.makeHome(now); err != nil {
			return err
		}
		home, err = os.OpenRoot(j.abs(now.home))
	}
	if err != nil {
		if j.DryRun && errors.Is(err, fs.ErrNotExist) {
			j.changed("change ssh keys of %s", u.Name)
			return nil
		}
		return fmt.Errorf("home %s: %w", now.home, cause(err))
	}
	defer home.Close()
	if keysRight(home, now, want) {
		return nil
	}
	if j.DryRun {
		j.changed("change ssh keys of %s", u.Name)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	if err := writeKeys(home, now, want); err != nil {
		return fmt.Errorf("ssh keys: %w", err)
	}
	j.changed("changed ssh keys of %s (%s)", u.Name, plural(len(u.SSHKeys), "key"))
	return nil
}

func (j *job) makeHome(u account) error {
	p := j.abs(u.home)
	if err := j.touch(); err != nil {
		return err
	}
	if err := makeParents(filepath.Dir(p), want{uid: -1, gid: -1}); err != nil {
		return err
	}
	return makeFolder(p, want{mode: 0o750, uid: u.uid, gid: u.gid})
}

const (
	sshDir   = ".ssh"
	keysFile = ".ssh/authorized_keys"
)

// keysRight reports whether the file has the keys and modes sshd asks for.
func keysRight(home *os.Root, u account, want []byte) bool {
	dir, err := home.Lstat(sshDir)
	if err != nil || !dir.IsDir() || dir.Mode().Perm() != 0o700 || !ownedBy(dir, u) {
		return false
	}
	fi, err := home.Lstat(keysFile)
	if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm() != 0o600 || !ownedBy(fi, u) || fi.Size() != int64(len(want)) {
		return false
	}
	f, err := home.OpenFile(keysFile, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(want))+1))
	return err == nil && string(b) == string(want)
}

func ownedBy(fi fs.FileInfo, u account) bool {
	st, ok := sysStat(fi)
	return ok && int(st.Uid) == u.uid
}

func writeKeys(home *os.Root, u account, keys []byte) error {
	fi, err := home.Lstat(sshDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := home.Mkdir(sshDir, 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s is no folder", sshDir)
	}
	ssh, err := home.OpenRoot(sshDir)
	if err != nil {
		return err
	}
	defer ssh.Close()
	dir, err := ssh.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	w := want{mode: 0o700, uid: u.uid, gid: u.gid}
	if err := own(dir, w, true, nil); err != nil {
		return err
	}
	tmp := ".authorized_keys" + tempMark + runID()
	f, err := ssh.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w.mode = 0o600
	_, err = f.Write(keys)
	if err = errors.Join(err, own(f, w, true, nil), f.Sync()); err == nil {
		err = ssh.Rename(tmp, "authorized_keys")
	}
	if err != nil {
		return errors.Join(err, ssh.Remove(tmp))
	}
	return dir.Sync()
}
