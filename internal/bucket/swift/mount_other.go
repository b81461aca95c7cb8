//go:build !linux

package swift

import (
	"fmt"

	"github.com/bootwell/bootwell/internal/bucket/wire"
)

func mounted(string, func(string) (values, error)) (values, error) {
	return nil, fmt.Errorf("config drives are read on Linux only: %w", wire.ErrNothing)
}
