package step

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

const (
	maxDiff     = 256 << 10 // of one step's diff
	maxDiffSide = 512 << 10 // of a file that is compared line by line
)

// write puts w's content in place. old is the regular file there, if any.
func (j *job) write(ctx context.Context, w want, old fs.FileInfo) error {
	line, err := j.describe(w, old)
	if err != nil {
		return err
	}
	if j.DryRun {
		j.changed("%s", line)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	p := j.abs(w.to)
	dir := filepath.Dir(p)
	if err := makeParents(dir, w); err != nil {
		return err
	}
	tmp, err := j.stage(ctx, w, p, old)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // gone after the move
	if err := j.validate(ctx, w, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, p); err != nil {
		return moveError(err)
	}
	j.changed("%s", line)
	return syncDir(dir)
}

// stage writes the new file beside the old one, complete and synced.
func (j *job) stage(ctx context.Context, w want, p string, old fs.FileInfo) (_ string, err error) {
	clearStale(p)
	tmp := tempName(p)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", fmt.Errorf("write: %w", cause(err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(tmp)
		}
	}()
	if err := copyVerified(ctx, f, w.content); err != nil {
		return "", err
	}
	if st, ok := sysStat(old); ok {
		w.uid, w.gid = orOld(w.uid, st.Uid), orOld(w.gid, st.Gid)
	}
	if err := own(f, w, notMine(w), nil); err != nil {
		return "", err
	}
	keepLabel(f, p)
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("write: %w", cause(err))
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("write: %w", cause(err))
	}
	return tmp, nil
}

func sysStat(fi fs.FileInfo) (*syscall.Stat_t, bool) {
	if fi == nil {
		return nil, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return st, ok
}

// notMine reports whether a new file of this process needs another owner.
func notMine(w want) bool {
	return w.uid >= 0 && w.uid != os.Geteuid() || w.gid >= 0 && w.gid != os.Getegid()
}

// copyVerified copies c to f; a file of the tree must be what was signed.
func copyVerified(ctx context.Context, f *os.File, c content) error {
	in, err := c.open()
	if err != nil {
		return fmt.Errorf("read its source: %w", cause(err))
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(ctxReader{ctx, in}, c.size+1))
	if err != nil {
		return fmt.Errorf("write: %w", cause(err))
	}
	if n != c.size || release.DigestFromSum([sha256.Size]byte(h.Sum(nil))) != c.digest {
		return final(fmt.Errorf("its source %w", errAltered))
	}
	return nil
}

// keepLabel gives f the SELinux label of the file it will replace; a new file
// has the one its folder gives.
func keepLabel(f *os.File, p string) {
	const attr = "security.selinux"
	var label [1024]byte
	if n, err := unix.Lgetxattr(p, attr, label[:]); err == nil && n > 0 {
		_ = unix.Fsetxattr(int(f.Fd()), attr, label[:n], 0)
	}
}

// validate runs the item's own check on the new file before the move.
func (j *job) validate(ctx context.Context, w want, tmp string) error {
	if w.validate == "" {
		return nil
	}
	text := strings.ReplaceAll(w.validate, "%s", shellQuote(tmp))
	res, err := j.exec(ctx, command{argv: []string{"/bin/sh", "-euc", text}, env: j.step.Env, name: j.step.Name})
	if err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	if err := j.ended("validate", res); err != nil {
		if l := lastLine(res.tail); l != "" {
			err = fmt.Errorf("%w: %s", err, l)
		}
		return fmt.Errorf("was not touched: %w", err)
	}
	return nil
}

// describe returns the line of the change, and adds to the diff.
func (j *job) describe(w want, old fs.FileInfo) (string, error) {
	before, after, text, err := j.sides(w, old)
	if err != nil {
		return "", err
	}
	from := w.to
	if old == nil {
		from = "/dev/null"
	}
	unified := ""
	if text {
		unified = udiff.Unified(from, w.to, string(before), string(after))
	}
	if j.DryRun && j.Diff {
		switch {
		case text:
			j.diff.write(visible(unified))
		default:
			j.diff.write(fmt.Sprintf("%s: binary or large file differs (%d bytes)\n", w.to, w.content.size))
		}
	}
	plus, minus := countLines(unified)
	switch {
	case old == nil && text:
		return fmt.Sprintf("%s +%d (new)", w.to, plus), nil
	case old == nil:
		return fmt.Sprintf("%s new, %d bytes", w.to, w.content.size), nil
	case !text:
		return fmt.Sprintf("%s replaced, %d -> %d bytes", w.to, old.Size(), w.content.size), nil
	}
	return fmt.Sprintf("%s +%d -%d", w.to, plus, minus), nil
}

// sides returns the old and the new content where both are small and text.
func (j *job) sides(w want, old fs.FileInfo) (before, after []byte, text bool, err error) {
	if w.content.size > maxDiffSide || old != nil && old.Size() > maxDiffSide {
		return nil, nil, false, nil
	}
	if after, err = readVerified(w.content); err != nil {
		return nil, nil, false, final(fmt.Errorf("its source %w", err))
	}
	if old != nil {
		if before, err = readSmall(j.abs(w.to)); err != nil {
			return nil, nil, false, err
		}
	}
	return before, after, isText(before) && isText(after), nil
}

func readSmall(p string) ([]byte, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDiffSide))
}

func isText(b []byte) bool { return utf8.Valid(b) && !strings.ContainsRune(string(b), 0) }

// countLines counts the added and removed lines of a unified diff.
func countLines(unified string) (plus, minus int) {
	body := false
	for line := range strings.Lines(unified) {
		switch {
		case strings.HasPrefix(line, "@@"):
			body = true
		case body && line[0] == '+':
			plus++
		case body && line[0] == '-':
			minus++
		}
	}
	return plus, minus
}

// visible shows control characters as cat -v does, so that a diff on a terminal
// is only text.
func visible(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '\n' || c == '\t' || c >= 0x20 && c < 0x7f || c > 0x9f:
			b.WriteRune(c)
		case c < 0x20:
			b.WriteString("^" + string('@'+c))
		default:
			fmt.Fprintf(&b, "\\x%02x", c)
		}
	}
	return b.String()
}

const tempMark = ".bootwell-"

// tempName returns a new name beside p that no *.conf pattern matches and that
// folders such as cron.d pass over.
func tempName(p string) string {
	dir, base := filepath.Split(p)
	return filepath.Join(dir, "."+cutBytes(base, 100)+tempMark+runID())
}

// clearStale removes what a killed agent left beside p.
func clearStale(p string) {
	dir, base := filepath.Split(p)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	prefix := "." + cutBytes(base, 100) + tempMark
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), prefix); ok && len(rest) == 16 && !e.IsDir() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func cutBytes(s string, n int) string { return s[:min(len(s), n)] }

// makeParents makes dir and its missing parents, for w.
func makeParents(dir string, w want) error {
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder %s: %w", dir, cause(err))
	}
	if err := makeParents(filepath.Dir(dir), w); err != nil {
		return err
	}
	up := want{mode: 0o755, uid: -1, gid: -1}
	if w.folder {
		up.uid, up.gid = w.uid, w.gid
	}
	return makeFolder(dir, up)
}

// makeFolder makes one folder with mode and owner, and syncs its parent.
func makeFolder(p string, w want) error {
	if err := os.Mkdir(p, 0o700); err != nil {
		return fmt.Errorf("make folder %s: %w", p, cause(err))
	}
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("make folder %s: %w", p, cause(err))
	}
	defer f.Close()
	if err := own(f, w, notMine(w), nil); err != nil {
		return errors.Join(err, os.Remove(p))
	}
	return syncDir(filepath.Dir(p))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return cause(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("sync %s: %w", dir, cause(err))
	}
	return nil
}

// moveError explains why the new file could not take the old one's place.
func moveError(err error) error {
	why := cause(err)
	switch {
	case errors.Is(why, unix.EBUSY):
		return fmt.Errorf("replace: it is a mount point (as in a container): %w", why)
	case errors.Is(why, unix.EPERM):
		return fmt.Errorf("replace: %w (is it immutable? see lsattr)", why)
	}
	return fmt.Errorf("replace: %w", why)
}
