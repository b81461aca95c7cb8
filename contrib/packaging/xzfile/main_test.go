package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

// TestCompress packs a program and a text. What is packed already stays as it
// is, byte for byte; what is packed of something else does not.
func TestCompress(t *testing.T) {
	for _, tool := range []string{"xz", ""} {
		t.Run("tool "+tool, func(t *testing.T) {
			if tool != "" {
				needs.Tool(t, tool)
			}
			program, err := exec.LookPath("true")
			if err != nil {
				t.Fatal(err)
			}
			binary, err := os.ReadFile(program)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for name, plain := range map[string][]byte{"program": binary, "text": []byte("no program at all\n")} {
				name = filepath.Join(dir, name)
				var packed [][]byte
				for _, content := range [][]byte{plain, plain, append(plain, "more"...)} {
					if err := os.WriteFile(name, content, 0o755); err != nil {
						t.Fatal(err)
					}
					if err := compress(tool, name); err != nil {
						t.Fatal(err)
					}
					if got, err := unpack(tool, name+".xz"); err != nil || !bytes.Equal(got, content) {
						t.Fatalf("%s is %d bytes, unpacked %d: %v", name, len(content), len(got), err)
					}
					b, err := os.ReadFile(name + ".xz")
					if err != nil {
						t.Fatal(err)
					}
					packed = append(packed, b)
				}
				if !bytes.Equal(packed[0], packed[1]) || bytes.Equal(packed[1], packed[2]) {
					t.Errorf("%s was packed as %d, %d and %d bytes", name, len(packed[0]), len(packed[1]), len(packed[2]))
				}
			}
		})
	}
}
