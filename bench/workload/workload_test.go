package workload

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestGenerate_IsTheSameEachTime(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	one, err := Generate(a, S)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Generate(b, S)
	if err != nil {
		t.Fatal(err)
	}
	changes := func(t *Tree) []func() (Change, error) {
		return []func() (Change, error){t.ChangeOne, t.ChangeMany, t.Rename, t.Delete, t.SameSize}
	}
	for i := range changes(one) {
		x, err := changes(one)[i]()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := Compare(a, b); err != nil || d.Wrong() == "" {
			t.Errorf("change %d changed nothing (%v)", i, err)
		}
		y, err := changes(two)[i]()
		if err != nil || x != y {
			t.Errorf("change %d: %+v and %+v, %v", i, x, y, err)
		}
		if d, err := Compare(a, b); err != nil || d.Wrong() != "" {
			t.Errorf("change %d: %s (%v)", i, d.Wrong(), err)
		}
	}
}

func TestGenerate_M(t *testing.T) {
	tree, err := Generate(t.TempDir(), M)
	if err != nil {
		t.Fatal(err)
	}
	files, bytes := 0, int64(0)
	modes := map[os.FileMode]int{}
	packed := new(counter)
	z := gzip.NewWriter(packed)
	err = filepath.Walk(tree.Dir, func(p string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		files++
		bytes += info.Size()
		modes[info.Mode().Perm()]++
		content, err := os.ReadFile(p)
		z.Write(content)
		return err
	})
	z.Close()
	if err != nil || files != 1000 || bytes < 10_000_000 || bytes > 12_000_000 {
		t.Errorf("%d files of %d bytes, %v", files, bytes, err)
	}
	for _, m := range []os.FileMode{0o600, 0o644, 0o755} {
		if modes[m] < 20 {
			t.Errorf("only %d files have mode %o", modes[m], m)
		}
	}
	if ratio := float64(*packed) / float64(bytes); ratio < 0.4 || ratio > 0.7 {
		t.Errorf("gzip leaves %.2f of it", ratio)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

var _ io.Writer = new(counter)

func TestCompare_TellsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		kind  func(Difference) []string
	}{
		"content": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), []byte("b"), 0) }, func(d Difference) []string { return d.Content }},
		"missing": {func(dir string) error { return os.Remove(filepath.Join(dir, "f")) }, func(d Difference) []string { return d.Content }},
		"mode":    {func(dir string) error { return os.Chmod(filepath.Join(dir, "f"), 0o600) }, func(d Difference) []string { return d.Modes }},
		"link": {func(dir string) error {
			os.Remove(filepath.Join(dir, "l"))
			return os.WriteFile(filepath.Join(dir, "l"), []byte("a"), 0o644)
		}, func(d Difference) []string { return d.Links }},
		"empty": {func(dir string) error { return os.Remove(filepath.Join(dir, "e")) }, func(d Difference) []string { return d.Empty }},
		"extra": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o644) }, func(d Difference) []string { return d.Extra }},
	} {
		t.Run(name, func(t *testing.T) {
			var dirs [2]string
			for i := range dirs {
				dirs[i] = t.TempDir()
				if err := os.WriteFile(filepath.Join(dirs[i], "f"), []byte("a"), 0o644); err != nil {
					t.Fatal(err)
				}
				os.Mkdir(filepath.Join(dirs[i], "e"), 0o755)
				os.Symlink("f", filepath.Join(dirs[i], "l"))
				os.Mkdir(filepath.Join(dirs[i], ".git"), 0o755)
			}
			if d, err := Compare(dirs[0], dirs[1]); err != nil || d.Wrong() != "" {
				t.Fatalf("equal trees: %s, %v", d.Wrong(), err)
			}
			if err := c.spoil(dirs[1]); err != nil {
				t.Fatal(err)
			}
			os.WriteFile(filepath.Join(dirs[1], ".git", "y"), nil, 0o644)
			d, err := Compare(dirs[0], dirs[1], ".git")
			if err != nil || len(c.kind(d)) != 1 {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}
