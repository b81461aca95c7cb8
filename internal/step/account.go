package step

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxAccountFile bounds /etc/passwd, /etc/group and /etc/shadow.
const maxAccountFile = 16 << 20

// An account is a line of passwd(5) and the groups it is in.
type account struct {
	name, comment, home, shell string
	uid, gid                   int
	groups                     []int // further ones
}

// A group is a line of group(5).
type group struct {
	name    string
	gid     int
	members []string
}

// accounts are the local users and groups.
type accounts struct {
	users  []account
	groups []group
}

// accounts reads the local files. One that does not exist has no lines.
func (r *Runner) accounts() (*accounts, error) {
	passwd, err := r.readBounded("/etc/passwd")
	if err != nil {
		return nil, err
	}
	grp, err := r.readBounded("/etc/group")
	if err != nil {
		return nil, err
	}
	return &accounts{users: parsePasswd(passwd), groups: parseGroup(grp)}, nil
}

func (r *Runner) readBounded(p string) ([]byte, error) {
	f, err := os.Open(r.abs(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, cause(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccountFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, cause(err))
	}
	if len(b) > maxAccountFile {
		return nil, fmt.Errorf("read %s: over %d bytes", p, maxAccountFile)
	}
	return b, nil
}

func parsePasswd(b []byte) (users []account) {
	for f := range fields(b, 7) {
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil && uid >= 0 && gid >= 0 {
			users = append(users, account{name: f[0], uid: uid, gid: gid, comment: f[4], home: f[5], shell: f[6]})
		}
	}
	return users
}

func parseGroup(b []byte) (groups []group) {
	for f := range fields(b, 4) {
		if gid, err := strconv.Atoi(f[2]); err == nil && gid >= 0 {
			groups = append(groups, group{name: f[0], gid: gid, members: strings.FieldsFunc(f[3], func(c rune) bool { return c == ',' })})
		}
	}
	return groups
}

// fields yields the colon-separated fields of lines that have n of them.
func fields(b []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		sc := bufio.NewScanner(bytes.NewReader(b))
		sc.Buffer(nil, maxAccountFile)
		for sc.Scan() {
			if f := strings.Split(sc.Text(), ":"); len(f) == n && f[0] != "" && !yield(f) {
				return
			}
		}
	}
}

func (a *accounts) user(name string) (account, bool) {
	for _, u := range a.users {
		if u.name == name {
			for _, g := range a.groups {
				if g.gid != u.gid && slices.Contains(g.members, name) {
					u.groups = append(u.groups, g.gid)
				}
			}
			return u, true
		}
	}
	return account{}, false
}

func (a *accounts) group(name string) (group, bool) {
	i := slices.IndexFunc(a.groups, func(g group) bool { return g.name == name })
	if i < 0 {
		return group{}, false
	}
	return a.groups[i], true
}

func (a *accounts) groupName(gid int) string {
	for _, g := range a.groups {
		if g.gid == gid {
			return g.name
		}
	}
	return strconv.Itoa(gid)
}

func (a *accounts) userName(uid int) string {
	for _, u := range a.users {
		if u.uid == uid {
			return u.name
		}
	}
	return strconv.Itoa(uid)
}

// user returns the account called name, or nil for "" and root when the agent
// runs as root. Accounts of a directory service are found by getent.
func (r *Runner) user(name string) (*account, error) {
	if name == "" || name == "root" && os.Geteuid() == 0 {
		return nil, nil
	}
	a, err := r.accounts()
	if err != nil {
		return nil, err
	}
	u, ok := a.user(name)
	if !ok {
		a.users = parsePasswd(r.getent("passwd", name))
		if u, ok = a.user(name); !ok {
			return nil, fmt.Errorf("no user %q on this VM", name)
		}
	}
	return &u, nil
}

// getent asks the system's name service, for what the local files do not have.
func (r *Runner) getent(db, name string) []byte {
	tool, ok := r.tool("getent")
	if !ok || r.Root != "" || strings.HasPrefix(name, "-") {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := r.query(ctx, tool, db, name)
	if err != nil || res.cut() || res.code != 0 {
		return nil
	}
	return res.stdout
}

// ownerID returns the numeric id of an owner: a name or a number; -1 for "".
func (r *Runner) ownerID(a *accounts, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if u, ok := a.user(name); ok {
		return u.uid, nil
	}
	if us := parsePasswd(r.getent("passwd", name)); len(us) == 1 && us[0].name == name {
		return us[0].uid, nil
	}
	return numericID("user", name)
}

// groupID is ownerID for groups.
func (r *Runner) groupID(a *accounts, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if g, ok := a.group(name); ok {
		return g.gid, nil
	}
	if gs := parseGroup(r.getent("group", name)); len(gs) == 1 && gs[0].name == name {
		return gs[0].gid, nil
	}
	return numericID("group", name)
}

func numericID(what, name string) (int, error) {
	if name == "root" {
		return 0, nil
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	return 0, fmt.Errorf("no %s %q on this VM at this point", what, name)
}

// credential returns what makes a process run as a; nil for the agent's own.
func (a *account) credential() (*syscall.Credential, error) {
	if a == nil || a.uid == os.Geteuid() && os.Geteuid() != 0 {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("run as %s: the agent must be root for that", a.name)
	}
	c := &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	for _, g := range a.groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	if b, err := os.ReadFile("/proc/self/setgroups"); err == nil && strings.TrimSpace(string(b)) == "deny" {
		c.NoSetGroups = true
	}
	return c, nil
}
