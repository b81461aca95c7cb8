package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/needs"
)

func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

// newSandbox makes a machine that lives as long as the test.
func newSandbox(t *testing.T, d Sandbox) Instance {
	t.Helper()
	inst, err := d.Create(deadline(t, time.Minute))
	if errors.Is(err, ErrForbidden) {
		needs.Skip(t, "namespaces", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := inst.Destroy(); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	return inst
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func run(t *testing.T, inst Instance, script string) string {
	t.Helper()
	out, err := Run(deadline(t, time.Minute), inst, "sh", "-c", script)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}
