//go:build !linux

package swift

import "fmt"

func mounted(string, func(string) (values, error)) (values, error) {
	return nil, fmt.Errorf("config drives are read on Linux only: %w", errNothing)
}
