package step

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/release"
)

// A want is what a path is to be.
type want struct {
	to       string
	mode     int // -1: as it is
	uid, gid int // -1: as it is
	content  content
	validate string
	missing  string // on a dry run: the owner that does not exist yet
	folder   bool   // part of a folder item: folders made for it get its owner
}

// A content is what a file is to hold: text in memory, or a file of the tree.
type content struct {
	size   int64
	digest release.Digest
	text   []byte
	path   string // "": text
}

func (c content) open() (io.ReadCloser, error) {
	if c.path == "" {
		return io.NopCloser(bytes.NewReader(c.text)), nil
	}
	return os.OpenFile(c.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func textContent(b []byte) content {
	return content{size: int64(len(b)), digest: release.DigestOf(b), text: b}
}

// files brings the items of the step to their states in order.
func (j *job) files(ctx context.Context) error {
	a, err := j.accounts()
	if err != nil {
		return err
	}
	for _, it := range j.step.Files {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if !filepath.IsAbs(it.To) || filepath.Clean(it.To) == "/" && it.From == "" {
			return final(fmt.Errorf("%s is no place for a file", it.To))
		}
		if err := j.item(ctx, a, it); err != nil {
			return fmt.Errorf("%s: %w", it.To, err)
		}
	}
	return nil
}

func (j *job) item(ctx context.Context, a *accounts, it release.FileItem) error {
	if it.State == release.StateAbsent {
		return j.remove(it.To)
	}
	w, err := j.wanted(a, it)
	if err != nil {
		return err
	}
	switch {
	case it.State == release.StateDirectory:
		return j.directory(w)
	case it.Link != "":
		return j.link(w, it.Link)
	case it.Content != nil:
		return j.text(ctx, w, it, it.To, []byte(*it.Content))
	case it.From == "":
		return final(errors.New("has neither from, content nor link"))
	}
	if f, ok := j.find(it.From); ok && f.Link == "" && !f.Dir {
		return j.fromFile(ctx, w, it, f)
	}
	if f, err := j.file(it.From); err == nil {
		return j.fromFile(ctx, w, it, f)
	}
	w.folder = true
	return j.fromFolder(ctx, w, it)
}

func (j *job) find(p string) (release.File, bool) {
	if j.Manifest == nil {
		return release.File{}, false
	}
	return j.Manifest.Find(p)
}

// wanted resolves mode and owner.
func (j *job) wanted(a *accounts, it release.FileItem) (want, error) {
	w := want{to: path.Clean(it.To), mode: -1, validate: it.Validate}
	if it.Mode != "" {
		m, err := strconv.ParseUint(it.Mode, 8, 12)
		if err != nil {
			return w, final(fmt.Errorf("mode %q is not octal", it.Mode))
		}
		w.mode = int(m)
	}
	var err1, err2 error
	w.uid, err1 = j.ownerID(a, it.Owner)
	w.gid, err2 = j.groupID(a, it.Group)
	if err := errors.Join(err1, err2); err != nil {
		if !j.DryRun {
			return w, err
		}
		w.missing, w.uid, w.gid = err.Error(), -1, -1
	}
	return w, nil
}

// fromFolder lays the files below it.From out below it.To.
func (j *job) fromFolder(ctx context.Context, w want, it release.FileItem) error {
	prefix, found := strings.TrimSuffix(it.From, "/")+"/", false
	if it.From == "." {
		prefix = ""
	}
	if j.Manifest == nil {
		return final(errors.New("the runner has no manifest"))
	}
	for _, f := range j.Manifest.Files {
		rel, ok := strings.CutPrefix(f.Path, prefix)
		if !ok && f.Path != strings.TrimSuffix(prefix, "/") {
			continue
		}
		found = true
		fw := w
		fw.to = path.Join(w.to, rel)
		if !ok {
			fw.to = w.to
		}
		var err error
		switch {
		case f.Dir:
			fw.mode = -1
			err = j.directory(fw)
		case f.Link != "":
			err = j.link(fw, f.Link)
		default:
			err = j.fromFile(ctx, fw, it, f)
		}
		if err != nil {
			if fw.to != w.to {
				err = fmt.Errorf("%s: %w", fw.to, err)
			}
			return err
		}
	}
	if !found {
		return final(fmt.Errorf("%s is not in the release", it.From))
	}
	return nil
}

// fromFile makes w the file f of the release, or what f's template gives.
func (j *job) fromFile(ctx context.Context, w want, it release.FileItem, f release.File) error {
	if w.mode < 0 {
		w.mode = int(f.Mode)
	}
	at := filepath.Join(j.Tree, filepath.FromSlash(f.Path))
	if !it.Template {
		w.content = content{size: f.Size, digest: f.Digest, path: at}
		return j.put(ctx, w)
	}
	if f.Size > maxTemplate {
		return final(fmt.Errorf("template %s is over %d bytes", f.Path, maxTemplate))
	}
	b, err := readVerified(content{size: f.Size, digest: f.Digest, path: at})
	if err != nil {
		return final(fmt.Errorf("%s %w", f.Path, err))
	}
	return j.text(ctx, w, it, f.Path, b)
}

// readVerified returns the whole content, which must be small.
func readVerified(c content) ([]byte, error) {
	r, err := c.open()
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, c.size+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	if release.DigestOf(b) != c.digest {
		return nil, errAltered
	}
	return b, nil
}

// text makes w hold b, or what the template b gives.
func (j *job) text(ctx context.Context, w want, it release.FileItem, name string, b []byte) error {
	if w.mode < 0 {
		w.mode = 0o644
	}
	if it.Template {
		var err error
		if b, err = j.render(name, b); err != nil {
			return final(err)
		}
	}
	w.content = textContent(b)
	return j.put(ctx, w)
}

// put makes w.to a regular file with w's content, mode and owner.
func (j *job) put(ctx context.Context, w want) error {
	p := j.abs(w.to)
	fi, err := os.Lstat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j.write(ctx, w, nil)
	case err != nil:
		return cause(err)
	case fi.IsDir():
		return errors.New("a folder is in the way")
	case fi.Mode()&fs.ModeSymlink != 0:
		return j.write(ctx, w, nil)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("a %s is in the way", kindOf(fi.Mode()))
	}
	same, err := holds(ctx, p, fi, w.content)
	if err != nil {
		return err
	}
	if !same {
		return j.write(ctx, w, fi)
	}
	return j.attributes(w, p, fi)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeDevice != 0:
		return "device"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "special file"
}

// holds reports whether the file at p has content c.
func holds(ctx context.Context, p string, fi fs.FileInfo, c content) (bool, error) {
	if fi.Size() != c.size {
		return false, nil
	}
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, cause(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(ctxReader{ctx, f}, c.size+1)); err != nil {
		return false, cause(err)
	}
	return release.DigestFromSum([sha256.Size]byte(h.Sum(nil))) == c.digest, nil
}

// A ctxReader ends with ctx.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// attributes sets only what differs of the mode and owner of what is at p.
func (j *job) attributes(w want, p string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the system does not tell its owner")
	}
	old := int(st.Mode & 0o7777)
	mode := w.mode >= 0 && old != w.mode
	owner := w.uid >= 0 && int(st.Uid) != w.uid || w.gid >= 0 && int(st.Gid) != w.gid
	if !mode && !owner && w.missing == "" {
		return nil
	}
	if !j.DryRun {
		if err := j.touch(); err != nil {
			return err
		}
		if err := setAttributes(w, p, fi, owner); err != nil {
			return err
		}
	}
	if mode {
		j.changed("%s mode %04o -> %04o", w.to, old, w.mode)
	}
	if owner {
		a, err := j.accounts()
		if err != nil {
			return err
		}
		j.changed("%s owner %s:%s -> %s:%s", w.to, a.userName(int(st.Uid)), a.groupName(int(st.Gid)),
			a.userName(orOld(w.uid, st.Uid)), a.groupName(orOld(w.gid, st.Gid)))
	}
	if w.missing != "" {
		j.changed("%s owner (%s)", w.to, w.missing)
	}
	return nil
}

func orOld(id int, old uint32) int {
	if id < 0 {
		return int(old)
	}
	return id
}

// setAttributes works on the very file that fi is of, not on what its name may
// mean by now.
func setAttributes(w want, p string, fi fs.FileInfo, owner bool) error {
	flags := os.O_RDONLY | unix.O_NONBLOCK
	if !fi.IsDir() {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(p, flags, 0)
	if err != nil {
		return cause(err)
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(now, fi) {
		return errors.New("was replaced while it was looked at")
	}
	return own(f, w, owner, fi)
}

// own sets owner and mode of f; the owner first, since that clears setuid bits.
func own(f *os.File, w want, owner bool, fi fs.FileInfo) error {
	if owner {
		if err := f.Chown(w.uid, w.gid); err != nil {
			return fmt.Errorf("set owner: %w", cause(err))
		}
	}
	mode := w.mode
	if mode < 0 && fi != nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			mode = int(st.Mode & 0o7777)
		}
	}
	if mode < 0 {
		return nil
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(mode)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return nil
}

// remove removes to and all below it.
func (j *job) remove(to string) error {
	p := j.abs(to)
	if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return cause(err)
	}
	if j.DryRun {
		j.changed("remove %s", to)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	if err := os.RemoveAll(p); err != nil {
		return fmt.Errorf("remove: %w", cause(err))
	}
	j.changed("removed %s", to)
	return syncDir(filepath.Dir(p))
}

// directory makes w.to a folder; a link to one is one.
func (j *job) directory(w want) error {
	p := j.abs(w.to)
	fi, err := os.Stat(p)
	if err == nil && fi.IsDir() {
		if w.folder {
			return nil
		}
		return j.attributes(w, p, fi)
	}
	if err == nil {
		return errors.New("a file is in the way")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return cause(err)
	}
	if j.DryRun {
		j.changed("create folder %s", w.to)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	if err := makeParents(filepath.Dir(p), w); err != nil {
		return err
	}
	if w.mode < 0 {
		w.mode = 0o755
	}
	if err := makeFolder(p, w); err != nil {
		return err
	}
	j.changed("created folder %s", w.to)
	return nil
}

// link makes w.to a symbolic link to target.
func (j *job) link(w want, target string) error {
	p := j.abs(w.to)
	fi, err := os.Lstat(p)
	switch {
	case err == nil && fi.Mode()&fs.ModeSymlink != 0:
		if now, err := os.Readlink(p); err == nil && now == target {
			return nil
		}
	case err == nil && fi.IsDir():
		return errors.New("a folder is in the way")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return cause(err)
	}
	if j.DryRun {
		j.changed("link %s -> %s", w.to, target)
		return nil
	}
	if err := j.touch(); err != nil {
		return err
	}
	dir := filepath.Dir(p)
	if err := makeParents(dir, w); err != nil {
		return err
	}
	tmp := tempName(p)
	if err := os.Symlink(target, tmp); err != nil {
		return cause(err)
	}
	if w.uid >= 0 || w.gid >= 0 {
		if err := os.Lchown(tmp, w.uid, w.gid); err != nil {
			return errors.Join(fmt.Errorf("set owner: %w", cause(err)), os.Remove(tmp))
		}
	}
	if err := os.Rename(tmp, p); err != nil {
		return errors.Join(moveError(err), os.Remove(tmp))
	}
	j.changed("linked %s -> %s", w.to, target)
	return syncDir(dir)
}
