package file

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
)

// Parse returns the folder that a file: URL names. file:///srv/b is /srv/b;
// file://./b and file://../b are below base.
func Parse(rawURL, base string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", fmt.Errorf("bucket %q: %w", rawURL, err)
	}
	switch {
	case u.Scheme != "file":
		return "", fmt.Errorf("bucket %q: scheme is not file", rawURL)
	case u.Opaque != "" || u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return "", fmt.Errorf("bucket %q: a folder is written file:///path or file://./path, with no more", rawURL)
	case u.Host == "." || u.Host == "..":
		if base == "" {
			return "", fmt.Errorf("bucket %q: a relative folder has no meaning here", rawURL)
		}
		return filepath.Join(base, u.Host, filepath.FromSlash(u.Path)), nil
	case u.Host != "" && u.Host != "localhost":
		return "", fmt.Errorf("bucket %q: %q is another machine; a folder is written file:///path or file://./path", rawURL, u.Host)
	case filepath.Clean("/"+u.Path) == "/":
		return "", fmt.Errorf("bucket %q: names no folder", rawURL)
	}
	return filepath.Clean(filepath.FromSlash(u.Path)), nil
}
