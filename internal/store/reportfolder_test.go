package store

import (
	"errors"
	"fmt"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// TestReport_OfOneAmongMany: the report of one VM is found without a walk over
// all of them, in the folder that the bucket's rules confine it to.
func TestReport_OfOneAmongMany(t *testing.T) {
	const n = 5000
	mem := bucket.NewMem()
	place := func(folder, vm string, seq int64) {
		r, err := report(vm, seq).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		put(t, mem, reportKey(folder), r)
	}
	for i := range n {
		vm := fmt.Sprintf("i-%05d", i)
		place(vm, vm, 1)
		for j, owner := range []string{"AROAONE", "AROATWO", "ZZZZ"} {
			if i%4 == j && i != 7 {
				place(owner+":"+vm, vm, int64(2+j))
			}
		}
	}
	place("AROATWO:i-00000", "i-00000", 9) // the newest of two identities
	for i := range 3000 {
		put(t, mem, fmt.Sprintf("reports/crowd/%04d", i), nil)
		put(t, mem, fmt.Sprintf("reports/crowd:x/%04d", i), nil)
	}
	place("crowd", "crowd", 5)
	place("häuser:i-00003", "i-00003", 66)
	place("abc:i-00003", "i-00003", 66) // too short for an identity
	for i := range 300 {
		put(t, mem, fmt.Sprintf("reports/ü%03d/x", i), nil)
	}
	for vm, want := range map[string]int64{
		"i-00000": 9, "i-00001": 3, "i-00002": 4, "i-00003": 1, "i-00007": 1, "i-04996": 2, "i-04997": 3, "i-04998": 4, "i-04999": 1, "crowd": 5,
	} {
		b := bucket.Count(mem)
		r, err := (&Store{Bucket: b}).Report(t.Context(), vm)
		if err != nil || r.Sequence != want || r.VM != vm {
			t.Errorf("%s: %+v, %v, want %d", vm, r, err, want)
		}
		if tr := b.Traffic(); tr.Lists > 12 || tr.Gets != 1 {
			t.Errorf("%s took %+v", vm, tr)
		}
	}
	if _, err := (&Store{Bucket: mem}).Report(t.Context(), "i-05000"); !errors.Is(err, bucket.ErrNotExist) {
		t.Errorf("of nobody: %v", err)
	}
}
