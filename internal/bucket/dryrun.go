package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// DryRun returns b with writes that go nowhere. Put and Delete answer as if they
// had been done: a Put looks at its condition, reads its body and returns what
// it would have written. Reads see what is really there.
func DryRun(b Bucket) Bucket { return &dryRun{b} }

type dryRun struct{ Bucket }

func (d *dryRun) Put(ctx context.Context, key string, body io.ReadSeeker, c Condition) (Object, error) {
	if err := CheckPut(key, c); err != nil {
		return Object{}, err
	}
	if d.Caps().ReadOnly {
		return Object{}, fmt.Errorf("put %s: %w", key, ErrUnsupported)
	}
	if err := d.look(ctx, key, c); err != nil {
		return Object{}, err
	}
	n, err := Size(body)
	if err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	if got, err := io.Copy(io.Discard, body); err != nil || got != n {
		return Object{}, fmt.Errorf("put %s: read %d of %d bytes: %w", key, got, n, errors.Join(err, ErrTruncated))
	}
	return Object{Key: key, Size: n, ETag: "dry-run", Modified: time.Now()}, ctx.Err()
}

func (d *dryRun) look(ctx context.Context, key string, c Condition) error {
	if !c.IfAbsent && c.IfMatch == "" {
		return nil
	}
	r, obj, err := d.Get(ctx, key, GetOptions{})
	if err == nil {
		r.Close()
	}
	switch {
	case c.IfAbsent && errors.Is(err, ErrNotExist):
		return nil
	case err != nil:
		return err
	case c.IfAbsent:
		return fmt.Errorf("put %s: %w", key, ErrExists)
	case obj.ETag != c.IfMatch:
		return fmt.Errorf("put %s: %w", key, ErrPrecondition)
	}
	return nil
}

func (d *dryRun) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if d.Caps().ReadOnly {
		return fmt.Errorf("delete %s: %w", key, ErrUnsupported)
	}
	return ctx.Err()
}
