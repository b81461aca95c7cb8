package azblob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Create implements [bucket.Admin]: a private container. Whether old versions
// are kept is a property of the storage account, which the service of blobs
// cannot set; Setup says how.
func (b *Bucket) Create(ctx context.Context) error {
	resp, err := b.send(ctx, request{method: http.MethodPut, query: ofContainer()})
	if err == nil {
		wire.Finish(resp)
		return nil
	}
	// A container that exists is the conflict that a condition would meet.
	return b.fail(ctx, opCreate, "", bucket.Condition{IfAbsent: true}, err)
}

func ofContainer() url.Values { return url.Values{"restype": {"container"}} }

// Setup implements [bucket.Admin]. The region is not told.
func (b *Bucket) Setup(ctx context.Context) (bucket.Setup, error) {
	var s bucket.Setup
	note := func(what string, err error) { s.Notes = append(s.Notes, what+": "+err.Error()+".") }
	props, err := b.ask(ctx, ofContainer())
	if err != nil {
		if err = b.fail(ctx, opSetup, "", bucket.Condition{}, err); !errors.Is(err, bucket.ErrPermission) {
			return s, err
		}
		note("The container's properties may not be read", err)
	}
	switch open, anonErr := b.anonymous(ctx); {
	case anonErr != nil:
		note("Whether anybody can list the container could not be asked", anonErr)
	case open || props.Get("X-Ms-Blob-Public-Access") != "":
		s.Public = bucket.Yes
	case err == nil:
		s.Public = bucket.No
	}
	if err := b.versions(ctx, &s); err != nil {
		return s, err
	}
	account, err := b.ask(ctx, url.Values{"restype": {"account"}, "comp": {"properties"}})
	if err == nil && account.Get("X-Ms-Is-Hns-Enabled") == "true" {
		s.Notes = append(s.Notes, "The storage account has a hierarchical namespace, whose lists are in another order: use an account without one.")
	}
	return s, nil
}

// ask returns the headers that describe the container, or its account.
func (b *Bucket) ask(ctx context.Context, query url.Values) (http.Header, error) {
	resp, err := b.send(ctx, request{method: http.MethodGet, query: query})
	if err != nil {
		return nil, err
	}
	wire.Finish(resp)
	return resp.Header, nil
}

// anonymous reports whether the container can be listed without credentials.
func (b *Bucket) anonymous(ctx context.Context) (bool, error) {
	_, err := b.page(ctx, "", "", url.Values{"maxresults": {"1"}}, true)
	if err == nil {
		return true, nil
	}
	err = b.fail(ctx, opList, "", bucket.Condition{}, err)
	if errors.Is(err, bucket.ErrPermission) || errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, bucket.ErrNotExist) {
		return false, nil
	}
	return false, err
}

// versions looks whether the blobs that are there have versions: the setting
// itself is shown only by the account's own API.
func (b *Bucket) versions(ctx context.Context, s *bucket.Setup) error {
	remedy := fmt.Sprintf("turn it on with: az storage account blob-service-properties update --account-name %s --enable-versioning true", b.at.Account)
	p, err := b.page(ctx, b.prefix, "", url.Values{"maxresults": {"100"}, "include": {"versions"}}, false)
	if err != nil {
		if err = b.fail(ctx, opSetup, "", bucket.Condition{}, err); errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, bucket.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		s.Notes = append(s.Notes, "Whether old versions are kept could not be seen: "+err.Error()+".")
		return nil
	}
	for _, blob := range p.Blobs.Blob {
		if blob.VersionID != "" {
			s.Versions = bucket.Yes
			return nil
		}
	}
	seen := len(p.Blobs.Blob)
	if seen == 0 {
		s.Notes = append(s.Notes, "Whether old versions are kept is seen only when there are blobs; "+remedy+".")
		return nil
	}
	s.Versions = bucket.No
	s.Notes = append(s.Notes, fmt.Sprintf("None of the first %d blobs has a version; ", seen)+remedy+".")
	return nil
}
