package wire

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want map[string]string
		err  string
	}{
		"no section":      {"OS_AUTH_URL = https://k:5000/v3\n", 0o600, map[string]string{"os_auth_url": "https://k:5000/v3"}, ""},
		"sections":        {"# a\n[other]\na=1\n[ default ]\nb = x=y z \n;c=2\n", 0o400, map[string]string{"b": "x=y z"}, ""},
		"others may read": {"a=1\n", 0o640, nil, "chmod 600"},
		"not a pair":      {"a=1\nnonsense\n", 0o600, nil, "line 2 is not name = value"},
		"open section":    {"[default\n", 0o600, nil, "line 1: a section"},
		"too long":        {strings.Repeat("a=b\n", 20_000), 0o600, nil, "over 65536 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := Credentials(path)
		if c.err == "" && (err != nil || !maps.Equal(got, c.want)) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if c.err != "" && (!errors.Is(err, ErrCredentials) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.err)
		}
	}
	if got, err := Credentials(filepath.Join(t.TempDir(), "none")); err != nil || len(got) != 0 {
		t.Errorf("no file: %v, %v", got, err)
	}
	if _, err := Credentials(t.TempDir()); !errors.Is(err, ErrCredentials) {
		t.Errorf("a folder: %v", err)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = AK\n"))
	f.Add([]byte("[a]\nb=c\n[default"))
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := parseCredentials(data)
		if err == nil && values == nil {
			t.Error("neither values nor an error")
		}
		for name := range values {
			if name != strings.ToLower(name) {
				t.Errorf("name %q is not in lower case", name)
			}
		}
	})
}
