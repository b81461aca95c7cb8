package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

const maxCredentials = 64 << 10 // bytes

// ErrCredentials is wrapped when a credentials file cannot be used.
var ErrCredentials = errors.New("cannot be used as a credentials file")

// Credentials reads the section [default] of a credentials file, in the form
// of the AWS tools' (INI): lines "name = value". The names are the lower-case
// names of the environment variables that each cloud's own tools read, such as
// aws_access_key_id, os_application_credential_id or azure_storage_sas_token;
// names are folded to lower case. A file that is not there yields an empty map
// and no error; one that others than its owner may read or write, or that
// cannot be read whole, is refused with ErrCredentials.
func Credentials(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := OwnerOnly(f); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	values, err := parseCredentials(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

// OwnerOnly refuses, with ErrCredentials, what is no file, or one that others than
// its owner may read or write.
func OwnerOnly(f *os.File) error {
	path := f.Name()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no file: %w", path, ErrCredentials)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s can be read by others than its owner (run: chmod 600 %s): %w", path, path, ErrCredentials)
	}
	return nil
}

func parseCredentials(data []byte) (map[string]string, error) {
	if len(data) > maxCredentials {
		return nil, fmt.Errorf("over %d bytes: %w", maxCredentials, ErrCredentials)
	}
	values, section, n := map[string]string{}, "default", 0
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxCredentials+1)
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			if section, ok = strings.CutSuffix(name, "]"); !ok {
				return nil, fmt.Errorf("line %d: a section without its ]: %w", n, ErrCredentials)
			}
			section = strings.TrimSpace(section)
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d is not name = value: %w", n, ErrCredentials)
		}
		if section == "default" {
			values[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return values, lines.Err()
}
