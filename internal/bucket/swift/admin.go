package swift

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Create implements [bucket.Admin]: the container can be read and written by
// the project's own users only, and keeps old versions where the cluster can.
func (b *Bucket) Create(ctx context.Context) error {
	resp, err := b.do(ctx, call{method: http.MethodHead})
	if err != nil {
		return b.fail(ctx, "create", "container", err)
	}
	wire.Finish(resp)
	switch {
	case resp.StatusCode == http.StatusNotFound:
	case resp.StatusCode/100 == 2:
		return b.fail(ctx, "create", "container", bucket.ErrExists)
	default:
		return b.fail(ctx, "create", "container", b.refusal("create", resp, bucket.Condition{}))
	}
	for _, header := range []http.Header{{"X-Versions-Enabled": {"true"}}, {}} {
		if resp, err = b.do(ctx, call{method: http.MethodPut, header: header}); err != nil {
			return b.fail(ctx, "create", "container", err)
		}
		wire.Finish(resp)
		if s := resp.StatusCode; s != http.StatusBadRequest && s != http.StatusPreconditionFailed && s != http.StatusNotImplemented {
			break // else the cluster may keep no versions
		}
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		return nil
	case http.StatusAccepted:
		return b.fail(ctx, "create", "container", bucket.ErrExists)
	}
	return b.fail(ctx, "create", "container", b.refusal("create", resp, bucket.Condition{}))
}

// Setup implements [bucket.Admin].
func (b *Bucket) Setup(ctx context.Context) (bucket.Setup, error) {
	resp, err := b.do(ctx, call{method: http.MethodHead})
	if err != nil {
		if b.auth.temporary.Load() {
			return bucket.Setup{Region: b.at.Region, Notes: []string{"With temporary URLs the container cannot be asked how it is set up."}}, nil
		}
		return bucket.Setup{}, b.fail(ctx, "look at", "container", err)
	}
	wire.Finish(resp)
	s := bucket.Setup{Region: b.at.Region}
	if g := b.auth.Last(); g != nil && g.Value.region != "" {
		s.Region = g.Value.region
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		s.Notes = append(s.Notes, "These credentials may not ask how the container is set up.")
		return s, nil
	case resp.StatusCode == http.StatusNotFound:
		return s, b.fail(ctx, "look at", "container", bucket.ErrNoBucket)
	case resp.StatusCode/100 != 2:
		return s, b.fail(ctx, "look at", "container", b.refusal("look at", resp, bucket.Condition{}))
	}
	b.explain(&s, resp.Header)
	return s, nil
}

// explain reads a container's header. Who may not change a container does not
// see its ACLs.
// https://docs.openstack.org/swift/latest/overview_acl.html
func (b *Bucket) explain(s *bucket.Setup, h http.Header) {
	s.Public, s.Versions = bucket.No, bucket.No
	for _, acl := range strings.Split(h.Get("X-Container-Read"), ",") {
		if acl = strings.TrimSpace(acl); strings.HasPrefix(acl, ".r:") && !strings.HasPrefix(acl, ".r:-") {
			s.Public = bucket.Yes
			s.Notes = append(s.Notes, fmt.Sprintf("X-Container-Read of the container is %q.", printable(h.Get("X-Container-Read"))))
			break
		}
	}
	if strings.EqualFold(h.Get("X-Versions-Enabled"), "true") || h.Get("X-Versions-Location") != "" || h.Get("X-History-Location") != "" {
		s.Versions = bucket.Yes
	}
	if s.Versions == bucket.No {
		s.Notes = append(s.Notes, "Versions are switched on with the header X-Versions-Enabled, where the cluster has them.")
	}
}
