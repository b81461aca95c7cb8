// Package workload makes the trees that the benchmarks publish and fetch, and
// changes them. The same size and seed give the same bytes everywhere.
package workload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Size says how large a tree is.
type Size struct {
	Name     string
	Files    int // small ones
	Bytes    int // of the small ones, about
	Binaries int // of BinaryBytes each
	Links    int
}

// BinaryBytes is the size of a large binary.
const BinaryBytes = 20_000_000

// The three trees of the benchmarks.
var (
	S = Size{Name: "S", Files: 40, Bytes: 200_000, Links: 4}
	M = Size{Name: "M", Files: 1_000, Bytes: 11_000_000, Links: 20}
	L = Size{Name: "L", Files: 9_996, Bytes: 130_000_000, Binaries: 4, Links: 50}
)

// String describes the size for people.
func (s Size) String() string {
	total := float64(s.Bytes+s.Binaries*BinaryBytes) / 1e6
	text := fmt.Sprintf("%s: %d files, %.1f MB", s.Name, s.Files+s.Binaries, total)
	if s.Binaries > 0 {
		text += fmt.Sprintf(" with %d binaries of %d MB", s.Binaries, BinaryBytes/1_000_000)
	}
	return text
}

// A Tree is a generated folder that can be changed. Each change is another one
// each time: it never gives the tree a state that it had before.
type Tree struct {
	Dir  string
	Size Size

	files    []string // small files, by their slash-separated path
	binaries []string
	moving   string // the folder that Rename renames
	moved    []string
	gen      *generator
	n        int // changes so far
}

// A Change is what a method of Tree did.
type Change struct {
	Files int
	Bytes int64 // of the content of those files
}

const perFolder = 20

// Generate makes a tree in dir, which it makes too.
func Generate(dir string, size Size) (*Tree, error) {
	t := &Tree{Dir: dir, Size: size, gen: newGenerator()}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for i := range size.Files {
		if err := t.small(i); err != nil {
			return nil, err
		}
	}
	for i := range size.Binaries {
		name := fmt.Sprintf("opt/bin/tool-%d", i)
		t.binaries = append(t.binaries, name)
		if err := t.write(name, t.gen.noise(BinaryBytes), 0o755); err != nil {
			return nil, err
		}
	}
	for i := range size.Links {
		if err := t.link(i); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "var/empty"), 0o755); err != nil {
		return nil, err
	}
	return t, t.settle()
}

// small makes file i: most are text, each fourth does not compress; lengths
// spread evenly between a fifth and nine fifths of the mean.
func (t *Tree) small(i int) error {
	folder := i / perFolder
	dir := fmt.Sprintf("srv/app-%02d/part-%02d", folder/10, folder%10)
	mean := t.Size.Bytes / t.Size.Files
	length := mean/5 + t.gen.IntN(8*mean/5+1)
	name, mode, content := fmt.Sprintf("%s/file-%02d.conf", dir, i%perFolder), fs.FileMode(0o644), []byte(nil)
	if i%4 == 3 {
		name, content = strings.TrimSuffix(name, "conf")+"dat", t.gen.noise(length)
	} else {
		content = t.gen.text(length)
	}
	switch {
	case i%10 == 4:
		name, mode = strings.TrimSuffix(name, filepath.Ext(name))+".sh", 0o755
	case i%20 == 7:
		mode = 0o600
	}
	if folder == t.folders()-1 {
		t.moving = dir
		t.moved = append(t.moved, name)
	} else {
		t.files = append(t.files, name)
	}
	return t.write(name, content, mode)
}

func (t *Tree) folders() int { return (t.Size.Files + perFolder - 1) / perFolder }

// link makes a link from a folder of links to a file, or to a folder.
func (t *Tree) link(i int) error {
	target := t.files[(i*7)%len(t.files)]
	if i%5 == 4 {
		target = filepath.Dir(target)
	}
	name := filepath.Join(t.Dir, "etc/links", fmt.Sprintf("link-%02d", i))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.Symlink("../../"+target, name)
}

func (t *Tree) write(name string, content []byte, mode fs.FileMode) error {
	p := filepath.Join(t.Dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(p, content, mode); err != nil {
		return err
	}
	return os.Chmod(p, mode) // whatever the umask
}

// settle gives everything one time in the past: nothing looks freshly written.
func (t *Tree) settle() error {
	past := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return filepath.WalkDir(t.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, past, past)
	})
}

// ChangeOne rewrites one text file, the same one each time.
func (t *Tree) ChangeOne() (Change, error) {
	t.n++
	return t.rewrite(t.files[0])
}

// ChangeMany rewrites 50 files, or half of those there are, the same each time.
func (t *Tree) ChangeMany() (Change, error) {
	t.n++
	var sum Change
	n := min(50, len(t.files)/2)
	for i := range n {
		c, err := t.rewrite(t.files[1+i*(len(t.files)-1)/n])
		if err != nil {
			return sum, err
		}
		sum.Files += c.Files
		sum.Bytes += c.Bytes
	}
	return sum, nil
}

// rewrite changes a line in the middle of a file, and makes it a little longer.
func (t *Tree) rewrite(name string) (Change, error) {
	p := filepath.Join(t.Dir, name)
	content, err := os.ReadFile(p)
	if err != nil {
		return Change{}, err
	}
	line := fmt.Sprintf("\nchange %d %s\n", t.n, t.gen.text(40))
	content = append(content[:len(content)/2:len(content)/2], append([]byte(line), content[len(content)/2:]...)...)
	return Change{Files: 1, Bytes: int64(len(content))}, overwrite(p, content)
}

// overwrite keeps the mode of a file.
func overwrite(p string, content []byte) error { return os.WriteFile(p, content, 0) }

// ChangeByte changes one byte in the middle of a large binary.
func (t *Tree) ChangeByte() (Change, error) {
	if len(t.binaries) == 0 {
		return Change{}, fmt.Errorf("workload %s has no large binary", t.Size.Name)
	}
	t.n++
	f, err := os.OpenFile(filepath.Join(t.Dir, t.binaries[0]), os.O_RDWR, 0)
	if err != nil {
		return Change{}, err
	}
	defer f.Close()
	var b [1]byte
	at := int64(BinaryBytes/2 + t.n)
	if _, err := f.ReadAt(b[:], at); err != nil {
		return Change{}, err
	}
	b[0] ^= 0x55
	_, err = f.WriteAt(b[:], at)
	return Change{Files: 1, Bytes: 1}, err
}

// Rename renames a folder of files to a name that it never had.
func (t *Tree) Rename() (Change, error) {
	t.n++
	to := fmt.Sprintf("srv/moved-%d", t.n)
	if err := os.Rename(filepath.Join(t.Dir, t.moving), filepath.Join(t.Dir, to)); err != nil {
		return Change{}, err
	}
	var c Change
	for i, name := range t.moved {
		t.moved[i] = to + strings.TrimPrefix(name, t.moving)
		info, err := os.Stat(filepath.Join(t.Dir, t.moved[i]))
		if err != nil {
			return Change{}, err
		}
		c.Files++
		c.Bytes += info.Size()
	}
	t.moving = to
	return c, nil
}

// Delete removes two files of the renamed folder and a link.
func (t *Tree) Delete() (Change, error) {
	if len(t.moved) < 3 {
		return Change{}, fmt.Errorf("workload %s has nothing left to delete", t.Size.Name)
	}
	t.n++
	for _, name := range t.moved[:2] {
		if err := os.Remove(filepath.Join(t.Dir, name)); err != nil {
			return Change{}, err
		}
	}
	t.moved = t.moved[2:]
	return Change{Files: 3}, os.Remove(filepath.Join(t.Dir, "etc/links/link-00"))
}

// SameSize changes a file without changing how long it is.
func (t *Tree) SameSize() (Change, error) {
	t.n++
	p := filepath.Join(t.Dir, t.files[1])
	content, err := os.ReadFile(p)
	if err != nil {
		return Change{}, err
	}
	copy(content, fmt.Sprintf("same size %06d", t.n))
	return Change{Files: 1, Bytes: int64(len(content))}, overwrite(p, content)
}

// Pair writes two files of length bytes that hold one token all over, another
// token each time: a reader who finds them to differ, or one of them to be
// made of two tokens, saw an update half done.
func (t *Tree) Pair(length int) error {
	t.n++
	content := bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(t.n)), length/8)
	for _, name := range PairNames {
		if err := t.write(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// PairNames are the two files that Pair writes: among the first and among the
// last of the tree.
var PairNames = [2]string{"a-pair/first", "z-pair/second"}

// A generator gives bytes that depend on nothing but how often it was asked.
type generator struct {
	*rand.Rand
	source *rand.ChaCha8
	words  []string
}

func newGenerator() *generator {
	source := rand.NewChaCha8([32]byte{'b', 'o', 'o', 't', 'w', 'e', 'l', 'l'})
	g := &generator{Rand: rand.New(source), source: source}
	for range 3000 {
		word := make([]byte, 2+g.IntN(9))
		for i := range word {
			word[i] = "etaoinshrdlucmfwypvbgk"[min(g.IntN(22), g.IntN(22))]
		}
		g.words = append(g.words, string(word))
	}
	return g
}

func (g *generator) noise(length int) []byte {
	b := make([]byte, length)
	g.source.Read(b) // never fails
	return b
}

// text has lines of words, few of which are frequent, as configuration and
// source code do; it compresses to about a third.
func (g *generator) text(length int) []byte {
	b := make([]byte, 0, length+80)
	for line := 0; len(b) < length; line++ {
		for range 3 + g.IntN(9) {
			f := g.Float64()
			b = append(b, g.words[int(f*f*f*float64(len(g.words)))]...)
			b = append(b, " =:,;"[min(g.IntN(20), 4)%5])
		}
		b = append(b, '\n')
	}
	return b[:length]
}
