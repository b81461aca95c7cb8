package store

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/trust"
)

// restore puts back what the bucket has lost of what VMs ask for: the channels,
// and the manifests of their releases and of the last ones. It is for a publish
// that has nothing new: what this machine remembers is not asked for, so it
// would not be missed.
func (u *publication) restore(ctx context.Context, st *state) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, t := range st.view.Targets("channels/") {
		g.Go(func() error {
			return u.putBack(ctx, t, t.Key(), func() ([]byte, error) { return st.view.Fetch(ctx, t.Name) })
		})
	}
	targets := map[string]trust.Target{}
	for _, c := range st.channels {
		if t, ok := st.view.Target(releaseTarget(c.Release)); ok {
			targets[t.Name] = t
		}
	}
	for _, t := range st.recent {
		targets[t.Name] = t
	}
	for _, t := range targets {
		g.Go(func() error {
			return u.putBack(ctx, t, packedManifest(t.Digest), func() ([]byte, error) {
				b, err := u.body(ctx, st, t)
				if err != nil {
					return nil, err
				}
				o, err := wholeWay(text{t.Digest, b})
				return o.data, err
			})
		})
	}
	return g.Wait()
}

// putBack uploads the object of a target, unless the bucket has it.
func (u *publication) putBack(ctx context.Context, t trust.Target, key string, data func() ([]byte, error)) error {
	ok, _, err := holds(ctx, u.s.Bucket, key)
	if ok || err != nil && !errors.Is(err, bucket.ErrPermission) { // S3 may refuse to say that it is missing
		return err
	}
	b, err := data()
	if err != nil {
		u.s.log().Warn("the bucket has lost an object that this machine does not have either", "target", t.Name, "object", key, "err", err)
		return ctx.Err()
	}
	u.s.log().Warn("the bucket has lost an object: putting it back", "target", t.Name, "object", key)
	return u.out.send(key, b, nil)
}
