package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// A Key is one ed25519 key. Private is nil for a public key only.
type Key struct {
	Name    string // file name without extension, such as "ops"
	Public  ed25519.PublicKey
	Private ed25519.PrivateKey
}

// Fingerprint returns "SHA256:" and the base64 of the public key's SHA-256,
// as ssh-keygen shows keys.
func (k Key) Fingerprint() string {
	sum := sha256.Sum256(k.Public)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// A Passphrase is asked for the key file called name. It is called only for
// files that are encrypted, and by NewKey.
type Passphrase func(name string) ([]byte, error)

// The PEM types of key files. The first two hold PKCS #8 and PKIX, as OpenSSL
// writes them; the third PKCS #8 in the box of [encrypted] (scrypt and
// NaCl secretbox), as TUF tools keep keys.
const (
	pemPrivate   = "PRIVATE KEY"
	pemPublic    = "PUBLIC KEY"
	pemEncrypted = "ENCRYPTED BOOTWELL PRIVATE KEY"
)

const maxKeyBytes = 16 << 10

// pattern is a regular expression that is compiled when it is first needed: a
// poll that finds nothing new needs none.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

var keyName = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// NewKey makes a key and writes dir/name.key (mode 0600, create only;
// encrypted unless the passphrase is empty) and dir/name.pub. A nil p is an
// empty passphrase. Where one of the files is there already, the error wraps
// ErrKey and fs.ErrExist and nothing was changed.
func NewKey(dir, name string, p Passphrase) (Key, error) {
	if !keyName().MatchString(name) {
		return Key{}, fmt.Errorf("make key %.80q: a key's name is letters, digits, dot, underscore and hyphen: %w", name, ErrKey)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make key %s: %w", name, err)
	}
	k := Key{Name: name, Public: pub, Private: priv}
	secret, err := k.encode(p)
	if err != nil {
		return Key{}, fmt.Errorf("make key %s: %w", name, err)
	}
	public, err := k.PublicPEM()
	if err != nil {
		return Key{}, fmt.Errorf("make key %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Key{}, fmt.Errorf("make key %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	if err := createFile(path+".key", secret, 0o600); err != nil {
		return Key{}, err
	}
	if err := createFile(path+".pub", public, 0o644); err != nil {
		os.Remove(path + ".key")
		return Key{}, err
	}
	return k, nil
}

// LoadKey reads dir/name.key. Errors wrap ErrKey and name the file and remedy.
func LoadKey(dir, name string, p Passphrase) (Key, error) {
	path := filepath.Join(dir, name+".key")
	if !keyName().MatchString(name) {
		return Key{}, fmt.Errorf("%.80q cannot name a key: %w", name, ErrKey)
	}
	b, open, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("%s is missing; copy it from who has it, or make keys with bootwell init: %w: %w", path, ErrKey, err)
	}
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w: %w", ErrKey, err)
	}
	priv, err := decodeKey(b, path, name, open, p)
	if err != nil {
		return Key{}, fmt.Errorf("%s %w: %w", path, err, ErrKey)
	}
	return Key{Name: name, Public: priv.Public().(ed25519.PublicKey), Private: priv}, nil
}

// readKey returns the bytes of a key file and whether others may read it.
func readKey(path string) (b []byte, open bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is not a regular file", path)
	}
	b, err = io.ReadAll(io.LimitReader(f, maxKeyBytes))
	return b, info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows", err
}

// decodeKey parses a key file. Its errors go on after the file's name.
func decodeKey(b []byte, path, name string, open bool, p Passphrase) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("is not a key: it has no BEGIN line; restore it from a backup")
	}
	der := block.Bytes
	switch block.Type {
	case pemPrivate:
		if open {
			return nil, fmt.Errorf("has no passphrase and others can read it; close it with: chmod 600 %s", path)
		}
	case pemEncrypted:
		var err error
		if der, err = decryptKey(der, name, p); err != nil {
			return nil, err
		}
	case pemPublic:
		return nil, errors.New("holds a public key; the private one is in the .key file that bootwell init wrote")
	default:
		return nil, fmt.Errorf("holds %.40q, not a key of bootwell", block.Type)
	}
	any, err := x509.ParsePKCS8PrivateKey(der)
	priv, ok := any.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("does not hold an ed25519 key; restore it from a backup")
	}
	return priv, nil
}

func decryptKey(box []byte, name string, p Passphrase) ([]byte, error) {
	if p == nil {
		return nil, errors.New("is encrypted, and no passphrase was given")
	}
	pass, err := p(name)
	if err != nil {
		return nil, fmt.Errorf("is encrypted, and its passphrase could not be read: %w", err)
	}
	der, err := encrypted.Decrypt(box, pass)
	if err != nil {
		return nil, errors.New("does not open: the passphrase is wrong, or the file is damaged")
	}
	return der, nil
}

// encode returns the content of the key file.
func (k Key) encode(p Passphrase) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, err
	}
	var pass []byte
	if p != nil {
		if pass, err = p(k.Name); err != nil {
			return nil, fmt.Errorf("read passphrase: %w", err)
		}
	}
	block := &pem.Block{Type: pemPrivate, Bytes: der}
	if len(pass) > 0 {
		block.Type = pemEncrypted
		if block.Bytes, err = encrypted.Encrypt(der, pass); err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
	}
	return pem.EncodeToMemory(block), nil
}

// PublicPEM returns the content of the .pub file: a comment with name and
// fingerprint, and the key as PEM (PKIX).
func (k Key) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# bootwell key %s %s\n", k.Name, k.Fingerprint())
	b.Write(pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}))
	return b.Bytes(), nil
}

// createFile writes a new file durably; a file that is there stays as it is.
func createFile(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten; move it away first: %w: %w", path, ErrKey, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
