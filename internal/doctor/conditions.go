package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/bootwell/bootwell/internal/bucket"
)

// racers is how many writers race for one object.
const racers = 4

// conditions finds out whether conditional writes do what they promise: some
// stores and proxies drop the headers and answer that all went well.
func (o *own) conditions(ctx context.Context) Finding {
	caps := o.b.Caps()
	var broken []string
	for _, try := range []struct {
		promised bool
		what     string
		tests    []func(context.Context) (string, error)
	}{
		{caps.IfAbsent, "create-only writes ", []func(context.Context) (string, error){o.createOnly, o.raceAbsent}},
		{caps.IfMatch, "compare-and-swap writes ", []func(context.Context) (string, error){o.compareAndSwap, o.raceMatch}},
	} {
		words := ""
		for _, test := range try.tests {
			if !try.promised || words != "" {
				break
			}
			var err error
			if words, err = test(ctx); errors.Is(err, bucket.ErrUnsupported) || errors.Is(err, bucket.ErrPermission) {
				code, _, _ := strings.Cut(said(err), ": ")
				words, err = "are refused ("+code+")", nil
			}
			if err != nil {
				return failed("conditions", err)
			}
		}
		if words != "" {
			broken = append(broken, try.what+words)
		}
	}
	switch {
	case len(broken) > 0:
		return bad("conditions", Problem, "no_conditions", join(broken)+": two who publish at once can lose a release",
			"publish from one place at a time (one CI job, no parallel runs), or take a store or proxy that passes If-Match and If-None-Match on")
	case !caps.IfAbsent && !caps.IfMatch:
		return ok("conditions", "this kind of bucket has none; publishers take turns by a lock that settles")
	case !caps.IfMatch || !caps.IfAbsent:
		return ok("conditions", "those that this kind of bucket has do hold, also in a race of %d", racers)
	}
	return ok("conditions", "create-only and compare-and-swap hold in a race of %d", racers)
}

func join(list []string) string {
	switch n := len(list); n {
	case 0:
		return ""
	case 1:
		return list[0]
	default:
		text := list[0]
		for _, s := range list[1 : n-1] {
			text += ", " + s
		}
		return text + " and " + list[n-1]
	}
}

const ignored = "are ignored by the store or something before it"

func (o *own) createOnly(ctx context.Context) (string, error) {
	obj, err := o.put(ctx, o.key, "written twice\n", bucket.Condition{IfAbsent: true})
	switch {
	case errors.Is(err, bucket.ErrExists):
		return "", nil
	case err == nil:
		o.etag = obj.ETag
		return ignored, nil
	}
	return "", err
}

func (o *own) compareAndSwap(ctx context.Context) (string, error) {
	old := o.etag
	obj, err := o.put(ctx, o.key, "second\n", bucket.Condition{IfMatch: old})
	if errors.Is(err, bucket.ErrPrecondition) {
		return "fail although the object is as it was", nil
	}
	if err != nil {
		return "", err
	}
	o.etag = obj.ETag
	obj, err = o.put(ctx, o.key, "third\n", bucket.Condition{IfMatch: old})
	switch {
	case errors.Is(err, bucket.ErrPrecondition):
		return "", nil
	case err == nil:
		o.etag = obj.ETag
		return ignored, nil
	}
	return "", err
}

func (o *own) raceAbsent(ctx context.Context) (string, error) {
	return o.race(ctx, o.key+"-race", bucket.Condition{IfAbsent: true}, bucket.ErrExists)
}

func (o *own) raceMatch(ctx context.Context) (string, error) {
	return o.race(ctx, o.key, bucket.Condition{IfMatch: o.etag}, bucket.ErrPrecondition)
}

// race lets several writers write one object on the same condition: one wins.
func (o *own) race(ctx context.Context, key string, c bucket.Condition, lost error) (string, error) {
	var wg sync.WaitGroup
	errs := make([]error, racers)
	for i := range errs {
		wg.Go(func() { _, errs[i] = o.put(ctx, key, fmt.Sprintf("writer %d\n", i), c) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, lost):
			return "", err
		}
	}
	if won > 1 {
		return fmt.Sprintf("hold one by one, but in a race %d of %d writers win", won, racers), nil
	}
	return "", nil
}
