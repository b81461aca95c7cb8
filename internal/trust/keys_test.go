package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/needs"
)

func pass(s string) Passphrase { return func(string) ([]byte, error) { return []byte(s), nil } }

func TestKey_RoundTrip(t *testing.T) {
	for name, p := range map[string]Passphrase{"without passphrase": nil, "with an empty one": pass(""), "with one": pass("correct horse")} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			k, err := NewKey(dir, "ops", p)
			if err != nil {
				t.Fatal(err)
			}
			got, err := LoadKey(dir, "ops", p)
			if err != nil || !got.Private.Equal(k.Private) || got.Name != "ops" || got.Fingerprint() != k.Fingerprint() {
				t.Fatalf("load: %v", err)
			}
			b, err := os.ReadFile(filepath.Join(dir, "ops.key"))
			if err != nil {
				t.Fatal(err)
			}
			if encrypted := bytes.HasPrefix(b, []byte("-----BEGIN ENCRYPTED BOOTWELL PRIVATE KEY-----\n")); encrypted != (name == "with one") {
				t.Fatalf("key file is\n%s", b)
			}
			for file, mode := range map[string]fs.FileMode{"ops.key": 0o600, "ops.pub": 0o644} {
				if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %v", file, info.Mode())
				}
			}
			pub, err := os.ReadFile(filepath.Join(dir, "ops.pub"))
			if err != nil || !bytes.HasPrefix(pub, []byte("# bootwell key ops "+k.Fingerprint()+"\n")) {
				t.Fatalf("public key file is\n%s", pub)
			}
			block, _ := pem.Decode(pub)
			if read, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !k.Public.Equal(read) {
				t.Fatalf("public key: %v", err)
			}
		})
	}
}

// OpenSSL is the other reader of our key files.
func TestKey_IsReadByOpenSSL(t *testing.T) {
	openssl := needs.Tool(t, "openssl")
	dir := t.TempDir()
	k, err := NewKey(dir, "ops", nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), openssl, "pkey", "-in", filepath.Join(dir, "ops.key"), "-pubout", "-outform", "DER").Output()
	if err != nil {
		t.Fatal(err)
	}
	if read, err := x509.ParsePKIXPublicKey(out); err != nil || !k.Public.Equal(read) {
		t.Fatalf("openssl reads another key: %v", err)
	}
}

func TestNewKey_OverwritesNothing(t *testing.T) {
	for _, there := range []string{"ops.key", "ops.pub"} {
		dir := t.TempDir()
		path := filepath.Join(dir, there)
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := NewKey(dir, "ops", nil)
		if !errors.Is(err, ErrKey) || !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
			t.Fatalf("new key over %s: %v", there, err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Fatalf("left: %v, %v", left, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
			t.Fatalf("%s was overwritten: %v", there, err)
		}
	}
}

func TestNewKey_RefusesNamesThatAreNoFile(t *testing.T) {
	for _, name := range []string{"", ".", "../ops", "a/b", "-x", "a\n"} {
		if _, err := NewKey(t.TempDir(), name, nil); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := LoadKey(t.TempDir(), name, nil); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNewKey_StopsWhenNoPassphraseComes(t *testing.T) {
	dir, stop := t.TempDir(), errors.New("interrupted")
	if _, err := NewKey(dir, "ops", func(string) ([]byte, error) { return nil, stop }); !errors.Is(err, stop) {
		t.Fatalf("new key: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
}

func TestLoadKey_SaysFileAndRemedy(t *testing.T) {
	dir := t.TempDir()
	for name, p := range map[string]Passphrase{"open": nil, "closed": pass("right"), "wide": nil, "torn": pass("right")} {
		if _, err := NewKey(dir, name, p); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.Chmod(at("wide.key"), 0o644))
	b, err := os.ReadFile(at("torn.key"))
	must(err)
	must(os.WriteFile(at("torn.key"), b[:len(b)/2], 0o600))
	must(os.WriteFile(at("text.key"), []byte("hello"), 0o600))
	must(os.Rename(at("open.pub"), at("public.key")))
	must(os.WriteFile(at("ssh.key"), pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("x")}), 0o600))
	must(os.WriteFile(at("junk.key"), pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: []byte("x")}), 0o600))
	must(os.Mkdir(at("folder.key"), 0o700))
	for _, tt := range []struct {
		name  string
		p     Passphrase
		words string
	}{
		{"absent", nil, "is missing; copy it from who has it"},
		{"closed", pass("wrong"), "the passphrase is wrong"},
		{"closed", pass(""), "the passphrase is wrong"},
		{"closed", nil, "is encrypted, and no passphrase was given"},
		{"wide", nil, "chmod 600 " + at("wide.key")},
		{"torn", pass("right"), "restore it from a backup"},
		{"text", nil, "is not a key"},
		{"public", nil, "holds a public key"},
		{"ssh", nil, `holds "OPENSSH PRIVATE KEY", not a key of bootwell`},
		{"junk", nil, "does not hold an ed25519 key"},
		{"folder", nil, "not a regular file"},
	} {
		_, err := LoadKey(dir, tt.name, tt.p)
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), at(tt.name+".key")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzKey(f *testing.F) {
	k := testKey("ops")
	for _, p := range []Passphrase{nil, pass("x")} {
		b, err := k.encode(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: []byte(`{"kdf":{"name":"scrypt"},"cipher":{"name":"nacl/secretbox"}}`)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		priv, err := decodeKey(b, "path", "name", false, pass("x"))
		if (err == nil) != (len(priv) > 0) {
			t.Fatalf("%d bytes of key, %v", len(priv), err)
		}
	})
}
