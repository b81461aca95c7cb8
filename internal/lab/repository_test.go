package lab

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
)

// repository is a small web server with what it needs.
func repository(t *testing.T, img Image) string {
	t.Helper()
	dir, err := AptRepository(deadline(t, 5*time.Minute), img, "lighttpd")
	if errors.Is(err, ErrMissing) {
		needs.Skip(t, "apt", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAptRepository(t *testing.T) {
	needs.Tool(t, "apt-get")
	dir := repository(t, stock(t))
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) == 0 || len(debs) > 5 {
		t.Errorf("%d packages, %v; want a handful", len(debs), err)
	}
	n := newNetwork(t, "192.0.2.10")
	url, err := n.Serve("192.0.2.10:80", http.FileServer(http.Dir(dir)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/Packages", "/Release"} {
		if body, err := get(n.Client(), url+f); err != nil || !strings.Contains(body, "SHA256:") {
			t.Errorf("%s: %q, %v", f, body, err)
		}
	}
}
