package bucket

import (
	"context"
	"testing"
)

type adminMem struct{ *Mem }

func (adminMem) Create(context.Context) error         { return nil }
func (adminMem) Setup(context.Context) (Setup, error) { return Setup{}, nil }

func TestAs(t *testing.T) {
	admin := adminMem{NewMem()}
	if _, ok := As[Admin](Retry(Count(admin), RetryPolicy{})); !ok {
		t.Error("the admin below two decorators is not found")
	}
	for name, b := range map[string]Bucket{"nothing": nil, "a bucket without": Retry(NewMem(), RetryPolicy{}), "a dry run": DryRun(admin)} {
		if _, ok := As[Admin](b); ok {
			t.Errorf("%s has an admin", name)
		}
	}
}
