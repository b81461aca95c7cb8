package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

// What is on a disc is proven by the machines that read one; here is what the
// system's own tools say of it before they mount it.
func TestDiscLabel(t *testing.T) {
	needs.Tool(t, "blkid")
	img, err := isoImage("config-2", map[string][]byte{"openstack/latest/meta_data.json": []byte("{}"), "openstack/content/0000": []byte("x"), "top": nil})
	if err != nil {
		t.Fatal(err)
	}
	disc := filepath.Join(t.TempDir(), "disc.iso")
	if err := os.WriteFile(disc, img, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("blkid", "-p", "-o", "export", disc).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "LABEL=config-2\n") || !strings.Contains(string(out), "TYPE=iso9660\n") {
		t.Errorf("blkid: %v: %s", err, out)
	}
}

func TestDiscLimits(t *testing.T) {
	many := map[string][]byte{}
	for i := range 60 {
		many[fmt.Sprintf("folder/file-%d", i)] = nil
	}
	if _, err := isoImage("x", many); err == nil {
		t.Error("a folder that does not fit was taken")
	}
	if _, err := isoImage(strings.Repeat("x", 33), nil); err == nil {
		t.Error("a label that does not fit was taken")
	}
}
