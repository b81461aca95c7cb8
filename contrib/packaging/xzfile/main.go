// Command xzfile writes FILE.xz beside each FILE it is given, unless one that
// unpacks to the same bytes is there already. It uses the program xz where it
// is installed, which packs a fifth better, and needs nothing but Go where it
// is not.
package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/ulikunitz/xz"
)

func main() {
	tool, err := exec.LookPath("xz")
	if err != nil {
		tool = ""
	}
	for _, name := range os.Args[1:] {
		if err := compress(tool, name); err != nil {
			fmt.Fprintln(os.Stderr, "xzfile:", err)
			os.Exit(1)
		}
	}
}

// compress uses the program tool, or Go if it is empty.
func compress(tool, name string) error {
	plain, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if old, err := unpack(tool, name+".xz"); err == nil && bytes.Equal(old, plain) {
		return nil
	}
	if tool != "" {
		return exec.Command(tool, append(settings(plain), "-k", "-f", "--threads=1", name)...).Run()
	}
	var out bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 16 << 20, CheckSum: xz.CRC32}.NewWriter(&out)
	if err != nil {
		return err
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(name+".xz", out.Bytes(), 0o644)
}

// settings are xz's for a file. A program for x86 becomes smaller if the
// addresses in its calls are absolute. What xz has for arm64 is too new: VMs
// unpack with liblzma 5.2.
func settings(plain []byte) []string {
	if f, err := elf.NewFile(bytes.NewReader(plain)); err == nil && f.Machine == elf.EM_X86_64 {
		return []string{"--x86", "--lzma2=preset=9e"}
	}
	return []string{"-9e"}
}

// unpack returns what is packed in a file. Only xz itself knows each of its
// settings.
func unpack(tool, name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if tool != "" {
		c := exec.Command(tool, "-dc")
		c.Stdin = f
		return c.Output()
	}
	r, err := xz.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
