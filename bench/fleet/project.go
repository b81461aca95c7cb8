package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bootwell/bootwell/bench/operator"
	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// newProject starts the project that all simulated VMs belong to. It has no
// steps: what is measured is what the agent asks its bucket for.
func newProject(ctx context.Context, dir string, b bucket.Bucket, now func() time.Time, s release.Schedule) (*operator.Project, error) {
	p, err := operator.New(ctx, b, dir, now)
	if err == nil {
		p.Role = release.Role{Attempts: 3, Schedule: s}
	}
	return p, err
}

// publish makes one more release, with one small file that is new in it.
func publish(ctx context.Context, p *operator.Project) error {
	text := fmt.Sprintf("release %d\n", p.Releases+1)
	if err := os.WriteFile(filepath.Join(p.Tree(), "motd"), []byte(text), 0o644); err != nil {
		return err
	}
	return p.Publish(ctx)
}
